"""A request with an `Idempotency-Key` is executed once, however often it is sent; a repeat gets the first response."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.database import RegisterSession, advisory_key
from app.core.permissions import SCOPES, requires
from app.core.tokens import API_TOKEN, new_token
from app.domains.department.service import DepartmentService
from app.domains.shared import router as shared_router
from app.domains.shared.idempotency import route as idempotency_route
from app.domains.shared.idempotency import store as idempotency
from app.domains.shared.router import api_router
from app.main import create_app
from app.utils.exceptions import ConnectionLost, OutcomeUnknown
from tests.api.conftest import assert_problem, openapi, responses_of
from tests.builders import admin_session, make, make_department, make_user
from tests.catalogue import every_collection, required
from tests.conftest import Committed, Statements, client_of, connected, settings_for, until_lock_wait
from tests.test_contract import CALLER
from tests.test_races import without_log
from tests.utils.conftest import configured_log
from tests.waiting import until_closed

KEYS, TWINS = 1000, 5
CONCURRENT_KEYS = 2  # with their repeats, as many requests as connections

_names = count(1)


def new_key() -> str:
    return f"key-{next(_names)}"


def with_key(key: str, **headers: str) -> dict[str, str]:
    return {"Idempotency-Key": key} | headers


def once(body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    """Return a request with this key, or with a new one."""
    return {"json": body, "headers": with_key(key or new_key())}


def is_replay(response: httpx.Response) -> bool:
    return "idempotency-replayed" in response.headers


def parts(response: httpx.Response) -> tuple[int, bytes, frozenset[tuple[str, str]]]:
    """Return the parts of a response that must be the same when a request is repeated."""
    own_headers = {"x-request-id", "idempotency-replayed"}
    headers = frozenset((name, value) for name, value in response.headers.items() if name not in own_headers)
    return response.status_code, response.content, headers


async def twice(client: httpx.AsyncClient, method: str, path: str, **request: Any) -> httpx.Response:
    """Send a request with a key twice; assert that the responses are the same, and return the first one."""
    request["headers"] = with_key(new_key(), **request.pop("headers", {}))
    first = await client.request(method, path, **request)
    again = await client.request(method, path, **request)
    assert (is_replay(first), is_replay(again)) == (False, True), again.text
    assert again.headers["idempotency-replayed"] == "true"
    assert parts(first) == parts(again)
    return first


async def names(client: httpx.AsyncClient, path: str = "/departments") -> list[str]:
    response = await client.get(f"{path}?limit=200")
    return [item["name"] for item in response.json()["items"]]


@every_collection
async def test_repeated_post_creates_one_object(client: httpx.AsyncClient, collection: str) -> None:
    before = await names(client, f"/{collection}")
    first = await twice(client, "POST", f"/{collection}", json=required(collection))
    assert (first.status_code, first.headers["content-type"]) == (201, "application/json")
    assert {"etag", "location"} <= first.headers.keys()
    assert len(await names(client, f"/{collection}")) == len(before) + 1


@every_collection
async def test_repeated_patch_is_one_change(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection)
    path = f"/{collection}/{made['id']}"
    tag = {"If-Match": (await client.get(path)).headers["etag"]}
    first = await twice(client, "PATCH", path, json={"name": "Changed"}, headers=tag)
    assert (first.status_code, first.json()["version"]) == (200, 2)
    assert (await client.get(path)).json() == first.json()
    assert len((await client.get(f"{path}/changes")).json()["items"]) == 2


async def test_replay_after_the_object_is_deleted(client: httpx.AsyncClient) -> None:
    request = once({"name": "First", "code": "ONCE"})
    first = await client.post("/departments", **request)
    path = first.headers["location"].removeprefix("/api/v1")
    assert (await client.patch(path, json={"name": "Other", "code": None})).status_code == 200
    assert parts(await client.post("/departments", **request)) == parts(first)
    assert (await client.delete(path)).status_code == 204
    again = await client.post("/departments", **request)
    assert (parts(again), is_replay(again)) == (parts(first), True)
    assert (await client.get(path)).status_code == 404


async def test_request_without_a_key_is_executed_each_time(client: httpx.AsyncClient) -> None:
    made = [await client.post("/departments", json={"name": "Twice"}) for _ in range(2)]
    assert made[0].json()["id"] != made[1].json()["id"]
    assert not any(is_replay(response) for response in made)


async def test_error_of_an_executed_request_is_stored(client: httpx.AsyncClient) -> None:
    made, place = await make_department(client, code="TAKEN"), await make(client, "locations")
    path = f"/departments/{made['id']}"
    for code, status, method, url, request in (
        ("duplicate", 409, "POST", "/departments", {"json": {"name": "D", "code": "taken"}}),
        ("unknown_reference", 422, "POST", "/departments", {"json": {"name": "D", "head_id": 2**60}}),
        ("cycle", 409, "PATCH", path, {"json": {"parent_id": made["id"]}}),
        # Only the merge with the stored object shows that the values are invalid together.
        ("invalid_content", 422, "PATCH", f"/locations/{place['id']}", {"json": {"latitude": 1}}),
        ("not_found", 404, "PATCH", "/departments/code:absent", {"json": {"name": "D"}}),
        ("precondition_failed", 412, "PATCH", path, {"json": {"name": "D"}, "headers": {"If-Match": '"9.0"'}}),
        ("precondition_failed", 412, "PATCH", path, {"json": {"name": "D"}, "headers": {"If-None-Match": "*"}}),
        ("bad_request", 400, "PATCH", path, {"json": {"name": "D"}, "headers": {"If-None-Match": "1"}}),
    ):
        first = await twice(client, method, url, **request)
        assert (first.status_code, first.json()["code"]) == (status, code)
    assert (await client.get(path)).json() == made


async def test_error_is_replayed_even_if_the_request_would_succeed_now(client: httpx.AsyncClient) -> None:
    made = await make_department(client, code="TAKEN")
    request = once({"name": "D", "code": "TAKEN"})
    assert (await client.post("/departments", **request)).status_code == 409
    assert (await client.delete(f"/departments/{made['id']}")).status_code == 204
    again = await client.post("/departments", **request)
    assert (again.status_code, is_replay(again)) == (409, True)
    assert (await client.post("/departments", json=request["json"], headers=with_key(new_key()))).status_code == 201


async def test_request_that_was_not_executed_leaves_the_key_free(client: httpx.AsyncClient) -> None:
    headers = with_key(new_key())
    refused: tuple[tuple[int, dict[str, Any]], ...] = (
        (422, {"json": {"name": ""}}),
        (422, {"json": {"nmae": "D"}}),
        (400, {"content": "{", "headers": headers | {"Content-Type": "application/json"}}),
        (415, {"content": "name=D"}),
        (400, {"json": {"name": "D"}, "params": {"dry": "1"}}),
        (413, {"json": {"name": "D" * 2**20}}),
        (401, {"json": {"name": "D"}, "headers": headers | {"Authorization": "Bearer x"}}),
    )
    for status, request in refused:
        for _ in range(2):
            response = await client.post("/departments", **({"headers": headers} | request))
            assert (response.status_code, is_replay(response)) == (status, False)
    assert (await client.post("/departments", json={"name": "D"}, headers=headers)).status_code == 201


async def test_key_is_for_one_request(client: httpx.AsyncClient) -> None:
    made = await make_department(client)
    key = new_key()
    body: dict[str, Any] = {"json": {"name": "D"}}
    assert (await client.post("/departments", **body, headers=with_key(key))).status_code == 201
    before = await names(client)
    path = f"/departments/{made['id']}"
    others: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("POST", "/departments", {"json": {"name": "E"}}),
        ("POST", "/departments", {"content": '{"name":  "D"}'}),  # the bytes are compared, not their meaning
        ("POST", "/roles", body),
        ("PATCH", path, body),
        ("POST", "/departments", body | {"headers": {"If-Match": "*"}}),
        ("POST", "/departments", body | {"headers": {"If-None-Match": "*"}}),
    )
    for method, url, request in others:
        headers = with_key(key, **{"Content-Type": "application/json"}, **request.pop("headers", {}))
        response = await client.request(method, url, headers=headers, **request)
        assert_problem(response, "idempotency_key_reused", "/Idempotency-Key")
        assert not is_replay(response)
    assert (await names(client), (await client.get(path)).json()) == (before, made)


async def test_query_is_part_of_the_request(app: FastAPI, client: httpx.AsyncClient) -> None:
    calls = count(1)
    router = api_router("/trials", ["trials"])

    @router.post("", openapi_extra=requires("departments:write"))
    async def try_it(request: Request, dry_run: bool = False) -> Response:
        return Response(await request.body() + f"{next(calls)} {dry_run}".encode())

    routes = list(app.router.routes)
    app.include_router(router)
    try:
        headers = with_key(new_key())
        # The fingerprint includes the body even where a route declares none.
        sent = [
            await client.post(f"/trials{query}", content=content, headers=headers)
            for query, content in (("", b"a"), ("", b"a"), ("?dry_run=true", b"a"), ("", b"b"))
        ]
        assert [response.status_code for response in sent] == [200, 200, 422, 422]
        assert (sent[0].content, parts(sent[1])) == (b"a1 False", parts(sent[0]))
    finally:
        app.router.routes[:] = routes


@pytest.mark.parametrize(
    "keys",
    [
        [b""],
        [b" "],
        [b"k" * 256],
        [b"a\tb"],
        [b"a\x01b"],
        [b"a\x7fb"],
        [b"a\x00"],
        [b"\xc3\xa9"],
        [b"same", b"same"],
        [b"one", b"two"],
        [b"", b"two"],
    ],
)
async def test_invalid_key_is_rejected(client: httpx.AsyncClient, keys: list[bytes]) -> None:
    before = await names(client)
    headers = [(b"Idempotency-Key", key) for key in keys]
    response = await client.post("/departments", json={"name": "D"}, headers=headers)
    problem = assert_problem(response, "invalid_content", "/Idempotency-Key")
    assert (problem["errors"][0]["source"], problem["errors"][0]["code"]) == ("header", "idempotency_key")
    assert await names(client) == before


@pytest.mark.parametrize(
    "key", ["k", "k" * 255, "order 17, second try", '"quoted"', "'; DROP TABLE users --", "{}/%00"]
)
async def test_key_is_any_printable_text(client: httpx.AsyncClient, key: str) -> None:
    for replay in (False, True):
        response = await client.post("/departments", json={"name": "D"}, headers=with_key(key))
        assert (response.status_code, is_replay(response)) == (201, replay)
    padded = await client.post("/departments", json={"name": "D"}, headers=with_key(f"  {key}\t"))
    assert is_replay(padded)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_idempotent_methods_ignore_the_key(client: httpx.AsyncClient, method: str) -> None:
    made = await make_department(client)
    path, headers = f"/departments/{made['id']}", with_key("k" * 300)
    body: dict[str, Any] = {"json": {"name": "D"}} if method == "PUT" else {}
    response = await client.request(method, path, headers=headers, **body)
    assert response.is_success
    assert "idempotency-replayed" not in response.headers


async def api_token(app: FastAPI, connection: AsyncConnection, user_id: int, *scopes: str) -> str:
    """Give a user an API token with these scopes, or with all."""
    token = new_token(API_TOKEN)
    hashed = app.state.tokens.api_token_hashes(token)[0]
    await connection.exec_driver_sql(
        "INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at) "
        "VALUES ($1, 'Test', $2, $3, now() + interval '1 day')",
        (user_id, hashed, list(scopes) or sorted(SCOPES)),
    )
    return token


async def test_key_belongs_to_its_user(app: FastAPI, client: httpx.AsyncClient, connection: AsyncConnection) -> None:
    headers = with_key(new_key())
    first = await client.post("/departments", json={"name": "Mine"}, headers=headers)
    user = await make_user(client, access_level="editor")
    token = await api_token(app, connection, user["id"])
    async with client_of(app, token) as other:
        second = await other.post("/departments", json={"name": "Theirs"}, headers=headers)
        assert (second.status_code, is_replay(second), second.json()["name"]) == (201, False, "Theirs")
        assert parts(await other.post("/departments", json={"name": "Theirs"}, headers=headers)) == parts(second)
    assert parts(await client.post("/departments", json={"name": "Mine"}, headers=headers)) == parts(first)
    # The same user with another token has the same keys.
    async with client_of(app, await api_token(app, connection, user["id"])) as again:
        assert is_replay(await again.post("/departments", json={"name": "Theirs"}, headers=headers))


async def test_replay_requires_the_scopes_of_the_request(
    app: FastAPI, client: httpx.AsyncClient, connection: AsyncConnection
) -> None:
    user = await make_user(client, access_level="admin")
    token = await api_token(app, connection, user["id"])
    path = f"/users/{user['id']}"
    request = once({"name": "D"})
    own = once({"description": "Administrator"})
    async with client_of(app, token) as caller:
        first = [await caller.post("/departments", **request), await caller.patch(path, **own)]
        assert [response.status_code for response in first] == [201, 200]

    # With fewer scopes: only `admin` may change an administrator, so the replay needs it, too.
    narrow = await api_token(app, connection, user["id"], "users:write")
    async with client_of(app, narrow) as caller:
        refused = await caller.patch(path, **own)
        assert assert_problem(refused, "forbidden")["scope"].split() == sorted(
            SCOPES.keys() - {"users:read", "users:write"}
        )
        assert "Administrator" not in refused.text
        assert (await caller.post("/departments", **request)).json()["scope"] == "departments:write"

    async with client_of(app, token) as caller:
        for level, statuses in (("editor", [403, 403]), ("viewer", [403, 403]), ("admin", [201, 200])):
            await client.patch(path, json={"access_level": level})
            again = [await caller.post("/departments", **request), await caller.patch(path, **own)]
            assert [response.status_code for response in again] == statuses
        assert list(map(parts, again)) == list(map(parts, first))
        await client.patch(path, json={"is_active": False})
        assert (await caller.post("/departments", **request)).status_code == 401


async def test_caller_with_more_scopes_gets_the_stored_response(
    app: FastAPI, client: httpx.AsyncClient, connection: AsyncConnection
) -> None:
    user = await make_user(client, access_level="editor")
    request = once({"name": "D"})
    async with client_of(app, await api_token(app, connection, user["id"], "departments:write")) as narrow:
        first = await narrow.post("/departments", **request)
    async with client_of(app, await api_token(app, connection, user["id"])) as wide:
        assert parts(await wide.post("/departments", **request)) == parts(first)


async def test_scope_error_is_not_stored(app: FastAPI, client: httpx.AsyncClient, connection: AsyncConnection) -> None:
    user = await make_user(client, access_level="admin")
    path, request = f"/users/{user['id']}", once({"description": "D"})
    # Rejected by the service, because this user is an administrator.
    async with client_of(app, await api_token(app, connection, user["id"], "users:write")) as narrow:
        assert_problem(await narrow.patch(path, **request), "forbidden")
    async with client_of(app, await api_token(app, connection, user["id"], "users:write", "admin")) as wide:
        response = await wide.patch(path, **request)
        assert (response.status_code, is_replay(response)) == (200, False)


async def test_expired_key_may_be_used_again(client: httpx.AsyncClient, connection: AsyncConnection) -> None:
    headers = with_key(new_key())
    first = await client.post("/departments", json={"name": "First"}, headers=headers)
    kept = "SELECT expires_at - now() = interval '24 hours' FROM idempotency_keys"
    assert (await connection.exec_driver_sql(kept)).scalars().all() == [True]
    await connection.exec_driver_sql("UPDATE idempotency_keys SET expires_at = now() + interval '1 hour'")
    assert is_replay(await client.post("/departments", json={"name": "First"}, headers=headers))
    await connection.exec_driver_sql("UPDATE idempotency_keys SET expires_at = now()")
    for replay in (False, True):  # for another request, and then for that one only
        second = await client.post("/departments", json={"name": "Second"}, headers=headers)
        assert (second.status_code, is_replay(second), second.json()["name"]) == (201, replay, "Second")
    assert second.json()["id"] != first.json()["id"]
    reused = await client.post("/departments", json={"name": "First"}, headers=headers)
    assert_problem(reused, "idempotency_key_reused", "/Idempotency-Key")


async def test_response_that_is_too_large_is_not_replayed(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = once({"name": "Large", "description": "d" * 1000})
    monkeypatch.setattr(idempotency, "MAX_STORED_BYTES", 1000)
    assert (await client.post("/departments", **request)).status_code == 201
    for _ in range(2):
        problem = assert_problem(await client.post("/departments", **request), "answer_too_large")
        assert "with status 201" in problem["detail"]
    assert (await names(client)).count("Large") == 1


async def test_large_response_is_stored_whole(committed: Committed) -> None:
    size = idempotency.MAX_STORED_BYTES
    router = api_router("/trials", ["trials"])

    @router.post("", openapi_extra=requires("departments:write"))
    async def try_it() -> Response:
        return Response(bytes(range(256)) * (size // 256), media_type="application/octet-stream")

    committed.app.include_router(router)
    headers = with_key(new_key())
    first, again = [await committed.client.post("/trials", headers=headers) for _ in range(2)]
    assert (len(first.content), parts(again), is_replay(again)) == (size, parts(first), True)


async def test_number_of_statements_is_fixed(client: httpx.AsyncClient, statements: Statements) -> None:
    made = await make_department(client, code="TAKEN")
    path = f"/departments/{made['id']}"
    claim = keep = 1
    for plain, failure, method, url, body in (
        (1, 0, "POST", "/departments", {"name": "D"}),
        (2, 0, "PATCH", path, {"name": "D"}),
        # The rollback undoes also the claim, which is repeated; then the other faults are looked up.
        (2, claim, "POST", "/departments", {"name": "D", "code": "TAKEN"}),
    ):
        request = once(body)
        with statements.counted() as seen:
            await client.request(method, url, **request)
        assert len(seen) == CALLER + claim + plain + failure + keep, seen
        with statements.counted() as seen:
            assert is_replay(await client.request(method, url, **request))
        assert len(seen) == CALLER + claim, seen
        assert all("pg_try_advisory_xact_lock" in each or "api_tokens" in each for each in seen)
    with statements.counted() as seen:
        await client.post("/departments", json={"name": "D"})
    assert len(seen) == CALLER + 1
    assert not [each for each in seen if "idempotency" in each]


async def test_replay_is_logged(client: httpx.AsyncClient) -> None:
    request = once({"name": "D"}, "never-written-down")
    with configured_log() as log:
        ids = [(await client.post("/departments", **request)).headers["x-request-id"] for _ in range(2)]
    first, again = log.entries
    assert "replayed" not in first
    assert (again["replayed"], again["status"]) == (True, 201)
    assert [first["request_id"], again["request_id"]] == ids
    assert ids[0] != ids[1]
    assert "never-written-down" not in log.getvalue()


async def credentials_requests(client: httpx.AsyncClient) -> Iterator[tuple[str, str]]:
    user = await make_user(client)
    return iter(
        (method.upper(), path.removeprefix("/api/v1").replace("{reference}", str(user["id"])))
        for path, operations in openapi()["paths"].items()
        for method, operation in operations.items()
        if method in {"post", "patch"} and operation["x-permission"] not in SCOPES
    )


async def test_credentials_are_not_kept(client: httpx.AsyncClient, connection: AsyncConnection) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/auth/token": {"data": {"username": "admin@register.example", "password": "the administrator of all tests"}},
        "/auth/refresh": {"json": {"refresh_token": "prr_x"}},
        "/auth/set-password": {"json": {"token": "prl_x", "password": "another password"}},
        "/users/me/password": {"json": {"old_password": "x", "new_password": "another password"}},
        "/users/me/tokens": {"json": {"name": "Program", "scopes": ["roles:read"]}},
    }
    headers = await admin_session(client) | with_key(new_key())
    tried = 0
    for method, path in await credentials_requests(client):
        request = bodies.get(path, {})
        problem = assert_problem(
            await client.request(method, path, headers=headers, **request), "bad_request", "/Idempotency-Key"
        )
        assert problem["errors"][0]["code"] == "idempotency_key"
        tried += 1
    assert tried == 8
    assert (await connection.exec_driver_sql("SELECT count(*) FROM idempotency_keys")).scalar() == 0


def test_operations_that_accept_a_key_document_it() -> None:
    taking = 0
    for path, operations in openapi()["paths"].items():
        for method, operation in operations.items():
            takes = method in {"post", "patch"} and operation["x-permission"] in SCOPES
            parameters = {each["name"]: each for each in operation.get("parameters", ())}
            assert ("Idempotency-Key" in parameters) == takes, (method, path)
            if takes:
                taking += 1
                assert parameters["Idempotency-Key"]["schema"]["maxLength"] == 255
                assert {"409", "422"} <= operation["responses"].keys()
            for status, response in responses_of(operation, openapi()).items():
                kept = takes and status not in {"401", "403", "413", "415", "429", "431", "500", "503"}
                assert ("Idempotency-Replayed" in response["headers"]) == kept, (method, path, status)
    assert taking == 25


# Here everything is committed.


async def query(committed: Committed, statement: str) -> list[tuple[Any, ...]]:
    async with connected(committed.url) as connection:
        return [tuple(row) for row in await connection.fetch(statement)]


async def test_a_thousand_keys_with_five_twins_each_make_a_thousand_objects(committed: Committed) -> None:
    # Callers are cached, as in production: this test is not about looking them up.
    app = create_app(settings_for(committed.url, caller_cache_seconds=1))
    free, in_flight = asyncio.Semaphore(CONCURRENT_KEYS), Counter[str]()

    async def send(client: httpx.AsyncClient, number: int) -> httpx.Response:
        body = {"name": f"Twin {number}", "external_id": f"twin/{number}"}
        while True:
            response = await client.post("/departments", json=body, headers=with_key(f"twins-{number}"))
            if response.status_code != 409:
                return response
            # Not `duplicate`, which would mean that a repeat was executed.
            assert response.json()["code"] == "request_in_flight"
            in_flight["responses"] += 1
            await asyncio.sleep(0.02)

    async def send_all(client: httpx.AsyncClient, number: int) -> list[httpx.Response]:
        async with free:
            return await asyncio.gather(*(send(client, number) for _ in range(TWINS)))

    try:
        async with client_of(app) as client:
            twins = await asyncio.gather(*(send_all(client, number) for number in range(KEYS)))
    finally:
        await app.state.database.dispose()
    for responses in twins:
        assert [response.status_code for response in responses] == [201] * TWINS
        assert len({parts(response) for response in responses}) == 1
        assert sum(not is_replay(response) for response in responses) == 1
    assert in_flight["responses"] > KEYS  # repeats were in flight at the same time
    made = await query(committed, "SELECT count(*), count(DISTINCT external_id) FROM departments")
    assert made == [(KEYS, KEYS)]
    assert await query(committed, "SELECT count(*) FROM idempotency_keys") == [(KEYS,)]
    assert await query(committed, "SELECT count(*) FROM changes WHERE type = 'departments'") == [(KEYS,)]
    ids = sorted(responses[0].json()["id"] for responses in twins)
    assert ids == [row[0] for row in await query(committed, "SELECT id FROM departments ORDER BY id")]


async def test_primary_key_prevents_duplicates_without_locks(
    committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = count(1)
    monkeypatch.setattr(idempotency, "advisory_key", lambda _: next(numbers))  # no two requests have the same lock
    for number in range(20):
        request = once({"name": f"Twin {number}"})
        twins = await asyncio.gather(*(committed.client.post("/departments", **request) for _ in range(TWINS)))
        assert {response.status_code for response in twins} <= {201, 409}
        (made,) = {response.content for response in twins if response.status_code == 201}
        for response in twins:
            if response.status_code == 409:
                assert_problem(response, "request_in_flight")
        assert (await committed.client.post("/departments", **request)).content == made
    assert await query(committed, "SELECT count(*) FROM departments") == [(20,)]


@asynccontextmanager
async def held(committed: Committed, key: str) -> AsyncIterator[None]:
    """Keep a request with this key in flight: it waits for the row lock of an object."""
    (made,) = await query(committed, "INSERT INTO departments (name) VALUES ('Locked') RETURNING id")
    async with connected(committed.url) as connection:
        async with connection.transaction():
            await connection.execute("SELECT FROM departments WHERE id = $1 FOR UPDATE", made[0])
            path = f"/departments/{made[0]}"
            first = asyncio.create_task(committed.client.patch(path, json={"name": "D"}, headers=with_key(key)))
            await until_lock_wait(committed.url)
            yield
        assert (await first).status_code == 200


async def test_repeat_fails_immediately_while_the_first_request_is_in_flight(committed: Committed) -> None:
    key = new_key()
    async with held(committed, key):
        for method, path in (("POST", "/departments"), ("PATCH", "/departments/1"), ("POST", "/roles")):
            response = await committed.client.request(method, path, json={"name": "D"}, headers=with_key(key))
            assert_problem(response, "request_in_flight")
            assert response.headers["retry-after"] == "1"
        other = await committed.client.post("/roles", json={"name": "R"}, headers=with_key(new_key()))
        assert other.status_code == 201
    again = await committed.client.post("/roles", json={"name": "D"}, headers=with_key(key))
    assert_problem(again, "idempotency_key_reused", "/Idempotency-Key")


async def test_error_is_not_stored_after_a_faster_repeat(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    request = once({"name": "D", "code": "TAKEN"})
    existing = await make_department(committed.client, code="TAKEN")
    undo, undone, twins = RegisterSession.undo, count(1), list[httpx.Response]()

    async def undo_slowly(self: RegisterSession) -> None:
        await undo(self)
        if next(undone) == 2:  # the first one is for finding all faults
            await committed.client.delete(f"/departments/{existing['id']}")
            twins.append(await committed.client.post("/departments", **request))

    monkeypatch.setattr(RegisterSession, "undo", undo_slowly)
    response = await committed.client.post("/departments", **request)
    assert twins[0].status_code == 201
    assert_problem(response, "request_in_flight")
    assert parts(await committed.client.post("/departments", **request)) == parts(twins[0])


async def fail(*_: object) -> Any:
    raise RuntimeError("broken down")


async def test_server_error_is_not_stored_and_rolls_back_the_write(
    committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_to_answer(*_: object) -> None:
        raise RuntimeError("broken down")

    client, request = committed.client, once({"name": "D"})
    for target, name, value in (
        (shared_router, "created_response", fail_to_answer),  # after the write
        (DepartmentService, "create", fail),  # before it
        (idempotency_route, "store_response", fail),
    ):
        with monkeypatch.context() as patch, without_log():
            patch.setattr(target, name, value)
            assert (await client.post("/departments", **request)).status_code == 500
        assert await query(committed, "SELECT FROM departments") == []
        assert await query(committed, "SELECT FROM idempotency_keys") == []
    made = await client.post("/departments", **request)
    assert (made.status_code, is_replay(made)) == (201, False)
    assert parts(await client.post("/departments", **request)) == parts(made)


async def test_lost_connection_frees_the_key(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    client, request = committed.client, once({"name": "D"})
    create = DepartmentService.create

    async def create_and_lose(self: DepartmentService, body: Any) -> Any:
        document = await create(self, body)
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' "
        driver: Any = (await (await self.session.connection()).get_raw_connection()).driver_connection
        await query(committed, f"{end} AND datname = current_database()")
        await until_closed(driver)
        return document

    with monkeypatch.context() as patch, without_log():
        patch.setattr(DepartmentService, "create", create_and_lose)
        response = await client.post("/departments", **request)
        assert (response.status_code, response.json()["code"]) == (503, "service_unavailable")
    assert await query(committed, "SELECT FROM departments") == []
    assert (await client.post("/departments", **request)).status_code == 201


async def test_repeat_resolves_an_unknown_outcome(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    client, commit = committed.client, RegisterSession.commit

    for name, saved in (("Saved", True), ("Lost", False)):
        request, commits = once({"name": name}), count(1)

        async def commit_and_lose(self: RegisterSession, saved: bool = saved, commits: Any = commits) -> None:
            is_callers = next(commits) == 1  # of the look-up of the caller
            if is_callers or saved:
                await commit(self)
            if not is_callers:
                raise OutcomeUnknown from ConnectionLost()

        with monkeypatch.context() as patch, without_log():
            patch.setattr(RegisterSession, "commit", commit_and_lose)
            assert (await client.post("/departments", **request)).json()["code"] == "outcome_unknown"
        again = await client.post("/departments", **request)
        assert (again.status_code, is_replay(again)) == (201, saved)
        assert (await names(client)).count(name) == 1


async def test_failed_commit_stores_nothing(committed: Committed) -> None:
    client, request = committed.client, once({"name": "D"})
    async with connected(committed.url) as connection:
        await connection.execute(
            """
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '23505', CONSTRAINT = 'uq_departments_code'; END $$;
            CREATE CONSTRAINT TRIGGER late AFTER INSERT ON departments
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()
            """
        )
        assert_problem(await client.post("/departments", **request), "duplicate", "/code")
        await connection.execute("DROP FUNCTION refuse CASCADE")
    made = await client.post("/departments", **request)
    assert (made.status_code, is_replay(made)) == (201, False)


async def test_keys_have_distinct_locks(app: FastAPI) -> None:
    session = RegisterSession(app.state.database)
    attempts = [
        idempotency.Attempt(session, user_id, key, b"", frozenset())
        for user_id, key in ((1, "1"), (11, ""), (1, "11"), (2, "1"))
    ]
    locks = {attempt.lock for attempt in attempts}
    assert len(locks) == len(attempts)
    assert advisory_key("departments") not in locks
