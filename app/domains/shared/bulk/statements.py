"""The statements of bulk writes: one for each step of a batch, independent of the number of items.

Values are passed as arrays or as one JSON array of rows. Rows are locked in the order of
their ids: this lock order prevents deadlocks.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    Executable,
    FromClause,
    String,
    Text,
    all_,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    delete,
    exists,
    false,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    union,
    update,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

from app.domains.shared.collection import LinkSet, writable_columns
from app.domains.shared.history.diff import differences, nonempty_members
from app.domains.shared.history.record import caller_exists, change_cte, constant, time_of_change
from app.domains.shared.models import RegisterObject, folded, table_of
from app.domains.shared.reading.documents import Documents
from app.domains.shared.writing.dependants import restricting_foreign_keys
from app.domains.shared.writing.references import matches_keys
from app.domains.shared.writing.single_statement import touch_values
from app.domains.shared.writing.unique_keys import unique_keys


@cache
def lock_objects(model: type[RegisterObject], *, deleting: bool) -> Executable:
    """Return the statement that locks and reads the objects with `ids`, `codes` or `external_ids`.

    The codes are folded. The locks are those of `read_columns`.
    """
    table = table_of(model)
    own = [table.c[name] for name in ("id", "version", "created_by_id", "updated_by_id")]
    query = select(*own, *(table.c[name] for name in writable_columns(model))).where(matches_keys(table, ""))
    return query.order_by(table.c.id).with_for_update(key_share=not deleting)


@cache
def find_referrers(model: type[RegisterObject]) -> Executable:
    """Return the statement that finds which of the `ids` are referred to, and the `type` of the referring objects.

    References from objects of this collection are ignored if their ids are in `batch_ids`.
    """
    table = table_of(model)
    targets = func.unnest(_ids()).table_valued(column("id", BigInteger)).render_derived(name="target")
    batch_ids = bindparam("batch_ids", type_=ARRAY(BigInteger))
    # If no foreign key refers to the collection, only this query is left.
    queries = [select(targets.c.id, constant(table.name).label("type")).where(false())]
    for foreign_key, owner in restricting_foreign_keys(table):
        source = foreign_key.table.alias("source")
        refers = [source.c[foreign_key.name] == targets.c.id]
        if owner is table:
            refers.append(source.c.id != all_(batch_ids))
        is_referred_to = exists(select(literal_column("1")).select_from(source).where(*refers))
        queries.append(select(targets.c.id, constant(owner.name).label("type")).where(is_referred_to))
    return union(*queries)


@cache
def read_documents(documents: Documents) -> Executable:
    """Return the statement that reads `id` and `document`, the JSON, of the objects with `ids`."""
    row = documents.snapshots(_has_id)
    return select(row.c.id, cast(row.c.document, Text).label("document"))


@cache
def release_keys(model: type[RegisterObject]) -> Executable:
    """Return the statement that clears the unique keys of the objects with `ids`, for other objects of the batch.

    Unique indexes are not deferrable and check each row immediately: without this, two objects could not exchange
    their codes.
    """
    table = table_of(model)
    values: dict[str, Any] = {}
    for name in unique_keys(model):
        # A column that is NOT NULL gets a value that no client can send.
        value = null() if table.c[name].nullable else func.concat(literal_column("'released '"), table.c.id)
        values[name] = value
    return update(table).where(table.c.id == any_(_ids())).values(values).returning(table.c.id)


@cache
def insert_objects(model: type[RegisterObject]) -> Executable:
    """Return the statement that adds the objects in `rows`, a JSON array; its other parameter is `caller_id`.

    Within one statement, parents and children may be in any order. Rows are inserted in the order of their keys: of two
    batches with the same keys, one then waits for the other instead of a deadlock.
    """
    rows = _rows(model)
    caller = bindparam("caller_id", type_=BigInteger)
    names = ["id", *writable_columns(model)]
    query = select(*(rows.c[name] for name in names), caller, caller)
    query = query.order_by(
        *(folded(rows.c[key]) if ignores_case else rows.c[key] for key, ignores_case in unique_keys(model).items())
    )
    statement = insert(table_of(model)).from_select([*names, "created_by_id", "updated_by_id"], query)
    return statement.returning(table_of(model).c.id)


@cache
def update_objects(model: type[RegisterObject]) -> Executable:
    """Return the statement that updates objects; its parameters are those of `insert_objects`."""
    table, rows = table_of(model), _rows(model)
    values = {name: rows.c[name] for name in writable_columns(model)}
    statement = update(table).where(table.c.id == rows.c.id).values(values | touch_values(table))
    return statement.returning(table.c.id, table.c.version)


@cache
def delete_objects(model: type[RegisterObject]) -> Executable:
    """Return the statement that deletes the objects with `ids`, parents and children together.

    It deletes none if the caller no longer exists.
    """
    table = table_of(model)
    return delete(table).where(table.c.id == any_(_ids()), caller_exists()).returning(table.c.id)


@cache
def remove_links(links: Sequence[LinkSet]) -> Executable:
    """Return the statement that removes the links which the batch does not list, and returns the ids of their owners.

    Each link set has an array `{field}_owners`, the existing objects whose links are replaced, and one array for each
    column of the links in the batch, of which the first is `{field}_{owner}`.
    """
    ctes = []
    for link in links:
        table, rows, names = link.table, _requested_links(link), (link.owner, *link.columns)
        place: Any = literal_column(f"{table.name}.ctid").label("place")
        query = select(place, *(table.c[name] for name in names)).where(table.c[link.owner] == any_(_owners(link)))
        stored = query.subquery(f"stored_{link.field}")
        # A full join is never a nested loop, which PostgreSQL would choose for NOT EXISTS while its statistics say that
        # the table is empty: the time would then be quadratic. The locks of the owners keep the rows in their places.
        same = and_(*(rows.c[name] == stored.c[name] for name in names))
        surplus = select(stored.c.place).select_from(rows.join(stored, same, full=True))
        places = func.array(surplus.where(rows.c[link.owner].is_(None)).scalar_subquery())
        statement = delete(table).where(literal_column(f"{table.name}.ctid") == any_(places))
        ctes.append(statement.returning(table.c[link.owner].label("id")).cte(f"removed_{link.field}"))
    return union(*(select(cte.c.id) for cte in ctes))


@cache
def add_links(links: Sequence[LinkSet]) -> Executable:
    """Return the statement that adds the links of the batch which are missing; see `remove_links`.

    It returns the ids in `{field}_owners` that got a link. Other owners are new objects, without links until now.
    """
    ctes: list[CTE] = []
    for link in links:
        rows, columns = _requested_links(link), (link.owner, *link.columns)
        table = link.table.alias("stored")
        is_stored = exists().where(*(rows.c[name] == table.c[name] for name in columns))
        is_missing = or_(rows.c[link.owner] != all_(_owners(link)), ~is_stored)
        query = select(*(rows.c[name] for name in columns)).where(is_missing)
        added = insert(link.table).from_select(columns, query).returning(link.table.c[link.owner].label("id"))
        ctes.append(added.cte(f"added_{link.field}"))
    changed = (select(cte.c.id).where(cte.c.id == any_(_owners(link))) for cte, link in zip(ctes, links, strict=True))
    return union(*changed)


def _owners(link: LinkSet) -> Any:
    return bindparam(f"{link.field}_owners", type_=ARRAY(BigInteger))


def _requested_links(link: LinkSet) -> Any:
    names = (link.owner, *link.columns)
    types: dict[str, Any] = {name: String() if name == link.detail else BigInteger() for name in names}
    arrays = [bindparam(f"{link.field}_{name}", type_=ARRAY(kind)) for name, kind in types.items()]
    columns: list[Any] = [column(name, kind) for name, kind in types.items()]
    return func.unnest(*arrays).table_valued(*columns).render_derived(name=f"requested_{link.field}")


@cache
def record_changes(documents: Documents, *, with_changes: bool) -> Executable:
    """Return the statement that adds a row to the history for each of `ids`, in their order.

    `actions` has the action on each, `befores` the JSON of each before the write, NULL for a new one. It must run after
    all writes except the deletes. The rows are `id`, and also `before` and `after` if `with_changes`.
    """
    item = (
        func.unnest(_ids(), bindparam("actions", type_=ARRAY(String)), bindparam("befores", type_=ARRAY(Text)))
        .table_valued(column("id", BigInteger), column("action", String), column("before", Text), with_ordinality="n")
        .render_derived(name="item")
    )
    row = documents.snapshots(_has_id)
    old, new = cast(item.c.before, JSONB).label("before"), cast(row.c.document, JSONB).label("after")
    joined = item.outerjoin(row, row.c.id == item.c.id)
    # The writes have set `updated_at`, unless the object will be deleted. Its row is locked.
    time = case((item.c.action == constant("deleted"), time_of_change(row)), else_=row.c.updated_at)
    query = select(item.c.n, item.c.id, item.c.action, time.label("updated_at"), old, new).select_from(joined)
    states = query.cte("states").prefix_with("MATERIALIZED")
    is_new, is_deleted = states.c.action == constant("created"), states.c.action == constant("deleted")
    before, after = differences(states.c.before, states.c.after, documents.briefs)
    last = case((is_deleted, states.c.before), else_=states.c.after)
    first_members = nonempty_members(states.c.after, documents.briefs)
    last_members = nonempty_members(states.c.before, documents.briefs)
    changes = select(
        states.c.id,
        func.jsonb_extract_path_text(last, constant("code")).label("code"),
        func.jsonb_extract_path_text(last, constant("name")).label("name"),
        states.c.action,
        states.c.updated_at,
        case((is_new, null()), (is_deleted, last_members), else_=before).label("before"),
        case((is_deleted, null()), (is_new, first_members), else_=after).label("after"),
    )
    change = changes.order_by(states.c.n).cte("change").prefix_with("MATERIALIZED")
    record = change_cte(documents.model, change.c.action, change, before=change.c.before, after=change.c.after)
    columns = [change.c.id]
    if with_changes:
        columns += [cast(change.c[name], Text).label(name) for name in ("before", "after")]
    return select(*columns).add_cte(record)


def _ids() -> Any:
    return bindparam("ids", type_=ARRAY(BigInteger))


def _has_id(source: FromClause) -> ColumnElement[bool]:
    return source.c.id == any_(_ids())


def _rows(model: type[RegisterObject]) -> Any:
    table = table_of(model)
    columns: list[Any] = [column(name, table.c[name].type) for name in ("id", *writable_columns(model))]
    rows = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON))
    return rows.table_valued(*columns).render_derived(name="batch_row", with_types=True)
