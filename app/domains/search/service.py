"""Search in all collections."""

import json
from typing import Any

from sqlalchemy import (
    FromClause,
    Integer,
    Select,
    Text,
    case,
    cast,
    exists,
    func,
    literal_column,
    select,
    union_all,
)

from app.core.permissions import Scope
from app.core.prepared import fast_statement
from app.core.request_service import RequestService
from app.domains.collections import COLLECTIONS
from app.domains.search.schemas import TYPES, SearchQuery, SearchType
from app.domains.search.snippets import MAX_SEARCHED_LENGTH, snippet
from app.domains.shared.models import Base
from app.domains.shared.query.orders import Start, opaque_parameter
from app.domains.shared.query.pages import Listing, Position, fetch_page
from app.domains.shared.query.ranking import ranked_ids, rows_by_id
from app.domains.shared.query.search import SIMILAR, matches_search, query_words
from app.domains.shared.references import MAX_ID

READ_SCOPES: dict[SearchType, Scope] = {entry.name: entry.scope_to_read for entry in COLLECTIONS}

# The first rank that considers the description; better ones consider code and name only.
_DESCRIPTION_RANK = 4


class SearchService(RequestService):
    """Searches all collections that the caller may read."""

    async def page(self, query: SearchQuery) -> Listing:
        """Return one page of matches, the best first. Raises `Forbidden` if `type` names an unreadable collection."""
        for name in query.type or ():
            self.caller.require(READ_SCOPES[name])
        requested = query.type or TYPES
        types = tuple(name for name in TYPES if name in requested and READ_SCOPES[name] in self.caller.scopes)
        if not types:
            return Listing(b"[]", 0 if query.count else None, has_more=False)
        values: dict[str, Any] = {"filter_q": query.q, "readable": self.caller.readable}
        if query.position:
            values |= _positions(types, query.position)
        listing = await fetch_page(self.session, _page(types, query.start), _count(types), query, values)
        return Listing(_items(listing.items), listing.total, listing.has_more, listing.edges)


def _positions(types: tuple[SearchType, ...], position: Position) -> dict[str, str]:
    """Return the position in each collection. The order of the whole list is rank, type, id."""
    rank, type_index, id_ = position.keys
    values: dict[str, str] = {}
    for name in types:
        distance = TYPES.index(name) - int(type_index)
        # Within the rank of the cursor, earlier types lie wholly before the position, and later ones wholly after it.
        position_id = id_ if distance == 0 else str(MAX_ID) if distance < 0 else "0"
        values |= {f"key_0_{name}": rank, f"key_1_{name}": position_id}
    return values


def _items(result: bytes) -> bytes:
    page = json.loads(result)
    items = [
        {
            "type": TYPES[row["type"]],
            "object": {"id": row["id"], "code": row["code"], "name": row["name"]},
            "rank": row["rank"],
            "snippet": _snippet(row, page["words"] or ""),
        }
        for row in page["rows"]
    ]
    return json.dumps(items, ensure_ascii=False, separators=(",", ":")).encode()


def _snippet(row: dict[str, Any], words: str) -> list[dict[str, str | bool]]:
    for text in filter(None, (row["description"], row["name"], row["code"])):
        parts = snippet(text, words)
        if any(part["match"] for part in parts):
            return parts
    return snippet(row["name"], words)


@fast_statement()
def _page(types: tuple[SearchType, ...], start: Start) -> Select[Any]:
    """Return the statement of a page: `rows`, `items` together with the words of the query, and `edges`."""
    backwards = start == "before"
    limit, offset = opaque_parameter("limit"), opaque_parameter("offset")
    parts = union_all(*(_ranked_rows(name, start) for name in types)).subquery("parts")
    order = [parts.c.rank, parts.c.type, parts.c.id]
    query = select(*parts.c).order_by(*(key.desc() if backwards else key for key in order))
    found = query.limit(limit + literal_column("1")).offset(offset).cte("found").prefix_with("MATERIALIZED")
    keys = [found.c.rank, found.c.type, found.c.id]
    limited = select(found).order_by(*(key.desc() if backwards else key for key in keys)).limit(limit)
    page = limited.cte("page").prefix_with("MATERIALIZED")
    order = [page.c.rank, page.c.type, page.c.id]
    rows = select(*page.c).order_by(*order).subquery("d")
    items = func.coalesce(func.json_agg(rows.table_valued()), literal_column("'[]'::json"))
    similar = exists(select(page.c.id).where(page.c.rank == literal_column(str(SIMILAR))))
    body = func.json_build_object(
        *(literal_column("'words'"), query_words(tolerant=similar)),
        *(literal_column("'rows'"), select(items).select_from(rows).scalar_subquery()),
    )
    first, last = (
        select(func.json_build_array(*(cast(key, Text) for key in order)))
        .order_by(*(key.desc() if backwards else key for key in order))
        .limit(literal_column("1"))
        .scalar_subquery()
        for backwards in (False, True)
    )
    return select(
        select(func.count()).select_from(found).scalar_subquery().label("rows"),
        func.convert_to(cast(body, Text), literal_column("'UTF8'")).label("items"),
        cast(func.json_build_array(first, last), Text).label("edges"),
    )


def _ranked_rows(name: SearchType, start: Start) -> Any:
    source = _table(name)
    rows = rows_by_id(source, ranked_ids(source, None, start, f"_{name}"))
    by_description = rows.c.rank >= literal_column(str(_DESCRIPTION_RANK))
    description = func.left(rows.c.description, literal_column(str(MAX_SEARCHED_LENGTH)))
    return select(
        literal_column(str(TYPES.index(name)), Integer).label("type"),
        rows.c.id,
        rows.c.code,
        rows.c.name,
        rows.c.rank,
        case((by_description, description)).label("description"),
    )


@fast_statement()
def _count(types: tuple[SearchType, ...]) -> Select[Any]:
    counts = []
    for name in types:
        source = _table(name)
        counts.append(select(func.count()).select_from(source).where(matches_search(source)).scalar_subquery())
    return select(sum(counts[1:], start=counts[0]).label("total"))


def _table(name: SearchType) -> FromClause:
    return Base.metadata.tables[name].alias(f"o_{name}")
