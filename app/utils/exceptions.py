"""The errors a client can meet, and the problem documents they become (RFC 9457).

    RegisterError
    ├── BadRequest                  400
    ├── NotFound                    404
    ├── MethodNotAllowed            405
    ├── Conflict                    409
    │   ├── Duplicate
    │   ├── StillReferenced
    │   ├── FirstAdministrator
    │   └── Cycle
    ├── PreconditionFailed          412
    ├── ContentTooLarge             413
    ├── UnsupportedMediaType        415
    ├── InvalidContent              422
    │   ├── UnknownReference
    │   └── UnstorableValue
    ├── HeadersTooLarge             431
    ├── InternalError               500
    └── ServiceUnavailable          503
        ├── DatabaseBusy
        ├── ConnectionLost
        └── OutcomeUnknown

Every error is raised, none is returned; one handler (`app/api/problems.py`) turns them all into answers.
The docstring of a class is what `GET /problems/{name}` tells a person who asks about it.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a request.

    `pointer` is a JSON pointer (RFC 6901) into the body, or `/name` of the parameter when `source` is not the body.
    """

    pointer: str
    code: str
    detail: str
    source: Literal["body", "query", "path", "header"] = "body"


class RegisterError(Exception):
    """Something went wrong."""

    status: ClassVar[int] = 500
    name: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        detail: str = "",
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})


class BadRequest(RegisterError):
    """The request cannot be understood: the body is not JSON in UTF-8, an object in it names a member twice, or the
    address carries a parameter that the collection does not know. Nothing was changed. Correct the request; sending
    it again unchanged gives the same answer."""

    status, name, title, code = 400, "bad-request", "Bad request", "bad_request"


class NotFound(RegisterError):
    """Nothing is registered under this address. An object is addressed by its `id` (a 64-bit integer) or by
    `code:` and its code, which is compared without regard to case. It may have been deleted since you last saw it."""

    status, name, title, code = 404, "not-found", "Not found", "not_found"


class MethodNotAllowed(RegisterError):
    """The address exists but does not know this method. The `Allow` header lists the methods it knows."""

    status, name, title, code = 405, "method-not-allowed", "Method not allowed", "method_not_allowed"


class Conflict(RegisterError):
    """The request is well formed but contradicts what is registered: the key is taken, other objects still refer to
    the object, it is the first administrator, or the move would put it below itself. `code` and `errors` say which.
    Nothing was changed."""

    status, name, title, code = 409, "conflict", "Conflict", "conflict"


class Duplicate(Conflict):
    code = "duplicate"


class StillReferenced(Conflict):
    code = "still_referenced"


class FirstAdministrator(Conflict):
    code = "first_administrator"


class Cycle(Conflict):
    code = "cycle"


class PreconditionFailed(RegisterError):
    """The object was changed since the version that `If-Match` names. Nothing was written. The `ETag` header has the
    current tag: read the object again, apply your change to what it is now, and send it with that tag."""

    status, name, title, code = 412, "precondition-failed", "Precondition failed", "precondition_failed"


class ContentTooLarge(RegisterError):
    """The body is larger than the service accepts. Send fewer or smaller objects in one request."""

    status, name, title, code = 413, "content-too-large", "Content too large", "content_too_large"


class UnsupportedMediaType(RegisterError):
    """The service reads JSON in UTF-8: send the body with `Content-Type: application/json`
    (or, for PATCH, `application/merge-patch+json`)."""

    status, name, title, code = 415, "unsupported-media-type", "Unsupported media type", "unsupported_media_type"


class InvalidContent(RegisterError):
    """The request was understood but breaks the schema, or names objects that do not exist. `errors` lists every fault
    with a JSON pointer to its place; the values you sent are never repeated. Nothing was changed."""

    status, name, title, code = 422, "invalid-content", "Invalid content", "invalid_content"


class UnknownReference(InvalidContent):
    code = "unknown_reference"


class UnstorableValue(InvalidContent):
    # Validation should have stopped it: an alert watches the counter of this class.
    code = "unstorable_value"


class HeadersTooLarge(RegisterError):
    """The headers of the request are larger than the service accepts. Cookies of other services that share the
    domain are the usual cause."""

    status, name, title, code = 431, "headers-too-large", "Headers too large", "headers_too_large"


class InternalError(RegisterError):
    """The service failed. The fault is ours: quote the `request_id` to the operators, whose logs have the cause."""


class ServiceUnavailable(RegisterError):
    """The database is away or too busy to answer in time. Nothing was changed. Try again after the number of seconds
    in `Retry-After`."""

    status, name, title, code = 503, "service-unavailable", "Service unavailable", "service_unavailable"

    def __init__(self, detail: str = "The database cannot be reached at the moment.", *, retry_after: int = 2) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class DatabaseBusy(ServiceUnavailable):
    code = "database_busy"

    def __init__(self, detail: str = "The database is too busy with other requests to answer in time.") -> None:
        super().__init__(detail, retry_after=1)


class ConnectionLost(ServiceUnavailable):
    """The connection to the database was lost, or never came about. See `ServiceUnavailable`."""


class OutcomeUnknown(ServiceUnavailable):
    """The connection to the database was lost while the change was being committed: it may or may not have been
    saved. Read the object before you try again."""

    name, title, code = "outcome-unknown", "Outcome unknown", "outcome_unknown"

    def __init__(self) -> None:
        super().__init__("The connection was lost while the change was being saved; it may or may not be stored.")


def problem_types() -> Iterator[type[RegisterError]]:
    """Yield the class that explains each `/problems/{name}`, in order of status."""
    seen: dict[str, type[RegisterError]] = {}
    todo: list[type[RegisterError]] = [RegisterError]
    while todo:
        error = todo.pop(0)
        todo += error.__subclasses__()
        if error is not RegisterError:
            seen.setdefault(error.name, error)
    yield from sorted(seen.values(), key=lambda error: (error.status, error.name))


def explanation(error: type[RegisterError]) -> str:
    """Return what a person should know about this kind of problem."""
    return " ".join((inspect.getdoc(error) or "").split())
