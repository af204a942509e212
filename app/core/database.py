"""The database of one process: engine, sessions, and the only place that begins and ends transactions.

`get_session` yields SQLAlchemy's session for a request. FastAPI exits the dependency after the response is built and
before it is sent, so a failed commit reaches the client as an error; any other error rolls the transaction back.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from typing import Annotated, Any, TypeVar, cast

import asyncpg
from fastapi import Depends, Request, Response
from sqlalchemy import URL, Executable, func, select
from sqlalchemy.engine import Result
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.pool import PoolProxiedConnection

from app.core.config import Settings
from app.core.database_errors import DRIVER_ERRORS, translate
from app.core.engine import FairPool, Row, make_engine, milliseconds
from app.core.prepared import FastStatement
from app.utils.exceptions import ConnectionLost, OutcomeUnknown, SchemaChanged, TransactionAborted

T = TypeVar("T")

# Seconds beyond PostgreSQL's own timeout, after which a server that no longer responds is given up.
_TIMEOUT_MARGIN = 1.0
# Upper limit of `allow_seconds`.
MAX_STATEMENT_SECONDS = 60.0
_SAFE_METHODS = ("GET", "HEAD")
MAX_ATTEMPTS = 3
_MAX_RETRY_PAUSE_SECONDS = 0.05


class Database:
    """The engine and the sessions of one process. The first statement opens the first connection."""

    def __init__(self, url: str | URL, settings: Settings) -> None:
        max_seconds = max(settings.statement_timeout, MAX_STATEMENT_SECONDS) + _TIMEOUT_MARGIN
        self.engine = make_engine(url, settings, settings.pool_size, max_seconds)
        # Readiness probes have a separate connection, so they do not wait for those of the requests.
        self.probe_engine = make_engine(url, settings, 1, max_seconds)
        self.statement_seconds = settings.statement_timeout + _TIMEOUT_MARGIN
        # Also the limit of the wait for the compilation of a statement.
        self.pool_timeout = settings.pool_timeout
        # Called after each transaction that changed what users may do, with their ids. The server process sets it.
        self.forget_callers: Callable[[AbstractSet[int]], None] = lambda _user_ids: None
        # Tests set a connection: all sessions then run inside its transaction, which the tests roll back.
        self.bind: AsyncConnection | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["RegisterSession"]:
        """Yield a session; commit it at the end of the block, or roll it back on an error.

        Raises `OutcomeUnknown` if the connection is lost during the commit, and `IntegrityViolation` if a deferred
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
    async def snapshot(self, idle_seconds: float, tables: Sequence[str] = ()) -> AsyncIterator[AsyncConnection]:
        """Yield a separate connection in a read-only transaction that sees one snapshot of the database.

        PostgreSQL ends the transaction after `idle_seconds` without a statement. `tables` are locked against migrations
        before the snapshot is taken: a table that a migration rewrites later would be empty in the snapshot. Raises
        `ServiceUnavailable` as every statement does.
        """
        async with self.engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            # Neither statement takes the snapshot.
            begin = [f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds(idle_seconds)}"]
            if tables:
                begin.append(f"LOCK TABLE {', '.join(tables)} IN ACCESS SHARE MODE")
            try:
                async with asyncio.timeout(self.statement_seconds):
                    for statement in begin:
                        await connection.exec_driver_sql(statement)
            except TimeoutError as error:
                raise ConnectionLost from error
            yield connection

    async def retry(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await work that is one transaction, at most three times, until PostgreSQL does not abort the transaction."""
        for attempt in range(1, MAX_ATTEMPTS):
            try:
                return await work()
            except TransactionAborted as error:
                await self.prepare_retry(error, attempt)
        return await work()

    async def prepare_retry(self, error: TransactionAborted, attempt: int) -> None:
        """Prepare for another attempt at a transaction, after its rollback."""
        if isinstance(error, SchemaChanged):
            # Otherwise the next attempts could get other connections whose prepared statements are outdated, too.
            cast(FairPool, self.engine.pool).replace_connections()
        # A random pause, so that the same transactions do not collide again.
        await asyncio.sleep(random.uniform(0, _MAX_RETRY_PAUSE_SECONDS * attempt))  # noqa: S311 - no secret

    async def dispose(self) -> None:
        """Close all connections that are not in use."""
        await self.engine.dispose()
        await self.probe_engine.dispose()


class RegisterSession(AsyncSession):
    """SQLAlchemy's session, which also runs prepared statements without SQLAlchemy's result objects.

    `fetch` and `write_alone` are the fast path (`app/core/prepared.py`): outside a transaction they borrow a connection
    for their one statement, which has its own snapshot and is autocommitted; inside a transaction they run on the
    session's connection. Every statement raises `ServiceUnavailable` or one of its subclasses if the database cannot
    answer, and `IntegrityViolation` if it violates a constraint.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(
            database.bind or database.engine, expire_on_commit=False, join_transaction_mode="create_savepoint"
        )
        self._database = database
        self._statement_seconds = database.statement_seconds
        # True once a statement failed outside a savepoint. PostgreSQL then turns COMMIT into a rollback without an
        # error, so a commit after a caught error would look like a success.
        self._is_aborted = False
        self._changed_callers: set[int] = set()

    def forget_callers(self, *user_ids: int) -> None:
        """Have this process look up the callers of these users again once the transaction is committed.

        Call it wherever a user is deleted or loses a permission, a session or a token.
        """
        self._changed_callers.update(user_ids)

    async def fetch(self, statement: FastStatement, /, **values: Any) -> Row | None:
        """Run a read of the fast path and return its first row."""
        return await self._run(statement, values, is_write=False)

    async def write_alone(self, statement: FastStatement, /, **values: Any) -> Row | None:
        """Run a write of the fast path and return its first row.

        Outside a transaction the statement is autocommitted, which saves the round trips of BEGIN and COMMIT. Raises
        `OutcomeUnknown` if the connection is lost before its result arrives.
        """
        return await self._run(statement, values, is_write=True)

    async def execute(  # one signature replaces three overloads
        self, statement: Executable, params: Any = None, **options: Any
    ) -> Result[*tuple[Any, ...]]:
        """Run a statement as `AsyncSession.execute` does, within the time that `allow_seconds` sets."""
        await self._connect()
        return await self._with_timeout(super().execute(statement, params, **options))

    async def scalar(self, statement: Executable, params: Any = None, **options: Any) -> Any:
        """Return the first column of the first row as `AsyncSession.scalar` does, or None without a row."""
        await self._connect()
        return await self._with_timeout(super().scalar(statement, params, **options))

    async def allow_seconds(self, seconds: float) -> None:
        """Set the statement timeout of this transaction, which is at most `MAX_STATEMENT_SECONDS`."""
        assert seconds <= MAX_STATEMENT_SECONDS
        await self.execute(_set_for_transaction("statement_timeout", seconds))
        self._statement_seconds = seconds + _TIMEOUT_MARGIN

    async def lock(self, *names: str) -> None:
        """Wait for the named advisory locks, sorted by name as lock order; they are held until the transaction ends."""
        for name in sorted(names):
            await self.execute(select(func.pg_advisory_xact_lock(advisory_key(name))))

    async def try_lock(self, name: str) -> bool:
        """Take the named advisory lock until the transaction ends, if it is free; return whether it was free."""
        is_free: bool = await self.scalar(select(func.pg_try_advisory_xact_lock(advisory_key(name))))
        return is_free

    async def abandon(self) -> None:
        """Roll back and return the connection, even if the task is cancelled meanwhile.

        A lost connection has nothing to roll back; its error must not replace the one that ended the transaction.
        """
        with suppress(ConnectionLost):
            await asyncio.shield(self._with_timeout(self.close()))

    async def undo(self) -> None:
        """Roll back and return the connection; the next statement begins a new transaction."""
        await self._with_timeout(self.rollback())
        self._is_aborted = False

    async def release(self) -> None:
        """Commit and return the connection, before work that needs none or waits for another one.

        Raises the errors of `commit`.
        """
        if self.in_transaction():
            await self.commit()

    async def commit(self) -> None:
        """Commit.

        Raises `OutcomeUnknown` if the connection is lost before PostgreSQL has confirmed, and `RuntimeError` if a
        statement failed and its error was caught outside a savepoint, because nothing would be saved.
        """
        if self._is_aborted:
            raise RuntimeError("A statement of this transaction failed: roll back, or catch errors around a savepoint")
        try:
            await self._with_timeout(super().commit())
        except ConnectionLost as error:
            raise OutcomeUnknown from error
        finally:  # also after an unknown outcome
            if self._changed_callers:
                self._database.forget_callers(self._changed_callers)
                self._changed_callers = set()

    async def _run(self, statement: FastStatement, values: dict[str, Any], *, is_write: bool) -> Row | None:
        """Run a statement of the fast path in the transaction, or else on a borrowed connection."""
        prepared = statement.prepared or await statement.prepare(self._database.pool_timeout)
        sql, arguments = prepared.sql, prepared.arguments(values)
        if self.in_transaction() or self._database.bind is not None:
            return await self._fetch_in_transaction(sql, arguments)
        pooled = await self._database.engine.raw_connection()
        try:
            return await self._fetch_row(pooled.driver_connection, sql, arguments)
        except ConnectionLost as error:
            # The driver raises these for a connection closed earlier, without sending anything.
            is_unsent = isinstance(error.__cause__, (asyncpg.InterfaceError, asyncpg.InternalClientError))
            if not is_write or is_unsent:
                raise
            raise OutcomeUnknown from error
        except SchemaChanged as error:
            if is_write and isinstance(error.__cause__, asyncpg.OutdatedSchemaCacheError):
                raise OutcomeUnknown from error  # the write is committed, but the driver could not read its result
            raise
        finally:
            _return_connection(pooled)

    async def _driver(self) -> asyncpg.Connection:
        """Return the driver's connection, inside the session's transaction."""
        connection = await self.connection()
        driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
        if not driver.is_closed() and not driver.is_in_transaction():
            await connection.exec_driver_sql("SELECT")  # SQLAlchemy sends BEGIN only before a statement that it runs
        return driver

    async def _fetch_in_transaction(self, sql: str, arguments: tuple[Any, ...]) -> Row | None:
        driver = await self._driver()
        try:
            return await self._fetch_row(driver, sql, arguments)
        except ConnectionLost:
            driver.terminate()  # otherwise the rollback would wait for the same server
            raise
        except Exception:
            self._mark_aborted()
            raise

    def _mark_aborted(self) -> None:
        if not self.in_nested_transaction():
            self._is_aborted = True

    async def _fetch_row(self, driver: Any, sql: str, arguments: tuple[Any, ...]) -> Row | None:
        try:
            row: Row | None = await driver.fetchrow(sql, *arguments, timeout=self._statement_seconds)
        except DRIVER_ERRORS as error:
            raise translate(error) from error
        return row

    async def _connect(self) -> None:
        """Take a connection before the statement timeout begins: waiting for one has other limits."""
        if not self.in_transaction():
            await self.connection()

    async def _with_timeout(self, step: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._statement_seconds):
                return await step
        except TimeoutError as error:
            raise ConnectionLost from error
        except Exception:
            self._mark_aborted()
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
            raise ConnectionLost from error  # a read saves nothing
        raise
    finally:
        if session.in_transaction():
            await session.abandon()


# The scope is part of FastAPI's cache key for dependencies: another spelling would open a second session.
SessionDep = Annotated[RegisterSession, Depends(get_session, scope="function")]


async def retry_if_aborted(request: Request, handler: Callable[[Request], Awaitable[Response]]) -> Response:
    """Run a handler, at most three times, until the database no longer aborts its transaction in favour of another.

    FastAPI solves the dependencies again for each run, so each run has a separate session. All sessions end with the
    request, and only the last one has anything to commit.
    """
    for attempt in range(1, MAX_ATTEMPTS):
        try:
            return await handler(request)
        except TransactionAborted as error:
            session: RegisterSession | None = getattr(request.state, "session", None)
            if session is None:
                raise  # a test has replaced the session and rolls it back
            await session.undo()
            database: Database = request.app.state.database
            await database.prepare_retry(error, attempt)
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
