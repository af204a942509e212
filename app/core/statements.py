"""Statements whose shape never changes: compiled once, and run by the driver itself.

On the way through SQLAlchemy's result objects a statement costs several times as much. A read (`fetch`) sends no BEGIN:
a single statement is its own snapshot. The first write (`execute`) begins the transaction that `in_transaction` ends. A
write that is all its request does (`execute_alone`) is a transaction by itself.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import asyncpg
from sqlalchemy import Executable, text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from app.core.database import Session
from app.core.database_errors import translating
from app.core.pool import Row, command_timeout, milliseconds
from app.utils.exceptions import ConnectionLost, OutcomeUnknown

_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]


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


# Waits for the advisory lock `lock`, which is held until the transaction ends.
ADVISORY_LOCK = prepare(text("SELECT pg_advisory_xact_lock(:lock)"))


async def fetch(session: Session, statement: Statement, **values: Any) -> Row | None:
    """Run a prepared read and return its first row.

    Outside a transaction no BEGIN is sent; after a write of the same session it sees what was written.
    """
    driver = await session.driver()
    row: Row | None = await translating(driver.fetchrow(statement.sql, *statement.arguments(values)))
    return row


async def execute(session: Session, statement: Statement, **values: Any) -> list[Row]:
    """Run a prepared write in the session's transaction and return its rows.

    Raises `IntegrityViolation` when a constraint refuses it.
    """
    driver = await session.begin()
    rows: list[Row] = await translating(
        driver.fetch(statement.sql, *statement.arguments(values), timeout=session.timeout)
    )
    return rows


async def execute_alone(session: Session, statement: Statement, **values: Any) -> list[Row]:
    """Run the only write of a request and return its rows.

    Unless the request has begun a transaction, as for an idempotency key, the statement is one by itself, committed
    when PostgreSQL answers: BEGIN and COMMIT would be two more round trips. Raises what `execute` raises, and
    `OutcomeUnknown` when the connection is lost before the answer.
    """
    driver = await session.driver()
    if session.has_begun:
        return await execute(session, statement, **values)
    try:
        rows: list[Row] = await translating(driver.fetch(statement.sql, *statement.arguments(values)))
    except ConnectionLost as error:
        # Of a connection that is closed already the driver says so, and sends nothing.
        if isinstance(error.__cause__, (asyncpg.InterfaceError, asyncpg.InternalClientError)):
            raise
        raise OutcomeUnknown from error
    return rows


async def allow_seconds(session: Session, seconds: float) -> None:
    """Let the statements of the session's transaction take longer than those of others."""
    values = {"name": "statement_timeout", "value": milliseconds(seconds)}
    await execute(session, _SET_FOR_TRANSACTION, **values)
    session.timeout = command_timeout(seconds)


_SET_FOR_TRANSACTION = prepare(text("SELECT set_config(:name, :value, true)"))
