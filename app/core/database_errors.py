"""Translates errors of the driver and the network into errors of the service."""

import re
from collections.abc import Awaitable
from typing import TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError

from app.utils.exceptions import (
    CallerDeleted,
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

# SQLSTATEs (PostgreSQL documentation, appendix A), or their first two or four characters.
_BY_STATE: dict[str, type[ServiceUnavailable]] = {
    **dict.fromkeys(("08", "57P0"), ConnectionLost),
    # The server lacks disk space, memory or file descriptors, or its operating system reports an error.
    **dict.fromkeys(("53", "58"), ServiceUnavailable),
    **dict.fromkeys(("53300", "57014", "55P03"), DatabaseBusy),
    "40P01": Deadlock,
    "40001": SerializationFailure,
    "25006": DatabaseReadOnly,
}
# The foreign keys to the user who writes a row, and their columns.
_AUTHOR_KEY = re.compile(r"fk_.+_((?:created|updated)_by_id)")
FOREIGN_KEY_VIOLATION = "23503"
# SQLSTATEs that the command line explains: insufficient_privilege and undefined_table.
NO_PRIVILEGE, NO_TABLE = "42501", "42P01"
# Internal errors of a statement that uses an object which another transaction has dropped or replaced meanwhile.
_MISSING_OBJECT = ("cache lookup failed for ", "could not open relation with OID ")
# Untranslated errors of a failed statement, from SQLAlchemy and from the driver.
STATEMENT_ERRORS = (DBAPIError, asyncpg.PostgresError)
T = TypeVar("T")

# TimeoutError is an OSError. The driver raises OSErrors unchanged, and SQLAlchemy does not wrap them.
# The driver raises InternalClientError for a connection that the server closed while this process was busy.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class IntegrityViolation(RegisterError):
    """A change violates a constraint of the schema.

    A service that can name the member of the request catches this error. Otherwise it becomes a 409 or a 422 by the
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
        """Whether a foreign key is violated. ON DELETE RESTRICT has a separate SQLSTATE since PostgreSQL 18."""
        return self.sqlstate in {FOREIGN_KEY_VIOLATION, "23001"}


def translate(error: BaseException) -> BaseException:
    """Return the service's error for an error of the driver or the network, by SQLSTATE; return others unchanged."""
    # SQLAlchemy's adapter wraps the driver's error, and only the latter names the constraint.
    return _register_error(error.__cause__ if isinstance(error.__cause__, DRIVER_ERRORS) else error) or error


def _register_error(error: BaseException) -> RegisterError | None:
    sqlstate: str = getattr(error, "sqlstate", None) or ""
    if sqlstate.startswith("23"):
        violation = IntegrityViolation(sqlstate, getattr(error, "constraint_name", None) or "")
        return CallerDeleted() if _is_without_author(violation, getattr(error, "detail", None) or "") else violation
    if sqlstate.startswith("22") or (isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)):
        return UnstorableValue()
    if _is_schema_change(error):
        return SchemaChanged()
    known = next((_BY_STATE[key] for key in (sqlstate, sqlstate[:4], sqlstate[:2]) if key in _BY_STATE), None)
    if known is not None:
        return known()
    return ConnectionLost() if isinstance(error, OSError) or _is_closed(error) else None


def _is_without_author(violation: IntegrityViolation, detail: str) -> bool:
    """Return whether the user who writes a row does not exist.

    PostgreSQL translates all of the detail but the column's name. If a user were deleted in spite of written rows, the
    detail would name `id`. The details of other violations quote texts of clients.
    """
    author = _AUTHOR_KEY.fullmatch(violation.constraint) if violation.sqlstate == FOREIGN_KEY_VIOLATION else None
    return author is not None and f"({author[1]})=" in detail


def _is_schema_change(error: BaseException) -> bool:
    """Return whether a change of the schema made a prepared statement, or what the driver knows of types, invalid."""
    if isinstance(error, (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)):
        return True
    # PostgreSQL has one SQLSTATE for all internal errors, and does not translate their messages.
    return isinstance(error, asyncpg.InternalServerError) and str(error).startswith(_MISSING_OBJECT)


def sqlstate_of(error: Exception) -> str | None:
    """Return the SQLSTATE of one of `STATEMENT_ERRORS`."""
    return getattr(getattr(error, "orig", error), "sqlstate", None)


def _is_closed(error: BaseException) -> bool:
    # The driver has one class for lost connections and for programming errors; only the messages differ.
    if isinstance(error, asyncpg.InternalClientError):
        return "another operation" in str(error)
    return isinstance(error, asyncpg.InterfaceError) and "connection is closed" in str(error)


async def with_translated_errors(operation: Awaitable[T]) -> T:
    """Await an operation of the driver and translate its errors."""
    try:
        return await operation
    except DRIVER_ERRORS as error:
        raise translate(error) from error
