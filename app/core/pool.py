"""The engine, whose connections go to whoever has waited longest."""

import asyncio
from typing import Any

import asyncpg
from sqlalchemy import URL, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from app.core.config import Settings
from app.core.database_errors import DRIVER_ERRORS, translate
from app.utils.exceptions import DatabaseBusy, ServiceUnavailable

_IN_USE = "All database connections are in use."
# Seconds. PostgreSQL ends a statement first; a server that is silent for longer does not answer at all.
_TIMEOUT_MARGIN = 1.0


class Row(asyncpg.Record):  # type: ignore[misc]
    """A row of a result; its columns are items and attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class Database:
    """The connection pool of one process. Nothing connects before the first statement."""

    def __init__(self, url: str | URL, settings: Settings) -> None:
        self.engine: AsyncEngine = create_async_engine(
            driver_url(url),
            # One more than requests may take, so that however busy they are, a probe can ask how the database is.
            pool_size=settings.pool_size + 1,
            max_overflow=0,
            pool_timeout=settings.pool_timeout,
            # Who gives a connection back has seen to it that it is in no transaction. Once more would take time.
            pool_reset_on_return=None,
            connect_args={
                "async_creator_fn": _connect,
                "record_class": Row,
                "timeout": settings.connect_timeout,
                "command_timeout": command_timeout(settings.statement_timeout),
                # The driver would plan what is longer than 15 KiB, as searches are, anew each time.
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
        event.listen(self.engine.sync_engine, "handle_error", _raise_translated)
        event.listen(self.engine.sync_engine, "checkout", _replace_closed)
        # Tests put a connection of their own there, in whose transaction all sessions run, and which they undo.
        self.bind: AsyncConnection | None = None
        # Whoever waits for a connection comes before whoever asks later. The pool's own queue would let newcomers take
        # what wakes those that wait: under load some would wait a hundred times as long as others.
        self._free = asyncio.Semaphore(settings.pool_size)
        self._patience = settings.pool_timeout

    async def take(self) -> PoolProxiedConnection:
        """Return a connection of the pool, which the caller gives back.

        Raises `DatabaseBusy` when all stay in use, `ServiceUnavailable` when none can be made.
        """
        if self._free.locked():
            try:
                async with asyncio.timeout(self._patience):
                    await self._free.acquire()
            except TimeoutError as error:
                raise DatabaseBusy(_IN_USE) from error
        else:
            await self._free.acquire()
        try:
            return await self.engine.raw_connection()
        except BaseException as error:
            self._free.release()
            if isinstance(error, PoolTimeoutError):
                raise DatabaseBusy(_IN_USE) from error
            raise

    async def give_back(self, pooled: PoolProxiedConnection) -> None:
        """Give a connection back to the pool, which drops it when it is closed or in the middle of something."""
        try:
            if pooled.is_valid:
                driver: asyncpg.Connection = pooled.driver_connection
                if driver.is_closed() or driver.is_in_transaction():
                    await greenlet_spawn(pooled.invalidate)
                else:
                    pooled.close()
        finally:
            self._free.release()

    async def dispose(self) -> None:
        await self.engine.dispose()


def driver_url(url: str | URL) -> URL:
    """Return the URL with our driver, whichever of PostgreSQL's usual schemes it came with.

    libpq's `sslmode`, which most providers put into their URLs, becomes the driver's `ssl`.
    """
    made = make_url(url).set(drivername="postgresql+asyncpg")
    if "sslmode" in made.query:
        mode = made.query["sslmode"]
        made = made.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return made


async def _connect(*args: Any, **kwargs: Any) -> Any:
    try:
        return await asyncpg.connect(*args, **kwargs)
    except DRIVER_ERRORS as error:
        translated = translate(error)
        raise (translated if isinstance(translated, ServiceUnavailable) else ServiceUnavailable()) from error


def milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def command_timeout(statement_timeout: float) -> float:
    """Return the driver's own timeout, in seconds, for a statement with this timeout in PostgreSQL."""
    return statement_timeout + _TIMEOUT_MARGIN


def _raise_translated(context: ExceptionContext) -> None:
    translated = translate(context.original_exception)
    if translated is not context.original_exception:
        raise translated from context.original_exception


def _replace_closed(dbapi_connection: Any, _entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    # The event loop already knows when a socket was closed, so this costs no round trip, unlike pool_pre_ping.
    if dbapi_connection.driver_connection.is_closed():
        raise DisconnectionError
