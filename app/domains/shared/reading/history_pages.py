"""The lists of changes: of one object, and of all objects.

Changes are listed by id, the newest first. Each way to read the first ones looks at a number of rows that depends on
the page, and not on how many changes match, whatever the values of the filters are. The statements are prepared, so
the planner does not know these values: the conditions leave only one index with which it can avoid a sort.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    String,
    and_,
    bindparam,
    column,
    func,
    literal_column,
    select,
    true,
    tuple_,
    union,
)

from app.core.database import RegisterSession
from app.core.prepared import fast_statement
from app.domains.shared.history.models import Change
from app.domains.shared.models import folded, table_of
from app.domains.shared.query.orders import Condition, Start
from app.domains.shared.query.pages import ExportQuery, Listing, fetch_page, fetch_total
from app.domains.shared.reading.history_rows import (
    CELLS,
    ExcludedMembers,
    cells_of_rows,
    documents_of_rows,
    select_members,
)
from app.domains.shared.reading.history_selection import (
    ChangeFilters,
    ChangeSelection,
    ObjectOfChanges,
    actor_key,
    code_key,
    has_member,
)
from app.domains.shared.reading.json_text import json_list
from app.domains.shared.reading.page_rows import NEWEST_FIRST, page_cte, page_result
from app.domains.shared.reading.streams import Export

# The columns of an index before `id`, each with its value, by the name of the filter.
Key = Mapping[str, tuple[ColumnElement[Any], ColumnElement[Any]]]
# The newest changes among which members are looked for without their index.
WINDOW = 10_000


async def list_changes(
    session: RegisterSession,
    filters: ChangeFilters,
    query: ExportQuery,
    excluded: ExcludedMembers,
    object_: ObjectOfChanges | None = None,
    **values: Any,
) -> Listing | Export:
    """Return one page of the changes that the filters select, the newest first, or an export.

    Their `before` and `after` have no excluded members. Raises `BadRequest` if an export would be read backwards.
    """
    selection, values = filters.selection(object_), filters.arguments() | values
    if query.format == "json":
        return await fetch_page(session, _page(selection, query.start, excluded), _count(selection), query, values)
    values |= query.export_arguments()
    as_table = query.format == "csv"
    statement = _export(selection, query.start, excluded, as_table=as_table)
    return Export("changes", statement, values, CELLS if as_table else None, raw=query.csv == "raw")


async def has_changes(session: RegisterSession, object_: ObjectOfChanges, **values: Any) -> bool:
    """Return whether an object has at least one change."""
    return bool(await fetch_total(session, _count(object_), values))


@fast_statement(256)
def _page(selection: ChangeSelection, start: Start, excluded: ExcludedMembers) -> Select[Any]:
    """Return the statement of a page, as `fetch_page` reads it."""
    table = table_of(Change).alias("change")
    ids = _first_ids(table, selection, start).subquery("ids")
    # The ids are few, but the planner does not know it: LATERAL with OFFSET 0 forces one look-up for each of them.
    row = select(*table.c).where(table.c.id == ids.c.id).offset(literal_column("0")).lateral("row")
    rows = select(*row.c).select_from(ids.join(row, true()))
    found = NEWEST_FIRST.limit_to_page(rows, row, start, replan=True).cte("found").prefix_with("MATERIALIZED")
    page = page_cte(found, NEWEST_FIRST, start)
    items = json_list(select_members(page, excluded).order_by(*NEWEST_FIRST.clauses(page)).subquery("d"))
    return page_result(found, page, items, NEWEST_FIRST)


@fast_statement(256)
def _count(condition: Condition) -> Select[Any]:
    table = table_of(Change).alias("change")
    return select(func.count().label("total")).select_from(table).where(condition(table))


@fast_statement(256)
def _export(selection: ChangeSelection, start: Start, excluded: ExcludedMembers, *, as_table: bool) -> Select[Any]:
    """Return the statement of the whole list, or of its part after the position, one row per change."""
    table = table_of(Change).alias("change")
    rows = select(*table.c).where(*selection.conditions(table), selection.ids_between(table.c.id, start))
    rows = rows.order_by(*NEWEST_FIRST.clauses(table)).limit(bindparam("limit", type_=BigInteger))
    # The limit is inside the subquery, so that rows are formatted one by one, for the limited ones only.
    limited = rows.offset(bindparam("offset", type_=BigInteger)).subquery("s")
    return cells_of_rows(limited, excluded) if as_table else documents_of_rows(select_members(limited, excluded))


def _first_ids(table: FromClause, selection: ChangeSelection, start: Start) -> Select[Any]:
    """Select the ids of the first changes, at least as many as the page needs."""
    key, filters = _leading_key(table, selection), selection.filters
    if "members" in filters and not key:
        return _first_with_member(table, selection, start)
    if "actor_id" in key or (filters & {"types", "actions"} and not key):
        return _first_by_type_and_action(table, selection, start, key)
    return _first_of_key(table, selection, start, key)


def _leading_key(table: FromClause, selection: ChangeSelection) -> Key:
    """Return the first columns of the index that has the fewest changes; none for the primary key."""
    if selection.object is not None:
        return {"type": (table.c.type, selection.object.type), "object": (table.c.object_id, selection.object.id)}
    if "object_id" in selection.filters:
        type_, object_id = bindparam("type", type_=String), bindparam("object_id", type_=BigInteger)
        return {"types": (table.c.type, type_), "object_id": (table.c.object_id, object_id)}
    if "code" in selection.filters:
        return {"code": (folded(table.c.object_code), code_key())}
    return {"actor_id": (table.c.actor_id, actor_key())} if "actor_id" in selection.filters else {}


def _first_of_key(source: FromClause, selection: ChangeSelection, start: Start, key: Key) -> Select[Any]:
    """Select the first ids of one key: the columns before `id` in an index, by the filter that each replaces.

    Row comparisons bound the scan of the index on all its columns. Equalities would remove these columns from the ORDER
    BY; the planner may then scan the whole primary key to find the few changes of a key.
    """
    columns, values = [column for column, _ in key.values()], [value for _, value in key.values()]
    if columns:
        lower, upper = selection.bounds(start)
        row = tuple_(*columns, source.c.id)
        between = and_(row > tuple_(*values, lower), row < tuple_(*values, upper))
    else:
        between = selection.ids_between(source.c.id, start)
    rows = select(source.c.id).where(between, *selection.conditions(source, indexed=frozenset(key)))
    return _limited(rows, [*columns, source.c.id], start)


def _first_by_type_and_action(table: FromClause, selection: ChangeSelection, start: Start, key: Key) -> Select[Any]:
    """Select the first ids of each type and action, which are few."""
    type_, action = _values("types"), _values("actions")
    whole_key = {**key, "actions": (table.c.action, action.c.value), "types": (table.c.type, type_.c.value)}
    branch = _first_of_key(table, selection, start, whole_key).lateral("branch")
    return select(branch.c.id).select_from(type_.join(action, true()).join(branch, true()))


def _values(name: str) -> FromClause:
    """Return the values of a parameter as rows."""
    values = func.unnest(bindparam(name, type_=ARRAY(String)))
    return values.table_valued(column("value", String)).render_derived(name=name)


def _first_with_member(table: FromClause, selection: ChangeSelection, start: Start) -> Select[Any]:
    """Select the first ids of changes with a member.

    If the member is frequent, the newest changes have enough of them. If not, the index on members has few of them, but
    not in the order of `id`.
    """
    newest = select(*table.c).where(selection.ids_between(table.c.id, start)).order_by(_in_order(table.c.id, start))
    window = newest.limit(literal_column(str(WINDOW))).subquery("window")
    found = select(window.c.id).where(*selection.conditions(window))
    frequent = _limited(found, [window.c.id], start).cte("frequent").prefix_with("MATERIALIZED")
    is_rare = select(func.count()).select_from(frequent).scalar_subquery() < _page_end()
    # The values of the index on members include type and action. `id + 0` and OFFSET 0 keep the planner from scanning
    # the primary key.
    conditions = selection.conditions(table, indexed=frozenset({"types", "actions", "members"}))
    between = selection.ids_between(table.c.id + literal_column("0"), start)
    matches = select(table.c.id).where(is_rare, has_member(table), between, *conditions)
    fenced = matches.offset(literal_column("0")).subquery("matches")
    rare = _limited(select(fenced.c.id), [fenced.c.id], start).subquery("rare")
    both = union(select(frequent.c.id), select(rare.c.id)).subquery("both")
    return select(both.c.id)


def _limited(rows: Select[Any], keys: Sequence[ColumnElement[Any]], start: Start) -> Select[Any]:
    return rows.order_by(*(_in_order(key, start) for key in keys)).limit(_page_end())


def _in_order(key: ColumnElement[Any], start: Start) -> ColumnElement[Any]:
    return key if start == "before" else key.desc()


def _page_end() -> ColumnElement[int]:
    limit, offset = (bindparam(name, type_=BigInteger) for name in ("limit", "offset"))
    return limit + offset + literal_column("1")
