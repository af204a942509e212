"""The lists of changes: of one object, and of all."""

from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Executable,
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
from app.core.prepared import Prepared, prepare
from app.domains.shared.history.models import Change
from app.domains.shared.history.record import constant
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.query.orders import Condition
from app.domains.shared.query.pages import Listing, PageQuery, execute_page
from app.domains.shared.reading.documents import by_id
from app.domains.shared.reading.json_text import json_list, utf8

# The lists of one person's or one collection's changes are read from the index of that column.
_LEADING = ("actor_id", "type")


async def page_of_changes(
    session: RegisterSession, condition: Condition, query: PageQuery, leading: str | None = None, **values: Any
) -> Listing:
    """Return one page of the changes that a condition selects, the newest first.

    `leading` is the column, if any, of which the condition selects one value.
    """
    return await execute_page(session, _page(condition, leading), _count(condition), query, values)


@cache
def all_changes() -> Prepared:
    """Return the statement of the whole history, the oldest change first: one `body` a change."""
    table = table_of(Change).alias("change")
    row = _shown(table).order_by(table.c.id).subquery("d")
    return prepare(select(utf8(func.row_to_json(row.table_valued())).label("body")))


async def has_changes(session: RegisterSession, condition: Condition, **values: Any) -> bool:
    """Return whether a condition selects any change."""
    return bool(await session.scalar(_count(condition), values))


@cache
def changes_of(model: type[RegisterObject], condition: Condition) -> Condition:
    """Return the condition of the changes of the object that `condition` selects by its parameter `key`.

    By its id, the object may be gone.
    """

    def is_of_object(source: FromClause) -> ColumnElement[bool]:
        object_id: ColumnElement[Any] = bindparam("key", type_=BigInteger)
        if condition is not by_id:
            table = table_of(model).alias("named")
            object_id = select(table.c.id).where(condition(table)).scalar_subquery()
        return and_(source.c.type == constant(model.__tablename__), source.c.object_id == object_id)

    return is_of_object


def leading_column(filters: frozenset[str]) -> str | None:
    """Return the column that leads the list with these filters."""
    if "object_id" in filters:
        return None  # few changes, which have an index of their own
    return next((name for name in _LEADING if name in filters), None)


@cache
def changes_where(filters: frozenset[str], types: frozenset[str]) -> Condition:
    """Return the condition of the changes of `types` for which the named filters hold.

    The values of the filters are its parameters.
    """
    leading = leading_column(filters)

    def holds(source: FromClause) -> ColumnElement[bool]:
        known: dict[str, ColumnElement[Any]] = {
            "type": bindparam("type", type_=String),
            "object_id": bindparam("object_id", type_=BigInteger),
            "actor_id": bindparam("actor_id", type_=BigInteger),
        }
        conditions: list[ColumnElement[bool]] = []
        for name, value in known.items():
            if name == leading:
                # A range of one value: of an equality PostgreSQL knows that it does not matter to the order, and may
                # then walk the whole table by its key to find the changes of somebody who made few.
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

    return holds


def _since(source: FromClause) -> list[ColumnElement[bool]]:
    since = bindparam("since", type_=DateTime(timezone=True))
    # Ids are given within a transaction, whose beginning `at` is. So what was made a day before has a lesser id than
    # anything that is asked for, as long as no transaction takes a day: the list is read by its key, and ends there.
    older = table_of(Change).alias("older")
    newest = select(older.c.id).where(older.c.at < since - literal_column("interval '1 day'", Interval))
    last = newest.order_by(older.c.at.desc(), older.c.id.desc()).limit(literal_column("1")).scalar_subquery()
    return [source.c.at >= since, source.c.id > func.coalesce(last, literal_column("0"))]


@cache
def _page(condition: Condition, leading: str | None) -> Executable:
    """Return the statement of a page: `rows` (one more than `limit` when more follow) and `items`."""
    table = table_of(Change).alias("change")
    limit = bindparam("limit", type_=BigInteger)
    order = [table.c.id.desc()] if leading is None else [table.c[leading].desc(), table.c.id.desc()]
    query = select(*table.c).where(condition(table)).order_by(*order).limit(limit + literal_column("1"))
    page = query.offset(bindparam("offset", type_=BigInteger)).cte("page").prefix_with("MATERIALIZED")
    rows = _shown(page)
    shown = rows.order_by(page.c.id.desc()).limit(limit).subquery("d")
    count = select(func.count()).select_from(page).scalar_subquery()
    return select(count.label("rows"), json_list(shown).label("items"))


def _shown(source: FromClause) -> Select[Any]:
    """Return the changes as their schema has them."""
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


@cache
def _count(condition: Condition) -> Executable:
    table = table_of(Change).alias("change")
    return select(func.count().label("total")).select_from(table).where(condition(table))
