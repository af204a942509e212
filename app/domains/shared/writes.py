"""The statements that write a collection's objects, together with their links."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Table,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from app.core.database import Statement, prepare
from app.domains.shared.documents import Condition
from app.domains.shared.links import LinkSet
from app.domains.shared.models import RegisterObject, model_of, table_of

# Set by the register itself, in every collection.
_OWN_COLUMNS = frozenset({"id", "created_at", "updated_at", "created_by_id", "updated_by_id", "version"})


@cache
def writable_columns(model: type[RegisterObject]) -> tuple[str, ...]:
    """Return the columns that come from bodies."""
    return tuple(column.name for column in table_of(model).c if column.name not in _OWN_COLUMNS)


@cache
def insert_object(model: type[RegisterObject], links: Sequence[LinkSet]) -> Statement:
    """Return the statement that adds an object with its links and returns its `id`.

    Its parameters are the writable columns with the prefix `new_`, `caller_id`, and the arrays of the links.
    """
    caller = bindparam("caller_id", type_=BigInteger)
    values = _new_values(model) | {"created_by_id": caller, "updated_by_id": caller}
    statement = insert(table_of(model)).values(values).returning(table_of(model).c.id)
    if not links:
        return prepare(statement)
    written = statement.cte("written")
    return prepare(select(written.c.id).add_cte(*(link.inserted(written.c.id) for link in links)))


@cache
def foreign_keys(model: type[RegisterObject]) -> dict[str, type[RegisterObject]]:
    """Return the writable columns that refer to other objects, and the models they refer to."""
    columns = (table_of(model).c[name] for name in writable_columns(model))
    return {column.name: model_of(column) for column in columns if column.foreign_keys}


@cache
def lock_object(model: type[RegisterObject], condition: Condition, deleting: bool) -> Statement:
    """Return the statement that locks an object and reads it as it is, `id`, `version` and `created_by_id` included.

    The lock keeps a second writer waiting. Only for deleting does it keep others from referring to the object, too.
    """
    table = table_of(model)
    columns = [table.c.id, table.c.version, table.c.created_by_id, *(table.c[name] for name in writable_columns(model))]
    return prepare(select(*columns).where(condition(table)).with_for_update(key_share=not deleting))


@cache
def object_exists(model: type[RegisterObject], condition: Condition) -> Statement:
    """Return the statement that has a row when the object exists."""
    table = table_of(model)
    return prepare(select(table.c.id).where(condition(table)))


@cache
def update_object(model: type[RegisterObject], links: Sequence[LinkSet]) -> Statement:
    """Return the statement that gives a locked object new values and links.

    Its parameters are those of `insert_object`, `id`, and `changed`: whether a column differs. When neither a column
    nor a link differs the object keeps its version and nothing is written.
    """
    table = table_of(model)
    key = bindparam("id", type_=BigInteger)
    ctes = []
    for link in links:
        removed = link.deleted(key)
        ctes += [removed, link.inserted(key, after=removed)]
    differs = or_(bindparam("changed", type_=Boolean), *(exists(select(cte.c.n)) for cte in ctes))
    statement = update(table).where(table.c.id == key, differs).values(_new_values(model) | touched(table))
    return prepare(statement.add_cte(*ctes).returning(table.c.id))


@cache
def delete_object(model: type[RegisterObject]) -> Statement:
    """Return the statement that removes the object `id`."""
    table = table_of(model)
    return prepare(delete(table).where(table.c.id == bindparam("id", type_=BigInteger)).returning(table.c.id))


def touched(table: Table) -> dict[str, Any]:
    """Return what every change of an object sets; its parameter is `caller_id`."""
    return {
        "version": table.c.version + literal_column("1"),
        "updated_at": func.now(),
        "updated_by_id": bindparam("caller_id", type_=BigInteger),
    }


def _new_values(model: type[RegisterObject]) -> dict[str, Any]:
    table = table_of(model)
    return {name: bindparam(f"new_{name}", type_=table.c[name].type) for name in writable_columns(model)}
