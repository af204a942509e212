"""Responses of routes, and their OpenAPI descriptions, which are derived from the raised errors."""

import json
from typing import Any

from fastapi import APIRouter, Response

from app.domains.shared.query.formats import MEDIA_TYPES
from app.domains.shared.query.pages import Listing, ListQuery, PageQuery
from app.domains.shared.query.parameters import page_urls
from app.domains.shared.reading.documents import Document
from app.domains.shared.reading.preconditions import Preconditions
from app.domains.shared.reading.stats import Counts
from app.domains.shared.reading.streams import Export, export_response
from app.domains.shared.reading.tree_queries import TreeNodes
from app.utils.exceptions import (
    BadRequest,
    Conflict,
    ContentTooLarge,
    Forbidden,
    HeadersTooLarge,
    InternalError,
    InvalidContent,
    NotAcceptable,
    NotFound,
    PreconditionFailed,
    RegisterError,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
    UnsupportedMediaType,
    explanation,
)
from app.utils.problems import MEDIA_TYPE, example_problem

JSON = "application/json"
MAX_LINK_HEADER_LENGTH = 8192

# `json.dumps` with separators creates an encoder at each call.
compact = json.JSONEncoder(separators=(",", ":")).encode

Responses = dict[int | str, dict[str, Any]]


def problems(*errors: type[RegisterError]) -> Responses:
    """Return the OpenAPI responses of these error classes."""
    schema = {"$ref": "#/components/schemas/Problem"}
    responses: Responses = {}
    for error in errors:
        content = {MEDIA_TYPE: {"schema": schema, "example": example_problem(error)}}
        response: dict[str, Any] = {"description": explanation(error), "content": content}
        if error.status in {ServiceUnavailable.status, TooManyRequests.status}:
            response["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
        if error.status in {Unauthorized.status, Forbidden.status}:
            response["headers"] = _header("WWW-Authenticate", "The required authentication (RFC 6750).")
        if error.status == PreconditionFailed.status:
            response["headers"] = _header("ETag", "The current `ETag` of the object.")
        if error.status == UnsupportedMediaType.status:
            response["headers"] = _header("Accept-Encoding", "`identity`, if the body was compressed (RFC 9110).")
        responses[error.status] = response
    return responses


def _header(name: str, description: str, *, always: bool = False) -> dict[str, Any]:
    header = {"description": description, "schema": {"type": "string"}}
    return {name: header | {"required": True} if always else header}


_ETAG = _header("ETag", '`"<version>.<digest>"` of this representation.', always=True)
_OWNER_ETAG = _header("ETag", "The current `ETag` of the object that has the links.", always=True)
_LINK = _header(
    "Link", "URLs of the `next` and `prev` pages (RFC 8288); URLs that do not fit into 8,192 characters are left out."
)
BODY = (BadRequest, ContentTooLarge, UnsupportedMediaType, InvalidContent)

ANYWHERE: Responses = problems(HeadersTooLarge, InternalError)
READ: Responses = {
    200: {"headers": _ETAG},
    304: {"description": "Not modified: the representation still has the `ETag` of `If-None-Match`.", "headers": _ETAG},
    **problems(NotFound, PreconditionFailed, InvalidContent),
}
LIST: Responses = {200: {"headers": _LINK}, **problems(BadRequest, InvalidContent)}
SUBLIST: Responses = LIST | problems(NotFound)
# Lists that can also be streamed.
EXPORT: Responses = LIST | {
    200: {
        "headers": _LINK | _header("Content-Disposition", "File name; not sent with JSON."),
        "content": {
            MEDIA_TYPES["ndjson"]: {"schema": {"type": "string", "description": "One object per line."}},
            MEDIA_TYPES["csv"]: {"schema": {"type": "string", "description": "A header row, then one object per row."}},
        },
    },
    **problems(NotAcceptable),
}
SUBLIST_EXPORT: Responses = EXPORT | problems(NotFound)
TREE: Responses = problems(NotFound)
CREATE: Responses = {
    201: {"headers": _ETAG | _header("Location", "Path of the created object.", always=True)},
    **problems(Conflict, *BODY),
}
WRITE: Responses = {200: {"headers": _ETAG}, **problems(NotFound, Conflict, PreconditionFailed, *BODY)}
DELETE: Responses = problems(NotFound, Conflict, PreconditionFailed)
LINK: Responses = problems(NotFound, Conflict, PreconditionFailed, *BODY)
UNLINK: Responses = problems(NotFound, PreconditionFailed)
SET_LINKS: Responses = {204: {"headers": _OWNER_ETAG}, **LINK}
INVALID: Responses = problems(InvalidContent)


def document_response(document: Document, conditions: Preconditions) -> Response:
    """Return the response to a GET: the document, or 304 if the client has it.

    Raises `PreconditionFailed` if `If-Match` does not have its version.
    """
    headers = {"ETag": document.etag}
    if conditions.is_current(document.etag):
        return Response(status_code=304, headers=headers)
    return Response(document.body, headers=headers, media_type=JSON)


def created_response(document: Document, router: APIRouter) -> Response:
    """Return the response to a POST: the new document, with its path in `Location`."""
    headers = {"ETag": document.etag, "Location": f"{router.prefix}/{document.id}"}
    return Response(document.body, 201, headers, JSON)


def updated_response(document: Document) -> Response:
    """Return the response to a PUT or PATCH: the document after the write."""
    return Response(document.body, headers={"ETag": document.etag}, media_type=JSON)


def no_content() -> Response:
    """Return the response 204 to a write."""
    return Response(status_code=204)


def links_response(owner: Document) -> Response:
    """Return the response to the replacement of a list of links: the entity tag of the object that has them."""
    return Response(status_code=204, headers={"ETag": owner.etag})


def page_response(listing: Listing, query: PageQuery) -> Response:
    """Return the response to a list: its envelope, and the `Link` header."""
    urls = page_urls(listing, query)
    links = [f'<{url}>; rel="{name}"' for name, url in urls.items() if url]
    # Each URL repeats the filters of the request, and clients and proxies limit the length of headers.
    while len(link := ", ".join(links)) > MAX_LINK_HEADER_LENGTH:
        links.pop()
    tail = compact({**urls, "total": listing.total}).encode()
    body = b'{"items":' + listing.items + b"," + tail[1:]
    return Response(body, headers={"Link": link} if link else None, media_type=JSON)


async def list_response(result: Listing | Export, query: ListQuery) -> Response:
    """Return the response to a list, in the negotiated format."""
    if isinstance(result, Export):
        return await export_response(result, query.origin)
    response = page_response(result, query)
    response.headers["Vary"] = "Accept"
    return response


def stats_response(counts: Counts) -> Response:
    """Return the response to a request for statistics."""
    truncated = b"true" if counts.truncated else b"false"
    head = f'{{"group_by":"{counts.group_by}","total":{counts.total},"groups":'.encode()
    return Response(head + counts.groups + b',"truncated":' + truncated + b"}", media_type=JSON)


def tree_response(nodes: TreeNodes) -> Response:
    """Return the response to a request for a tree, or for the ancestors of an object."""
    truncated = b"true" if nodes.truncated else b"false"
    return Response(b'{"items":' + nodes.items + b',"truncated":' + truncated + b"}", media_type=JSON)
