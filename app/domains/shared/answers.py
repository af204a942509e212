"""Answers of routes: the responses, and what OpenAPI says of them, made of the errors that are raised."""

import json
from typing import Any

from fastapi import APIRouter, Response

from app.domains.shared.query.formats import MEDIA_TYPES
from app.domains.shared.query.pages import Listing, ListQuery, PageQuery
from app.domains.shared.query.parameters import page_urls
from app.domains.shared.reading.documents import Document
from app.domains.shared.reading.etags import matches_etag
from app.domains.shared.reading.stats import Counts
from app.domains.shared.reading.streams import Export, export_response
from app.domains.shared.reading.tree_walks import Subtree
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

# `json.dumps` with separators makes an encoder at each call.
compact = json.JSONEncoder(separators=(",", ":")).encode

Responses = dict[int | str, dict[str, Any]]


def problems(*errors: type[RegisterError]) -> Responses:
    """Return what OpenAPI says of errors; it is made from the same classes that are raised."""
    schema = {"$ref": "#/components/schemas/Problem"}
    responses: Responses = {}
    for error in errors:
        content = {MEDIA_TYPE: {"schema": schema, "example": example_problem(error)}}
        response: dict[str, Any] = {"description": explanation(error), "content": content}
        if error.status in {ServiceUnavailable.status, TooManyRequests.status}:
            response["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
        if error.status in {Unauthorized.status, Forbidden.status}:
            response["headers"] = _header("WWW-Authenticate", "What to send (RFC 6750).")
        if error.status == PreconditionFailed.status:
            response["headers"] = _header("ETag", "The current tag.")
        if error.status == UnsupportedMediaType.status:
            response["headers"] = _header("Accept-Encoding", "`identity`, if the body was compressed (RFC 9110).")
        responses[error.status] = response
    return responses


def _header(name: str, description: str, *, always: bool = False) -> dict[str, Any]:
    header = {"description": description, "schema": {"type": "string"}}
    return {name: header | {"required": True} if always else header}


_ETAG = _header("ETag", '`"<version>.<digest>"` of this representation.', always=True)
_LINK = _header("Link", "`next` and `prev` (RFC 8288), as far as 8,192 characters hold them.")
BODY = (BadRequest, ContentTooLarge, UnsupportedMediaType, InvalidContent)

ANYWHERE: Responses = problems(HeadersTooLarge, InternalError)
READ: Responses = {
    200: {"headers": _ETAG},
    304: {"description": "You have it already.", "headers": _ETAG},
    **problems(NotFound, InvalidContent),
}
LIST: Responses = {200: {"headers": _LINK}, **problems(BadRequest, InvalidContent)}
SUBLIST: Responses = LIST | problems(NotFound)
# Lists that also come as a stream.
EXPORT: Responses = LIST | {
    200: {
        "headers": _LINK | _header("Content-Disposition", "A name for the file; not of JSON."),
        "content": {
            MEDIA_TYPES["ndjson"]: {"schema": {"type": "string", "description": "One object a line."}},
            MEDIA_TYPES["csv"]: {"schema": {"type": "string", "description": "A header, and one object a row."}},
        },
    },
    **problems(NotAcceptable),
}
SUBLIST_EXPORT: Responses = EXPORT | problems(NotFound)
TREE: Responses = problems(NotFound)
CREATE: Responses = {
    201: {"headers": _ETAG | _header("Location", "Path of the new object.", always=True)},
    **problems(Conflict, *BODY),
}
WRITE: Responses = {200: {"headers": _ETAG}, **problems(NotFound, Conflict, PreconditionFailed, *BODY)}
DELETE: Responses = problems(NotFound, Conflict, PreconditionFailed)
LINK: Responses = problems(NotFound, Conflict, PreconditionFailed, *BODY)
UNLINK: Responses = problems(NotFound, PreconditionFailed)
INVALID: Responses = problems(InvalidContent)


def document_response(document: Document, if_none_match: str | None) -> Response:
    """Answer a GET with the document, or 304 when the client has these very bytes."""
    headers = {"ETag": document.etag}
    if if_none_match is not None and matches_etag(if_none_match, document.etag):
        return Response(status_code=304, headers=headers)
    return Response(document.body, headers=headers, media_type=JSON)


def created_response(document: Document, router: APIRouter) -> Response:
    """Answer a POST with the new document, and its address below that of the router."""
    headers = {"ETag": document.etag, "Location": f"{router.prefix}/{document.id}"}
    return Response(document.body, 201, headers, JSON)


def updated_response(document: Document) -> Response:
    """Answer a PUT or PATCH with the document as it is now."""
    return Response(document.body, headers={"ETag": document.etag}, media_type=JSON)


def no_content() -> Response:
    """Answer a write that has nothing to show."""
    return Response(status_code=204)


def page_response(listing: Listing, query: PageQuery) -> Response:
    """Answer a list with its envelope and its `Link` header."""
    urls = page_urls(listing, query)
    links = [f'<{url}>; rel="{name}"' for name, url in urls.items() if url]
    # Each repeats the filters of the address, and clients and proxies do not take headers of any length.
    while len(link := ", ".join(links)) > MAX_LINK_HEADER_LENGTH:
        links.pop()
    tail = compact({**urls, "total": listing.total}).encode()
    body = b'{"items":' + listing.items + b"," + tail[1:]
    return Response(body, headers={"Link": link} if link else None, media_type=JSON)


async def list_response(result: Listing | Export, query: ListQuery) -> Response:
    """Answer a list in the form that the client accepts."""
    if isinstance(result, Export):
        return await export_response(result, query.origin)
    response = page_response(result, query)
    response.headers["Vary"] = "Accept"
    return response


def stats_response(counts: Counts) -> Response:
    """Answer with the objects of each group."""
    truncated = b"true" if counts.truncated else b"false"
    head = f'{{"group_by":"{counts.group_by}","total":{counts.total},"groups":'.encode()
    return Response(head + counts.groups + b',"truncated":' + truncated + b"}", media_type=JSON)


def tree_response(subtree: Subtree) -> Response:
    """Answer with the nodes of a tree."""
    truncated = b"true" if subtree.truncated else b"false"
    return Response(b'{"items":' + subtree.items + b',"truncated":' + truncated + b"}", media_type=JSON)


def ancestors_response(items: bytes) -> Response:
    """Answer with the objects above one."""
    return Response(b'{"items":' + items + b"}", media_type=JSON)
