"""Trusted hosts, CORS, security headers, and trusted proxies."""

import asyncio
import json
import re
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
import uvicorn
from click.testing import CliRunner
from sqlalchemy import URL, make_url

from app import cli
from app.core.config import Settings
from app.domains.department.service import DepartmentService
from app.main import create_app
from app.utils.validation import json_pointer
from tests.builders import make_department
from tests.conftest import ADMIN_PASSWORD, ADMIN_TOKEN, new_database, settings_for
from tests.waiting import HANG_TIMEOUT, wait_until

NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
TWO_YEARS = "max-age=63072000; includeSubDomains"


def client_with(**settings: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=create_app(settings_for(None, **settings)))
    return httpx.AsyncClient(transport=transport, base_url="http://register.example")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("register.example", 200),
        ("REGISTER.example:8000", 200),
        ("eu.register.example", 200),
        ("other.example", 400),
        ("register.example.other", 400),
        ("evilregister.example", 400),
        ("a.b.register.example", 200),
        ("[::1]:8000", 200),
        ("[::1", 400),
        ("", 400),
    ],
)
async def test_only_trusted_hosts_are_accepted(host: str, status: int) -> None:
    async with client_with(trusted_hosts=("Register.example", "*.register.example", "::1")) as client:
        response = await client.get("/problems/conflict", headers={"Host": host})
        assert response.status_code == status
        if status == 400:
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["request_id"] == response.headers["x-request-id"]
        for probe in ("/health/live", "/metrics"):
            assert (await client.get(probe, headers={"Host": host})).status_code == 200


async def test_pages_of_configured_origins_may_call_and_read_the_headers() -> None:
    async with client_with(cors_origins=("https://app.example",), cors_allow_credentials=True) as client:
        preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "PATCH"}
        allowed = await client.options("/problems/conflict", headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        assert allowed.headers["access-control-allow-credentials"] == "true"
        response = await client.get("/problems/conflict", headers={"Origin": "https://app.example"})
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert {"ETag", "Idempotency-Replayed", "Link", "Location", "X-Request-ID"} <= set(exposed)
        foreign = await client.get("/problems/conflict", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in foreign.headers


async def test_headers_are_limited() -> None:
    async with client_with(max_header_bytes=1024) as client:
        assert (await client.get("/health/live", headers={"X-Long": "x" * 500})).status_code == 200
        refused = await client.get("/health/live", headers={"X-Long": "x" * 1100})
        assert (refused.status_code, refused.json()["code"]) == (431, "headers_too_large")


async def test_head_is_limited_whatever_it_consists_of() -> None:
    heads: list[tuple[str, list[tuple[str, str]]]] = [
        ("/health/live", [("X", "")] * 7_000),
        ("/health/live", [("X-" + "y" * 33_000, "")]),
        ("/health/live?" + "q" * 33_000, []),
        ("/" + "p" * 33_000, []),
        ("/" + "p" * 11_000 + "?" + "q" * 11_000, [("X-Long", "x" * 11_000)]),
    ]
    async with client_with() as client:
        for path, headers in heads:
            response = await client.get(path, headers=headers)
            assert (response.status_code, response.json()["code"]) == (431, "headers_too_large")
            assert len(response.content) <= 4096
        assert (await client.get("/health/live", headers=[("X", "")] * 5_000)).status_code == 200


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        ("1.1", ["register.example"], 200),
        ("1.1", ["register.example:8000"], 200),
        ("1.1", ["[::1]:8000"], 200),
        ("1.1", [""], 200),
        ("1.1", [], 400),
        ("1.0", [], 200),
        ("0.9", [], 400),
        ("2.0", [], 400),
        ("2.0", ["register.example"], 200),
        ("1.1", ["register.example", "register.example"], 400),
        ("1.0", ["register.example", "other.example"], 400),
        ("1.1", ["register.example/x"], 400),
        ("1.1", ["user@register.example"], 400),
        ("1.1", ["a b"], 400),
        ("1.1", ["a\xff"], 400),
    ],
)
async def test_request_has_exactly_one_valid_host(version: str, hosts: list[str], status: int) -> None:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "http_version": version,
        "method": "GET",
        "scheme": "http",
        "path": "/health/live",
        "query_string": b"",
        "headers": [(b"host", host.encode("latin-1")) for host in hosts],
    }
    await create_app(settings_for(None))(scope, receive, send)
    assert messages[0]["status"] == status
    if status == 400:
        assert json.loads(messages[1]["body"])["code"] == "bad_request"


@pytest.mark.parametrize("path", ["/", "/health/live", "/api/v1/processes", "/docs"])
async def test_websocket_handshake_gets_a_problem_document(path: str) -> None:
    headers = {"Connection": "Upgrade", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version": "13"}
    async with client_with() as client:
        for upgrade in ("websocket", "WebSocket"):
            response = await client.get(path, headers=headers | {"Upgrade": upgrade})
            assert (response.status_code, response.json()["code"]) == (400, "bad_request")
            assert response.headers["connection"] == "close"
        other = await client.get("/health/live", headers={"Connection": "Upgrade", "Upgrade": "h2c"})
        assert other.status_code == 200


@pytest.mark.parametrize("path", ["p" * 30_000, "%01" * 9_000, "%F0%9F%98%80" * 2_000, "ä" * 4_000, "%2F" * 9_000])
async def test_rejection_is_no_larger_than_four_kibibytes(path: str) -> None:
    async with client_with() as client:
        for method in ("GET", "POST", "BREW"):
            for prefix in ("/", "/api/v1/processes/", "/problems/", "/docs/assets/"):
                response = await client.request(method, prefix + path, headers={"X-Request-ID": "x" * 1_000})
                assert response.status_code in {401, 404, 405}
                assert len(response.content) + sum(map(len, response.headers.raw[0])) <= 4096
                assert unquote(response.json()["instance"]).startswith(prefix)


@pytest.mark.parametrize("character", ["x", "\x01", "~", '"', "ä", "\U0001f600"])
@pytest.mark.parametrize("length", [1, 190, 1_000])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/auth/token"), ("GET", "/departments"), ("GET", "/departments/code:" + "p" * 3_000)]
)
async def test_rejection_of_many_parameters_is_no_larger_than_four_kibibytes(
    client: httpx.AsyncClient, method: str, path: str, length: int, character: str
) -> None:
    names = [f"{number}{character * length}" for number in range(100)]
    names = names[: 28_000 // len(quote(names[-1]) + "=&")]  # the most that fit into the head of a request
    response = await client.request(method, path, params=dict.fromkeys(names, ""))
    assert len(response.content) <= 4096
    problem = response.json()
    pointers = [error["pointer"] for error in problem["errors"]]
    assert (problem["code"], pointers) == ("bad_request", [json_pointer([name]) for name in names[: len(pointers)]])
    is_cut = problem["detail"].endswith(f" Only the first {len(pointers)} errors fit into this response.")
    assert is_cut == (len(pointers) < len(names))
    assert pointers or len(path) > 1_000


async def test_rejection_of_many_values_is_no_larger_than_four_kibibytes(client: httpx.AsyncClient) -> None:
    values: list[Any] = [("parent_id", "x")] * 100
    response = await client.get("/departments", params=values)
    assert len(response.content) <= 4096
    assert (response.json()["code"], 1 < len(response.json()["errors"]) < 100) == ("invalid_content", True)
    # The errors of a body are not cut.
    faulty = await client.post("/departments/bulk?atomic=x", json={f"field{number}": 1 for number in range(90)})
    assert (faulty.json()["code"], len(faulty.json()["errors"])) == ("invalid_content", 92)


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title])
async def test_case_of_header_values_does_not_matter(client: httpx.AsyncClient, change: Callable[[str], str]) -> None:
    """The values of these headers ignore case (RFC 9110)."""
    listed = await client.get("/roles", headers={"Accept": change("text/csv")})
    assert listed.headers["content-type"].startswith("text/csv")
    page = await client.get("http://register.test/openapi.json", headers={"Accept-Encoding": change("gzip")})
    assert page.headers["content-encoding"] == "gzip"
    types = {"Content-Type": change("application/json; charset=utf-8"), "Content-Encoding": change("identity")}
    made = await client.post("/roles", content=b'{"name": "R"}', headers=types)
    assert made.status_code == 201, made.text
    scheme, _, token = client.headers["authorization"].partition(" ")
    assert (await client.get("/roles", headers={"Authorization": f"{change(scheme)} {token}"})).status_code == 200
    async with client_with(trusted_hosts=("register.example",)) as trusting:
        host = {"Host": change("register.example")}
        assert (await trusting.get("/problems/conflict", headers=host)).status_code == 200


def assert_secured(response: httpx.Response, *, policy: str = NO_PAGE) -> None:
    headers = response.headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("referrer-policy") == ["no-referrer"]
    (given,) = headers.get_list("content-security-policy")
    assert re.sub(r"'nonce-[\w-]{22}'", "'nonce-…'", given) == policy
    assert "strict-transport-security" not in headers
    # Responses below /api contain tokens and names.
    expected = ["no-store"] if response.request.url.path.startswith("/api/") else headers.get_list("cache-control")
    assert headers.get_list("cache-control") == expected


async def test_every_response_has_security_headers(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await make_department(client)
    path = f"/departments/{made['id']}"
    etag = (await client.get(path)).headers["etag"]
    anonymous = {"Authorization": ""}
    root = "http://register.test"
    sent: list[tuple[int, str, str, dict[str, Any]]] = [
        (200, "GET", "/departments", {}),
        (200, "HEAD", path, {}),
        (200, "GET", f"{root}/health/live", {}),
        (200, "GET", f"{root}/metrics", {}),
        (200, "GET", f"{root}/openapi.json", {}),
        (200, "GET", f"{root}/docs/assets/swagger-ui.css", {}),
        (200, "GET", f"{root}/problems/conflict", {}),
        (201, "POST", "/departments", {"json": {"name": "D"}}),
        (304, "GET", path, {"headers": {"If-None-Match": etag}}),
        (400, "GET", "/departments?nmae=x", {}),
        (401, "GET", path, {"headers": anonymous}),
        (401, "GET", path, {"headers": {"Authorization": "Bearer garbage"}}),
        (401, "POST", "/auth/token", {"data": {"username": "unknown@register.example", "password": "x"}}),
        (403, "POST", "/auth/logout", {}),
        (404, "GET", "/departments/0", {}),
        (404, "GET", "/nothing", {}),
        (404, "GET", f"{root}/nothing", {}),
        (404, "GET", f"{root}/docs/assets/nothing", {}),
        (405, "BREW", path, {}),
        (412, "PATCH", path, {"json": {"name": "E"}, "headers": {"If-Match": '"99.x"'}}),
        (413, "POST", "/departments", {"content": b"x" * (1024 * 1024 + 1)}),
        (415, "POST", "/departments", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}),
        (422, "POST", "/departments", {"json": {}}),
        (431, "GET", path, {"headers": {"X-Long": "x" * 33_000}}),
        (204, "DELETE", path, {}),
    ]
    for status, method, url, given in sent:
        response = await client.request(method, url, **given)
        assert (response.status_code, method, url) == (status, method, url)
        assert_secured(response)

    async def fail(*_args: Any) -> Any:
        raise LookupError

    monkeypatch.setattr(DepartmentService, "page", fail)
    response = await client.get("/departments")
    assert response.status_code == 500
    assert_secured(response)


async def test_refused_hosts_and_preflights_have_security_headers() -> None:
    settings = {"trusted_hosts": ("register.example",), "cors_origins": ("https://app.example",)}
    async with client_with(**settings) as client:
        foreign = await client.get("/api/v1/departments", headers={"Host": "other.example"})
        assert foreign.status_code == 400
        assert_secured(foreign)
        preflight_headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
        preflight = await client.options("/api/v1/departments", headers=preflight_headers)
        assert preflight.status_code == 200
        assert_secured(preflight)


async def test_response_without_database_has_security_headers() -> None:
    transport = httpx.ASGITransport(app=create_app(settings_for(make_url("postgresql:///r?host=/nonexistent"))))
    async with httpx.AsyncClient(transport=transport, base_url="http://register.example") as client:
        response = await client.get("/api/v1/departments", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
    assert response.status_code == 503
    assert_secured(response)


async def test_hsts_is_sent_only_over_tls() -> None:
    async with client_with() as client:
        for path, status in (("/health/live", 200), ("/docs", 200), ("/api/v1/departments", 401), ("/nothing", 404)):
            plain = await client.get(path)
            assert (plain.status_code, plain.headers.get("strict-transport-security")) == (status, None)
            secure = await client.get(f"https://register.example{path}")
            assert (secure.status_code, secure.headers.get("strict-transport-security")) == (status, TWO_YEARS)


def options_of_server(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the proxy options that `python -m app serve` passes to the server."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(cli, "get_settings", lambda: settings)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(uvicorn, "run", lambda _app, **options: given.update(options))
    result = CliRunner().invoke(cli.cli, ["serve"], catch_exceptions=False)
    assert result.exit_code == 0
    return {name: given[name] for name in ("proxy_headers", "forwarded_allow_ips")}


@asynccontextmanager
async def serving(url: URL, options: dict[str, Any], **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a real server."""
    app = create_app(settings_for(url, **settings))
    config = uvicorn.Config(app, port=0, http="httptools", log_config=None, access_log=False, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    await asyncio.to_thread(wait_until, lambda: server.started or not thread.is_alive())
    assert server.started
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=HANG_TIMEOUT) as client:
            yield client
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join)


FORWARDED = {"X-Forwarded-For": "203.0.113.9, 198.51.100.7", "X-Forwarded-Proto": "https"}


@pytest.mark.parametrize(
    ("proxies", "believed", "address"),
    [
        ((), False, "127.0.0.1"),
        (("10.0.0.1", "192.0.2.0/24"), False, "127.0.0.1"),
        # Entries of the client before the proxy's entry are never trusted.
        (("127.0.0.1",), True, "198.51.100.7"),
        (("127.0.0.0/8", "::1"), True, "198.51.100.7"),
        (("127.0.0.1", "198.51.100.0/24"), True, "203.0.113.9"),
    ],
)
async def test_only_configured_proxies_are_trusted(
    server_url: URL,
    template: URL,
    monkeypatch: pytest.MonkeyPatch,
    proxies: tuple[str, ...],
    *,
    believed: bool,
    address: str,
) -> None:
    # Uvicorn would look there, too.
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    async with new_database(server_url, template.database) as url:
        options = options_of_server(settings_for(url, forwarded_allow_ips=proxies), monkeypatch)
        async with serving(url, options) as client:
            signed_in = await client.post(
                "/api/v1/auth/token",
                data={"username": "admin@register.example", "password": ADMIN_PASSWORD},
                headers=FORWARDED,
            )
            assert signed_in.headers.get("strict-transport-security") == (TWO_YEARS if believed else None)
            token = {"Authorization": f"Bearer {signed_in.json()['access_token']}"}
            sessions = await client.get("/api/v1/auth/sessions", headers=token)
            assert [each["address"] for each in sessions.json()["items"]] == [address]
            assert "strict-transport-security" not in sessions.headers
