"""The engine, the session of a request, and the only commit.

Statements whose shape never changes are compiled once (`prepare`). Reads run through the driver (`fetch`), which
sends no BEGIN: a single statement is its own snapshot. Writes run through SQLAlchemy's connection (`execute`), which
begins the transaction that `get_session` ends.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, Request
from sqlalchemy import URL, Executable, event, make_url
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import ExceptionContext, Row
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from app.core.config import Settings
from app.utils.exceptions import (
    ConnectionLost,
    DatabaseBusy,
    OutcomeUnknown,
    RegisterError,
    ServiceUnavailable,
    UnstorableValue,
)

# SQLSTATEs (PostgreSQL documentation, appendix A).
_LOST = ("08", "57P0")
_BUSY = frozenset({"53300", "57014", "55P03", "40P01", "40001"})
_UNABLE = frozenset({"53100", "25006"})
_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
# TimeoutError is an OSError. The driver raises both as they are, SQLAlchemy does not wrap them.
_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


class IntegrityViolation(RegisterError):
    """A constraint of the schema refused the change.

    Services that know the request's own words for it catch this; what they leave becomes a 409 or a 422 of the
    constraint's name (`app/domains/shared/constraints.py`).
    """

    def __init__(self, sqlstate: str, constraint: str) -> None:
        super().__init__()
        self.sqlstate = sqlstate
        self.constraint = constraint

    @property
    def is_reference(self) -> bool:
        """Whether a foreign key refused. ON DELETE RESTRICT has a state of its own since PostgreSQL 18."""
        return self.sqlstate in {"23503", "23001"}


def translate(error: BaseException) -> BaseException:
    """Return our own error for what the driver or the network raised, by SQLSTATE; others unchanged."""
    if isinstance(error.__cause__, _DRIVER_ERRORS):
        error = error.__cause__  # SQLAlchemy's adapter wraps the driver's error, which alone names the constraint
    sqlstate: str = getattr(error, "sqlstate", None) or ""
    if sqlstate.startswith("23"):
        return IntegrityViolation(sqlstate, getattr(error, "constraint_name", None) or "")
    if sqlstate.startswith("22") or (isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)):
        return UnstorableValue("The request has a value that cannot be stored.")
    if sqlstate in _BUSY:
        return DatabaseBusy()
    if isinstance(error, OSError) or sqlstate.startswith(_LOST) or _is_closed(error):
        return ConnectionLost()
    return ServiceUnavailable() if sqlstate in _UNABLE else error


def _is_closed(error: BaseException) -> bool:
    # The driver has one class for lost connections and for mistakes of the program; only the words differ.
    return isinstance(error, asyncpg.InterfaceError) and "connection is closed" in str(error)


class Database:
    """The connection pool of one process. Nothing connects before the first statement."""

    def __init__(self, url: str | URL, settings: Settings) -> None:
        self.engine: AsyncEngine = create_async_engine(
            driver_url(url),
            pool_size=settings.pool_size,
            max_overflow=0,
            pool_timeout=settings.pool_timeout,
            connect_args={
                "async_creator_fn": _connect,
                "timeout": settings.connect_timeout,
                # PostgreSQL ends a statement first; this is for a server that no longer answers at all.
                "command_timeout": settings.statement_timeout + 1,
                "server_settings": {
                    "application_name": "process-register",
                    "timezone": "UTC",
                    "jit": "off",
                    "statement_timeout": _milliseconds(settings.statement_timeout),
                    "lock_timeout": _milliseconds(settings.lock_timeout),
                    "idle_in_transaction_session_timeout": _milliseconds(settings.idle_in_transaction_timeout),
                },
            },
        )
        event.listen(self.engine.sync_engine, "handle_error", _raise_translated)
        event.listen(self.engine.sync_engine, "checkout", _replace_closed)
        self.sessions = async_sessionmaker(self.engine, expire_on_commit=False)

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
    except _DRIVER_ERRORS as error:
        translated = translate(error)
        raise (translated if isinstance(translated, ServiceUnavailable) else ServiceUnavailable()) from error


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _raise_translated(context: ExceptionContext) -> None:
    translated = translate(context.original_exception)
    if translated is not context.original_exception:
        raise translated from context.original_exception


def _replace_closed(dbapi_connection: Any, _entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    # The event loop already knows when a socket was closed, so this costs no round trip, unlike pool_pre_ping.
    if dbapi_connection.driver_connection.is_closed():
        raise DisconnectionError


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield the session of one request: one transaction, committed after the answer is made and before it is sent.

    Raises `OutcomeUnknown` when the connection is lost during the commit.
    """
    database: Database = request.app.state.database
    async with database.sessions() as session:
        try:
            yield session
        except PoolTimeoutError as error:
            raise DatabaseBusy("All database connections are in use.") from error
        await commit(session)


async def commit(session: AsyncSession) -> None:
    """Commit. Raises `OutcomeUnknown` when the connection is lost before the answer, `IntegrityViolation` when a
    deferred constraint refuses."""
    try:
        await session.commit()
    except ConnectionLost as error:
        raise OutcomeUnknown from error


async def abandon(session: AsyncSession) -> None:
    """Roll back, so that the same session can find out why its transaction failed."""
    await session.rollback()


# The scope is part of the dependency's key: another spelling would open a second session. With this one FastAPI
# leaves the dependency, and so commits, before the answer is sent.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement compiled for the driver: its SQL and the names of its parameters in the driver's order."""

    sql: str
    names: tuple[str, ...]

    def arguments(self, values: dict[str, Any]) -> tuple[Any, ...]:
        return tuple([values[name] for name in self.names])


def prepare(statement: Executable) -> Statement:
    """Compile a statement once.

    Raises `ValueError` when it holds a value: each parameter must be a `bindparam` that is given at each run.
    """
    compiled = statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]
    if values := {name: value for name, value in compiled.params.items() if value is not None}:
        raise ValueError(f"values inside a prepared statement: {values}")
    return Statement(compiled.string, tuple(compiled.positiontup or ()))


def advisory_key(name: str) -> int:
    """Return the 64-bit key of an advisory lock, the same in every process."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), signed=True)


async def fetch(session: AsyncSession, statement: Statement, **values: Any) -> asyncpg.Record | None:
    """Run a prepared read on the session's connection and return its first row.

    Outside a transaction no BEGIN is sent; after a write of the same session it sees what was written.
    """
    connection = await session.connection()
    raw = await connection.get_raw_connection()
    driver: asyncpg.Connection = raw.driver_connection
    try:
        return await driver.fetchrow(statement.sql, *statement.arguments(values))
    except _DRIVER_ERRORS as error:
        if driver.is_closed():
            await connection.invalidate()
        raise translate(error) from error


async def execute(session: AsyncSession, statement: Statement, **values: Any) -> Sequence[Row[Any]]:
    """Run a prepared write in the session's transaction and return its rows.

    Raises `IntegrityViolation` when a constraint refuses it.
    """
    connection = await session.connection()
    result = await connection.exec_driver_sql(statement.sql, statement.arguments(values))
    return result.fetchall()
