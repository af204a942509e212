"""The CTE that adds a row to the history."""

from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    String,
    bindparam,
    exists,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
)

from app.domains.shared.history.models import Change
from app.domains.shared.models import Base, ChangeAction, table_of


def constant(value: str) -> ColumnElement[str]:
    """Return a constant text as an SQL literal; a prepared statement must not hold bound values."""
    return literal_column("'" + value.replace("'", "''") + "'", String)


def caller_exists() -> ColumnElement[bool]:
    """Return the condition that the caller of `Caller.signature` is still a user, or is the register itself.

    For deletes: other writes have a foreign key to the caller.
    """
    users = Base.metadata.tables["users"].alias("callers")
    caller = bindparam("caller_id", type_=BigInteger)
    return or_(caller.is_(None), exists(select(users.c.id).where(users.c.id == caller)))


def time_of_change(source: FromClause) -> ColumnElement[Any]:
    """Return the time of a change of an object: the current time, but at least its former `updated_at`.

    It must be evaluated while the row is locked. The times of an object's changes are then in the order of the changes,
    also if a transaction began early and waited for the row, or if the clock of the server was set back.
    """
    return func.greatest(func.clock_timestamp(), source.c.updated_at, type_=DateTime(timezone=True))


def change_cte(
    model: type[Base],
    action: ChangeAction | ColumnElement[str],
    source: FromClause,
    before: ColumnElement[Any] | None,
    after: ColumnElement[Any] | None,
) -> CTE:
    """Return the CTE that adds a row to the history for each row of `source`.

    The rows have `id`, `code` and `name` of an object, and as `updated_at` the time of the change. The parameters are
    those of `Caller.signature`.
    """
    values: dict[str, Any] = {
        "at": source.c.updated_at,
        "actor_id": bindparam("caller_id", type_=BigInteger),
        "actor_name": bindparam("caller_name", type_=String),
        "request_id": bindparam("request_id", type_=String),
        "message": bindparam("message", type_=String),
        "type": constant(model.__tablename__),
        "object_id": source.c.id,
        "object_code": source.c.code,
        "object_name": source.c.name,
        "action": constant(action) if isinstance(action, str) else action,
        "before": null() if before is None else before,
        "after": null() if after is None else after,
    }
    rows = select(*(value.label(name) for name, value in values.items())).select_from(source)
    return insert(table_of(Change)).from_select(list(values), rows).returning(literal_column("1")).cte("recorded")
