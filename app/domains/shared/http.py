"""The parts of HTTP that all collections share: parameters and answers."""

import json
import re
from enum import Enum
from typing import Annotated, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator

from app.core.query_models import QueryModel, query_of
from app.core.tokens import Tokens
from app.domains.shared.documents import Document
from app.domains.shared.etags import names_representation
from app.domains.shared.exports import Export, exported, wanted_format
from app.domains.shared.filters import Digits
from app.domains.shared.idempotency import RepeatableRoute
from app.domains.shared.lists import LARGEST_OFFSET, CursorQuery, Listing, ListQuery, PageQuery, Position
from app.domains.shared.references import REFERENCE_PATTERN
from app.domains.shared.representations import RepresentationQuery, representation_query
from app.domains.shared.responses import ANYWHERE, problems
from app.domains.shared.schemas import LARGEST_ID
from app.domains.shared.trees import DEEPEST, Subtree
from app.utils.exceptions import (
    BadRequest,
    Fault,
    NotFound,
    ServiceUnavailable,
)

API = "/api/v1"
JSON = "application/json"
LONGEST_LINK = 8192

# `json.dumps` with separators makes an encoder at each call.
compact = json.JSONEncoder(separators=(",", ":")).encode
# In a cursor an escaped letter would take up to twelve bytes instead of four.
_unescaped = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

Reference = Annotated[
    str,
    # What does not fit the pattern can name nothing, so it is not found, not invalid.
    Path(
        description="`id`, or `code:` and the code.",
        openapi_examples={"id": {"summary": "By id", "value": "1"}},
        json_schema_extra={"pattern": REFERENCE_PATTERN},
    ),
]


def _number(text: str) -> int:
    """Return the `id` in a path. Raises `NotFound` for what can be none, so also for numbers beyond 64 bits."""
    if re.fullmatch("[0-9]{1,19}", text) and 1 <= int(text) <= LARGEST_ID:
        return int(text)
    raise NotFound("There is nothing with such an id.")


# For what has no code.
Number = Annotated[
    int,
    BeforeValidator(_number),
    Path(ge=1, le=LARGEST_ID, description="`id`.", openapi_examples={"id": {"summary": "By id", "value": 1}}),
]


class ListParameters(QueryModel[ListQuery]):
    """A dependency that validates the parameters of a list, and reads its cursor and the wanted format."""

    async def __call__(self, request: Request) -> ListQuery:
        """Return the parameters. Raises `BadRequest` for a cursor of another list, and `NotAcceptable`."""
        query = await super().__call__(request)
        query.send_as(wanted_format(request))
        read_cursor(query, request)
        return query


def read_cursor(query: CursorQuery, request: Request) -> None:
    """Tell a query where its cursor goes on. Raises `BadRequest` for a cursor of another list."""
    if query.cursor is None:
        return
    tokens: Tokens = request.app.state.tokens
    sealed = tokens.unseal(query.cursor, _list_of(query, request))
    if sealed is None:
        detail = "The cursor is not one of this list with this order: take it from `next` or `prev`."
        raise BadRequest(detail, errors=[Fault("/cursor", "bad_cursor", detail, "query")])
    start, *keys = json.loads(sealed)
    query.go_on_at(Position(start, tuple(keys)))


def list_parameters(model: type[ListQuery]) -> ListParameters:
    """Return the dependency that validates the parameters of a list; see `ListParameters`."""
    return ListParameters(model)


def representation_parameters(schema: type[BaseModel]) -> QueryModel[RepresentationQuery]:
    """Return the dependency that validates the parameters which choose among the members of a schema."""
    return query_of(representation_query(f"{schema.__name__}Representation", schema))


PageParameters = Annotated[PageQuery, Depends(query_of(PageQuery))]
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="Write only if the object still has the version of this `ETag`; else 412."),
]
IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", description="An `ETag` you have: 304 if nothing has changed since.")
]
Depth = Annotated[int, Query(ge=0, le=DEEPEST, description="Levels to go down."), Digits]


def api_router(prefix: str = "", tags: list[str | Enum] | None = None) -> APIRouter:
    """Return a router below `/api/v1`; operations are named after their handlers."""
    return APIRouter(
        prefix=API + prefix,
        tags=tags,
        route_class=RepeatableRoute,
        generate_unique_id_function=_operation_id,
        responses=ANYWHERE | problems(BadRequest, ServiceUnavailable),
    )


def collection_router(name: str) -> APIRouter:
    """Return the router of a collection."""
    return api_router(f"/{name}", [name])


def _operation_id(route: APIRoute) -> str:
    return route.name


def found(document: Document, if_none_match: str | None) -> Response:
    """Answer a GET with the document, or 304 when the client has these very bytes."""
    headers = {"ETag": document.etag}
    if if_none_match is not None and names_representation(if_none_match, document.etag):
        return Response(status_code=304, headers=headers)
    return Response(document.body, headers=headers, media_type=JSON)


def created(document: Document, request: Request) -> Response:
    """Answer a POST with the new document and its address."""
    # Not the path of the request: a route also matches with a line break at its end, which no header may hold.
    headers = {"ETag": document.etag, "Location": f"{request.scope['route'].path}/{document.id}"}
    return Response(document.body, 201, headers, JSON)


def written(document: Document) -> Response:
    """Answer a PUT or PATCH with the document as it is now."""
    return Response(document.body, headers={"ETag": document.etag}, media_type=JSON)


def no_content() -> Response:
    """Answer a write that has nothing to show."""
    return Response(status_code=204)


def listed(listing: Listing, query: PageQuery, request: Request) -> Response:
    """Answer a list with its envelope and its `Link` header."""
    if isinstance(query, CursorQuery):
        urls = {"next": _cursor(listing, query, request, "after"), "prev": _cursor(listing, query, request, "before")}
    else:
        urls = {"next": _next(listing, query, request), "prev": _prev(query, request)}
    links = [f'<{url}>; rel="{name}"' for name, url in urls.items() if url]
    # Each repeats the filters of the address, and clients and proxies do not take headers of any length.
    while len(link := ", ".join(links)) > LONGEST_LINK:
        links.pop()
    tail = compact({**urls, "total": listing.total}).encode()
    body = b'{"items":' + listing.items + b"," + tail[1:]
    return Response(body, headers={"Link": link} if link else None, media_type=JSON)


async def sent(found: Listing | Export, query: ListQuery, request: Request) -> Response:
    """Answer a list in the form that the client accepts."""
    if isinstance(found, Export):
        return await exported(found, request)
    response = listed(found, query, request)
    response.headers["Vary"] = "Accept"
    return response


def walked(subtree: Subtree) -> Response:
    """Answer with the nodes of a tree."""
    truncated = b"true" if subtree.truncated else b"false"
    return Response(b'{"items":' + subtree.items + b',"truncated":' + truncated + b"}", media_type=JSON)


def ancestors(items: bytes) -> Response:
    """Answer with the objects above one."""
    return Response(b'{"items":' + items + b"}", media_type=JSON)


def _cursor(listing: Listing, query: CursorQuery, request: Request, start: Literal["after", "before"]) -> str | None:
    """Return the URL of the page after or before this one, or None at the end of the list."""
    position = query.position
    here = "after" if position is None else position.start
    # In the direction of reading the page tells whether more follow; in the other one there is what we came from.
    follows = listing.more if start == here else position is not None or query.offset > 0
    if not follows:
        return None
    if listing.edges is None:
        # There is no row to go on from. Before an empty page that was read backwards there is nothing; of one that was
        # read forwards nobody knows whether the row before it is still there.
        return _url(query, request) if start == "after" else _prev(query, request)
    keys = listing.edges[1] if start == "after" else listing.edges[0]
    tokens: Tokens = request.app.state.tokens
    sealed = _unescaped([start, *keys])
    return _url(query, request, cursor=tokens.seal(sealed, _list_of(query, request)))


def _list_of(query: CursorQuery, request: Request) -> str:
    """Return what a cursor is bound to: the list, its order and its filters."""
    # What is shown of each object changes nothing in where it stands.
    unbound = {"cursor", "limit", "offset", "count", "fields", "embed", "csv"}
    parameters = query.model_dump(mode="json", exclude_defaults=True, exclude=unbound)
    # One of several values given is the same in any order.
    bound = {name: sorted(value) if isinstance(value, list) else value for name, value in parameters.items()}
    return f"{request.scope['path']}?{urlencode(sorted(bound.items()), doseq=True)}"


def _next(listing: Listing, query: PageQuery, request: Request) -> str | None:
    offset = query.offset + query.limit
    return _url(query, request, offset=offset) if listing.more and offset <= LARGEST_OFFSET else None


def _prev(query: PageQuery, request: Request) -> str | None:
    limit = min(query.limit, query.offset)  # a page that would reach into this one is cut
    return _url(query, request, limit=limit, offset=query.offset - limit) if query.offset else None


def _url(query: PageQuery, request: Request, **changes: int | str) -> str:
    parameters = query.model_dump(mode="json", exclude_defaults=True, exclude={"offset", "cursor"}) | changes
    query_string = urlencode(parameters, doseq=True)
    return quote(request.scope["path"]) + (f"?{query_string}" if query_string else "")
