"""The connections that the pool opens, and the order in which it lends them."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import QueuePool

from app.core.config import Settings
from app.core.database import Database
from app.core.engine import FairPool, driver_url
from app.core.http.authorisation import authorise
from app.domains.collections import prepare_common_statements
from app.main import create_app
from app.utils.exceptions import CallerBusy, ConnectionLost, DatabaseBusy
from tests.api.conftest import assert_problem
from tests.builders import admin_session
from tests.conftest import Committed, borrowed, client_of, connected, settings_for
from tests.core.users import as_user, requests_of
from tests.waiting import HANG_TIMEOUT, until

NDJSON = {"Accept": "application/x-ndjson"}


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg"])
def test_url_with_any_usual_scheme_gets_the_driver(scheme: str) -> None:
    url = driver_url(f"{scheme}://a:b@db:5433/register?sslmode=require")
    assert url == make_url("postgresql+asyncpg://a:b@db:5433/register?ssl=require")


async def test_connection_has_its_limits(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    connect_options: dict[str, Any] = {}
    connect = asyncpg.connect

    async def recording_connect(*arguments: Any, **options: Any) -> asyncpg.Connection:
        connect_options.update(options)
        return await connect(*arguments, **options | {"timeout": HANG_TIMEOUT, "command_timeout": HANG_TIMEOUT})

    monkeypatch.setattr("app.core.database._TIMEOUT_MARGIN", 1.0)
    monkeypatch.setattr(asyncpg, "connect", recording_connect)
    database = Database(committed.url, Settings(_env_file=None))
    async with database.engine.connect() as connection:
        shown = {
            name: await connection.scalar(text(f"SHOW {name}"))
            for name in ("application_name", "timezone", "jit", "statement_timeout", "lock_timeout")
        }
        idle = await connection.scalar(text("SHOW idle_in_transaction_session_timeout"))
    assert shown == {
        "application_name": "process-register",
        "timezone": "UTC",
        "jit": "off",
        "statement_timeout": "5s",
        "lock_timeout": "2s",
    }
    assert idle == "10s"
    assert (connect_options["timeout"], connect_options["command_timeout"]) == (3.0, 61.0)
    await database.dispose()


async def test_waiters_are_served_first_come_first_served(committed: Committed) -> None:
    database = Database(committed.url, settings_for(committed.url, pool_size=1))
    started, served = [], []

    async def use_connections(name: str) -> None:
        for time in range(5):
            started.append((name, time))
            # Sessions and the fast path share one queue.
            async with database.transaction() as session, borrowed(database) if name in "ab" else session.begin():
                if name in "cd":
                    await session.connection()
                served.append((name, time))
                await asyncio.sleep(0)

    await asyncio.gather(*map(use_connections, "abcd"))
    await database.dispose()
    assert served == started


def test_sqlalchemy_calls_the_overridden_method_of_the_fair_pool() -> None:
    """`_do_get` is private: if SQLAlchemy renames it, connections would silently be served in another order."""
    assert QueuePool._do_get is not FairPool._do_get
    assert "_do_get" in vars(QueuePool)


async def test_failed_connection_takes_no_place_in_the_pool(committed: Committed) -> None:
    nowhere = committed.url.set(host="127.0.0.1", port=1, query={})
    database = Database(nowhere, settings_for(committed.url, pool_size=1))
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            async with borrowed(database):
                pass
        with pytest.raises(ConnectionLost):
            async with database.transaction() as session:
                await session.connection()


async def test_place_in_the_pool_is_always_freed(committed: Committed) -> None:
    database = Database(committed.url, settings_for(committed.url, pool_size=1, pool_timeout=0.05))

    async def wait() -> None:
        async with borrowed(database):
            pass

    async with borrowed(database):
        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(DatabaseBusy):
            await wait()
        async with database.transaction() as session:
            with pytest.raises(DatabaseBusy):
                await session.execute(text("SELECT 1"))
    async with borrowed(database) as driver:
        driver.terminate()
    async with database.transaction() as session:
        connection = await session.connection()
        raw: Any = (await connection.get_raw_connection()).driver_connection
        raw.terminate()
    await wait()
    pooled = await database.engine.raw_connection()
    lost: Any = pooled.driver_connection
    pooled.detach()  # as when it is garbage-collected in use
    lost.terminate()
    await wait()
    await database.dispose()


# --- The share of a user ---


async def hold(database: Database, user: int | None, stack: AsyncExitStack, count: int = 1) -> None:
    with requests_of(user):
        for _ in range(count):
            await stack.enter_async_context(borrowed(database))


@pytest.mark.parametrize(("size", "share"), [(1, 1), (2, 1), (5, 2), (10, 5)])
async def test_one_user_holds_at_most_half_of_the_pool(committed: Committed, size: int, share: int) -> None:
    database = Database(committed.url, settings_for(committed.url, pool_size=size, pool_timeout=0.05))
    async with AsyncExitStack() as stack:
        await hold(database, 7, stack, share)
        for _ in range(2):
            with pytest.raises(CallerBusy):
                await hold(database, 7, stack)
        # Other users, and requests without one, take the others.
        for user in range(share, size):
            await hold(database, 100 + user if user % 2 else None, stack)
        with pytest.raises(DatabaseBusy):
            await hold(database, 8, stack)
    async with AsyncExitStack() as stack:
        await hold(database, 7, stack, share)
    pool: Any = database.engine.pool
    assert (pool._shares, pool._users) == ({}, {})
    await database.dispose()


async def test_requests_beyond_the_share_wait_for_their_turn_and_let_other_users_pass(committed: Committed) -> None:
    database = Database(committed.url, settings_for(committed.url, pool_size=2))
    served: list[str] = []

    async def use(name: str, user: int) -> None:
        with requests_of(user):
            async with borrowed(database):
                served.append(name)
                await asyncio.sleep(0)

    async with AsyncExitStack() as stack:
        await hold(database, 1, stack)
        await hold(database, 2, stack)
        waiting = [asyncio.create_task(use(f"first {number}", 1)) for number in range(20)]
        await asyncio.sleep(0)
        waiting.append(asyncio.create_task(use("second", 3)))
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    first = [name for name in served if name != "second"]
    assert first == [f"first {number}" for number in range(20)]
    assert served.index("second") <= 1
    await database.dispose()


async def test_place_in_a_share_is_always_freed(committed: Committed) -> None:
    database = Database(committed.url, settings_for(committed.url, pool_size=2, pool_timeout=0.05))

    async def wait() -> None:
        with requests_of(1):
            async with borrowed(database):
                pass

    async with AsyncExitStack() as stack:
        await hold(database, 1, stack)
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(CallerBusy):
            await wait()
        await hold(database, 2, stack)
    async with AsyncExitStack() as stack:
        await hold(database, 2, stack)
        await hold(database, 3, stack)
        with pytest.raises(DatabaseBusy):
            await wait()
    await wait()
    with requests_of(1):
        pooled = await database.engine.raw_connection()
    lost: Any = pooled.driver_connection
    pooled.detach()  # as when it is garbage-collected in use
    lost.terminate()
    await wait()
    pool: Any = database.engine.pool
    assert (pool._shares, pool._users) == ({}, {})
    await database.dispose()


async def until_blocked(connection: asyncpg.Connection, count: int) -> None:
    """Return once this number of statements waits for the lock of the departments."""

    async def is_blocked() -> bool:
        waiting: int = await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE relation = 'departments'::regclass AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return waiting == count

    await until(is_blocked)


@pytest.mark.parametrize("method", ["GET", "POST", "bulk", "export"])
async def test_blocked_requests_of_one_user_leave_connections_for_others(committed: Committed, method: str) -> None:
    """The number of connections in use, and the order of events, do not depend on the time that they take."""
    await prepare_common_statements()
    assert (await committed.client.get("/departments", headers=NDJSON)).status_code == 200
    app = create_app(settings_for(committed.url, pool_size=4, pool_timeout=0.2, export_concurrency=4))
    app.dependency_overrides[authorise] = as_user
    pool: Any = app.state.database.engine.pool
    async with client_of(app) as client, connected(committed.url) as other:
        await other.execute("BEGIN; LOCK TABLE departments IN ACCESS EXCLUSIVE MODE")
        body = {"name": "D"}

        async def send() -> httpx.Response:
            if method == "bulk":
                items = [{"op": "create", "data": body}]
                return await client.post("/departments/bulk", json={"items": items})
            if method == "POST":
                return await client.post("/departments", json=body, headers={"Idempotency-Key": str(uuid4())})
            return await client.get("/departments", headers=NDJSON if method == "export" else None)

        blocked = [asyncio.create_task(send()) for _ in range(2)]
        await until_blocked(other, 2)
        more = await asyncio.gather(*(send() for _ in range(10)))
        if method == "export":
            assert {response.json()["code"] for response in more} <= {"caller_busy", "exports_busy"}
        else:
            for response in more:
                assert_problem(response, "caller_busy")
                assert response.headers["retry-after"] == "1"
        assert pool.checkedout() == 2
        assert (await client.get("/locations", headers={"X-User": "2"})).status_code == 200
        await other.execute("ROLLBACK")
        assert {response.is_success for response in await asyncio.gather(*blocked)} == {True}
        assert (await send()).is_success
    assert (pool.checkedout(), pool._shares) == (0, {})
    await app.state.database.dispose()


async def test_share_belongs_to_the_user_and_not_to_the_token(committed: Committed) -> None:
    session = await admin_session(committed.client)
    await prepare_common_statements()
    app = create_app(settings_for(committed.url, pool_size=2, pool_timeout=0.2, caller_cache_seconds=1))
    async with client_of(app) as client, connected(committed.url) as other:
        for headers in ({}, session):
            assert (await client.get("/roles", headers=headers)).status_code == 200
        await other.execute("BEGIN; LOCK TABLE departments IN ACCESS EXCLUSIVE MODE")
        blocked = asyncio.create_task(client.get("/departments"))
        await until_blocked(other, 1)
        assert_problem(await client.get("/departments", headers=session), "caller_busy")
        # Requests without a caller, such as a sign-in, have no share.
        form = {"username": "absent@register.example", "password": "a wrong password"}
        assert_problem(await client.post("/auth/token", data=form), "wrong_credentials")
        await other.execute("ROLLBACK")
        assert (await blocked).status_code == 200
    await app.state.database.dispose()
