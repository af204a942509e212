"""The parts of HTTP that all collections share: parameters, answers, and what OpenAPI says of them."""

import json
from enum import Enum
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.routing import APIRoute

from app.core.routing import StrictRoute
from app.domains.shared.documents import Document
from app.domains.shared.etags import names_representation
from app.domains.shared.lists import LARGEST_OFFSET, Listing, ListQuery
from app.domains.shared.references import REFERENCE_PATTERN
from app.domains.shared.trees import DEEPEST, Subtree
from app.utils.exceptions import (
    BadRequest,
    Conflict,
    ContentTooLarge,
    HeadersTooLarge,
    InternalError,
    InvalidContent,
    NotFound,
    PreconditionFailed,
    RegisterError,
    ServiceUnavailable,
    UnsupportedMediaType,
    explanation,
)
from app.utils.problems import MEDIA_TYPE, example_problem

API = "/api/v1"
JSON = "application/json"

Responses = dict[int | str, dict[str, Any]]

Reference = Annotated[
    str,
    # What does not fit the pattern can name nothing, so it is not found, not invalid.
    Path(
        description="`id`, or `code:` and the code.",
        openapi_examples={"id": {"summary": "By id", "value": "1"}},
        json_schema_extra={"pattern": REFERENCE_PATTERN},
    ),
]
ListParameters = Annotated[ListQuery, Query()]
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="Write only if the object still has the version of this `ETag`; else 412."),
]
IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", description="An `ETag` you have: 304 if nothing has changed since.")
]
Depth = Annotated[int, Query(ge=0, le=DEEPEST, description="Levels to go down.")]


def api_router(prefix: str = "", tags: list[str | Enum] | None = None) -> APIRouter:
    """Return a router below `/api/v1`; operations are named after their handlers."""
    return APIRouter(
        prefix=API + prefix,
        tags=tags,
        route_class=StrictRoute,
        generate_unique_id_function=_operation_id,
        responses=ANYWHERE | problems(BadRequest, ServiceUnavailable),
    )


def collection_router(name: str) -> APIRouter:
    """Return the router of a collection."""
    return api_router(f"/{name}", [name])


def _operation_id(route: APIRoute) -> str:
    return route.name


def problems(*errors: type[RegisterError]) -> Responses:
    """Return what OpenAPI says of errors; it is made from the same classes that are raised."""
    schema = {"$ref": "#/components/schemas/Problem"}
    responses: Responses = {}
    for error in errors:
        content = {MEDIA_TYPE: {"schema": schema, "example": example_problem(error)}}
        response: dict[str, Any] = {"description": explanation(error), "content": content}
        if error.status == ServiceUnavailable.status:
            response["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
        if error.status == PreconditionFailed.status:
            response["headers"] = _header("ETag", "The current tag.")
        responses[error.status] = response
    return responses


def _header(name: str, description: str) -> dict[str, Any]:
    return {name: {"description": description, "schema": {"type": "string"}}}


_ETAG = _header("ETag", '`"<version>.<digest>"` of this representation.')
_LINK = _header("Link", "`next` and `prev` (RFC 8288).")
_BODY = (BadRequest, ContentTooLarge, UnsupportedMediaType, InvalidContent)

ANYWHERE: Responses = problems(HeadersTooLarge, InternalError)
READ: Responses = {
    200: {"headers": _ETAG},
    304: {"description": "You have it already.", "headers": _ETAG},
    **problems(NotFound),
}
LIST: Responses = {200: {"headers": _LINK}, **problems(BadRequest, InvalidContent)}
LIST_OF_ONE: Responses = LIST | problems(NotFound)
WALK: Responses = problems(NotFound)
CREATE: Responses = {
    201: {"headers": _ETAG | _header("Location", "Path of the new object.")},
    **problems(Conflict, *_BODY),
}
WRITE: Responses = {200: {"headers": _ETAG}, **problems(NotFound, Conflict, PreconditionFailed, *_BODY)}
DELETE: Responses = problems(NotFound, Conflict, PreconditionFailed)
LINK: Responses = problems(NotFound, Conflict, PreconditionFailed, *_BODY)
UNLINK: Responses = problems(NotFound, PreconditionFailed)
INVALID: Responses = problems(InvalidContent)


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


def listed(listing: Listing, query: ListQuery, request: Request) -> Response:
    """Answer a list with its envelope and its `Link` header."""
    urls = {"next": _next(listing, query, request), "prev": _prev(query, request)}
    link = ", ".join(f'<{url}>; rel="{name}"' for name, url in urls.items() if url)
    tail = json.dumps({**urls, "total": listing.total}, separators=(",", ":")).encode()
    body = b'{"items":' + listing.items + b"," + tail[1:]
    return Response(body, headers={"Link": link} if link else None, media_type=JSON)


def walked(subtree: Subtree) -> Response:
    """Answer with the nodes of a tree."""
    truncated = b"true" if subtree.truncated else b"false"
    return Response(b'{"items":' + subtree.items + b',"truncated":' + truncated + b"}", media_type=JSON)


def ancestors(items: bytes) -> Response:
    """Answer with the objects above one."""
    return Response(b'{"items":' + items + b"}", media_type=JSON)


def _next(listing: Listing, query: ListQuery, request: Request) -> str | None:
    offset = query.offset + query.limit
    return _url(query, request, offset=offset) if listing.more and offset <= LARGEST_OFFSET else None


def _prev(query: ListQuery, request: Request) -> str | None:
    limit = min(query.limit, query.offset)  # a page that would reach into this one is cut
    return _url(query, request, limit=limit, offset=query.offset - limit) if query.offset else None


def _url(query: ListQuery, request: Request, **changes: int) -> str:
    parameters = query.model_dump(exclude_defaults=True) | changes
    return f"{quote(request.scope['path'])}?{urlencode(parameters)}"
