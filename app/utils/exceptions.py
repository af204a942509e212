"""The errors that clients receive as problem documents (RFC 9457).

    RegisterError
    ├── BadRequest                  400
    ├── Unauthorized                401
    │   ├── CallerDeleted
    │   ├── RefreshRejected
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
    │   ├── TooDeep
    │   ├── PlanOutdated
    │   ├── RequestInFlight
    │   ├── AnswerTooLarge
    │   ├── TooManyKeys
    │   └── TooManyTokens
    ├── Gone                        410
    │   ├── FeedExpired
    │   └── FeedReset
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
    │   ├── CallerBusy
    │   └── RateLimited
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
        ├── WaitsBusy
        ├── ConnectionLost
        └── OutcomeUnknown

Errors are raised, never returned; one handler (`app/api/problems.py`) turns them into responses. The docstring of a
class is the explanation that `GET /problems/{name}` returns, and `text` is the standard `detail`.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from app.utils.fault_codes import code_of, text_of

# The challenge of bearer authentication (RFC 6750).
BEARER = 'Bearer realm="process-register"'
INVALID_TOKEN = f'{BEARER}, error="invalid_token"'

Source = Literal["body", "query", "path", "header"]


@dataclass(frozen=True, slots=True)
class Fault:
    """An error in a request. `Fault.of` creates one with the text of its code.

    `pointer` is a JSON pointer (RFC 6901) into the body, or `/name` of the parameter when `source` is not the body.
    """

    pointer: str
    code: str
    detail: str
    source: Source = "body"

    @classmethod
    def of(cls, pointer: str, key: str, *, source: Source = "body", **values: Any) -> Self:
        """Return the fault with the text of `key` (`app/utils/fault_codes.py`). Raises `KeyError` if there is none."""
        return cls(pointer, code_of(key), text_of(key, **values), source)

    def as_json(self) -> dict[str, str]:
        return {"pointer": self.pointer, "source": self.source, "code": self.code, "detail": self.detail}


class RegisterError(Exception):
    """The request or the command failed."""

    status: ClassVar[int] = 500
    name: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    code: ClassVar[str] = "internal_error"
    text: ClassVar[str] = "The service failed. Report the request_id to its operators."

    def __init__(
        self,
        detail: str = "",
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        self.detail = detail or self.text
        super().__init__(self.detail)
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})


class BadRequest(RegisterError):
    """The request is malformed: the body is not JSON in UTF-8, has an object or is a form with the same field twice, or
    ends too early; a query parameter is unknown or repeated; a cursor was altered or belongs to another list, order or
    filter; the host name is not one of this service; a file to import is not CSV or not UTF-8; or an `Idempotency-Key`
    was sent to an operation whose responses carry credentials, which are not stored. Nothing was changed. Correct the
    request before you send it again."""

    status, name, title, code = 400, "bad-request", "Bad request", "bad_request"
    text = "The request is malformed."


class Unauthorized(RegisterError):
    """Authentication is missing or invalid: there is no `Authorization` header, or its token is unknown, expired or
    revoked. Sign in with `POST /api/v1/auth/token`, or refresh the session."""

    status, name, title, code = 401, "unauthorized", "Unauthorized", "unauthorized"
    text = "Authentication is missing or invalid."

    def __init__(self, detail: str = "", *, challenge: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class CallerDeleted(Unauthorized):
    """The user of the token was deleted after the token was checked. See `Unauthorized`."""

    text = "The user of this token has been deleted."

    def __init__(self) -> None:
        super().__init__(challenge=INVALID_TOKEN)


class RefreshRejected(Unauthorized):
    """The refresh token is invalid, expired or already used, or its session has ended. Sign in again with
    `POST /api/v1/auth/token`."""

    text = "The refresh token is invalid, expired or already used."

    def __init__(self) -> None:
        super().__init__(challenge=INVALID_TOKEN)


class WrongCredentials(Unauthorized):
    """The e-mail address or the password is wrong, or the user is not active. The response does not reveal whether the
    e-mail address is known."""

    code = "wrong_credentials"
    text = "The e-mail address or the password is wrong."

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, challenge=BEARER)


class Forbidden(RegisterError):
    """You are authenticated, but not authorised for this operation; `scope` names the missing scopes, separated by
    spaces. Either your access level does not include them, which an administrator can change, or your token is
    restricted to other scopes. With the scope `session`, sign in: the operation rejects API tokens."""

    status, name, title, code = 403, "forbidden", "Forbidden", "forbidden"
    text = "A scope is missing."

    def __init__(self, detail: str = "", *, scopes: Iterable[str], errors: Sequence[Fault] = ()) -> None:
        self.scopes = tuple(sorted(scopes))
        scope = " ".join(self.scopes)
        # RFC 6750, section 3.1. A signed-in session is not a scope that a client could request.
        named = "" if scope == "session" else f', scope="{scope}"'
        challenge = f'{BEARER}, error="insufficient_scope"{named}'
        headers = {"WWW-Authenticate": challenge}
        super().__init__(detail, errors=errors, headers=headers, extensions={"scope": scope})


class NotFound(RegisterError):
    """Nothing is registered at this address. An object is addressed by its `id` (a 64-bit integer) or by `code:` and
    its code, ignoring case. It may have been deleted since you last read it."""

    status, name, title, code = 404, "not-found", "Not found", "not_found"
    text = "Nothing is registered at this address."


class MethodNotAllowed(RegisterError):
    """The address exists but does not support this method. The `Allow` header lists the methods that it supports."""

    status, name, title, code = 405, "method-not-allowed", "Method not allowed", "method_not_allowed"
    text = "This method is not allowed here."


class NotAcceptable(RegisterError):
    """The service cannot send a media type that the `Accept` header allows. Lists of objects are available as
    `application/json`, `application/x-ndjson` and `text/csv`, other lists, trees, statistics and searches as
    `application/json`; without the header they are JSON."""

    status, name, title, code = 406, "not-acceptable", "Not acceptable", "not_acceptable"
    text = "None of the media types in Accept is available."


class Conflict(RegisterError):
    """The request is well formed but contradicts the state of the register: another object has the key; other objects
    still reference the object; it is the first or the last administrator; the move would place it below itself; it or
    an object below it would have more than 100 ancestors; the objects of a planned import have changed, so that it must
    be planned again; or the first request with this `Idempotency-Key` is still in progress (retry after `Retry-After`
    seconds), or its response was too large to be stored. `code` and `errors` name the cause. Nothing was changed."""

    status, name, title, code = 409, "conflict", "Conflict", "conflict"
    text = "The request contradicts the state of the register."


class Duplicate(Conflict):
    code = "duplicate"
    text = "An object with this key already exists."


class StillReferenced(Conflict):
    code = "still_referenced"
    text = "The object is still referenced by others."


class FirstAdministrator(Conflict):
    code = "first_administrator"
    text = text_of("first_administrator")


class LastAdministrator(Conflict):
    code = "last_administrator"
    text = text_of("last_administrator")


class Cycle(Conflict):
    code = "cycle"
    text = "An object cannot be placed below itself."


class TooDeep(Conflict):
    code = "too_deep"
    text = "An object has at most 100 ancestors."


class PlanOutdated(Conflict):
    code = "plan_outdated"
    text = "The objects of this plan have changed in the meantime. Plan the import again."


class RequestInFlight(Conflict):
    code = "request_in_flight"
    text = "The first request with this Idempotency-Key is still in progress. Send this one again in a moment."

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": "1"})


class AnswerTooLarge(Conflict):
    code = "answer_too_large"
    text = "This request was carried out before, but its response was too large to be stored. Read the objects instead."

    def __init__(self, status: int) -> None:
        super().__init__(
            f"This request was carried out before, with status {status}, but its response was too large to be stored. "
            "Read the objects instead."
        )


class TooManyKeys(Conflict):
    code = "too_many_keys"
    text = (
        "Too many requests of this user within 24 hours had an Idempotency-Key. Nothing was changed. "
        "Send one bulk request for many objects, or try again later."
    )


class TooManyTokens(Conflict):
    code = "too_many_tokens"
    text = "This user has the maximum number of API tokens. Revoke one first."


class Gone(RegisterError):
    """The feed of changes cannot continue from this position without missing changes. With `feed_reset`, the register
    was restored from a backup or continues on another database server, so that changes may be lost that you have seen.
    With `feed_expired`, changes after the position were deleted, because the history is kept for a limited time. Begin
    anew: take the position of `GET /changes/feed?after=now`, then read all objects, then follow the feed from that
    position."""

    status, name, title, code = 410, "gone", "Gone", "gone"


class FeedExpired(Gone):
    code = "feed_expired"
    text = (
        "Changes after this position have been deleted. "
        "Take a new position with after=now, then read all objects, then follow the feed from that position."
    )


class FeedReset(Gone):
    code = "feed_reset"
    text = (
        "The register was restored or has moved to another database server since this position. "
        "Take a new position with after=now, then read all objects, then follow the feed from that position."
    )


class PreconditionFailed(RegisterError):
    """The object does not meet `If-Match` or `If-None-Match`: it has changed, or exists already. Nothing was written.
    The `ETag` header has the current tag: read the object again, apply your change to it, and send it with that tag."""

    status, name, title, code = 412, "precondition-failed", "Precondition failed", "precondition_failed"
    text = "The object does not meet a condition of the request."


class ContentTooLarge(RegisterError):
    """The body is larger than the service accepts, or has too many links, rows or columns. Send fewer or smaller
    objects in one request."""

    status, name, title, code = 413, "content-too-large", "Content too large", "content_too_large"
    text = "The body is too large."


class UnsupportedMediaType(RegisterError):
    """The service reads JSON in UTF-8: send the body with `Content-Type: application/json` (or, for PATCH,
    `application/merge-patch+json`). Only signing in takes a form, `application/x-www-form-urlencoded`, and only imports
    take files, `text/csv` or `application/x-ndjson`. Compressed bodies are not supported: remove `Content-Encoding`."""

    status, name, title, code = 415, "unsupported-media-type", "Unsupported media type", "unsupported_media_type"
    text = "The media type or the encoding of the body is not supported."


class InvalidContent(RegisterError):
    """The request is well formed but violates the schema, or references objects that do not exist. `errors` lists each
    error with a JSON pointer to its place; the values you sent are never repeated. With `idempotency_key_reused`, the
    `Idempotency-Key` was already used for another request: choose a new key for each request. Nothing was changed."""

    status, name, title, code = 422, "invalid-content", "Invalid content", "invalid_content"
    text = "The request violates the schema."


class UnknownReference(InvalidContent):
    code = "unknown_reference"
    text = "The request references an object that does not exist."


class UnstorableValue(InvalidContent):
    # Validation should have rejected it: an alert watches the counter of this class.
    code = "unstorable_value"
    text = "The request has a value that cannot be stored."


class CommonPassword(InvalidContent):
    code = "common_password"
    text = text_of("common_password")


class SpentLink(InvalidContent):
    code = "spent_link"
    text = text_of("spent_link")


class KeyReused(InvalidContent):
    code = "idempotency_key_reused"
    text = text_of("idempotency_key_reused")


class TooManyRequests(RegisterError):
    """There were too many attempts to sign in, to this account or from this address. Try again after `Retry-After`
    seconds. An administrator can send a link to set a new password, which works immediately. With `caller_busy`, other
    requests of the same user hold the share of one user in what a server process has for all users: half of its
    database connections, for which this request waited too long, of its memory for incomplete bodies, or of the places
    in its queues for new combinations of query parameters and for passwords; or all but the last of its places for
    exports or for large bodies. Send fewer requests at the same time. With `rate_limited`, the user of the token, or
    without a valid token the address of the client, sent more requests than the operators of the service allow. Nothing
    was changed."""

    status, name, title, code = 429, "too-many-requests", "Too many requests", "too_many_requests"
    text = "Too many attempts to sign in. Try again later."

    def __init__(self, *, retry_after: int) -> None:
        super().__init__(headers={"Retry-After": str(retry_after)})


class CallerBusy(TooManyRequests):
    """Other requests of the same user hold as much of a shared resource as one user may. See `TooManyRequests`."""

    code = "caller_busy"
    text = "This user has too many requests in progress. Send fewer at the same time."

    def __init__(self) -> None:
        super().__init__(retry_after=1)


class RateLimited(TooManyRequests):
    """The user of the token, or without a valid token the address of the client, sent more requests than the operators
    of the service allow. Nothing was changed. Try again after `Retry-After` seconds."""

    code = "rate_limited"
    text = "Too many requests. Send fewer of them."


class HeadersTooLarge(RegisterError):
    """The headers of the request are larger than the service accepts. The usual cause is cookies of other services on
    the same domain."""

    status, name, title, code = 431, "headers-too-large", "Headers too large", "headers_too_large"
    text = "The headers are too large."


class InternalError(RegisterError):
    """The service failed through no fault of the request. Report the `request_id` to its operators, who find the cause
    in the logs."""


class ServiceUnavailable(RegisterError):
    """The database is unavailable or too busy to respond in time, or too many requests of this kind are in progress.
    Nothing was changed. Try again after `Retry-After` seconds."""

    status, name, title, code = 503, "service-unavailable", "Service unavailable", "service_unavailable"
    text = "The database cannot be reached at the moment."

    retry_after: ClassVar[int] = 2

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"Retry-After": str(self.retry_after)})


class DatabaseBusy(ServiceUnavailable):
    code = "database_busy"
    text, retry_after = "The database is too busy to respond in time.", 1


class TransactionAborted(DatabaseBusy):
    """The database aborted the transaction in favour of another one; a retry may succeed. See `ServiceUnavailable`."""


class Deadlock(TransactionAborted):
    """Two transactions waited for each other's locks. See `ServiceUnavailable`."""


class SerializationFailure(TransactionAborted):
    """Concurrent transactions changed data that this one had read. See `ServiceUnavailable`."""


class SchemaChanged(TransactionAborted):
    """A migration changed the result of a statement after it was prepared. See `ServiceUnavailable`."""


class DatabaseReadOnly(ServiceUnavailable):
    """The database accepts no changes at the moment, for example after a failover; reading works.

    See `ServiceUnavailable`.
    """

    code = "database_read_only"
    text, retry_after = "The database accepts no changes at the moment.", 5


class HashingBusy(ServiceUnavailable):
    """More people sign in at the same time than the service can check passwords for. See `ServiceUnavailable`."""

    code = "hashing_busy"
    text, retry_after = "Too many people are signing in at the moment.", 2


class ExportsBusy(ServiceUnavailable):
    """The service already streams as many exports as it allows at a time. See `ServiceUnavailable`."""

    code = "exports_busy"
    text, retry_after = "Too many exports are in progress.", 10


class LargeBodiesBusy(ServiceUnavailable):
    """The service already processes as many large requests as it has memory for. See `ServiceUnavailable`."""

    code = "large_bodies_busy"
    text, retry_after = "Too many large requests are in progress.", 5


class WaitsBusy(ServiceUnavailable):
    """As many requests as the service allows wait for changes. See `ServiceUnavailable`."""

    code = "waits_busy"
    text, retry_after = "Too many requests wait for changes. Ask again without `wait`, or later.", 5


class ConnectionLost(ServiceUnavailable):
    """The connection to the database was lost, or could not be established. See `ServiceUnavailable`."""


class OutcomeUnknown(ServiceUnavailable):
    """The connection to the database was lost during the change, or the service stopped: the change may or may not have
    been saved. Send the request again with the same `Idempotency-Key`, or read the object before you try again."""

    name, title, code = "outcome-unknown", "Outcome unknown", "outcome_unknown"
    text = (
        "The change was interrupted, and may or may not have been saved. "
        "Repeat the request with the same Idempotency-Key, or read the object first."
    )


def error_classes(base: type[RegisterError]) -> Iterator[type[RegisterError]]:
    """Yield a class and all its subclasses, each before its own subclasses."""
    yield base
    for error in base.__subclasses__():
        yield from error_classes(error)


def problem_types() -> Iterator[type[RegisterError]]:
    """Yield the class that explains each `/problems/{name}`, ordered by status and name."""
    classes: dict[str, type[RegisterError]] = {}
    for error in error_classes(RegisterError):
        if error is not RegisterError:
            classes.setdefault(error.name, error)
    yield from sorted(classes.values(), key=lambda error: (error.status, error.name))


def explanation(error: type[RegisterError]) -> str:
    """Return the explanation of a kind of problem, for `GET /problems/{name}`."""
    return " ".join((inspect.getdoc(error) or "").split())
