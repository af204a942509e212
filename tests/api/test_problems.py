"""Every error is a problem document that lists all faults, and only those."""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import ForeignKeyConstraint, text

from app.core.database import RegisterSession
from app.core.database_errors import IntegrityViolation, translate
from app.domains.department.service import DepartmentService
from app.domains.shared import trees
from app.domains.shared.idempotency import store as idempotency
from app.domains.shared.idempotency.store import Attempt
from app.domains.shared.writing.constraints import error_for
from app.main import create_app
from app.models import Base
from app.utils.exceptions import (
    CallerBusy,
    Conflict,
    InternalError,
    RegisterError,
    UnknownReference,
    explanation,
    problem_types,
)
from tests.api.conftest import CANARY, CODES, Server, assert_problem, openapi, receive
from tests.builders import (
    admin_session,
    make,
    make_department,
    make_location,
    make_password_link,
    make_process,
    make_resource,
    make_role,
    make_user,
)
from tests.catalogue import COLLECTIONS, REFERENCES, every_collection, required
from tests.conftest import ADMIN_TOKEN, client_of, connected, settings_for
from tests.utils.conftest import configured_log
from tests.waiting import wait_until

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
# Objects that no test creates.
UNKNOWN = 2**62
TARGETS = ("department", "location", "resource", "role")

Client = httpx.AsyncClient


async def bad_request(client: Client) -> httpx.Response:
    return await client.get("/departments?limt=1")


async def unauthorized(client: Client) -> httpx.Response:
    request = client.build_request("GET", "/departments")
    del request.headers["Authorization"]
    return await client.send(request)


async def wrong_credentials(client: Client) -> httpx.Response:
    return await client.post("/auth/token", data={"username": "admin@register.example", "password": CANARY})


async def forbidden(client: Client) -> httpx.Response:
    return await client.get("/auth/sessions")  # with an API token


async def not_found(client: Client) -> httpx.Response:
    return await client.get("/departments/0")


async def method_not_allowed(client: Client) -> httpx.Response:
    return await client.delete("/departments")


async def not_acceptable(client: Client) -> httpx.Response:
    return await client.get("/departments", headers={"Accept": "text/html"})


async def conflict(client: Client) -> httpx.Response:
    owner, other = await make_department(client), await make_department(client)
    links = [{"department_id": owner["id"], "relation": "owner"}]
    process = await make_process(client, departments=links)
    return await client.put(f"/processes/{process['id']}/departments/{other['id']}", json={"relation": "owner"})


async def duplicate(client: Client) -> httpx.Response:
    await make_department(client, code="T-1")
    return await client.post("/departments", json={"name": "D", "code": "t-1"})


async def still_referenced(client: Client) -> httpx.Response:
    parent = await make_department(client)
    await make_department(client, parent_id=parent["id"])
    return await client.delete(f"/departments/{parent['id']}")


async def first_administrator(client: Client) -> httpx.Response:
    made = await make_department(client)
    return await client.delete(f"/users/{made['created_by']['id']}")


async def last_administrator(client: Client) -> httpx.Response:
    made = await make_department(client)
    return await client.patch(f"/users/{made['created_by']['id']}", json={"is_active": False})


async def cycle(client: Client) -> httpx.Response:
    made = await make_department(client)
    return await client.patch(f"/departments/{made['id']}", json={"parent_id": made["id"]})


async def too_deep(client: Client) -> httpx.Response:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "MAX_DEPTH", 0)
        return await client.post("/departments", json={"name": "D", "parent_id": (await make_department(client))["id"]})


async def plan_outdated(client: Client) -> httpx.Response:
    made = await make_department(client, code="T-1")
    headers = {"Content-Type": "application/x-ndjson"}
    line = json.dumps({"code": "T-1", "name": CANARY})
    response = await client.post("/departments/import?dry_run=true", content=line, headers=headers)
    await client.patch(f"/departments/{made['id']}", json={"name": "D"})
    return await client.post("/departments/import", params={"plan_id": response.json()["plan_id"]})


async def request_in_flight(client: Client) -> httpx.Response:
    (caller,) = {(await make_department(client))["created_by"]["id"]}
    app: FastAPI = client._transport.app  # type: ignore[attr-defined]
    async with connected(app.state.database.engine.url) as other:
        await other.execute(
            "SELECT pg_advisory_lock($1)",
            Attempt(RegisterSession(app.state.database), caller, "taken", b"", frozenset()).lock,
        )
        return await client.post("/departments", json={"name": "D"}, headers={"Idempotency-Key": "taken"})


async def answer_too_large(client: Client) -> httpx.Response:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(idempotency, "MAX_STORED_BYTES", 10)
        headers = {"Idempotency-Key": "large"}
        await client.post("/departments", json={"name": CANARY}, headers=headers)
        return await client.post("/departments", json={"name": CANARY}, headers=headers)


async def too_many_keys(client: Client) -> httpx.Response:
    await use_up("INSERT INTO idempotency_usage SELECT id, 100000, 0, now() + interval '1 hour' FROM users", client)
    return await client.post("/departments", json={"name": CANARY}, headers={"Idempotency-Key": "more"})


async def too_many_tokens(client: Client) -> httpx.Response:
    await use_up(
        "INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at) "
        "SELECT (SELECT min(id) FROM users), n, decode(md5(n::text), 'hex'), '{}', now() + interval '1 hour' "
        "FROM generate_series(1, 100) AS n",
        client,
    )
    headers = await admin_session(client)
    return await client.post("/users/me/tokens", json={"name": CANARY, "scopes": ["roles:read"]}, headers=headers)


async def use_up(statement: str, client: Client) -> None:
    """Run a statement, which inserts the rows that reach a limit."""
    app: FastAPI = client._transport.app  # type: ignore[attr-defined]
    async with app.state.database.transaction() as session:
        await session.execute(text(statement))


async def feed_expired(client: Client) -> httpx.Response:
    position = (await client.get("/changes/feed?after=now")).json()["position"]
    await use_up(
        f"DO $$ BEGIN UPDATE feed_state SET thinnings = 1, thinned_before = '{{{UNKNOWN},1}}'; "
        "UPDATE feed_state SET row_version = xmin::text::bigint; END $$",
        client,
    )
    return await client.get("/changes/feed", params={"after": position})


async def feed_reset(client: Client) -> httpx.Response:
    position = (await client.get("/changes/feed?after=now")).json()["position"]
    await use_up("DELETE FROM feed_state", client)
    return await client.get("/changes/feed", params={"after": position})


async def precondition_failed(client: Client) -> httpx.Response:
    made = await make_department(client)
    return await client.delete(f"/departments/{made['id']}", headers={"If-Match": '"2.0"'})


async def content_too_large(client: Client) -> httpx.Response:
    return await client.post("/departments", json={"name": "D" * 2**20})


async def unsupported_media_type(client: Client) -> httpx.Response:
    return await client.post("/departments", content="name=D")


async def invalid_content(client: Client) -> httpx.Response:
    return await client.post("/departments", json={"name": ""})


async def unknown_reference(client: Client) -> httpx.Response:
    return await client.post("/departments", json={"name": "D", "parent_id": UNKNOWN})


async def idempotency_key_reused(client: Client) -> httpx.Response:
    await client.post("/departments", json={"name": CANARY}, headers={"Idempotency-Key": CANARY})
    return await client.post("/departments", json={"name": "D"}, headers={"Idempotency-Key": CANARY})


async def unstorable_value(client: Client) -> httpx.Response:
    async def slip_through(*_args: Any) -> Any:
        raise translate(asyncpg.CharacterNotInRepertoireError(CANARY))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DepartmentService, "create", slip_through)
        return await client.post("/departments", json={"name": CANARY})


async def common_password(client: Client) -> httpx.Response:
    user = await make_user(client)
    link = (await make_password_link(client, user["id"])).json()
    return await client.post("/auth/set-password", json={"token": link["token"], "password": "password1234"})


async def spent_link(client: Client) -> httpx.Response:
    return await client.post("/auth/set-password", json={"token": CANARY, "password": f"{CANARY} {CANARY}"})


async def too_many_requests(client: Client) -> httpx.Response:
    form = {"username": f"{CANARY}@register.example", "password": CANARY}
    for _ in range(10):
        assert_problem(await client.post("/auth/token", data=form), "wrong_credentials")
    return await client.post("/auth/token", data=form)


async def caller_busy(client: Client) -> httpx.Response:
    async def wait(*_args: Any) -> Any:
        raise CallerBusy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DepartmentService, "page", wait)
        return await client.get("/departments")


async def rate_limited(_client: Client) -> httpx.Response:
    app = create_app(settings_for(None, rate_limit="1/day"))
    async with client_of(app, None) as client:
        await client.get("/nowhere")
        return await client.get(f"/{CANARY}")


async def headers_too_large(client: Client) -> httpx.Response:
    return await client.get("/departments", headers={"Cookie": "C" * 2**15})


async def internal_error(client: Client) -> httpx.Response:
    with pytest.MonkeyPatch.context() as patch, configured_log():
        patch.setattr(DepartmentService, "page", fail)
        return await client.get("/departments")


async def fail(*_args: Any) -> Any:
    raise RuntimeError(CANARY)


# test_health.py has the causes of status 503.
CAUSES: dict[str, tuple[Callable[[Client], Awaitable[httpx.Response]], tuple[str, ...]]] = {
    "bad_request": (bad_request, ("/limt",)),
    "unauthorized": (unauthorized, ()),
    "wrong_credentials": (wrong_credentials, ()),
    "forbidden": (forbidden, ()),
    "not_found": (not_found, ()),
    "method_not_allowed": (method_not_allowed, ()),
    "not_acceptable": (not_acceptable, ()),
    "conflict": (conflict, ("/relation",)),
    "duplicate": (duplicate, ("/code",)),
    "still_referenced": (still_referenced, ()),
    "first_administrator": (first_administrator, ()),
    "last_administrator": (last_administrator, ("/is_active",)),
    "cycle": (cycle, ("/parent_id",)),
    "too_deep": (too_deep, ("/parent_id",)),
    "plan_outdated": (plan_outdated, ()),
    "request_in_flight": (request_in_flight, ()),
    "answer_too_large": (answer_too_large, ()),
    "too_many_keys": (too_many_keys, ()),
    "too_many_tokens": (too_many_tokens, ()),
    "feed_expired": (feed_expired, ()),
    "feed_reset": (feed_reset, ()),
    "precondition_failed": (precondition_failed, ()),
    "content_too_large": (content_too_large, ()),
    "unsupported_media_type": (unsupported_media_type, ()),
    "invalid_content": (invalid_content, ("/name",)),
    "unknown_reference": (unknown_reference, ("/parent_id",)),
    "idempotency_key_reused": (idempotency_key_reused, ("/Idempotency-Key",)),
    "unstorable_value": (unstorable_value, ()),
    "common_password": (common_password, ("/password",)),
    "spent_link": (spent_link, ("/token",)),
    "too_many_requests": (too_many_requests, ()),
    "caller_busy": (caller_busy, ()),
    "rate_limited": (rate_limited, ()),
    "headers_too_large": (headers_too_large, ()),
    "internal_error": (internal_error, ()),
}


@pytest.mark.parametrize("code", CAUSES)
async def test_every_kind_of_error_has_the_same_shape_and_is_explained(client: Client, code: str) -> None:
    cause, pointers = CAUSES[code]
    problem = assert_problem(await cause(client), code, *pointers)
    response = await client.get(f"http://register.test{problem['type']}")
    error = next(error for error in problem_types() if error.name == CODES[code].name)
    assert (response.status_code, response.json()) == (
        200,
        {
            "name": problem["type"].removeprefix("/problems/"),
            "title": problem["title"],
            "status": problem["status"],
            "explanation": explanation(error),
        },
    )
    assert len(response.json()["explanation"]) > 50


def test_every_error_has_a_cause() -> None:
    assert CAUSES.keys() == {code for code, error in CODES.items() if error.status != 503}
    elsewhere = set(re.findall(r'"(\w+)"', Path(__file__).with_name("test_health.py").read_text("utf-8")))
    assert elsewhere >= {code for code, error in CODES.items() if error.status == 503}


async def test_missing_scope_is_named(client: Client) -> None:
    response = await forbidden(client)
    assert assert_problem(response, "forbidden")["scope"] == "session"
    assert response.headers["www-authenticate"] == ('Bearer realm="process-register", error="insufficient_scope"')


async def test_invalid_and_missing_tokens_have_different_challenges(client: Client) -> None:
    assert (await unauthorized(client)).headers["www-authenticate"] == 'Bearer realm="process-register"'
    response = await client.get("/departments", headers={"Authorization": f"Bearer {CANARY}"})
    assert_problem(response, "unauthorized")
    assert response.headers["www-authenticate"] == 'Bearer realm="process-register", error="invalid_token"'


def test_every_code_is_in_the_documentation_with_its_status(root: Path) -> None:
    text = (root / "docs" / "06-api.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d{3}) \| ([`\w, ]+) \|", text, re.MULTILINE)
    found = {code: int(status) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert found == {code: error.status for code, error in CODES.items()}


async def test_every_page_of_problems_can_be_read(client: Client) -> None:
    for error in problem_types():
        response = await client.get(f"http://register.test/problems/{error.name}")
        assert (response.status_code, response.json()["status"]) == (200, error.status)


@pytest.mark.parametrize("name", ["absent", "Conflict", "conflict%00", "code:conflict", "n" * 10_000])
async def test_unknown_problem_type_is_not_found(client: Client, name: str) -> None:
    assert_problem(await client.get(f"http://register.test/problems/{name}"), "not_found")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", ["/", "/api", "/api/v1", "/api/v2/departments", "/api/v1/department", "/health/dead"])
async def test_unknown_address_is_not_found_by_any_method(client: Client, method: str, path: str) -> None:
    assert_problem(await client.request(method, f"http://register.test{path}"), "not_found")


async def test_other_methods_are_not_allowed_and_the_allowed_ones_are_listed(client: Client) -> None:
    for template, operations in openapi()["paths"].items():
        path = re.sub(r"\{\w+\}", "1", template)
        for slash in ("", "/"):
            for method in METHODS:
                if method.lower() not in operations:
                    response = await client.request(method, f"http://register.test{path}{slash}")
                    assert_problem(response, "method_not_allowed")
                    known = {*map(str.upper, operations), *(["HEAD"] if "get" in operations else [])}
                    assert response.headers["allow"] == ", ".join(sorted(known))


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/docs/assets/swagger-ui.css"])
async def test_pages_allow_get_and_head_only(client: Client, path: str) -> None:
    response = await client.post(f"http://register.test{path}")
    assert_problem(response, "method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD"


async def test_all_faults_of_a_body_are_reported_together(client: Client) -> None:
    department = await make_department(client)
    body = {
        "code": "-",
        "external_id": "\0",
        "description": 1,
        "parent_id": 0,
        "kind": CANARY,
        "criticality": [],
        "departments": [
            {"department_id": department["id"]},
            {"department_id": "1", "relation": CANARY},
            {"relation": "owner", "extra/one": CANARY},
            CANARY,
        ],
        "location_ids": [1, "1", 0, None, 1.0, True],
        "roles": {"role_id": 1},
        "nonsense": CANARY,
    }
    pointers = [
        "/code",
        "/external_id",
        "/name",
        "/description",
        "/parent_id",
        "/kind",
        "/criticality",
        "/departments/1/department_id",
        "/departments/1/relation",
        "/departments/2/department_id",
        "/departments/2/extra~1one",
        "/departments/3",
        *(f"/location_ids/{index}" for index in range(1, 6)),
        "/roles",
        "/nonsense",
    ]
    process = await make_process(client)
    problem = assert_problem(await client.post("/processes", json=body), "invalid_content", *pointers)
    assert problem["detail"] == f"The request has {len(pointers)} errors."
    assert {error["source"] for error in problem["errors"]} == {"body"}
    path = f"/processes/{process['id']}"
    assert_problem(await client.put(path, json=body), "invalid_content", *pointers)
    pointers.remove("/name")  # a patch may leave it out
    assert_problem(await client.patch(path, json=body), "invalid_content", *pointers)
    assert (await client.get(path)).json() == process


async def test_faults_of_body_and_query_are_reported_together(client: Client) -> None:
    process, role = await make_process(client), await make_role(client)
    response = await client.request(
        "DELETE", f"/processes/{process['id']}/roles/{role['id']}?responsibility={CANARY}", json={"x": CANARY}
    )
    problem = assert_problem(response, "invalid_content", "/responsibility")
    assert problem["errors"][0]["source"] == "query"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (
            {"departments": [{"department_id": 1, "relation": "owner"}, {"department_id": 2, "relation": "owner"}]},
            "/departments",
        ),
        ({"departments": [{"department_id": 1}, {"department_id": 1, "relation": "owner"}]}, "/departments"),
        ({"resources": [{"resource_id": 1}, {"resource_id": 1, "usage": "reads"}]}, "/resources"),
        ({"roles": [{"role_id": each, "responsibility": "accountable"} for each in (1, 2)]}, "/roles"),
        ({"role_ids": [], "roles": []}, "/role_ids"),
        ({"location_ids": [1] * 1001}, "/location_ids"),
        ({"locations": [{"location_id": 1}] * 1001}, "/locations"),
    ],
)
async def test_links_that_contradict_each_other_are_invalid(client: Client, body: dict[str, Any], pointer: str) -> None:
    process = await make_process(client)
    assert_problem(await client.post("/processes", json={"name": "P"} | body), "invalid_content", pointer)
    assert_problem(
        await client.put(f"/processes/{process['id']}", json={"name": "P"} | body), "invalid_content", pointer
    )
    assert_problem(await client.patch(f"/processes/{process['id']}", json=body), "invalid_content", pointer)


@every_collection
async def test_all_unknown_references_are_reported_together(client: Client, collection: str) -> None:
    made = await make(client, collection)
    unknown = dict.fromkeys(REFERENCES[collection], UNKNOWN)
    pointers = [f"/{name}" for name in unknown]
    path = f"/{collection}/{made['id']}"
    body = required(collection) | unknown
    for response in (
        await client.post(f"/{collection}", json=body),
        await client.put(path, json=body),
        await client.patch(path, json=unknown),
    ):
        problem = assert_problem(response, "unknown_reference", *pointers)
        assert {error["code"] for error in problem["errors"]} == {"unknown_reference"}
    assert (await client.get(path)).json() == made


async def test_all_unknown_links_are_reported_together(client: Client) -> None:
    makers = (make_department, make_location, make_resource, make_role)
    known = {target: (await maker(client))["id"] for target, maker in zip(TARGETS, makers, strict=True)}
    ids = {target: [UNKNOWN, known[target], UNKNOWN + 1, UNKNOWN] for target in TARGETS}
    long: dict[str, Any] = {f"{target}s": [{f"{target}_id": each} for each in ids[target]] for target in TARGETS}
    short: dict[str, Any] = {f"{target}_ids": ids[target] for target in TARGETS}
    scalars = {"parent_id": UNKNOWN, "owner_id": UNKNOWN}
    process = await make_process(client)
    for links, place in ((long, "/{0}s/{1}/{0}_id"), (short, "/{0}_ids/{1}")):
        pointers = [f"/{name}" for name in scalars]
        pointers += [place.format(target, index) for target in TARGETS for index in (0, 2, 3)]
        body = {"name": "P"} | scalars | links
        path = f"/processes/{process['id']}"
        assert_problem(await client.post("/processes", json=body), "unknown_reference", *pointers)
        assert_problem(await client.put(path, json=body), "unknown_reference", *pointers)
        assert_problem(await client.patch(path, json=body), "unknown_reference", *pointers)
    assert (await client.get(f"/processes/{process['id']}")).json() == process


@pytest.mark.parametrize("target", TARGETS)
async def test_link_with_a_missing_end_is_not_found(client: Client, target: str) -> None:
    process, other = await make_process(client), await make(client, f"{target}s")
    for left, right in ((process["id"], UNKNOWN), (UNKNOWN, other["id"]), (process["id"], "code:absent")):
        for method in ("PUT", "DELETE"):
            assert_problem(await client.request(method, f"/processes/{left}/{target}s/{right}"), "not_found")


@pytest.mark.parametrize(
    ("target", "field", "value"), [("department", "relation", "owner"), ("role", "responsibility", "accountable")]
)
async def test_second_owner_or_accountable_role_is_a_conflict(
    client: Client, target: str, field: str, value: str
) -> None:
    first, second = await make(client, f"{target}s"), await make(client, f"{target}s")
    process = await make_process(client)
    path = f"/processes/{process['id']}/{target}s"
    assert (await client.put(f"{path}/{first['id']}", json={field: value})).status_code == 204
    response = await client.put(f"{path}/{second['id']}", json={field: value})
    assert_problem(response, "conflict", f"/{field}")
    # The rest of the transaction is undone, too.
    stored = (await client.get(f"/processes/{process['id']}")).json()
    assert ([link["id"] for link in stored[f"{target}s"]], stored["version"]) == ([first["id"]], 2)


# Two random tokens are never equal, so this constraint needs no error for clients.
INTERNAL_CONSTRAINTS = {"uq_api_tokens_token_hash", "uq_password_links_token_hash"}


def test_every_constraint_that_input_can_violate_is_explained() -> None:
    unique, foreign = set(), set()
    for table in Base.metadata.tables.values():
        for index in table.indexes:
            if index.unique:
                error = error_for(IntegrityViolation("23505", str(index.name)))
                if index.name in INTERNAL_CONSTRAINTS:
                    assert error is None
                    continue
                assert isinstance(error, Conflict), index.name
                assert len(error.errors) == 1
                unique.add(str(index.name))
        for constraint in table.constraints:
            if isinstance(constraint, ForeignKeyConstraint):
                error = error_for(IntegrityViolation("23503", str(constraint.name)))
                assert isinstance(error, UnknownReference)
                assert [fault.pointer for fault in error.errors] == [f"/{constraint.column_keys[0]}"]
                foreign.add(str(constraint.name))
    assert unique == {
        *(f"uq_{collection}_{key}" for collection in COLLECTIONS for key in ("code", "external_id")),
        "uq_users_email",
        "uq_process_departments_owner",
        "uq_process_roles_accountable",
    }
    assert {"fk_departments_parent_id", "fk_process_roles_role_id", "fk_role_holders_user_id"} <= foreign


@pytest.mark.parametrize(
    "violation",
    [
        IntegrityViolation("23514", "ck_processes_kind"),
        IntegrityViolation("23502", ""),
        IntegrityViolation("23505", "pk_users"),
    ],
)
async def test_unexpected_constraint_violation_is_an_internal_error(
    client: Client, monkeypatch: pytest.MonkeyPatch, violation: IntegrityViolation
) -> None:
    async def violate(*_args: Any) -> Any:
        raise violation

    monkeypatch.setattr(DepartmentService, "create", violate)
    with configured_log() as log:
        assert_problem(await client.post("/departments", json={"name": CANARY}), "internal_error")
    assert [entry["event"] for entry in log.entries] == ["request failed", "request"]


def test_unexpected_error_reveals_only_the_request_id_and_keeps_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = b"GET %b HTTP/1.1\r\nHost: register.test\r\nX-Request-ID: ours-1\r\nAuthorization: Bearer "
    request += ADMIN_TOKEN.encode() + b"\r\n\r\n"
    with configured_log() as log, server.connect() as connection:
        monkeypatch.setattr(DepartmentService, "page", fail)
        connection.sendall(request % b"/api/v1/departments")
        response = receive(connection)
        assert "connection" not in response.headers
        monkeypatch.undo()
        connection.sendall(request % b"/api/v1/departments")
        assert receive(connection).status_code == 200
        wait_until(lambda: len(log.entries) == 3)  # the last line is logged after the response is sent
    assert assert_problem(response, "internal_error") == {
        "type": "/problems/internal-error",
        "title": "Internal error",
        "status": 500,
        "detail": InternalError.text,
        "instance": "/api/v1/departments",
        "code": "internal_error",
        "request_id": "ours-1",
        "errors": [],
    }
    failed, line, _ = log.entries
    assert (failed["event"], failed["level"], failed["request_id"]) == ("request failed", "error", "ours-1")
    (cause,) = failed["exception"]
    assert (cause["exc_type"], cause["exc_value"]) == ("RuntimeError", CANARY)
    assert cause["frames"][-1]["name"] == "fail"
    assert (line["event"], line["status"], line["request_id"]) == ("request", 500, "ours-1")


def test_every_error_has_a_status_a_name_and_a_title() -> None:
    for code, error in CODES.items():
        assert (error.code, issubclass(error, RegisterError)) == (code, True)
        assert error.title[0].isupper()
        assert 400 <= error.status < 600
    assert [error.name for error in problem_types() if error.status == InternalError.status] == ["internal-error"]
