"""Fast path, part 4: the statement that writes an object with all that goes with it.

An ordinary unit of work takes a round trip each for the row, for every list of links, for the row of the history and
for reading the new document. Here one statement does all of it in CTEs, and returns the document as bytes. PostgreSQL
sees the tables as they were when the statement began, so the document is made of the rows that the CTEs return.
`RegisterSession.write_alone` runs it, outside a transaction as its own transaction. The locked path runs the same
statement, so there is one way to write; it must equal `tests/reference_writer.py`.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
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

from app.core.prepared import Prepared, prepare
from app.domains.shared.collection import LinkSet, writable_columns
from app.domains.shared.history.diff import nonempty_members
from app.domains.shared.history.record import change_cte
from app.domains.shared.models import Base, table_of
from app.domains.shared.query.orders import Condition
from app.domains.shared.reading.documents import Documents
from app.domains.shared.reading.json_text import utf8
from app.domains.shared.writing.links import add_wanted, remove_unwanted, wanted_rows


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
    wanted = {link.field: wanted_rows(link) for link in links}
    made = documents.document_cte(written, wanted)
    now = select(*made.c, cast(made.c.document, JSONB).label("after")).cte("now").prefix_with("MATERIALIZED")
    record = change_cte(model, "created", now, before=None, after=nonempty_members(now.c.after, documents.briefs))
    answer = select(now.c.id, now.c.version, utf8(now.c.document).label("body"))
    return prepare(answer.add_cte(*(add_wanted(link, written.c.id) for link in links), record))


@cache
def update_object(
    documents: Documents, links: Sequence[LinkSet], condition: Condition, watched: Sequence[str]
) -> Prepared:
    """Return the statement that gives an object new values and links, and records how it differs.

    Its parameters are those of `insert_object`; `key` of the condition; `versions`, of which it must have one unless
    that is NULL; and `checked`: whether its `watched` columns may change. The row, if there is such an object, has its
    `id`; `allowed`, whether these two let it be changed; `held`, whether nobody else holds it or has changed it; and
    the new `version` and `body`, NULL when nothing is written, as also when neither a column nor a link differs.
    """
    model = documents.model
    table, new = table_of(model), _new_values(model)
    source = table.alias("o")
    kept = (source.c[name].is_not_distinct_from(new[name]) for name in watched)
    free = or_(bindparam("checked", type_=Boolean), and_(literal_column("true"), *kept))
    versions = bindparam("versions", type_=ARRAY(BigInteger))
    allowed = and_(free, or_(versions.is_(None), source.c.version == any_(versions))).label("allowed")
    columns = (source.c[name] for name in ("id", "version", "brief_json", *new))
    seen = select(*columns, allowed).where(condition(source)).cte("seen").prefix_with("MATERIALIZED")
    # Later writers wait for this lock. As long as the version is the one that was seen, so are the links. The statement
    # itself waits for no other writer: what it has seen would be as old as the beginning of the wait.
    is_same = and_(table.c.id == seen.c.id, table.c.version == seen.c.version)
    found = select(table.c.id).where(is_same, seen.c.allowed)
    same = found.with_for_update(key_share=True, of=table, skip_locked=True).cte("same")
    removed = {link.field: remove_unwanted(link, same.c.id) for link in links}
    added = {link.field: add_wanted(link, same.c.id, after=removed[link.field]) for link in links}
    differs = [table.c[name].is_distinct_from(value) for name, value in new.items()]
    differs += [exists(select(literal_column("1")).select_from(cte)) for cte in (*removed.values(), *added.values())]
    writing = update(table).where(table.c.id == same.c.id, or_(*differs)).values(new | touch_values(table))
    written = writing.returning(*_shown(model)).cte("written")
    made = documents.document_cte(written, {link.field: wanted_rows(link) for link in links})
    how = documents.changed_members(seen, written, removed, added)
    change = select(made.c.id, made.c.code, made.c.name, how.c.before, how.c.after)
    changed = change.select_from(made.join(how, literal_column("true"))).subquery("changed")
    record = change_cte(model, "updated", changed, before=changed.c.before, after=changed.c.after)
    held = exists(select(literal_column("1")).select_from(same)).label("held")
    answer = select(seen.c.id, seen.c.allowed, held, made.c.version, utf8(made.c.document).label("body"))
    answer = answer.select_from(seen.outerjoin(made, literal_column("true")))
    return prepare(answer.add_cte(record))


def touch_values(table: Table) -> dict[str, Any]:
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
