"""Streams: resources, disconnecting readers, lost connections, and concurrent writers."""

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count, product
from typing import Any

import anyio
import asyncpg
import httpx
import pytest
import uvicorn
from asyncpg.cursor import Cursor
from asyncpg.prepared_stmt import PreparedStatement
from fastapi import FastAPI, Request
from sqlalchemy import URL, text

from app.core.caller import Caller
from app.core.http import streaming
from app.core.http.routing import authorise_again
from app.core.http.streaming import BATCH_BYTES, FIRST_BATCH_ROWS, MAX_BATCH_ROWS, RECHECK_SECONDS, Streams
from app.core.permissions import scopes_of
from app.core.prepared import FastStatement
from app.core.tokens import API_TOKEN, Tokens, new_token
from app.main import create_app
from app.utils.exceptions import ConnectionLost, DatabaseBusy, Unauthorized
from tests.api.conftest import assert_problem
from tests.builders import admin_session, make
from tests.catalogue import COLLECTIONS
from tests.conftest import (
    ADMIN_TOKEN,
    Committed,
    borrowed,
    client_of,
    connected,
    new_database,
    register_like,
    settings_for,
    until_sql,
)
from tests.waiting import HANG_TIMEOUT, until

NDJSON = {"Accept": "application/x-ndjson"}
CSV = {"Accept": "text/csv"}
# More than the capacity of all buffers between PostgreSQL and the reader.
MANY = 10_000

both_forms = pytest.mark.parametrize("accept", [NDJSON, CSV], ids=["ndjson", "csv"])


async def run_sql(url: URL, sql: str) -> Any:
    async with connected(url) as connection:
        return await connection.fetchval(sql)


async def fill(url: URL, number: int) -> None:
    await run_sql(
        url,
        "INSERT INTO departments (name, description) "
        f"SELECT 'D ' || n, repeat('x', 2000) FROM generate_series(1, {number}) n",
    )


@pytest.fixture(scope="module")
async def filled(server_url: URL, template: URL) -> AsyncIterator[URL]:
    """A database with many departments, used as a template, because filling each database takes longer."""
    async with new_database(server_url, template.database) as url:
        await fill(url, MANY)
        yield url


@pytest.fixture
async def full(server_url: URL, filled: URL) -> AsyncIterator[Committed]:
    """An application with its own database of many departments."""
    async with register_like(server_url, filled) as register:
        yield register


@asynccontextmanager
async def served(committed: Committed, **settings: Any) -> AsyncIterator[str]:
    """Serve on a real socket, and yield the address."""
    app = create_app(settings_for(committed.url, **settings))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, http="httptools", lifespan="off", log_config=None))
        task = asyncio.create_task(server.serve([listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
    await app.state.database.dispose()


@asynccontextmanager
async def begun(
    address: str, accept: dict[str, str] = NDJSON, token: str = ADMIN_TOKEN, path: str = "departments"
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Request a whole list, and yield the rest of the response after its beginning has arrived."""
    headers = accept | {"Authorization": f"Bearer {token}"}
    async with (
        httpx.AsyncClient(timeout=HANG_TIMEOUT) as client,
        client.stream("GET", f"{address}/api/v1/{path}", headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers["transfer-encoding"] == "chunked"
        yield response.aiter_bytes()


UNDER_WAY = (
    "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND xact_start IS NOT NULL AND application_name = 'process-register'"
)


async def test_query_ends_when_the_client_disconnects(full: Committed) -> None:
    async with served(full) as address:
        async with begun(address):
            assert await run_sql(full.url, f"SELECT count(*) {UNDER_WAY}") == 1
        await until_sql(full.url, f"NOT EXISTS (SELECT {UNDER_WAY})")


async def test_reader_that_stops_is_cut_off_without_a_proper_end(full: Committed) -> None:
    async with served(full, export_stall_seconds=1) as address, begun(address) as rest:
        await until_sql(full.url, f"NOT EXISTS (SELECT {UNDER_WAY})")
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            [chunk async for chunk in rest]


@both_forms
async def test_lost_connection_ends_the_response_without_a_proper_end(full: Committed, accept: dict[str, str]) -> None:
    async with served(full) as address:
        async with begun(address, accept) as rest:
            read = len(await anext(rest))
            assert await run_sql(full.url, f"SELECT count(pg_terminate_backend(pid)) {UNDER_WAY}") == 1
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):  # noqa: PT012 - the received part is used
                async for chunk in rest:
                    read += len(chunk)
        assert 0 < read < MANY * 2000
        # The next request gets a new connection and the whole list.
        async with begun(address, accept) as rest:
            assert sum([len(chunk) async for chunk in rest]) > MANY * 2000


async def make_caller(
    register: Committed, kind: str, level: str = "viewer", scopes: tuple[str, ...] = ("departments:read", "roles:read")
) -> tuple[int, str]:
    """Return the id of a new user, and an API token with these scopes or an access token of the user."""
    user = (await make(register.client, "users", access_level=level))["id"]
    tokens: Tokens = register.app.state.tokens
    if kind == "session":
        row = f"({user}, 'tests', now() + interval '1 day')"
        session = await run_sql(
            register.url, f"INSERT INTO sessions (user_id, address, expires_at) VALUES {row} RETURNING id"
        )
        return user, tokens.access_token(user, session)
    token = new_token(API_TOKEN)
    async with connected(register.url) as connection:
        await connection.execute(
            "INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at) "
            "VALUES ($1, 'T', $2, $3, now() + interval '1 day')",
            *(user, tokens.api_token_hashes(token)[0], scopes),
        )
    return user, token


DENIALS = {
    "deactivation": ("token", "UPDATE users SET is_active = false WHERE id = {}"),
    "deletion": ("token", "DELETE FROM users WHERE id = {}"),
    "revocation": ("token", "DELETE FROM api_tokens WHERE user_id = {}"),
    "expiry": ("token", "UPDATE api_tokens SET expires_at = now() WHERE user_id = {}"),
    "narrower scopes": ("token", "UPDATE api_tokens SET scopes = '{{roles:read}}' WHERE user_id = {}"),
    "sign-out": ("session", "DELETE FROM sessions WHERE user_id = {}"),
    "end of the session": ("session", "UPDATE sessions SET expires_at = now() WHERE user_id = {}"),
    "deactivation of a session's user": ("session", "UPDATE users SET is_active = false WHERE id = {}"),
}


@pytest.mark.parametrize("reason", DENIALS)
async def test_stream_of_a_caller_without_permission_is_cut_off(
    full: Committed, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client reads nothing meanwhile, so nothing but the denial ends the stream."""
    kind, denial = DENIALS[reason]
    assert 0 < RECHECK_SECONDS < 1
    user, token = await make_caller(full, kind)
    await assert_cut_off(full, token, denial.format(user), monkeypatch)


async def assert_cut_off(
    register: Committed, token: str, denial: str, monkeypatch: pytest.MonkeyPatch, **request: Any
) -> None:
    """Assert that the denial ends a stream, whose client reads only the beginning before."""
    monkeypatch.setattr(streaming, "RECHECK_SECONDS", 0)
    async with served(register, caller_cache_seconds=1) as address:
        async with begun(address, token=token, **request) as rest:
            read = len(await anext(rest))
            await run_sql(register.url, denial)
            await until_sql(register.url, f"NOT EXISTS (SELECT {UNDER_WAY})")
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):  # noqa: PT012 - the received part is used
                async for chunk in rest:
                    read += len(chunk)
        assert 0 < read < MANY * 2000
        # The places and connections are free again.
        async with begun(address) as rest:
            assert sum([len(chunk) async for chunk in rest]) > MANY * 2000


ROWS = f"FROM generate_series(1, {MANY}) AS n"
CHANGES = (
    "INSERT INTO changes (type, object_id, object_name, action, after) "
    f"SELECT '{{}}', n, 'O', 'created', jsonb_build_object('description', repeat('x', 2000)) {ROWS}"
)
ROLES = f"INSERT INTO roles (name, description) SELECT 'R ' || n, repeat('x', 2000) {ROWS}"
# Responses whose content depends on more scopes than that of the route: the address, its first scope, the further one,
# and the statement that makes the response long.
CONTENTS = {
    "changes": ("changes", "changes:read", "departments:read", CHANGES.format("departments")),
    "feed": ("changes/feed", "changes:read", "departments:read", CHANGES.format("departments")),
    "holders": ("roles?embed=holders", "roles:read", "users:read", ROLES),
    "links": ("departments?process_id__null=true", "departments:read", "processes:read", ""),
}


@pytest.mark.parametrize(
    ("content", "accept"),
    [("changes", NDJSON), ("changes", CSV), ("feed", NDJSON), ("holders", NDJSON), ("links", CSV)],
)
async def test_stream_is_cut_off_when_its_caller_loses_a_scope_on_which_the_content_depends(
    full: Committed, content: str, accept: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, first, further, fill_more = CONTENTS[content]
    await run_sql(full.url, fill_more)
    _, token = await make_caller(full, "token", scopes=(first, further, "departments:read"))
    denial = f"UPDATE api_tokens SET scopes = array_remove(scopes, '{further}') WHERE name = 'T'"
    await assert_cut_off(full, token, denial, monkeypatch, accept=accept, path=path)


@pytest.mark.parametrize("path", ["changes", "changes/feed"])
async def test_stream_is_cut_off_when_its_caller_gets_a_lower_level(
    full: Committed, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_sql(full.url, CHANGES.format("users"))
    user, token = await make_caller(full, "session", level="admin")
    denial = f"UPDATE users SET access_level = 'viewer' WHERE id = {user}"
    await assert_cut_off(full, token, denial, monkeypatch, path=path)


@both_forms
@pytest.mark.parametrize("pool_size", [1, 4])
async def test_stream_of_a_caller_with_permission_is_complete(
    full: Committed, accept: dict[str, str], pool_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check needs a connection, and does not end the stream if all are in use, here by the stream itself."""
    results: list[str] = []

    async def recording(request: Request) -> None:
        try:
            await authorise_again(request)
        except Exception as error:
            results.append(type(error).__name__)
            raise
        results.append("permitted")

    monkeypatch.setattr(streaming, "authorise_again", recording)
    monkeypatch.setattr(streaming, "RECHECK_SECONDS", 0)
    # The statement is compiled, for which the time is too short.
    assert (await full.client.head("/departments", headers=accept)).status_code == 200
    async with served(full, pool_size=pool_size, pool_timeout=0.01) as address, begun(address, accept) as rest:
        await anext(rest)
        await until(lambda: asyncio.sleep(0, len(results) > 1))
        assert sum([len(chunk) async for chunk in rest]) > (MANY - 500) * 2000
    assert set(results) == {"DatabaseBusy" if pool_size == 1 else "permitted"}


@pytest.mark.parametrize("check", ["waits", "fails"])
async def test_stream_that_cannot_be_checked_is_cut_off(
    full: Committed, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit applies from the first check on, which succeeds after the beginning has arrived."""
    has_begun, can_be_checked = asyncio.Event(), iter([True])

    async def check_once(_request: Request) -> None:
        await has_begun.wait()
        if next(can_be_checked, False):
            return
        if check == "fails":
            raise DatabaseBusy
        await asyncio.Event().wait()

    monkeypatch.setattr(streaming, "authorise_again", check_once)
    monkeypatch.setattr(streaming, "RECHECK_SECONDS", 0)
    async with served(full) as address, begun(address) as rest:
        read = len(await anext(rest))
        monkeypatch.setattr(streaming, "MAX_UNCHECKED_SECONDS", 0.01)
        has_begun.set()
        await until_sql(full.url, f"NOT EXISTS (SELECT {UNDER_WAY})")
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):  # noqa: PT012 - the received part is used
            async for chunk in rest:
                read += len(chunk)
    assert 0 < read < MANY * 2000


async def test_only_a_successful_check_extends_the_limit_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    now = count(1000)
    results = iter([None, DatabaseBusy(), DatabaseBusy(), None, ConnectionLost(), Unauthorized(challenge="Bearer")])
    deadlines: list[float] = []
    sending = anyio.CancelScope()

    async def check(_request: Request) -> None:
        deadlines.append(sending.deadline)
        if error := next(results):
            raise error

    monkeypatch.setattr(streaming, "authorise_again", check)
    monkeypatch.setattr(streaming, "RECHECK_SECONDS", 0)
    monkeypatch.setattr(streaming, "MAX_UNCHECKED_SECONDS", 10)
    monkeypatch.setattr(anyio, "current_time", lambda: next(now))
    caller = Caller(1, "C", "viewer", scopes_of("viewer"))
    await streaming._end_without_permission(sending, Request({"type": "http", "state": {"caller": caller}}))
    assert deadlines == [math.inf, 1010, 1010, 1010, 1011, 1011]
    assert sending.cancel_called


async def test_stream_does_not_see_concurrent_writes(full: Committed) -> None:
    async with served(full) as address, begun(address) as rest:
        # The last rows, which are not read yet.
        await run_sql(full.url, f"DELETE FROM departments WHERE id > {MANY - 500} AND id % 2 = 0")
        await run_sql(full.url, f"UPDATE departments SET name = 'changed', description = NULL WHERE id > {MANY - 500}")
        await run_sql(full.url, "INSERT INTO departments (name) VALUES ('new')")
        read = b"".join([chunk async for chunk in rest])
    rows = [json.loads(line) for line in read.splitlines()]
    assert [(row["id"], row["name"], len(row["description"])) for row in rows] == [
        (number, f"D {number}", 2000) for number in range(1, MANY + 1)
    ]


@both_forms
async def test_exhausted_pool_is_a_problem_response(committed: Committed, accept: dict[str, str]) -> None:
    assert (await committed.client.get("/departments", headers=accept)).status_code == 200
    app = create_app(settings_for(committed.url, pool_size=2, export_concurrency=1, pool_timeout=0.1))
    streams: Streams = app.state.streams
    statement = FastStatement(lambda: text("SELECT 1 AS body"))
    await statement.prepare()
    async with borrowed(app.state.database), client_of(app) as client:
        async with borrowed(app.state.database):
            with pytest.raises(DatabaseBusy):
                await anext(streams.read(statement, {}))
            response = await client.get("/departments", headers=accept)
        problem = assert_problem(response, "database_busy")
        assert (problem["status"], "content-disposition" in response.headers) == (503, False)
        assert response.headers["retry-after"].isdigit()
        # The only slot for streams was released.
        assert (await client.get("/departments", headers=accept)).status_code == 200
    await app.state.database.dispose()


async def test_stream_requires_the_permission_of_the_list(client: httpx.AsyncClient) -> None:
    body = {"name": "Narrow", "scopes": ["roles:read"]}
    made = await client.post("/users/me/tokens", json=body, headers=await admin_session(client))
    narrow = {"Authorization": f"Bearer {made.json()['token']}"}
    for accept, collection in product((NDJSON, CSV), COLLECTIONS):
        refused = await client.get(f"/{collection}", headers=accept | {"Authorization": "Bearer no"})
        assert_problem(refused, "unauthorized")
        response = await client.get(f"/{collection}", headers=accept | narrow)
        if collection == "roles":
            assert response.status_code == 200
        else:
            assert assert_problem(response, "forbidden")["status"] == 403


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of the driver: the first word of each statement, and `batch` for each batch of a cursor."""
    calls: list[str] = []

    def record(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        async def recording(self: Any, *arguments: Any, **options: Any) -> Any:
            if owner is Cursor:
                calls.append("batch")
            else:
                query = self.get_query() if owner is PreparedStatement else arguments[0]
                calls.append(query.split()[0].strip(";"))
            return await original(self, *arguments, **options)

        monkeypatch.setattr(owner, name, recording)

    for name in ("execute", "executemany", "fetch", "fetchrow", "fetchval"):
        record(asyncpg.Connection, name)
    record(PreparedStatement, "fetch")
    record(Cursor, "fetch")
    return calls


# The query of the caller, and of a stream the time limit of the reader and the lock of its tables.
LOOK_UP = ["BEGIN", "WITH", "COMMIT"]
SNAPSHOT = ["SET", "LOCK"]


async def test_stream_is_one_statement_for_all_members(committed: Committed, calls: list[str]) -> None:
    queries = ("", "?embed=none", "?fields=id", "?name__ic=e&sort=-name")
    for collection in COLLECTIONS:
        await make(committed.client, collection)
        for query, accept in product(queries, (NDJSON, CSV)):
            del calls[:]
            assert (await committed.client.get(f"/{collection}{query}", headers=accept)).status_code == 200
            assert calls == [*LOOK_UP, "BEGIN", *SNAPSHOT, "batch", "ROLLBACK"], (collection, query)


async def test_only_the_number_of_batches_grows(committed: Committed, calls: list[str]) -> None:
    await make(committed.client, "departments")  # the first connection of a pool runs more statements
    for number, batches in ((FIRST_BATCH_ROWS - 2, 1), (2, 2), (MAX_BATCH_ROWS, 3)):
        await fill(committed.url, number)
        del calls[:]
        response = await committed.client.get("/departments?fields=id", headers=CSV)
        assert response.status_code == 200
        assert calls == [*LOOK_UP, "BEGIN", *SNAPSHOT, *["batch"] * batches, "ROLLBACK"]


@pytest.mark.parametrize("cell", ["repeat('x', {})", "convert_to(repeat('x', {}), 'UTF8')"], ids=["text", "bytes"])
async def test_large_rows_are_read_in_small_batches(app: FastAPI, cell: str) -> None:
    size = f"CASE WHEN n <= 40 THEN {BATCH_BYTES // 5} WHEN n <= 42 THEN {3 * BATCH_BYTES} ELSE 0 END"
    query = f"SELECT {cell.format(size)} AS body, n FROM generate_series(1, 700) n"
    streams: Streams = app.state.streams
    batches = [len(rows) async for rows in streams.read(FastStatement(lambda: text(query)), {})]
    # The size of a batch follows from the rows of the batch before: five of 205 KiB, one of 3 MiB, 500 empty ones.
    assert batches == [FIRST_BATCH_ROWS, 5, 5, 5, 5, 5, 1, MAX_BATCH_ROWS, 154]
    assert sum(batches) == 700
