"""What the driver and the network raise, in words of our own."""

from collections.abc import Awaitable
from typing import TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError

from app.utils.exceptions import (
    ConnectionLost,
    DatabaseBusy,
    DatabaseReadOnly,
    Deadlock,
    RegisterError,
    SchemaChanged,
    SerializationFailure,
    ServiceUnavailable,
    UnstorableValue,
)

# SQLSTATEs (PostgreSQL documentation, appendix A).
_LOST = ("08", "57P0")
_BY_STATE: dict[str, type[ServiceUnavailable]] = {
    **dict.fromkeys(("53300", "57014", "55P03"), DatabaseBusy),
    "40P01": Deadlock,
    "40001": SerializationFailure,
    "25006": DatabaseReadOnly,
    "53100": ServiceUnavailable,  # disk full
}
# SQLSTATEs that the command line explains: insufficient_privilege and undefined_table.
NO_PRIVILEGE, NO_TABLE = "42501", "42P01"
# What a refused statement raises that is not translated: by SQLAlchemy, and by the driver.
STATEMENT_ERRORS = (DBAPIError, asyncpg.PostgresError)
T = TypeVar("T")

# TimeoutError is an OSError. The driver raises both as they are, SQLAlchemy does not wrap them.
# InternalClientError is what it makes of a connection that the server closed while this process was busy.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class IntegrityViolation(RegisterError):
    """A constraint of the schema refused the change.

    Services that know the request's own words for it catch this; what they leave becomes a 409 or a 422 of the
    constraint's name (`app/domains/shared/writing/constraints.py`).
    """

    def __init__(self, sqlstate: str, constraint: str) -> None:
        super().__init__()
        self.sqlstate = sqlstate
        self.constraint = constraint

    def __str__(self) -> str:
        return f"SQLSTATE {self.sqlstate}, constraint {self.constraint}"

    @property
    def is_reference(self) -> bool:
        """Whether a foreign key refused. ON DELETE RESTRICT has a state of its own since PostgreSQL 18."""
        return self.sqlstate in {"23503", "23001"}


def translate(error: BaseException) -> BaseException:
    """Return our own error for what the driver or the network raised, by SQLSTATE; others unchanged."""
    # SQLAlchemy's adapter wraps the driver's error, which alone names the constraint.
    return _own_error(error.__cause__ if isinstance(error.__cause__, DRIVER_ERRORS) else error) or error


def _own_error(error: BaseException) -> RegisterError | None:
    sqlstate: str = getattr(error, "sqlstate", None) or ""
    if sqlstate.startswith("23"):
        return IntegrityViolation(sqlstate, getattr(error, "constraint_name", None) or "")
    if sqlstate.startswith("22") or (isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)):
        return UnstorableValue("The request has a value that cannot be stored.")
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return SchemaChanged()
    if sqlstate in _BY_STATE:
        return _BY_STATE[sqlstate]()
    if isinstance(error, OSError) or sqlstate.startswith(_LOST) or _is_closed(error):
        return ConnectionLost()
    return None


def sqlstate_of(error: Exception) -> str | None:
    """Return the SQLSTATE of one of `STATEMENT_ERRORS`."""
    return getattr(getattr(error, "orig", error), "sqlstate", None)


def _is_closed(error: BaseException) -> bool:
    # The driver has one class for lost connections and for mistakes of the program; only the words differ.
    if isinstance(error, asyncpg.InternalClientError):
        return "another operation" in str(error)
    return isinstance(error, asyncpg.InterfaceError) and "connection is closed" in str(error)


async def with_translated_errors(step: Awaitable[T]) -> T:
    """Return what a step of the driver returns, and raise our own error for what it raises."""
    try:
        return await step
    except DRIVER_ERRORS as error:
        raise translate(error) from error
