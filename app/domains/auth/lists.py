"""The lists of sessions and of API tokens."""

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, FromClause, Select, and_, bindparam, func, literal_column, select

from app.core.prepared import fast_statement
from app.domains.auth.models import ApiToken
from app.domains.auth.schemas import ApiTokenRead, SessionRead
from app.domains.shared.models import table_of
from app.domains.shared.query.orders import Start
from app.domains.shared.reading.documents import Documents
from app.domains.shared.reading.json_text import json_list
from app.domains.shared.reading.page_rows import NEWEST_FIRST, page_cte, page_result
from app.domains.user.sessions import Session

API_TOKENS = Documents(ApiTokenRead, ApiToken)


def by_user(source: FromClause) -> ColumnElement[bool]:
    """Return the condition that a row belongs to the user in the parameter `user_id`."""
    return source.c.user_id == bindparam("user_id", type_=BigInteger)


def any_user(_source: FromClause) -> ColumnElement[bool]:
    return literal_column("true")


@fast_statement()
def page_of_sessions(start: Start) -> Select[Any]:
    """Return the statement of a page of the live sessions of one user; `current` is the one in `session_id`."""
    found = (
        NEWEST_FIRST.page(table_of(Session).alias("session"), _is_live, start).cte("found").prefix_with("MATERIALIZED")
    )
    page = page_cte(found, NEWEST_FIRST, start)
    current = (page.c.id == bindparam("session_id", type_=BigInteger)).label("current")
    shown = [current if name == "current" else page.c[name] for name in SessionRead.model_fields]
    items = json_list(select(*shown).order_by(*NEWEST_FIRST.clauses(page)).subquery("d"))
    return page_result(found, page, items, NEWEST_FIRST)


@fast_statement()
def count_of_sessions() -> Select[Any]:
    table = table_of(Session).alias("session")
    return select(func.count().label("total")).select_from(table).where(_is_live(table))


def _is_live(source: FromClause) -> ColumnElement[bool]:
    return and_(by_user(source), source.c.expires_at > func.now())
