"""The session of a request, and all that commits."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, Request, Response
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import PoolProxiedConnection

from app.core.database_errors import DRIVER_ERRORS, translate, translating
from app.core.pool import Database
from app.utils.exceptions import ConnectionLost, Deadlock, OutcomeUnknown

_ATTEMPTS = 3
_LONGEST_PAUSE = 0.05  # seconds


class Session:
    """One unit of work: a connection, taken from the pool by the first statement, and a transaction, begun by the first
    write. What was written is undone unless it is committed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # SQLAlchemy's two views of one connection: that of its pool, and the one which runs its statements.
        self._pooled: PoolProxiedConnection | None = None
        self._connection: AsyncConnection | None = None
        self._driver: asyncpg.Connection | None = None
        self._transaction: asyncpg.transaction.Transaction | None = None
        # Seconds that the driver waits for a statement; None for what the pool's settings say.
        self.timeout: float | None = None

    async def driver(self) -> asyncpg.Connection:
        """Return the driver's connection.

        Raises `DatabaseBusy` when all connections stay in use, `ServiceUnavailable` when none can be made.
        """
        if self._driver is None:
            if self._database.bind is None:
                self._pooled = await self._database.take()
                self._driver = self._pooled.driver_connection
            else:
                self._connection = self._database.bind
                self._driver = (await self._connection.get_raw_connection()).driver_connection
                await self.begin()  # a failed read must not end the transaction of the lender, either
        return self._driver

    @property
    def has_begun(self) -> bool:
        """Whether there is a transaction."""
        return self._transaction is not None

    async def begin(self) -> asyncpg.Connection:
        """Begin the transaction, unless that was done, and return the driver's connection."""
        driver = await self.driver()
        if self._transaction is None:
            self._transaction = await _begun(driver)
        return driver

    async def connection(self) -> AsyncConnection:
        """Return SQLAlchemy's connection, in the transaction: for statements whose shape varies."""
        await self.begin()
        if self._connection is None:
            engine = self._database.engine
            self._connection = AsyncConnection(engine, Connection(engine.sync_engine, self._pooled))
        return self._connection

    async def end(self, *, keep: bool) -> None:
        """Commit or roll back what was begun, and give the connection back until it is needed again."""
        connection, transaction, driver, pooled = self._connection, self._transaction, self._driver, self._pooled
        self._connection = self._transaction = self._driver = self._pooled = None
        if driver is None:
            return
        try:
            if pooled is not None and connection is not None and connection.in_transaction():
                await (connection.commit() if keep else connection.rollback())
            if transaction is not None and not driver.is_closed():
                await (transaction.commit() if keep else transaction.rollback())
            elif transaction is not None and keep:
                raise ConnectionLost
        except DRIVER_ERRORS as error:
            raise translate(error) from error
        finally:
            if pooled is not None:
                await self._database.give_back(pooled)


async def in_transaction(request: Request, handler: Callable[[Request], Awaitable[Response]]) -> Response:
    """Run a handler in the transaction of its request, which is committed when the answer is made and not yet sent.

    The victim of a deadlock is run again, up to three times in all. Raises `OutcomeUnknown` when the connection is lost
    during the commit.
    """
    for attempt in range(1, _ATTEMPTS):
        try:
            return await _in_one_transaction(request, handler)
        except Deadlock:
            # Those who met must not meet again.
            await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE * attempt))  # noqa: S311 - nobody gains by guessing it
    return await _in_one_transaction(request, handler)


async def _in_one_transaction(request: Request, handler: Callable[[Request], Awaitable[Response]]) -> Response:
    async with session_of(request.app.state.database) as session:
        request.state.session = session
        response = await handler(request)
        await commit(session)
        return response


@asynccontextmanager
async def session_of(database: Database) -> AsyncIterator[Session]:
    """Yield a session; what it wrote is undone unless it is committed."""
    session = Session(database)
    try:
        yield session
    finally:
        await abandon(session)


async def commit(session: Session) -> None:
    """Commit, and give the connection back until the session needs one again.

    Raises `OutcomeUnknown` when the connection is lost before the answer, `IntegrityViolation` when a deferred
    constraint refuses.
    """
    try:
        await session.end(keep=True)
    except ConnectionLost as error:
        raise OutcomeUnknown from error


async def abandon(session: Session) -> None:
    """Roll back, so that the same session can find out why its transaction failed."""
    await session.end(keep=False)


@asynccontextmanager
async def savepoint(session: Session) -> AsyncIterator[None]:
    """Undo what the block wrote, and give back its locks, when it raises; what was written before it stays."""
    async with transaction_on(await session.begin()):
        yield


@asynccontextmanager
async def transaction_on(driver: asyncpg.Connection, **options: Any) -> AsyncIterator[None]:
    """Run the block in a transaction, or a savepoint of the one there is, which is undone when it raises."""
    transaction = await _begun(driver, **options)
    try:
        yield
    except BaseException:
        # Of a lost connection nothing stays anyhow.
        if not driver.is_closed():
            await translating(transaction.rollback())
        raise
    await translating(transaction.commit())


async def _begun(driver: asyncpg.Connection, **options: Any) -> asyncpg.transaction.Transaction:
    transaction = driver.transaction(**options)
    try:
        await translating(transaction.start())
    except BaseException:
        # PostgreSQL may still begin it, after a time-out say, and nobody here would know.
        driver.terminate()
        raise
    return transaction


async def get_session(request: Request) -> Session:
    """Return the session of the request, which `in_transaction` opened and will end."""
    session: Session = request.state.session
    return session


SessionDep = Annotated[Session, Depends(get_session)]
