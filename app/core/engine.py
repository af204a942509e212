"""The engine of a database: its connections, and the pool that lends them."""

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

# A key of `ConnectionPoolEntry.info`, which SQLAlchemy clears when it opens another connection.
_REPLACEMENTS = "replacements"


class Row(asyncpg.Record):  # type: ignore[misc]
    """A row of a prepared statement; its columns are items and attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class FairPool(AsyncAdaptedQueuePool):
    """A connection pool. Waiters are served first come, first served.

    SQLAlchemy's own queue lets a newcomer take the connection for which a waiter was just woken. With 64 clients and 10
    connections the 99th percentile of a page's time was then 4.5 to 6 times the median; with this class it is about
    twice the median. SQLAlchemy has no public way to change the order, so `_do_get` is overridden, the only private
    name of SQLAlchemy that the service uses; `tests/core/test_pool.py` fails if SQLAlchemy renames it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._free = self.size()
        self._waiters: deque[asyncio.Future[None]] = deque()
        event.listen(self, "checkin", self._wake_next_waiter)
        event.listen(self, "detach", self._wake_next_waiter)  # a connection was garbage-collected in use
        event.listen(self, "checkout", self._check_connection)
        # The number of times that the connections were replaced; each connection notes the number at its first use.
        self._replacements = 0

    def replace_connections(self) -> None:
        """Replace each connection that is open now before its next use."""
        self._replacements += 1

    def _check_connection(
        self, dbapi_connection: Any, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection
    ) -> None:
        """Raise `DisconnectionError`, upon which SQLAlchemy opens another connection."""
        is_outdated = entry.info.setdefault(_REPLACEMENTS, self._replacements) != self._replacements
        # The event loop notices a closed socket, so this check replaces pool_pre_ping and saves its round trip.
        if is_outdated or dbapi_connection.driver_connection.is_closed():
            raise DisconnectionError

    def _do_get(self) -> ConnectionPoolEntry:
        """Return a connection. Raises `DatabaseBusy` if none becomes free within the pool's timeout."""
        if self._free:
            self._free -= 1
        else:
            await_(self._wait())
        try:
            return super()._do_get()
        except BaseException:
            self._wake_next_waiter()
            raise

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self.timeout()):
                await waiter
        except BaseException as error:
            if not waiter.cancelled():
                self._wake_next_waiter()  # the connection came too late
            if isinstance(error, TimeoutError):
                raise DatabaseBusy("All database connections are in use.") from error
            raise

    def _wake_next_waiter(self, *_connection: Any) -> None:
        """Pass the place of a returned connection to the first waiter, or count it as free."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1


def driver_url(url: str | URL) -> URL:
    """Return the URL with the driver asyncpg instead of any of PostgreSQL's usual schemes.

    libpq's `sslmode`, which most providers put into their URLs, becomes the driver's `ssl`.
    """
    url = make_url(url).set(drivername="postgresql+asyncpg")
    if "sslmode" in url.query:
        mode = url.query["sslmode"]
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return url


def make_engine(url: str | URL, settings: Settings, size: int, command_timeout: float) -> AsyncEngine:
    """Return an engine of at most `size` connections, each command of which ends within `command_timeout` seconds.

    The engine raises `ServiceUnavailable` if the database does not respond, and `IntegrityViolation` if a write
    violates a constraint.
    """
    engine = create_async_engine(
        driver_url(url),
        poolclass=FairPool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=settings.pool_timeout,
        # Errors are logged, and parameters contain password hashes and users' data.
        hide_parameters=True,
        # Connections are returned outside a transaction, so no reset on return (saves a round trip).
        pool_reset_on_return=None,
        connect_args={
            "async_creator_fn": _connect,
            "record_class": Row,
            "timeout": settings.connect_timeout,
            "command_timeout": command_timeout,
            # Unlimited: by default statements longer than 15 KiB, such as searches, would be planned at every run.
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
    return engine


async def _connect(*args: Any, **options: Any) -> Any:
    try:
        return await asyncpg.connect(*args, **options)
    except DRIVER_ERRORS as error:
        translated = translate(error)
        raise (translated if isinstance(translated, ServiceUnavailable) else ServiceUnavailable()) from error


def milliseconds(seconds: float) -> str:
    """Return a duration in whole milliseconds, as PostgreSQL's settings expect it."""
    return str(int(seconds * 1000))


def _raise_translated(context: ExceptionContext) -> None:
    translated = translate(context.original_exception)
    if translated is not context.original_exception:
        raise translated from context.original_exception
