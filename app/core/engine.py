"""The engine of a database: its connections, and the pool that lends them."""

import asyncio
from collections import defaultdict, deque
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
from app.utils.exceptions import CallerBusy, DatabaseBusy, ServiceUnavailable
from app.utils.request_context import current_user_id

# A key of `ConnectionPoolEntry.info`, which SQLAlchemy clears when it opens another connection.
_REPLACEMENTS = "replacements"


class Row(asyncpg.Record):  # type: ignore[misc]
    """A row of a prepared statement; its columns are items and attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class _Places:
    """A number of places, each of which is taken and given back. Waiters are served first come, first served."""

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def is_unused(self) -> bool:
        """Whether all places are free."""
        return self._free == self._count

    def try_take(self) -> bool:
        """Take a place if one is free; return whether one was free."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def take(self) -> None:
        """Take a place, and wait for it if none is free."""
        if self.try_take():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            if not waiter.cancelled():
                self.give_back()  # the place came too late
            raise

    def give_back(self) -> None:
        """Pass a place to the first waiter, or count it as free."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1


class FairPool(AsyncAdaptedQueuePool):
    """A connection pool. Waiters are served first come, first served, and no caller holds more than half of it.

    SQLAlchemy's own queue lets a newcomer take the connection for which a waiter was just woken. With 64 clients and 10
    connections the 99th percentile of a page's time was then 4.5 to 6 times the median; with this class it is about
    twice the median. SQLAlchemy has no public way to change the order, so `_do_get` is overridden, the only private
    name of SQLAlchemy that the service uses; `tests/core/test_pool.py` fails if SQLAlchemy renames it.

    The requests of one user beyond the user's share wait for each other, in a queue of their own. They join the queue
    of the pool one by one, so that the requests of other users need not wait for all of them.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._places = _Places(self.size())
        # The shares in use, by the id of the user, and the users of the connections in use.
        self._shares = defaultdict[int, _Places](lambda: _Places(max(1, self.size() // 2)))
        self._users: dict[ConnectionPoolEntry, int] = {}
        event.listen(self, "checkin", self._on_return)
        event.listen(self, "detach", self._on_return)  # a connection was garbage-collected in use
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
        """Return a connection.

        Raises `CallerBusy` if the user of the request holds the whole share for the pool's timeout, and `DatabaseBusy`
        if no connection becomes free within it.
        """
        user = current_user_id()
        share = None if user is None else self._shares[user]
        has_share = share is None or share.try_take()
        if not (has_share and self._places.try_take()):
            await_(self._wait(user, has_share=has_share))
        try:
            entry = super()._do_get()
        except BaseException:
            self._end_share(user)
            self._places.give_back()
            raise
        if user is not None:
            self._users[entry] = user
        return entry

    async def _wait(self, user: int | None, *, has_share: bool) -> None:
        try:
            async with asyncio.timeout(self.timeout()):
                if not has_share and user is not None:
                    await self._shares[user].take()
                    has_share = True
                await self._places.take()
        except BaseException as error:
            self._end_share(user, has_share=has_share)
            if isinstance(error, TimeoutError):
                raise (DatabaseBusy("All database connections are in use.") if has_share else CallerBusy()) from error
            raise

    def _end_share(self, user: int | None, *, has_share: bool = True) -> None:
        """Give back a place in the share of a user if it `has_share`, and forget the share if it is unused."""
        if user is None:
            return
        share = self._shares[user]
        if has_share:
            share.give_back()
        if share.is_unused:
            del self._shares[user]

    def _on_return(self, _connection: Any, entry: ConnectionPoolEntry) -> None:
        self._end_share(self._users.pop(entry, None))
        self._places.give_back()


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
