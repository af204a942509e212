"""The service stays up while its database is unreachable, reports that, and recovers by itself."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import URL, event, make_url, text

from app.core import readiness
from app.core.database import Database
from app.core.http.streaming import Streams
from app.core.places import SharedPlaces
from app.core.prepared import FastStatement
from app.domains.collections import prepare_common_statements
from app.main import create_app
from tests.api.conftest import CANARY, assert_problem
from tests.builders import make_department
from tests.conftest import (
    ADMIN_PASSWORD,
    Committed,
    borrowed,
    connected,
    new_database,
    settings_for,
    until_lock_wait,
    until_sql,
)
from tests.domains.auth.conftest import ADMIN_EMAIL, full_queue
from tests.waiting import HANG_TIMEOUT, until, until_closed

ROOT = "http://register.test"
READY = (f"{ROOT}/health/ready", f"{ROOT}/health")


@asynccontextmanager
async def running(url: URL, **settings: Any) -> AsyncIterator[Committed]:
    """An application on a database, with changed settings."""
    running = Committed(create_app(settings_for(url, **settings)), url)
    try:
        yield running
    finally:
        await running.client.aclose()
        await running.app.state.database.dispose()


@pytest.fixture
async def database(server_url: URL, template: URL) -> AsyncIterator[URL]:
    async with new_database(server_url, template.database) as url:
        yield url


class Proxy:
    """A proxy between the application and PostgreSQL, whose connections the tests can break."""

    def __init__(self, server: URL) -> None:
        self._target = server
        self._listener: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0
        # Called with the client's data; returns whether to forward it before the connection is cut, or None.
        self.cut_at: Callable[[bytes], bool | None] = lambda _: None

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut all connections and refuse new ones."""
        assert self._listener is not None
        self._listener.close()
        self._flowing.set()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        await asyncio.sleep(0)  # the transports close in the next iteration of the loop

    def freeze(self) -> None:
        """Keep all connections, but forward no data."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def url_of(self, database: URL) -> URL:
        return database.difference_update_query(["host", "port"]).set(host="127.0.0.1", port=self.port)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.create_task(self._connect(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = str(self._target.query.get("host", self._target.host))
        port = int(str(self._target.query.get("port", self._target.port or 5432)))
        if host.startswith("/"):
            source, sink = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            source, sink = await asyncio.open_connection(host, port)
        self._writers.add(sink)
        await asyncio.gather(self._pass(reader, sink, writer), self._pass(source, writer, None))

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, client: asyncio.StreamWriter | None
    ) -> None:
        try:
            while data := await source.read(65536):
                await self._flowing.wait()
                cut = self.cut_at(data) if client else None
                if cut is not False:
                    sink.write(data)
                if cut is not None and client:
                    client.transport.abort()
        except OSError:
            pass
        sink.close()


@pytest.fixture
async def proxy(server_url: URL) -> AsyncIterator[Proxy]:
    proxy = Proxy(server_url)
    await proxy.start()
    yield proxy
    await proxy.stop()


async def assert_unavailable(client: httpx.AsyncClient) -> None:
    """Assert that every request that needs the database gets the problem document of a 503."""
    for response in (
        await client.get("/departments"),
        await client.get("/departments/1"),
        await client.post("/departments", json={"name": CANARY}),
        await client.patch("/departments/1", json={"name": CANARY}),
        await client.delete("/departments/1"),
        *[await client.get(url) for url in READY],
    ):
        assert_problem(response, "service_unavailable")
    assert (await client.get(f"{ROOT}/health/live")).json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["live", "ready"])
async def test_service_is_live_and_ready(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(f"{ROOT}/health/{path}")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_health_is_the_readiness_check(client: httpx.AsyncClient) -> None:
    response = await client.get(f"{ROOT}/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def closed_port(_server: URL) -> URL:
    listener = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    return make_url(f"postgresql://register:{CANARY}@127.0.0.1:{port}/register")


async def missing_socket(_server: URL) -> URL:
    return make_url(f"postgresql://register:{CANARY}@/register?host=/nonexistent")


async def missing_database(server: URL) -> URL:
    return server.set(database=CANARY)


@pytest.mark.parametrize("place", [closed_port, missing_socket, missing_database])
async def test_without_database_the_service_is_live_but_not_ready(
    server_url: URL, place: Callable[[URL], Awaitable[URL]]
) -> None:
    async with running(await place(server_url)) as service:
        await assert_unavailable(service.client)


async def test_server_of_another_protocol_is_unavailable() -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with running(make_url(f"postgresql://register@127.0.0.1:{port}/register")) as service:
            await assert_unavailable(service.client)


async def test_connecting_to_an_unresponsive_server_times_out(proxy: Proxy, database: URL) -> None:
    proxy.freeze()
    async with running(proxy.url_of(database), connect_timeout=0.3) as service, asyncio.timeout(HANG_TIMEOUT):
        for url in ("/departments", READY[0], f"{ROOT}/health"):
            assert_problem(await service.client.get(url), "service_unavailable")
        proxy.thaw()
        await until(lambda: succeeds(service))


async def succeeds(service: Committed) -> bool:
    """Return whether a request succeeds. With limits this short, a slow machine may need several."""
    response = await service.client.get("/departments")
    assert response.status_code in {200, 503}
    return response.is_success


async def not_ready_reason(service: Committed) -> str:
    """Return the reason why the service is not ready, from a new check."""
    service.app.state.readiness._checked_at = float("-inf")
    details = {assert_problem(await service.client.get(url), "service_unavailable")["detail"] for url in READY}
    (detail,) = details
    return str(detail)


async def test_slow_database_is_not_ready(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PROBE_TIMEOUT_SECONDS", 0.1)
    async with connected(committed.url) as connection, connection.transaction():
        await connection.execute("LOCK TABLE alembic_version")
        assert await not_ready_reason(committed) == "The database cannot be reached at the moment."


async def test_database_without_schema_is_not_ready(server_url: URL) -> None:
    async with new_database(server_url) as url, running(url) as service:
        detail = "The database has no schema. Run `python -m app migrate`."
        assert await not_ready_reason(service) == detail


async def test_schema_of_another_revision_is_not_ready(committed: Committed) -> None:
    async with connected(committed.url) as connection:
        head = await connection.fetchval("SELECT version_num FROM alembic_version")
        for change in ("UPDATE alembic_version SET version_num = '0000'", "DELETE FROM alembic_version"):
            await connection.execute(change)
            assert await not_ready_reason(committed) == (
                "The schema of the database belongs to another version. Run `python -m app migrate`."
            )
        await connection.execute("INSERT INTO alembic_version VALUES ($1)", head)
    committed.app.state.readiness._checked_at = float("-inf")
    assert (await committed.client.get(READY[0])).status_code == 200


async def test_stopping_service_is_live_but_not_ready(committed: Committed) -> None:
    committed.app.state.readiness.stopping = True
    assert await not_ready_reason(committed) == "The service is stopping."
    assert (await committed.client.get(f"{ROOT}/health/live")).status_code == 200
    # Later requests are served.
    assert (await committed.client.get("/departments")).status_code == 200


async def test_sigterm_ends_readiness_before_the_server_stops(committed: Committed) -> None:
    seen: list[bool] = []

    def stop(_number: int, _frame: Any) -> None:
        seen.append(committed.app.state.readiness.stopping)

    before, interrupt = signal.signal(signal.SIGTERM, stop), signal.getsignal(signal.SIGINT)
    try:
        async with committed.app.router.lifespan_context(committed.app):
            assert (await committed.client.get(READY[0])).status_code == 200
            signal.raise_signal(signal.SIGTERM)
            assert await not_ready_reason(committed) == "The service is stopping."
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)
    assert seen == [True]


async def test_readiness_queries_the_database_once_a_second(
    committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(readiness, "time", SimpleNamespace(monotonic=lambda: now))
    assert (await committed.client.get(READY[0])).status_code == 200
    async with connected(committed.url) as connection:
        await connection.execute("UPDATE alembic_version SET version_num = '0000'")
        now += 0.9
        assert [(await committed.client.get(url)).status_code for url in READY] == [200, 200]
        now += 0.2
        assert [(await committed.client.get(url)).status_code for url in READY] == [503, 503]
        await connection.execute("UPDATE alembic_version SET version_num = $1", readiness_head(committed.app))
        now += 0.9
        assert (await committed.client.get(READY[0])).status_code == 503
        now += 0.2
        assert (await committed.client.get(READY[0])).status_code == 200


async def test_concurrent_probes_share_one_connection(committed: Committed) -> None:
    database: Database = committed.app.state.database
    async with connected(committed.url) as connection, connection.transaction():
        await connection.execute("LOCK TABLE alembic_version")
        probes = [asyncio.ensure_future(committed.client.get(READY[0])) for _ in range(5)]
        await until_lock_wait(committed.url)  # all probes have arrived by now
        assert database.probe_engine.pool.checkedout() == 1  # type: ignore[attr-defined]
    assert [(await probe).status_code for probe in probes] == [200] * 5


def readiness_head(app: FastAPI) -> str:
    head: str = app.state.readiness._head
    return head


async def test_register_without_users_refuses_all_credentials(committed: Committed) -> None:
    async with connected(committed.url) as connection:
        await connection.execute("DELETE FROM users")
    for method in ("GET", "POST"):
        response = await committed.client.request(method, "/departments", json={"name": "D"})
        assert_problem(response, "unauthorized")
    form = {"username": ADMIN_EMAIL, "password": ADMIN_PASSWORD}
    assert_problem(await committed.client.post("/auth/token", data=form), "wrong_credentials")
    # The service works: `python -m app init` can create an administrator meanwhile.
    assert (await committed.client.get(READY[0])).status_code == 200


async def test_too_many_concurrent_sign_ins_are_unavailable(committed: Committed) -> None:
    form = {"username": ADMIN_EMAIL, "password": ADMIN_PASSWORD}
    with full_queue(committed.app):
        response = await committed.client.post("/auth/token", data=form)
        problem = assert_problem(response, "hashing_busy")
        assert problem["detail"] == "Too many people are signing in at the moment."
        assert response.headers["retry-after"] == "2"
        # Other requests do not wait for them.
        assert (await committed.client.get("/departments")).status_code == 200
    assert (await committed.client.post("/auth/token", data=form)).status_code == 200


async def test_service_survives_database_outages_and_recovers_at_the_first_request(proxy: Proxy, database: URL) -> None:
    async with running(proxy.url_of(database)) as service:
        client = service.client
        drivers: list[asyncpg.Connection] = []
        engine = service.app.state.database.engine.sync_engine
        event.listen(engine, "connect", lambda adapted, _: drivers.append(adapted.driver_connection))
        made = await make_department(client)
        # The pool has several connections when the database becomes unreachable.
        assert {
            response.status_code for response in await asyncio.gather(*[client.get("/users") for _ in range(5)])
        } == {200}
        for _ in range(2):
            await proxy.stop()
            for driver in drivers:
                await until_closed(driver)
            service.app.state.readiness._checked_at = float("-inf")
            await assert_unavailable(client)
            await proxy.start()
            response = await client.patch(f"/departments/{made['id']}", json={"description": None})
            assert (response.status_code, response.json()) == (200, made)
            service.app.state.readiness._checked_at = float("-inf")
            assert (await client.get(READY[0])).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_killed_idle_connection_is_replaced_without_an_error(committed: Committed, method: str) -> None:
    await make_department(committed.client)
    async with committed.app.state.database.engine.connect() as pooled:
        driver = (await pooled.get_raw_connection()).driver_connection
    async with connected(committed.url) as connection:
        await connection.execute("SELECT pg_terminate_backend($1)", driver.get_server_pid())
    await until_closed(driver)
    response = await committed.client.request(method, "/departments", json={"name": "D"} if method == "POST" else None)
    assert response.is_success
    async with committed.app.state.database.engine.connect() as pooled:
        assert (await pooled.get_raw_connection()).driver_connection.get_server_pid() != driver.get_server_pid()


async def test_exhausted_pool_is_unavailable_with_retry_after(database: URL) -> None:
    await prepare_common_statements()
    async with running(database, pool_size=1, pool_timeout=0.05) as service:
        async with borrowed(service.app.state.database):
            for response in (
                await service.client.get("/departments"),
                await service.client.post("/departments", json={"name": "D"}),
            ):
                problem = assert_problem(response, "database_busy")
                assert problem["detail"] == "All database connections are in use."
                assert response.headers["retry-after"] == "1"
            # A busy replica stays ready: without it, the other replicas would soon be busy, too.
            assert (await service.client.get(READY[0])).status_code == 200
        assert (await service.client.get("/departments")).status_code == 200


@asynccontextmanager
async def locked(url: URL) -> AsyncIterator[None]:
    """A transaction that locks the departments."""
    async with connected(url) as connection, connection.transaction():
        await connection.execute("LOCK TABLE departments IN ACCESS EXCLUSIVE MODE")
        yield


@pytest.mark.parametrize("limit", ["lock_timeout", "statement_timeout"])
async def test_statement_that_waits_too_long_is_unavailable(committed: Committed, limit: str) -> None:
    made = await make_department(committed.client)
    path = f"/departments/{made['id']}"
    async with running(committed.url, **{limit: 0.15}) as service, locked(committed.url):
        assert_problem(await service.client.get(path), "database_busy")
        assert_problem(await service.client.patch(path, json={"name": CANARY}), "database_busy")
        assert_problem(await service.client.post("/departments", json={"name": CANARY}), "database_busy")
        assert_problem(await service.client.delete(path), "database_busy")
    assert (await committed.client.get(path)).json() == made


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_connection_lost_during_a_statement_is_unavailable(proxy: Proxy, database: URL, method: str) -> None:
    async with running(proxy.url_of(database)) as service:
        made = await make_department(service.client)
        path = f"/departments/{made['id']}"
        async with locked(database):
            body = {"name": CANARY} if method == "PATCH" else None
            waiting = asyncio.create_task(service.client.request(method, path, json=body))
            await until_lock_wait(database)
            await proxy.stop()
            assert_problem(await waiting, "service_unavailable")
        await proxy.start()
        assert (await service.client.get(path)).json() == made


NO_OTHER_CONNECTION = (
    "NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid())"
)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unresponsive_database_is_unavailable(
    proxy: Proxy, database: URL, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.database._TIMEOUT_MARGIN", 0.1)
    limits = {"statement_timeout": 0.3, "connect_timeout": 0.3}
    async with running(proxy.url_of(database), **limits) as service, asyncio.timeout(HANG_TIMEOUT):
        await until(lambda: succeeds(service))
        proxy.freeze()
        body = {"name": CANARY} if method == "POST" else None
        assert_problem(await service.client.request(method, "/departments", json=body), "service_unavailable")
        proxy.thaw()
        await until(lambda: succeeds(service))
    async with connected(database) as connection:
        assert await connection.fetchval("SELECT count(*) FROM departments") == 0


# A single-statement write commits itself and is recognised by its value; other writes end with a COMMIT.
@pytest.mark.parametrize(("sign", "headers"), [(b"Perhaps", {}), (b"COMMIT", {"Idempotency-Key": "perhaps"})])
@pytest.mark.parametrize("arrives", [False, True])
async def test_connection_lost_during_commit_leaves_the_outcome_unknown(
    proxy: Proxy, database: URL, sign: bytes, headers: dict[str, str], *, arrives: bool
) -> None:
    async with running(proxy.url_of(database)) as service:
        await service.client.get("/departments")
        commits = count()

        def cut_at(data: bytes) -> bool | None:
            # The first COMMIT ends the look-up of the caller.
            return arrives if sign in data and (sign != b"COMMIT" or next(commits)) else None

        proxy.cut_at = cut_at
        response = await service.client.post("/departments", json={"name": "Perhaps"}, headers=headers)
        problem = assert_problem(response, "outcome_unknown")
        assert problem["type"] == "/problems/outcome-unknown"
        assert "may or may not have been saved" in problem["detail"]
        proxy.cut_at = lambda _: None
        await until_sql(database, NO_OTHER_CONNECTION)
        names = [item["name"] for item in (await service.client.get("/departments")).json()["items"]]
        assert names == (["Perhaps"] if arrives else [])


async def test_read_only_database_refuses_writes(committed: Committed) -> None:
    async with connected(committed.url) as connection:
        await connection.execute(f"ALTER DATABASE {committed.url.database} SET default_transaction_read_only = on")
    assert (await committed.client.get("/departments")).status_code == 200
    for response in (
        await committed.client.post("/departments", json={"name": CANARY}),
        await committed.client.post("/auth/token", data={"username": ADMIN_EMAIL, "password": ADMIN_PASSWORD}),
    ):
        problem = assert_problem(response, "database_read_only")
        assert problem["detail"] == "The database accepts no changes at the moment."
        assert response.headers["retry-after"] == "5"


async def test_too_many_large_bodies_are_unavailable(committed: Committed) -> None:
    items = [{"op": "create", "data": {"name": "", "description": "x" * 19_000}} for _ in range(60)]
    large_bodies: SharedPlaces = committed.app.state.large_bodies
    with large_bodies.place(), large_bodies.place():
        response = await committed.client.post("/roles/bulk", json={"items": items})
        problem = assert_problem(response, "large_bodies_busy")
        assert (problem["status"], response.headers["retry-after"]) == (503, "5")
        # Small bodies are not limited.
        assert (await committed.client.post("/roles/bulk", json={"items": items[:1]})).status_code == 422
    # A request frees its slot even if it fails.
    for _ in range(3):
        assert (await committed.client.post("/roles/bulk", json={"items": items})).status_code == 422


async def test_too_many_concurrent_exports_are_unavailable(committed: Committed) -> None:
    streams: Streams = committed.app.state.streams
    statement = FastStatement(lambda: text("SELECT 1 AS body"))
    begun = [streams.read(statement, {}) for _ in range(2)]
    for stream in begun:
        await anext(stream)
    response = await committed.client.get("/departments", headers={"Accept": "text/csv"})
    problem = assert_problem(response, "exports_busy")
    assert (problem["status"], response.headers["retry-after"]) == (503, "10")
    await begun[0].aclose()
    assert (await committed.client.get("/departments", headers={"Accept": "text/csv"})).status_code == 200
    await begun[1].aclose()


async def test_too_many_waiting_requests_are_unavailable(committed: Committed) -> None:
    places: SharedPlaces = committed.app.state.long_polls.places
    with ExitStack() as stack:
        for _ in range(places.free):
            stack.enter_context(places.place())
        response = await committed.client.get("/changes/feed?after=now&wait=1")
        problem = assert_problem(response, "waits_busy")
        assert (problem["status"], response.headers["retry-after"]) == (503, "5")
        # Requests that need not wait are served.
        assert (await committed.client.get("/changes/feed?after=now")).status_code == 200
