"""The query strings of lists as dependencies of routes, and the addresses of the pages before and after one."""

import json
from typing import Annotated, Literal, TypeVar
from urllib.parse import quote, urlencode

from fastapi import Depends, Request
from pydantic import BaseModel

from app.core.http.query_models import QueryModel, query_of
from app.domains.shared.query.formats import wanted_format
from app.domains.shared.query.pages import (
    MAX_OFFSET,
    CursorQuery,
    Listing,
    ListQuery,
    Origin,
    PageQuery,
    Position,
)
from app.domains.shared.query.representations import RepresentationQuery, representation_query
from app.utils.exceptions import BadRequest, Fault

# In a cursor an escaped letter would take up to twelve bytes instead of four.
_unescaped = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

Q = TypeVar("Q", bound=PageQuery)


class ListParameters(QueryModel[Q]):
    """A dependency that validates the parameters of a list, and reads its cursor and the wanted format."""

    async def __call__(self, request: Request) -> Q:
        """Return the parameters. Raises `BadRequest` for a cursor of another list, and `NotAcceptable`."""
        query = await super().__call__(request)
        state, scope = request.app.state, request.scope
        query.come_from(Origin(scope["path"], state.tokens, state.streams, scope["state"].get("head", False)))
        if isinstance(query, ListQuery):
            query.send_as(wanted_format(request))
        if isinstance(query, CursorQuery):
            _read_cursor(query)
        return query


def list_parameters(model: type[Q]) -> ListParameters[Q]:
    """Return the dependency that validates the parameters of a list; see `ListParameters`."""
    return ListParameters(model)


def representation_parameters(schema: type[BaseModel]) -> QueryModel[RepresentationQuery]:
    """Return the dependency that validates the parameters which choose among the members of a schema."""
    return query_of(representation_query(f"{schema.__name__}Representation", schema))


PageParameters = Annotated[PageQuery, Depends(list_parameters(PageQuery))]


def page_urls(listing: Listing, query: PageQuery) -> dict[str, str | None]:
    """Return the addresses of the `next` and the `prev` page, None where there is none."""
    if isinstance(query, CursorQuery):
        return {"next": _cursor_url(listing, query, "after"), "prev": _cursor_url(listing, query, "before")}
    return {"next": _next_url(listing, query), "prev": _prev_url(query)}


def _read_cursor(query: CursorQuery) -> None:
    """Tell a query where its cursor goes on. Raises `BadRequest` for a cursor of another list."""
    if query.cursor is None:
        return
    sealed = query.origin.tokens.unseal(query.cursor, _bound_to(query))
    if sealed is None:
        detail = "The cursor is not one of this list with this order: take it from `next` or `prev`."
        raise BadRequest(detail, errors=[Fault("/cursor", "bad_cursor", detail, "query")])
    start, *keys = json.loads(sealed)
    query.go_on_at(Position(start, tuple(keys)))


def _cursor_url(listing: Listing, query: CursorQuery, start: Literal["after", "before"]) -> str | None:
    position = query.position
    here = "after" if position is None else position.start
    # In the direction of reading the page tells whether more follow; in the other one there is what we came from.
    follows = listing.more if start == here else position is not None or query.offset > 0
    if not follows:
        return None
    if listing.edges is None:
        # There is no row to go on from. Before an empty page that was read backwards there is nothing; of one that was
        # read forwards nobody knows whether the row before it is still there.
        return _url(query) if start == "after" else _prev_url(query)
    keys = listing.edges[1] if start == "after" else listing.edges[0]
    return _url(query, cursor=query.origin.tokens.seal(_unescaped([start, *keys]), _bound_to(query)))


def _bound_to(query: CursorQuery) -> str:
    """Return what a cursor is bound to: the list, its order and its filters."""
    # What is shown of each object changes nothing in where it stands.
    unbound = {"cursor", "limit", "offset", "count", "fields", "embed", "csv"}
    parameters = query.model_dump(mode="json", exclude_defaults=True, exclude=unbound)
    # One of several values given is the same in any order.
    bound = {name: sorted(value) if isinstance(value, list) else value for name, value in parameters.items()}
    return f"{query.origin.path}?{urlencode(sorted(bound.items()), doseq=True)}"


def _next_url(listing: Listing, query: PageQuery) -> str | None:
    offset = query.offset + query.limit
    return _url(query, offset=offset) if listing.more and offset <= MAX_OFFSET else None


def _prev_url(query: PageQuery) -> str | None:
    limit = min(query.limit, query.offset)  # a page that would reach into this one is cut
    return _url(query, limit=limit, offset=query.offset - limit) if query.offset else None


def _url(query: PageQuery, **changes: int | str) -> str:
    parameters = query.model_dump(mode="json", exclude_defaults=True, exclude={"offset", "cursor"}) | changes
    query_string = urlencode(parameters, doseq=True)
    return quote(query.origin.path) + (f"?{query_string}" if query_string else "")
