"""One log line per request, with the request id."""

import asyncio
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI

from app.domains.department.service import DepartmentService
from app.main import create_app
from app.utils.logging_middleware import RequestMiddleware
from app.utils.metrics import Metrics
from tests.api.conftest import assert_problem
from tests.builders import make_department
from tests.conftest import client_of, settings_for
from tests.utils.conftest import Log

ROOT = "http://register.test"


async def test_request_is_one_line(client: httpx.AsyncClient, log: Log) -> None:
    made = await make_department(client)
    caller = made["created_by"]["id"]
    await client.patch(f"/departments/{made['id']}/", json={"name": "N"}, headers={"X-Request-ID": "mine-1"})
    created, changed = log.entries
    assert created["status"] == 201
    assert 0 < changed.pop("duration_ms") < 60_000
    assert changed.pop("timestamp")
    assert changed == {
        "event": "request",
        "level": "info",
        "logger": "app.request",
        "method": "PATCH",
        "route": "/api/v1/departments/{reference}",
        "path": f"/api/v1/departments/{made['id']}",
        "status": 200,
        "request_id": "mine-1",
        "caller": caller,
        "client": "127.0.0.1",
    }


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/api/v1/departments/0", "/api/v1/departments/{reference}", 404),
        ("GET", "/api/v1/departments", "/api/v1/departments", 200),
        ("DELETE", "/api/v1/departments", "/api/v1/departments", 405),
        ("GET", "/nothing", "(unmatched)", 404),
        ("GET", "/health/live", "/health/live", 200),
        ("GET", "/problems/conflict", "/problems/{name}", 200),
    ],
)
async def test_line_names_route_path_and_status(
    client: httpx.AsyncClient, log: Log, method: str, path: str, route: str, status: int
) -> None:
    response = await client.request(method, ROOT + path)
    (entry,) = log.entries
    assert (entry["method"], entry["route"], entry["path"], entry["status"]) == (method, route, path, status)
    assert entry["request_id"] == response.headers["x-request-id"]


async def test_request_that_needs_no_caller_has_none(client: httpx.AsyncClient, log: Log) -> None:
    await client.get(f"{ROOT}/health/live")
    assert log.entries[0]["caller"] is None


async def test_query_and_headers_are_not_written(client: httpx.AsyncClient, log: Log) -> None:
    secret = "hunter2-Zx81"  # noqa: S105
    await client.get(f"/departments?token={secret}", headers={"Authorization": f"Bearer {secret}", "Cookie": secret})
    await client.post("/departments", json={"name": secret})
    assert len(log.entries) == 2
    assert secret not in log.getvalue()


async def test_path_cannot_forge_a_line(client: httpx.AsyncClient, log: Log) -> None:
    await client.get('/departments/a%0D%0A{"event":"request"}%E2%80%A8%1B[2J')
    (entry,) = log.entries
    assert entry["path"] == r'/api/v1/departments/a\r\n{"event":"request"}\u2028\x1b[2J'
    assert "\x1b" not in log.getvalue()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [(b"a", True), (b"A.b_c-9", True), (b"0" * 128, True), (b"0" * 129, False), (b"a b", False), (b"\xe9", False)],
)
async def test_valid_request_id_is_kept_and_others_are_replaced(
    client: httpx.AsyncClient, log: Log, sent: bytes, *, kept: bool
) -> None:
    response = await client.get("/departments/0", headers={b"X-Request-ID": sent})
    request_id = response.headers["x-request-id"]
    assert (request_id == sent.decode("latin-1")) == kept
    assert response.json()["request_id"] == log.entries[0]["request_id"] == request_id


async def test_request_ids_are_unique(client: httpx.AsyncClient) -> None:
    ids = {(await client.get(f"{ROOT}/health/live")).headers["x-request-id"] for _ in range(10)}
    assert len(ids) == 10


async def test_lines_within_a_request_carry_its_id(
    client: httpx.AsyncClient, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = DepartmentService.page

    async def log_lines(*arguments: Any) -> Any:
        structlog.get_logger("app.test").info("within")
        await asyncio.sleep(0)
        return await page(*arguments)

    monkeypatch.setattr(DepartmentService, "page", log_lines)
    for name in ("first", "second"):
        await client.get("/departments", headers={"X-Request-ID": name})
    assert [(entry["event"], entry["request_id"]) for entry in log.entries] == [
        ("within", "first"),
        ("request", "first"),
        ("within", "second"),
        ("request", "second"),
    ]
    assert "request_id" not in structlog.contextvars.get_contextvars()


async def test_requests_at_the_same_time_keep_their_ids_apart(log: Log) -> None:
    app = create_app(settings_for(None))

    @app.get("/meet")
    async def meet() -> None:
        structlog.get_logger("app.test").info("before")
        await asyncio.sleep(0)
        structlog.get_logger("app.test").info("after")

    async with client_of(app) as client:
        requests = [client.get(f"{ROOT}/meet", headers={"X-Request-ID": str(number)}) for number in range(5)]
        await asyncio.gather(*requests)
    for number in range(5):
        own = [entry["event"] for entry in log.entries if entry["request_id"] == str(number)]
        assert own == ["before", "after", "request"]


async def test_unexpected_error_is_logged_with_its_traceback_before_the_line(
    client: httpx.AsyncClient, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: Any) -> Any:
        raise LookupError("inside")

    monkeypatch.setattr(DepartmentService, "page", fail)
    response = await client.get("/departments")
    failed, line = log.entries
    assert (failed["event"], failed["level"], failed["method"], failed["path"]) == (
        "request failed",
        "error",
        "GET",
        "/api/v1/departments",
    )
    assert (failed["exception"][0]["exc_type"], failed["exception"][0]["exc_value"]) == ("LookupError", "inside")
    assert (line["event"], line["status"]) == ("request", 500)
    assert failed["request_id"] == line["request_id"] == response.headers["x-request-id"]


async def test_error_of_a_client_leaves_no_traceback(client: httpx.AsyncClient, log: Log) -> None:
    await client.post("/departments", json={"name": ""})
    await client.delete("/departments")
    assert [entry["event"] for entry in log.entries] == ["request", "request"]


@pytest.mark.parametrize(("method", "code"), [("GET", "service_unavailable"), ("PATCH", "outcome_unknown")])
async def test_cancelled_request_is_unavailable(
    client: httpx.AsyncClient, log: Log, monkeypatch: pytest.MonkeyPatch, method: str, code: str
) -> None:
    made = await make_department(client)
    begun = asyncio.Event()

    async def hang(*_: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(DepartmentService, "get" if method == "GET" else "patch", hang)
    body = {"name": "N"} if method == "PATCH" else None
    request = asyncio.ensure_future(client.request(method, f"/departments/{made['id']}", json=body))
    await begun.wait()
    request.cancel()
    problem = assert_problem(await request, code)
    assert (problem["status"], log.entries[-1]["status"]) == (503, 503)


async def test_error_during_the_response_cuts_the_connection(log: Log) -> None:
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
    with pytest.raises(LookupError):
        await RequestMiddleware(app, Metrics())(scope, None, send)  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert [(entry["event"], entry.get("status")) for entry in log.entries] == [
        ("request failed", None),
        ("request", 200),
    ]


async def test_other_protocols_pass_through(app: FastAPI, log: Log) -> None:
    seen = []

    async def inner(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    await RequestMiddleware(inner, app.state.metrics)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert (seen, log.entries) == (["lifespan"], [])


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
        ("garbage", None),
    ],
)
async def test_trace_of_the_caller_is_logged(
    client: httpx.AsyncClient, log: Log, traceparent: str, trace_id: str | None
) -> None:
    await client.get("/departments/0", headers={"traceparent": traceparent})
    await client.get("/departments/0")
    traced, other = log.entries
    assert traced.get("trace_id") == trace_id
    assert traced.get("parent_id") == (trace_id and "00f067aa0ba902b7")
    assert "trace_id" not in other
