"""The engine of a database: its connections, and the pool that hands them out."""

import asyncio
from collections import deque
from typing import Any

import asyncpg
from sqlalchemy import URL, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import await_

from app.core.config import Settings
from app.core.database_errors import DRIVER_ERRORS, translate
from app.utils.exceptions import DatabaseBusy, ServiceUnavailable


class Row(asyncpg.Record):  # type: ignore[misc]
    """A row of a prepared statement; its columns are items and attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class FairPool(AsyncAdaptedQueuePool):
    """A connection pool whose waiters are served first come, first served.

    SQLAlchemy's own queue lets a newcomer take the connection that a waiter was just woken for: with 64 clients at 10
    connections the 99th percentile of a page's time was 4.5 to 6 times the median, and is about 2 times with this
    class. There is no public way to change the order, so `_do_get` is overridden, the only private name of SQLAlchemy
    that the service uses; `tests/core/test_pool.py` fails when it no longer hands out the connections.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._free = self.size()
        self._waiters: deque[asyncio.Future[None]] = deque()
        event.listen(self, "checkin", self._hand_on)
        event.listen(self, "detach", self._hand_on)  # of connections that were garbage-collected in use

    def _do_get(self) -> ConnectionPoolEntry:
        """Return a connection. Raises `DatabaseBusy` when all stay in use."""
        if self._free:
            self._free -= 1
        else:
            await_(self._wait())
        try:
            return super()._do_get()
        except BaseException:
            self._hand_on()
            raise

    async def _wait(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            async with asyncio.timeout(self.timeout()):
                await turn
        except BaseException as error:
            if not turn.cancelled():
                self._hand_on()  # it came too late
            if isinstance(error, TimeoutError):
                raise DatabaseBusy("All database connections are in use.") from error
            raise

    def _hand_on(self, *_connection: Any) -> None:
        """Give the place of a returned connection to the first waiter."""
        while self._waiters:
            turn = self._waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def driver_url(url: str | URL) -> URL:
    """Return the URL with our driver, whichever of PostgreSQL's usual schemes it came with.

    libpq's `sslmode`, which most providers put into their URLs, becomes the driver's `ssl`.
    """
    made = make_url(url).set(drivername="postgresql+asyncpg")
    if "sslmode" in made.query:
        mode = made.query["sslmode"]
        made = made.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return made


def make_engine(url: str | URL, settings: Settings, size: int, command_timeout: float) -> AsyncEngine:
    """Return an engine of at most `size` connections, on which no command takes longer than `command_timeout` seconds.

    Its errors are ours: `ServiceUnavailable` when the database cannot answer, `IntegrityViolation` when a constraint
    refuses a write.
    """
    engine = create_async_engine(
        driver_url(url),
        poolclass=FairPool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=settings.pool_timeout,
        # Errors end up in logs, and parameters hold hashes of passwords and what users wrote.
        hide_parameters=True,
        # Sessions roll back by themselves, and the fast path returns connections outside a transaction.
        pool_reset_on_return=None,
        connect_args={
            "async_creator_fn": _connect,
            "record_class": Row,
            "timeout": settings.connect_timeout,
            "command_timeout": command_timeout,
            # The driver would plan statements longer than 15 KiB, such as searches, each time they run.
            "max_cacheable_statement_size": 0,
            "server_settings": {
                "application_name": "process-register",
                "timezone": "UTC",
                "jit": "off",
                "statement_timeout": milliseconds(settings.statement_timeout),
                "lock_timeout": milliseconds(settings.lock_timeout),
                "idle_in_transaction_session_timeout": milliseconds(settings.idle_in_transaction_timeout),
            },
        },
    )
    event.listen(engine.sync_engine, "handle_error", _raise_translated)
    event.listen(engine.sync_engine, "checkout", _replace_closed)
    return engine


async def _connect(*args: Any, **options: Any) -> Any:
    try:
        return await asyncpg.connect(*args, **options)
    except DRIVER_ERRORS as error:
        translated = translate(error)
        raise (translated if isinstance(translated, ServiceUnavailable) else ServiceUnavailable()) from error


def milliseconds(seconds: float) -> str:
    """Return a time as PostgreSQL's settings take it."""
    return str(int(seconds * 1000))


def _raise_translated(context: ExceptionContext) -> None:
    translated = translate(context.original_exception)
    if translated is not context.original_exception:
        raise translated from context.original_exception


def _replace_closed(dbapi_connection: Any, _entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    # The event loop already knows when a socket was closed, so this costs no round trip, unlike pool_pre_ping.
    if dbapi_connection.driver_connection.is_closed():
        raise DisconnectionError
