"""The parts that the statements of all pages have in common."""

from typing import Any

from sqlalchemy import CTE, ColumnElement, Select, Text, cast, func, literal_column, select

from app.domains.shared.query.orders import OBJECT_SORTS, Order, Start, opaque_parameter
from app.domains.shared.query.pages import ListDeclaration

# The order of the lists that are not collections.
NEWEST_FIRST = Order("-id", ListDeclaration((), OBJECT_SORTS))


def page_cte(found: CTE, order: Order, start: Start) -> CTE:
    """Return the rows of a page; `found` has these, and one more if more follow."""
    rows = select(found).order_by(*order.clauses(found, backwards=start == "before"))
    return rows.limit(opaque_parameter("limit")).cte("page").prefix_with("MATERIALIZED")


def page_result(found: CTE, page: CTE, items: ColumnElement[bytes], order: Order) -> Select[Any]:
    """Return the statement of a page, as `fetch_page` reads it."""
    count = select(func.count()).select_from(found).scalar_subquery()
    return select(count.label("rows"), items.label("items"), _edges(page, order).label("edges"))


def _edges(page: CTE, order: Order) -> ColumnElement[str]:
    """Return the JSON text of the sort keys, as texts, of the first and the last row; null for both without rows."""
    keys = func.json_build_array(*(cast(key, Text) for key in order.keys(page)))
    first, last = (
        select(keys).select_from(page).order_by(*order.clauses(page, backwards=backwards)).limit(literal_column("1"))
        for backwards in (False, True)
    )
    edges = func.json_build_array(first.scalar_subquery(), last.scalar_subquery())
    return cast(edges, Text)
