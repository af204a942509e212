"""The query parameters of lists as dependencies of routes, and the URLs of the next and the previous page."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote, urlencode

from fastapi import Depends, Request
from pydantic import BaseModel

from app.core.http.query_models import QueryModel, query_of
from app.domains.shared.query.formats import negotiate_format, require_json
from app.domains.shared.query.pages import (
    ExportQuery,
    Listing,
    Origin,
    PageQuery,
    Position,
)
from app.domains.shared.query.representations import RepresentationQuery, representation_query
from app.utils.exceptions import BadRequest, Fault

# Without escapes: an escaped character would take up to twelve bytes of the cursor instead of four.
_encode_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

Q = TypeVar("Q", bound=PageQuery)
M = TypeVar("M", bound=BaseModel)


class ListParameters(QueryModel[Q]):
    """A dependency that validates the parameters of a list, opens its cursor and negotiates the format."""

    async def __call__(self, request: Request) -> Q:
        """Return the parameters.

        Raises `BadRequest` if the cursor belongs to another list, and `NotAcceptable` if the client accepts no format.
        """
        query = await super().__call__(request)
        state, scope = request.app.state, request.scope
        query.set_origin(Origin(scope["path"], state.tokens, state.streams, scope["state"].get("head", False)))
        if isinstance(query, ExportQuery):
            query.set_format(negotiate_format(request))
        else:
            require_json(request)
        _read_cursor(query)
        return query


def list_parameters(model: type[Q]) -> ListParameters[Q]:
    """Return the dependency that validates the parameters of a list; see `ListParameters`."""
    return ListParameters(model)


class JsonParameters(QueryModel[M]):
    """A dependency that validates the parameters of a route whose responses are JSON."""

    async def __call__(self, request: Request) -> M:
        """Return the parameters. Raises `NotAcceptable` if the client does not accept JSON."""
        query = await super().__call__(request)
        require_json(request)
        return query


def representation_parameters(schema: type[BaseModel]) -> QueryModel[RepresentationQuery]:
    """Return the dependency that validates `fields` and `embed` for a schema."""
    return query_of(representation_query(f"{schema.__name__}Representation", schema))


PageParameters = Annotated[PageQuery, Depends(list_parameters(PageQuery))]


def page_urls(listing: Listing, query: PageQuery) -> dict[str, str | None]:
    """Return the relative URLs of the `next` and the `prev` page, None if there is no such page."""
    return {"next": _cursor_url(listing, query, "after"), "prev": _cursor_url(listing, query, "before")}


def _read_cursor(query: PageQuery) -> None:
    """Set the position of a query from its cursor. Raises `BadRequest` if the cursor belongs to another list."""
    if query.cursor is None:
        return
    payload = query.origin.tokens.unseal(query.cursor, _cursor_binding(query))
    if payload is None:
        fault = Fault.of("/cursor", "bad_cursor", source="query")
        raise BadRequest(fault.detail, errors=[fault])
    start, *keys = json.loads(payload)
    query.set_position(Position(start, tuple(keys)))


def _cursor_url(listing: Listing, query: PageQuery, start: Literal["after", "before"]) -> str | None:
    position = query.position
    direction = "after" if position is None else position.start
    # Against the direction of reading, there is a page if this one was reached by a cursor or an offset.
    has_page = listing.has_more if start == direction else position is not None or query.offset > 0
    if not has_page:
        return None
    if listing.edges is None:
        # An empty page has no row for a cursor. `next` restarts at the beginning: no row precedes a page that was read
        # backwards. `prev` uses the `offset`, if any: the row before the cursor may have been deleted.
        return _url(query) if start == "after" else _prev_url(query)
    keys = listing.edges[1] if start == "after" else listing.edges[0]
    return _url(query, cursor=query.origin.tokens.seal(_encode_json([start, *keys]), _cursor_binding(query)))


def _cursor_binding(query: PageQuery) -> str:
    """Return the text that a cursor is bound to: the path of the list, its order and its filters."""
    # These parameters do not change the position of an object.
    excluded = {"cursor", "limit", "offset", "count", "fields", "embed", "csv"}
    parameters = query.model_dump(mode="json", exclude_defaults=True, exclude=excluded)
    # The order of the values of one parameter does not matter. References are integers or texts.
    binding = {name: sorted(value, key=str) if isinstance(value, list) else value for name, value in parameters.items()}
    return f"{query.origin.path}?{urlencode(sorted(binding.items()), doseq=True)}"


def _prev_url(query: PageQuery) -> str | None:
    limit = min(query.limit, query.offset)  # shortened, so that it does not overlap this page
    return _url(query, limit=limit, offset=query.offset - limit) if query.offset else None


def _url(query: PageQuery, **changes: int | str) -> str:
    parameters = query.model_dump(mode="json", exclude_defaults=True, exclude={"offset", "cursor"}) | changes
    return url_of(query.origin.path, parameters)


def url_of(path: str, parameters: Mapping[str, Any]) -> str:
    """Return the relative URL of a path with these parameters, spelt as clients spell them."""
    spelt = {name: str(value).lower() if isinstance(value, bool) else value for name, value in parameters.items()}
    return quote(path) + (f"?{urlencode(spelt, doseq=True)}" if spelt else "")
