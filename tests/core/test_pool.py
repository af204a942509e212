"""The connections that the pool opens, and the order in which it lends them."""

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import QueuePool

from app.core.config import Settings
from app.core.database import Database
from app.core.engine import FairPool, driver_url
from app.utils.exceptions import ConnectionLost, DatabaseBusy
from tests.conftest import Committed, borrowed, settings_for
from tests.waiting import HANG_TIMEOUT


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
