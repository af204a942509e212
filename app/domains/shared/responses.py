"""What OpenAPI says of answers, made of the errors that are raised."""

from typing import Any

from app.domains.shared.exports import MEDIA_TYPES
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
LIST_OF_ONE: Responses = LIST | problems(NotFound)
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
EXPORT_OF_ONE: Responses = EXPORT | problems(NotFound)
WALK: Responses = problems(NotFound)
CREATE: Responses = {
    201: {"headers": _ETAG | _header("Location", "Path of the new object.", always=True)},
    **problems(Conflict, *BODY),
}
WRITE: Responses = {200: {"headers": _ETAG}, **problems(NotFound, Conflict, PreconditionFailed, *BODY)}
DELETE: Responses = problems(NotFound, Conflict, PreconditionFailed)
LINK: Responses = problems(NotFound, Conflict, PreconditionFailed, *BODY)
UNLINK: Responses = problems(NotFound, PreconditionFailed)
INVALID: Responses = problems(InvalidContent)
