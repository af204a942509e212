"""The statements that write a collection's objects, together with their links."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.core.database import Statement, prepare
from app.domains.shared.changes import present, recorded
from app.domains.shared.documents import Documents, by_id
from app.domains.shared.links import LinkSet
from app.domains.shared.models import Base, RegisterObject, model_of, table_of
from app.domains.shared.orders import Condition

# Set by the register itself, in every collection.
_OWN_COLUMNS = frozenset({"id", "created_at", "updated_at", "created_by_id", "updated_by_id", "version"})


@cache
def writable_columns(model: type[Base]) -> tuple[str, ...]:
    """Return the columns that come from bodies."""
    columns = table_of(model).c
    return tuple(column.name for column in columns if column.name not in _OWN_COLUMNS and column.computed is None)


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
def update_object(documents: Documents, links: Sequence[LinkSet]) -> Statement:
    """Return the statement that gives a locked object new values and links, and returns its JSON from before.

    Its parameters are those of `insert_object`, `key`, which is its id, and `changed`: whether a column differs. When
    neither a column nor a link differs the object keeps its version, nothing is written, and no row is returned.
    """
    model = documents.model
    table = table_of(model)
    key = bindparam("key", type_=BigInteger)
    ctes = []
    for link in links:
        removed = link.deleted(key)
        ctes += [removed, link.inserted(key, after=removed)]
    differs = or_(bindparam("changed", type_=Boolean), *(exists(select(cte.c.n)) for cte in ctes))
    statement = update(table).where(table.c.id == key, differs).values(_new_values(model) | touched(table))
    # What a statement returns from elsewhere it sees as it was before the statement.
    before = select(cast(documents.snapshot(by_id).c.document, Text)).scalar_subquery()
    return prepare(statement.add_cte(*ctes).returning(before.label("before")))


@cache
def delete_object(documents: Documents) -> Statement:
    """Return the statement that removes the object with the id `key` and records what it was."""
    table = table_of(documents.model)
    row = documents.snapshot(by_id)
    was = select(row.c.id, row.c.code, row.c.name, cast(row.c.document, JSONB).label("before")).cte("was")
    was = was.prefix_with("MATERIALIZED")
    gone = delete(table).where(table.c.id == bindparam("key", type_=BigInteger)).returning(table.c.id).cte("gone")
    members = present(was.c.before, documents.briefs)
    record = recorded(documents.model, "deleted", was, before=members, after=None)
    return prepare(select(gone.c.id).add_cte(record))


def touched(table: Table) -> dict[str, Any]:
    """Return what every change of an object sets; its parameter is `caller_id`."""
    return {
        "version": table.c.version + literal_column("1"),
        "updated_at": func.now(),
        "updated_by_id": bindparam("caller_id", type_=BigInteger),
    }


def _new_values(model: type[Base]) -> dict[str, Any]:
    table = table_of(model)
    return {name: bindparam(f"new_{name}", type_=table.c[name].type) for name in writable_columns(model)}
