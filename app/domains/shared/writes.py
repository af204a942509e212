"""The statements that write a collection's objects, together with their links."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Select,
    Table,
    and_,
    any_,
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

from app.core.prepared import Prepared, prepare
from app.domains.shared.changes import present, recorded
from app.domains.shared.documents import Documents, by_id
from app.domains.shared.embedding import utf8
from app.domains.shared.links import LinkSet
from app.domains.shared.models import Base, RegisterObject, model_of, table_of
from app.domains.shared.orders import Condition

# What an object is locked for.
Lock = Literal["change", "delete"]

# Set by the register itself, in every collection.
_OWN_COLUMNS = frozenset({"id", "created_at", "updated_at", "created_by_id", "updated_by_id", "version"})


@cache
def writable_columns(model: type[Base]) -> tuple[str, ...]:
    """Return the columns that come from bodies."""
    columns = table_of(model).c
    return tuple(column.name for column in columns if column.name not in _OWN_COLUMNS and column.computed is None)


@cache
def insert_object(documents: Documents, links: Sequence[LinkSet]) -> Prepared:
    """Return the statement that adds an object with its links, records that, and returns `id`, `version` and `body`.

    Its parameters are the writable columns with the prefix `new_`, those of `Caller.signature`, and the arrays of the
    links.
    """
    model = documents.model
    caller = bindparam("caller_id", type_=BigInteger)
    values = _new_values(model) | {"created_by_id": caller, "updated_by_id": caller}
    written = insert(table_of(model)).values(values).returning(*_shown(model)).cte("written")
    wanted = {link.field: link.wanted() for link in links}
    made = documents.written(written, wanted)
    now = select(*made.c, cast(made.c.document, JSONB).label("after")).cte("now").prefix_with("MATERIALIZED")
    record = recorded(model, "created", now, before=None, after=present(now.c.after, documents.briefs))
    answer = select(now.c.id, now.c.version, utf8(now.c.document).label("body"))
    return prepare(answer.add_cte(*(link.inserted(written.c.id) for link in links), record))


@cache
def foreign_keys(model: type[RegisterObject]) -> dict[str, type[RegisterObject]]:
    """Return the writable columns that refer to other objects, and the models they refer to."""
    columns = (table_of(model).c[name] for name in writable_columns(model))
    return {column.name: model_of(column) for column in columns if column.foreign_keys}


@cache
def read_columns(model: type[RegisterObject], condition: Condition, lock: Lock | None = None) -> Select[Any]:
    """Return the statement that reads an object as it is, `id`, `version` and `created_by_id` included.

    A lock keeps a second writer waiting. Only that for a delete keeps others from referring to the object, too.
    """
    table = table_of(model)
    columns = [table.c.id, table.c.version, table.c.created_by_id, *(table.c[name] for name in writable_columns(model))]
    query = select(*columns).where(condition(table))
    return query if lock is None else query.with_for_update(key_share=lock == "change")


@cache
def object_exists(model: type[RegisterObject], condition: Condition) -> Select[Any]:
    """Return the statement that has a row when the object exists."""
    table = table_of(model)
    return select(table.c.id).where(condition(table))


@cache
def update_object(
    documents: Documents, links: Sequence[LinkSet], condition: Condition, guarded: Sequence[str]
) -> Prepared:
    """Return the statement that gives an object new values and links, and records how it differs.

    Its parameters are those of `insert_object`; `key` of the condition; `versions`, of which it must have one unless
    that is NULL; and `checked`: whether its `guarded` columns may change. The row, if there is such an object, has its
    `id`; `allowed`, whether these two let it be changed; `held`, whether nobody else holds it or has changed it; and
    the new `version` and `body`, NULL when nothing is written, as also when neither a column nor a link differs.
    """
    model = documents.model
    table, new = table_of(model), _new_values(model)
    source = table.alias("o")
    kept = (source.c[name].is_not_distinct_from(new[name]) for name in guarded)
    free = or_(bindparam("checked", type_=Boolean), and_(literal_column("true"), *kept))
    versions = bindparam("versions", type_=ARRAY(BigInteger))
    allowed = and_(free, or_(versions.is_(None), source.c.version == any_(versions))).label("allowed")
    columns = (source.c[name] for name in ("id", "version", "brief_json", *new))
    seen = select(*columns, allowed).where(condition(source)).cte("seen").prefix_with("MATERIALIZED")
    # Whoever else changes it has to wait. As long as its version is the one that was seen, so are its links. Nobody is
    # waited for here: what is seen would be as old as the beginning of the wait.
    is_same = and_(table.c.id == seen.c.id, table.c.version == seen.c.version)
    found = select(table.c.id).where(is_same, seen.c.allowed)
    same = found.with_for_update(key_share=True, of=table, skip_locked=True).cte("same")
    removed = {link.field: link.deleted(same.c.id) for link in links}
    added = {link.field: link.inserted(same.c.id, after=removed[link.field]) for link in links}
    differs = [table.c[name].is_distinct_from(value) for name, value in new.items()]
    differs += [exists(select(literal_column("1")).select_from(cte)) for cte in (*removed.values(), *added.values())]
    writing = update(table).where(table.c.id == same.c.id, or_(*differs)).values(new | touched(table))
    written = writing.returning(*_shown(model)).cte("written")
    made = documents.written(written, {link.field: link.wanted() for link in links})
    how = documents.compared(seen, written, removed, added)
    change = select(made.c.id, made.c.code, made.c.name, how.c.before, how.c.after)
    changed = change.select_from(made.join(how, literal_column("true"))).subquery("changed")
    record = recorded(model, "updated", changed, before=changed.c.before, after=changed.c.after)
    held = exists(select(literal_column("1")).select_from(same)).label("held")
    answer = select(seen.c.id, seen.c.allowed, held, made.c.version, utf8(made.c.document).label("body"))
    answer = answer.select_from(seen.outerjoin(made, literal_column("true")))
    return prepare(answer.add_cte(record))


@cache
def delete_object(documents: Documents) -> Select[Any]:
    """Return the statement that removes the object with the id `key` and records what it was."""
    table = table_of(documents.model)
    row = documents.snapshot(by_id)
    was = select(row.c.id, row.c.code, row.c.name, cast(row.c.document, JSONB).label("before")).cte("was")
    was = was.prefix_with("MATERIALIZED")
    gone = delete(table).where(table.c.id == bindparam("key", type_=BigInteger)).returning(table.c.id).cte("gone")
    members = present(was.c.before, documents.briefs)
    record = recorded(documents.model, "deleted", was, before=members, after=None)
    return select(gone.c.id).add_cte(record)


def touched(table: Table) -> dict[str, Any]:
    """Return what every change of an object sets; its parameter is `caller_id`."""
    return {
        "version": table.c.version + literal_column("1"),
        "updated_at": func.now(),
        "updated_by_id": bindparam("caller_id", type_=BigInteger),
    }


def _shown(model: type[Base]) -> Iterator[Column[Any]]:
    """Return the columns that documents are made of."""
    return (column for column in table_of(model).columns if column.computed is None or column.name == "brief_json")


def _new_values(model: type[Base]) -> dict[str, Any]:
    table = table_of(model)
    return {name: bindparam(f"new_{name}", type_=table.c[name].type) for name in writable_columns(model)}
