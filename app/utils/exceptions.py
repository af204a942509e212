"""The errors a client can meet, and the problem documents they become (RFC 9457).

    RegisterError
    ├── BadRequest                  400
    ├── Unauthorized                401
    │   └── WrongCredentials
    ├── Forbidden                   403
    ├── NotFound                    404
    ├── MethodNotAllowed            405
    ├── NotAcceptable               406
    ├── Conflict                    409
    │   ├── Duplicate
    │   ├── StillReferenced
    │   ├── FirstAdministrator
    │   ├── LastAdministrator
    │   ├── Cycle
    │   ├── PlanOutdated
    │   ├── RequestInFlight
    │   └── AnswerTooLarge
    ├── PreconditionFailed          412
    ├── ContentTooLarge             413
    ├── UnsupportedMediaType        415
    ├── InvalidContent              422
    │   ├── UnknownReference
    │   ├── UnstorableValue
    │   ├── CommonPassword
    │   ├── SpentLink
    │   └── KeyReused
    ├── TooManyRequests             429
    ├── HeadersTooLarge             431
    ├── InternalError               500
    └── ServiceUnavailable          503
        ├── DatabaseBusy
        │   └── TransactionAborted
        │       ├── Deadlock
        │       ├── SerializationFailure
        │       └── SchemaChanged
        ├── DatabaseReadOnly
        ├── HashingBusy
        ├── ExportsBusy
        ├── LargeBodiesBusy
        ├── ConnectionLost
        └── OutcomeUnknown

Errors are raised, never returned; one handler (`app/api/problems.py`) turns them into responses. The docstring of a
class is the explanation that `GET /problems/{name}` returns.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

# How to authenticate (RFC 6750).
BEARER = 'Bearer realm="process-register"'


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a request.

    `pointer` is a JSON pointer (RFC 6901) into the body, or `/name` of the parameter when `source` is not the body.
    """

    pointer: str
    code: str
    detail: str
    source: Literal["body", "query", "path", "header"] = "body"

    def as_json(self) -> dict[str, str]:
        return {"pointer": self.pointer, "source": self.source, "code": self.code, "detail": self.detail}


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
    """The request cannot be understood: the body is not JSON in UTF-8, an object in it names a member twice, or it ends
    too early; the address carries a parameter that is not known there, or a cursor that was altered or belongs to
    another list or order; the service does not answer to the host name; a file to import is not CSV, or not UTF-8; or
    there is an `Idempotency-Key` where answers carry credentials, which are not kept. Nothing was changed. Correct the
    request; sending it again unchanged gives the same answer."""

    status, name, title, code = 400, "bad-request", "Bad request", "bad_request"


class Unauthorized(RegisterError):
    """The request does not say who makes it, or not believably: there is no `Authorization` header, or its token is
    not one of ours, has expired, or was revoked. Sign in with `POST /api/v1/auth/token`, or refresh."""

    status, name, title, code = 401, "unauthorized", "Unauthorized", "unauthorized"

    def __init__(self, detail: str, *, challenge: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class WrongCredentials(Unauthorized):
    """Signing in failed. For all that the answer tells, the e-mail address may be unknown. See `Unauthorized`."""

    code = "wrong_credentials"

    def __init__(self, detail: str = "The e-mail address or the password is wrong.") -> None:
        super().__init__(detail, challenge=BEARER)


class Forbidden(RegisterError):
    """You are known, but may not do this: `scope` names what is missing. Either your access level does not include
    it (an administrator can change that), or your token was narrowed to other scopes."""

    status, name, title, code = 403, "forbidden", "Forbidden", "forbidden"

    def __init__(self, detail: str, *, scope: str, errors: Sequence[Fault] = ()) -> None:
        # RFC 6750, section 3.1. A signed-in session is not a scope that a client could request.
        named = "" if scope == "session" else f', scope="{scope}"'
        challenge = f'{BEARER}, error="insufficient_scope"{named}'
        headers = {"WWW-Authenticate": challenge}
        super().__init__(detail, errors=errors, headers=headers, extensions={"scope": scope})


class NotFound(RegisterError):
    """Nothing is registered under this address. An object is addressed by its `id` (a 64-bit integer) or by
    `code:` and its code, which is compared without regard to case. It may have been deleted since you last saw it."""

    status, name, title, code = 404, "not-found", "Not found", "not_found"


class MethodNotAllowed(RegisterError):
    """The address exists but does not know this method. The `Allow` header lists the methods it knows."""

    status, name, title, code = 405, "method-not-allowed", "Method not allowed", "method_not_allowed"


class NotAcceptable(RegisterError):
    """The service has nothing that the `Accept` header takes. Lists come as `application/json`,
    `application/x-ndjson` and `text/csv`; without the header they are JSON."""

    status, name, title, code = 406, "not-acceptable", "Not acceptable", "not_acceptable"


class Conflict(RegisterError):
    """The request is well formed but contradicts what is registered: the key is taken, other objects still refer to
    the object, it is the first or the last administrator, or the move would put it below itself; what a planned import
    rests on has changed since (plan it anew); or the first request with this `Idempotency-Key` is still at work
    (`Retry-After` says when to ask again), or its answer was too large to be given again. `code` and `errors` say
    which. Nothing was changed."""

    status, name, title, code = 409, "conflict", "Conflict", "conflict"


class Duplicate(Conflict):
    code = "duplicate"


class StillReferenced(Conflict):
    code = "still_referenced"


class FirstAdministrator(Conflict):
    code = "first_administrator"


class LastAdministrator(Conflict):
    code = "last_administrator"


class Cycle(Conflict):
    code = "cycle"


class PlanOutdated(Conflict):
    code = "plan_outdated"

    def __init__(self, *, errors: Sequence[Fault] = ()) -> None:
        detail = "What the plan was made of has changed in the meantime. Plan the import anew."
        super().__init__(detail, errors=errors)


class RequestInFlight(Conflict):
    code = "request_in_flight"

    def __init__(self) -> None:
        detail = "The first request with this Idempotency-Key is still at work. Send it again in a moment."
        super().__init__(detail, headers={"Retry-After": "1"})


class AnswerTooLarge(Conflict):
    code = "answer_too_large"

    def __init__(self, status: int) -> None:
        super().__init__(
            f"This request was carried out before, with status {status}; its answer was too large to be kept. "
            "Read what it concerned."
        )


class PreconditionFailed(RegisterError):
    """The object was changed since the version that `If-Match` names. Nothing was written. The `ETag` header has the
    current tag: read the object again, apply your change to what it is now, and send it with that tag."""

    status, name, title, code = 412, "precondition-failed", "Precondition failed", "precondition_failed"


class ContentTooLarge(RegisterError):
    """The body is larger than the service accepts, or has more links, rows or columns. Send fewer or smaller objects in
    one request."""

    status, name, title, code = 413, "content-too-large", "Content too large", "content_too_large"


class UnsupportedMediaType(RegisterError):
    """The service reads JSON in UTF-8: send the body with `Content-Type: application/json` (or, for PATCH,
    `application/merge-patch+json`). Only signing in takes a form, `application/x-www-form-urlencoded`, and only imports
    take files, `text/csv` or `application/x-ndjson`. None is decompressed: send it without `Content-Encoding`."""

    status, name, title, code = 415, "unsupported-media-type", "Unsupported media type", "unsupported_media_type"


class InvalidContent(RegisterError):
    """The request was understood but breaks the schema, or names objects that do not exist. `errors` lists every fault
    with a JSON pointer to its place; the values you sent are never repeated. With `idempotency_key_reused`, the
    `Idempotency-Key` was sent with another request before: take a new one for each request. Nothing was changed."""

    status, name, title, code = 422, "invalid-content", "Invalid content", "invalid_content"


class UnknownReference(InvalidContent):
    code = "unknown_reference"


class UnstorableValue(InvalidContent):
    # Validation should have rejected it: an alert watches the counter of this class.
    code = "unstorable_value"


class CommonPassword(InvalidContent):
    code = "common_password"


class SpentLink(InvalidContent):
    code = "spent_link"


class KeyReused(InvalidContent):
    code = "idempotency_key_reused"


class TooManyRequests(RegisterError):
    """Too many attempts to sign in, to this account or from this address. Try again after the number of seconds in
    `Retry-After`. An administrator can send a link to set a new password, which works at once."""

    status, name, title, code = 429, "too-many-requests", "Too many requests", "too_many_requests"

    def __init__(self, *, retry_after: int) -> None:
        detail = "There were too many attempts to sign in. Try again later."
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


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

    usual_detail: ClassVar[str] = "The database cannot be reached at the moment."
    retry_after: ClassVar[int] = 2

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or self.usual_detail, headers={"Retry-After": str(self.retry_after)})


class DatabaseBusy(ServiceUnavailable):
    code = "database_busy"
    usual_detail, retry_after = "The database is too busy with other requests to answer in time.", 1


class TransactionAborted(DatabaseBusy):
    """The database aborted the transaction in favour of another; run again, it may succeed.

    See `ServiceUnavailable`.
    """


class Deadlock(TransactionAborted):
    """Two transactions waited for each other's locks. See `ServiceUnavailable`."""


class SerializationFailure(TransactionAborted):
    """Concurrent transactions changed what this one had read. See `ServiceUnavailable`."""


class SchemaChanged(TransactionAborted):
    """A migration changed the result of a statement after it was prepared. See `ServiceUnavailable`."""


class DatabaseReadOnly(ServiceUnavailable):
    """The database takes no changes at the moment, as after a failover; reading goes on. See `ServiceUnavailable`."""

    code = "database_read_only"
    usual_detail, retry_after = "The database takes no changes at the moment.", 5


class HashingBusy(ServiceUnavailable):
    """More people sign in at the same time than the service can check passwords. See `ServiceUnavailable`."""

    code = "hashing_busy"
    usual_detail, retry_after = "Too many people sign in at this moment.", 2


class ExportsBusy(ServiceUnavailable):
    """The service sends as many whole lists as it can at a time. See `ServiceUnavailable`."""

    code = "exports_busy"
    usual_detail, retry_after = "Too many exports are under way at this moment.", 10


class LargeBodiesBusy(ServiceUnavailable):
    """The service is at work on as many large requests as it has room for. See `ServiceUnavailable`."""

    code = "large_bodies_busy"
    usual_detail, retry_after = "Too many large requests are under way at this moment.", 5


class ConnectionLost(ServiceUnavailable):
    """The connection to the database was lost, or never came about. See `ServiceUnavailable`."""


class OutcomeUnknown(ServiceUnavailable):
    """The connection to the database was lost while the change was being made, or the service stopped: it may or may
    not have been saved. Send the request again with the `Idempotency-Key` it had, or read the object before you try
    again."""

    name, title, code = "outcome-unknown", "Outcome unknown", "outcome_unknown"
    usual_detail = "The change was cut off while it was being saved; it may or may not be stored."


def problem_types() -> Iterator[type[RegisterError]]:
    """Yield the class that explains each `/problems/{name}`, ordered by status and name."""
    classes: dict[str, type[RegisterError]] = {}
    queue: list[type[RegisterError]] = [RegisterError]
    while queue:
        error = queue.pop(0)
        queue += error.__subclasses__()
        if error is not RegisterError:
            classes.setdefault(error.name, error)
    yield from sorted(classes.values(), key=lambda error: (error.status, error.name))


def explanation(error: type[RegisterError]) -> str:
    """Return the explanation of a kind of problem, for `GET /problems/{name}`."""
    return " ".join((inspect.getdoc(error) or "").split())
