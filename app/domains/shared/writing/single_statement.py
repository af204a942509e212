"""Fast path, part 4: the statement that writes an object, its links and its history, and returns its document.

An ordinary unit of work needs one round trip each for the row, for every list of links, for the history and for reading
the new document. Here one statement does all of it in CTEs, and returns the document as bytes. All parts of a statement
see the same snapshot and not each other's writes, so the document is built from the rows that the CTEs return.
`RegisterSession.write_alone` runs it; outside a transaction it is its own transaction. The locked path runs the same
statement, so there is one way to write; its results must equal those of `tests/reference_writer.py`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Select,
    Table,
    and_,
    any_,
    bindparam,
    cast,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.core.prepared import fast_statement
from app.domains.shared.collection import LinkSet, self_references, writable_columns
from app.domains.shared.history.diff import nonempty_members
from app.domains.shared.history.record import change_cte
from app.domains.shared.models import Base, table_of
from app.domains.shared.query.orders import Condition
from app.domains.shared.reading.documents import Documents
from app.domains.shared.reading.json_text import utf8
from app.domains.shared.writing.links import add_missing_links, link_rows, remove_other_links


@fast_statement()
def insert_object(documents: Documents, links: Sequence[LinkSet]) -> Select[Any]:
    """Return the statement that inserts and records an object with its links, and returns `id`, `version` and `body`.

    Its parameters are the writable columns with the prefix `new_`, those of `Caller.signature`, and the arrays of the
    links. If the object would refer to itself, because the client has guessed its id, nothing is written and no row
    returned.
    """
    model = documents.model
    caller, own = bindparam("caller_id", type_=BigInteger), select(next_id(model).label("id")).subquery("own")
    values = {"id": own.c.id, **_new_values(model), "created_by_id": caller, "updated_by_id": caller}
    refers_to_others = [values[name].is_distinct_from(own.c.id) for name in self_references(model)]
    new = select(*values.values()).select_from(own).where(*refers_to_others)
    statement = insert(table_of(model)).from_select([*values], new)
    written = statement.returning(*_document_columns(model)).cte("written")
    document = documents.document_cte(written, {link.field: link_rows(link) for link in links})
    result = select(*document.c, cast(document.c.document, JSONB).label("after")).cte("inserted")
    result = result.prefix_with("MATERIALIZED")
    record = change_cte(model, "created", result, before=None, after=nonempty_members(result.c.after, documents.briefs))
    query = select(result.c.id, result.c.version, utf8(result.c.document).label("body"))
    return query.add_cte(*(add_missing_links(link, written.c.id) for link in links), record)


@fast_statement()
def update_object(
    documents: Documents,
    links: Sequence[LinkSet],
    condition: Condition,
    watched: Sequence[str],
    *,
    links_only: bool = False,
) -> Select[Any]:
    """Return the statement that updates an object, or `links_only`, and records the difference.

    Its parameters are those of `insert_object`; `key` of the condition; `versions`, the allowed current versions, or
    NULL for any; and `checked`, whether `watched` columns may change. It returns no row if there is no such object.
    The row has the `id`; `is_allowed`, whether `versions` and `checked` permit the update; `is_locked`, whether the
    object is unchanged and was locked, because no other transaction holds it; and the new `version` and `body`, which
    are NULL if nothing is written, also because neither a column nor a link differs.
    """
    model = documents.model
    table, new = table_of(model), {} if links_only else _new_values(model)
    source = table.alias("o")
    equals = (source.c[name].is_not_distinct_from(new[name]) for name in watched)
    is_checked = or_(bindparam("checked", type_=Boolean), and_(literal_column("true"), *equals))
    versions = bindparam("versions", type_=ARRAY(BigInteger))
    has_version = or_(versions.is_(None), source.c.version == any_(versions))
    is_allowed = and_(is_checked, has_version).label("is_allowed")
    columns = (source.c[name] for name in ("id", "version", "brief_json", *new))
    snapshot = select(*columns, is_allowed).where(condition(source)).cte("snapshot").prefix_with("MATERIALIZED")
    # Later writers wait for this row lock. Every change of a link increments the version, so with the version of the
    # snapshot the links are also those of the snapshot. SKIP LOCKED, because after waiting for another writer the
    # statement would still read its old snapshot.
    is_same = and_(table.c.id == snapshot.c.id, table.c.version == snapshot.c.version)
    query = select(table.c.id).where(is_same, snapshot.c.is_allowed)
    locked = query.with_for_update(key_share=True, of=table, skip_locked=True).cte("locked")
    removed = {link.field: remove_other_links(link, locked.c.id) for link in links}
    added = {link.field: add_missing_links(link, locked.c.id, after=removed[link.field]) for link in links}
    differs = [table.c[name].is_distinct_from(value) for name, value in new.items()]
    differs += [exists(select(literal_column("1")).select_from(cte)) for cte in (*removed.values(), *added.values())]
    statement = update(table).where(table.c.id == locked.c.id, or_(*differs)).values(new | touch_values(table))
    written = statement.returning(*_document_columns(model)).cte("written")
    document = documents.document_cte(written, {link.field: link_rows(link) for link in links})
    members = documents.changed_members(snapshot, written, removed, added)
    change = select(document.c.id, document.c.code, document.c.name, members.c.before, members.c.after)
    changed = change.select_from(document.join(members, literal_column("true"))).subquery("changed")
    record = change_cte(model, "updated", changed, before=changed.c.before, after=changed.c.after)
    is_locked = exists(select(literal_column("1")).select_from(locked)).label("is_locked")
    body = utf8(document.c.document).label("body")
    result = select(snapshot.c.id, snapshot.c.is_allowed, is_locked, document.c.version, body)
    result = result.select_from(snapshot.outerjoin(document, literal_column("true")))
    return result.add_cte(record)


def next_id(model: type[Base]) -> ColumnElement[int]:
    """Return the expression that draws the id of a new object."""
    return literal_column(f"nextval(pg_get_serial_sequence('{model.__tablename__}', 'id')::regclass)", BigInteger)


def touch_values(table: Table) -> dict[str, Any]:
    """Return the columns that every update of an object sets; the parameter is `caller_id`."""
    return {
        "version": table.c.version + literal_column("1"),
        "updated_at": func.now(),
        "updated_by_id": bindparam("caller_id", type_=BigInteger),
    }


def _document_columns(model: type[Base]) -> Iterator[Column[Any]]:
    """Return the columns from which documents are built."""
    return (column for column in table_of(model).columns if column.computed is None or column.name == "brief_json")


def _new_values(model: type[Base]) -> dict[str, Any]:
    table = table_of(model)
    return {name: bindparam(f"new_{name}", type_=table.c[name].type) for name in writable_columns(model)}
