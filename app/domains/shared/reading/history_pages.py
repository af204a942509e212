"""The lists of changes: of one object, and of all objects."""

from functools import cache, lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    Interval,
    Select,
    String,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    select,
)

from app.core.database import RegisterSession
from app.core.prepared import fast_statement
from app.domains.shared.history.models import Change
from app.domains.shared.history.record import constant
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.query.orders import Condition, Start
from app.domains.shared.query.pages import Listing, PageQuery, fetch_page, fetch_total
from app.domains.shared.reading.documents import by_id
from app.domains.shared.reading.json_text import json_list, utf8
from app.domains.shared.reading.page_rows import NEWEST_FIRST, page_cte, page_result

# The changes of one user or of one collection are read from the index whose leading column is one of these.
_LEADING = ("actor_id", "type")


async def page_of_changes(
    session: RegisterSession, condition: Condition, query: PageQuery, leading: str | None = None, **values: Any
) -> Listing:
    """Return one page of the changes that a condition selects, the newest first.

    `leading` is the leading column of the index to use, if any; the condition must select one value of it.
    """
    return await fetch_page(session, _page(condition, query.start, leading), _count(condition), query, values)


@fast_statement()
def all_changes() -> Select[Any]:
    """Return the statement of the whole history, the oldest change first; each row has a `body`."""
    table = table_of(Change).alias("change")
    row = _select_members(table).order_by(table.c.id).subquery("d")
    return select(utf8(func.row_to_json(row.table_valued())).label("body"))


async def has_changes(session: RegisterSession, condition: Condition, **values: Any) -> bool:
    """Return whether a condition selects at least one change."""
    return bool(await fetch_total(session, _count(condition), values))


@cache
def changes_of(model: type[RegisterObject], condition: Condition) -> Condition:
    """Return the condition of the changes of the object that `condition` selects by its parameter `key`.

    With `by_id` the object may have been deleted.
    """

    def is_of_object(source: FromClause) -> ColumnElement[bool]:
        object_id: ColumnElement[Any] = bindparam("key", type_=BigInteger)
        if condition is not by_id:
            table = table_of(model).alias("named")
            object_id = select(table.c.id).where(condition(table)).scalar_subquery()
        return and_(source.c.type == constant(model.__tablename__), source.c.object_id == object_id)

    return is_of_object


def leading_column(filters: frozenset[str]) -> str | None:
    """Return the leading column of the index that serves a list with these filters, or None for the primary key."""
    if "object_id" in filters:
        return None  # an object has few changes, and `ix_changes_object` finds them
    return next((name for name in _LEADING if name in filters), None)


@lru_cache(maxsize=256)
def changes_where(filters: frozenset[str], types: frozenset[str]) -> Condition:
    """Return the condition of the changes of `types` that match the named filters.

    Each filter is a parameter of the same name.
    """
    leading = leading_column(filters)

    def matches(source: FromClause) -> ColumnElement[bool]:
        operands: dict[str, ColumnElement[Any]] = {
            "type": bindparam("type", type_=String),
            "object_id": bindparam("object_id", type_=BigInteger),
            "actor_id": bindparam("actor_id", type_=BigInteger),
        }
        conditions: list[ColumnElement[bool]] = []
        for name, value in operands.items():
            if name == leading:
                # A range of one value: with an equality the planner drops the column from the ORDER BY, and may then
                # scan the whole primary key backwards to find the few changes of a user.
                conditions.append(source.c[name].between(value, value))
            elif name in filters:
                conditions.append(source.c[name] == value)
        if "since" in filters:
            conditions += _since(source)
        if "before_id" in filters:
            conditions.append(source.c.id < bindparam("before_id", type_=BigInteger))
        if "type" not in filters:
            conditions.append(
                source.c.type.in_([constant(name) for name in sorted(types)]) if types else literal_column("false")
            )
        return and_(literal_column("true"), *conditions)

    return matches


def _since(source: FromClause) -> list[ColumnElement[bool]]:
    since = bindparam("since", type_=DateTime(timezone=True))
    # `at` is the start of the transaction that assigned the id. As no transaction takes a day, a change more than a day
    # before `since` has a smaller id than every change since then: this lower bound ends the backward scan of the
    # primary key.
    older = table_of(Change).alias("older")
    newest = select(older.c.id).where(older.c.at < since - literal_column("interval '1 day'", Interval))
    last_id = newest.order_by(older.c.at.desc(), older.c.id.desc()).limit(literal_column("1")).scalar_subquery()
    return [source.c.at >= since, source.c.id > func.coalesce(last_id, literal_column("0"))]


@fast_statement(256)
def _page(condition: Condition, start: Start, leading: str | None = None) -> Select[Any]:
    """Return the statement of a page, as `fetch_page` reads it."""
    table = table_of(Change).alias("change")
    rows = NEWEST_FIRST.select_matching(table, condition, start)
    if leading is not None:
        leading_key = table.c[leading]
        rows = rows.order_by(leading_key if start == "before" else leading_key.desc())
    found = NEWEST_FIRST.limit_to_page(rows, table, start, replan=True).cte("found").prefix_with("MATERIALIZED")
    page = page_cte(found, NEWEST_FIRST, start)
    items = json_list(_select_members(page).order_by(*NEWEST_FIRST.clauses(page)).subquery("d"))
    return page_result(found, page, items, NEWEST_FIRST)


def _select_members(source: FromClause) -> Select[Any]:
    """Select the members of `ChangeRead`."""
    actor = func.json_build_object(constant("id"), source.c.actor_id, constant("name"), source.c.actor_name)
    item = func.json_build_object(
        *(constant("id"), source.c.object_id),
        *(constant("code"), source.c.object_code),
        *(constant("name"), source.c.object_name),
    )
    return select(
        source.c.id,
        source.c.at,
        case((source.c.actor_id.is_not(None), actor)).label("actor"),
        source.c.request_id,
        source.c.message,
        source.c.type,
        item.label("object"),
        source.c.action,
        source.c.before,
        source.c.after,
    )


@fast_statement(256)
def _count(condition: Condition) -> Select[Any]:
    table = table_of(Change).alias("change")
    return select(func.count().label("total")).select_from(table).where(condition(table))
