"""The database of one process: its engine, its sessions, and the one place that begins and ends transactions.

`get_session` gives each request SQLAlchemy's session. FastAPI leaves it when the response is built and not yet sent, so
that the client hears of a failed commit; what an error interrupts is rolled back.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from typing import Annotated, Any, TypeVar

import asyncpg
from fastapi import Depends, Request, Response
from sqlalchemy import URL, Executable, func, select
from sqlalchemy.engine import Result
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.pool import PoolProxiedConnection

from app.core.config import Settings
from app.core.database_errors import DRIVER_ERRORS, translate
from app.core.engine import Row, make_engine, milliseconds
from app.core.prepared import Prepared
from app.utils.exceptions import ConnectionLost, OutcomeUnknown, TransactionAborted

T = TypeVar("T")

# PostgreSQL ends a statement first; we wait this much longer for a server that no longer answers at all.
_TIMEOUT_MARGIN = 1.0
# The most that `allow_seconds` can allow.
MAX_STATEMENT_SECONDS = 60.0
_SAFE_METHODS = ("GET", "HEAD")
_MAX_ATTEMPTS = 3
_MAX_RETRY_PAUSE_SECONDS = 0.05


class Database:
    """The engine and the sessions of one process. Nothing connects before the first statement."""

    def __init__(self, url: str | URL, settings: Settings) -> None:
        most = max(settings.statement_timeout, MAX_STATEMENT_SECONDS) + _TIMEOUT_MARGIN
        self.engine = make_engine(url, settings, settings.pool_size, most)
        # Probes ask how the database is, however busy the requests' connections are.
        self.probe_engine = make_engine(url, settings, 1, most)
        self.statement_seconds = settings.statement_timeout + _TIMEOUT_MARGIN
        # Tests put a connection of their own there, in whose transaction all sessions run, and which they undo.
        self.bind: AsyncConnection | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["RegisterSession"]:
        """Yield a session, and commit it at the end of the block; what an error interrupts is rolled back.

        Raises `OutcomeUnknown` when the connection is lost during the commit, and `IntegrityViolation` when a deferred
        constraint is violated.
        """
        session = RegisterSession(self)
        try:
            yield session
            if session.in_transaction():
                await session.commit()
        finally:
            if session.in_transaction():
                await session.abandon()

    @asynccontextmanager
    async def snapshot(self, idle_seconds: float) -> AsyncIterator[AsyncConnection]:
        """Yield a connection of its own in a read-only transaction, which sees the database as it is at one moment.

        PostgreSQL ends the transaction when nothing is read for `idle_seconds`. Raises `ServiceUnavailable` as every
        statement does.
        """
        async with self.engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            begin = _set_for_transaction("idle_in_transaction_session_timeout", idle_seconds)
            try:
                async with asyncio.timeout(self.statement_seconds):
                    await connection.execute(begin)
            except TimeoutError as error:
                raise ConnectionLost from error
            yield connection

    async def dispose(self) -> None:
        """Close all connections that are not in use."""
        await self.engine.dispose()
        await self.probe_engine.dispose()


class RegisterSession(AsyncSession):
    """SQLAlchemy's session, which can also run prepared statements without SQLAlchemy's result machinery.

    `fetch` and `write_alone` are the fast path (`app/core/prepared.py`): outside a transaction they borrow a connection
    for their one statement, which is its own snapshot, or its own transaction; inside one they run on the session's
    connection. Every statement raises `ServiceUnavailable` or one of its subclasses when the database cannot answer,
    and `IntegrityViolation` when a constraint refuses it.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(
            database.bind or database.engine, expire_on_commit=False, join_transaction_mode="create_savepoint"
        )
        self._database = database
        self._statement_seconds = database.statement_seconds
        # Whether a statement failed outside a savepoint. PostgreSQL answers the COMMIT of such a transaction with a
        # rollback and no error, so a caught error would pass for a success.
        self._is_aborted = False

    async def fetch(self, statement: Prepared, /, **values: Any) -> Row | None:
        """Run a prepared read and return its first row."""
        return await self._run(statement, values, writes=False)

    async def write_alone(self, statement: Prepared, /, **values: Any) -> Row | None:
        """Run a prepared write and return its first row.

        Outside a transaction PostgreSQL commits the statement with its answer, which saves the round trips of BEGIN and
        COMMIT. Raises `OutcomeUnknown` when the connection is lost before the answer.
        """
        return await self._run(statement, values, writes=True)

    async def execute(  # one signature instead of three overloads
        self, statement: Executable, params: Any = None, **options: Any
    ) -> Result[*tuple[Any, ...]]:
        """Run a statement as `AsyncSession.execute` does, within the time that `allow_seconds` sets."""
        await self._connect()
        return await self._in_time(super().execute(statement, params, **options))

    async def scalar(self, statement: Executable, params: Any = None, **options: Any) -> Any:
        """Return the first column of the first row as `AsyncSession.scalar` does, or None without a row."""
        await self._connect()
        return await self._in_time(super().scalar(statement, params, **options))

    async def allow_seconds(self, seconds: float) -> None:
        """Let the statements of this transaction take longer than the settings say, up to `MAX_STATEMENT_SECONDS`."""
        assert seconds <= MAX_STATEMENT_SECONDS
        await self.execute(_set_for_transaction("statement_timeout", seconds))
        self._statement_seconds = seconds + _TIMEOUT_MARGIN

    async def lock(self, *names: str) -> None:
        """Wait for the advisory locks with these names, in one order; they are held until the transaction ends."""
        for name in sorted(names):
            await self.execute(select(func.pg_advisory_xact_lock(advisory_key(name))))

    async def try_lock(self, name: str) -> bool:
        """Take the advisory lock with this name if it is free, until the transaction ends; return whether it was."""
        is_taken: bool = await self.scalar(select(func.pg_try_advisory_xact_lock(advisory_key(name))))
        return is_taken

    async def abandon(self) -> None:
        """Roll back and return the connection, even when the task is cancelled meanwhile.

        A connection that is lost has nothing to roll back: the error that ended the transaction is the one to tell.
        """
        with suppress(ConnectionLost):
            await asyncio.shield(self._in_time(self.close()))

    async def undo(self) -> None:
        """Roll back and return the connection; the next statement begins a new transaction."""
        await self._in_time(self.rollback())
        self._is_aborted = False

    async def release(self) -> None:
        """Commit what was written so far and return the connection, before work that needs none or waits for another.

        Raises what `commit` raises.
        """
        if self.in_transaction():
            await self.commit()

    async def commit(self) -> None:
        """Commit.

        Raises `OutcomeUnknown` when the connection is lost before PostgreSQL has answered, and `RuntimeError` when a
        statement failed and its error was caught outside a savepoint: nothing would be saved.
        """
        if self._is_aborted:
            raise RuntimeError("A statement of this transaction failed: undo it, or catch errors around a savepoint")
        try:
            await self._in_time(super().commit())
        except ConnectionLost as error:
            raise OutcomeUnknown from error

    async def _run(self, statement: Prepared, values: dict[str, Any], *, writes: bool) -> Row | None:
        """Run a prepared statement in the transaction, or else on a borrowed connection."""
        arguments = statement.arguments(values)
        if self.in_transaction() or self._database.bind is not None:
            return await self._fetch_in_transaction(statement.sql, arguments)
        pooled = await self._database.engine.raw_connection()
        try:
            return await self._fetch_row(pooled.driver_connection, statement.sql, arguments)
        except ConnectionLost as error:
            # The driver refuses a connection that is closed already, and sends nothing.
            is_unsent = isinstance(error.__cause__, (asyncpg.InterfaceError, asyncpg.InternalClientError))
            if not writes or is_unsent:
                raise
            raise OutcomeUnknown from error
        finally:
            _return_connection(pooled)

    async def _driver(self) -> asyncpg.Connection:
        """Return the driver's connection of the session's transaction."""
        connection = await self.connection()
        driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
        if not driver.is_closed() and not driver.is_in_transaction():
            await connection.exec_driver_sql("SELECT")  # SQLAlchemy sends BEGIN with the first statement it runs itself
        return driver

    async def _fetch_in_transaction(self, sql: str, arguments: tuple[Any, ...]) -> Row | None:
        driver = await self._driver()
        try:
            return await self._fetch_row(driver, sql, arguments)
        except ConnectionLost:
            driver.terminate()  # or the rollback would wait for the same server
            raise
        except Exception:
            self._note_failure()
            raise

    def _note_failure(self) -> None:
        if not self.in_nested_transaction():
            self._is_aborted = True

    async def _fetch_row(self, driver: Any, sql: str, arguments: tuple[Any, ...]) -> Row | None:
        try:
            row: Row | None = await driver.fetchrow(sql, *arguments, timeout=self._statement_seconds)
        except DRIVER_ERRORS as error:
            raise translate(error) from error
        return row

    async def _connect(self) -> None:
        """Take a connection before a statement is timed: waiting for one has limits of its own."""
        if not self.in_transaction():
            await self.connection()

    async def _in_time(self, step: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._statement_seconds):
                return await step
        except TimeoutError as error:
            raise ConnectionLost from error
        except Exception:
            self._note_failure()
            raise


async def get_session(request: Request) -> AsyncIterator[RegisterSession]:
    """Yield the request's session; commit once the response is built and before it is sent."""
    session = request.state.session = RegisterSession(request.app.state.database)
    try:
        yield session
        if session.in_transaction():
            await session.commit()
    except OutcomeUnknown as error:
        if request.method in _SAFE_METHODS:
            raise ConnectionLost from error  # there was nothing to save
        raise
    finally:
        if session.in_transaction():
            await session.abandon()


# The scope belongs to the key by which FastAPI caches a dependency: another spelling would open a second session.
SessionDep = Annotated[RegisterSession, Depends(get_session, scope="function")]


async def retry_if_aborted(request: Request, handler: Callable[[Request], Awaitable[Response]]) -> Response:
    """Run a handler; again, up to three times in all, when the database aborts its transaction in favour of another.

    FastAPI solves the dependencies anew each time, so that each run has a session of its own; all sessions end with the
    request, and only the last one has anything to commit.
    """
    for attempt in range(1, _MAX_ATTEMPTS):
        try:
            return await handler(request)
        except TransactionAborted:
            session: RegisterSession | None = getattr(request.state, "session", None)
            if session is None:
                raise  # the session of an override is its owner's to undo
            await session.undo()
            # A random pause, so that the same transactions do not meet again.
            await asyncio.sleep(random.uniform(0, _MAX_RETRY_PAUSE_SECONDS * attempt))  # noqa: S311 - no secret
    return await handler(request)


def _return_connection(pooled: PoolProxiedConnection) -> None:
    driver: asyncpg.Connection = pooled.driver_connection
    if not driver.is_closed() and driver.is_in_transaction():
        driver.terminate()  # the pool replaces closed connections
    pooled.close()


def advisory_key(name: str) -> int:
    """Return the 64-bit key of an advisory lock, the same in every process."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), signed=True)


def _set_for_transaction(name: str, seconds: float) -> Executable:
    return select(func.set_config(name, milliseconds(seconds), True))
