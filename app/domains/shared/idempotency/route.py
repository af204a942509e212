"""Stores the first response to each `Idempotency-Key`, and replays it when the request is repeated.

The row of a key is written in the transaction of the request itself, so both are committed or neither is. The primary
key of the table alone ensures that no request is executed twice: of two transactions that store a response for one key,
the second fails. The advisory lock only lets a repeat fail immediately while the first request is still in progress.
"""

import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from app.core.caller import Caller
from app.core.database import SessionDep
from app.core.database_errors import IntegrityViolation
from app.core.http.routing import Handler, StrictRoute
from app.core.permissions import DECLARATION, SCOPES
from app.domains.shared.idempotency.store import IDEMPOTENCY_KEY, REPLAYED, Attempt, claim, store_response
from app.domains.shared.writing.constraints import error_for
from app.utils.exceptions import (
    AnswerTooLarge,
    BadRequest,
    Fault,
    Forbidden,
    InternalError,
    InvalidContent,
    KeyReused,
    RegisterError,
    RequestInFlight,
    TooManyRequests,
    Unauthorized,
)
from app.utils.fault_codes import described_pattern, text_of
from app.utils.problems import answer_with_problem
from app.utils.wording import named

# Printable ASCII, without blanks at its ends, which are not part of a header's value.
KEY_PATTERN = described_pattern("^[!-~]([ -~]{0,253}[!-~])?$", text_of("idempotency_key"))
METHODS = frozenset({"POST", "PATCH"})

# Part of the fingerprint, with method, URL and body: these headers change the effect of a request.
_FINGERPRINT_HEADERS = ("content-type", "if-match")
# The same, but only if it was sent, so that the fingerprints which earlier versions stored remain valid.
_LATER_FINGERPRINT_HEADERS = ("if-none-match",)
# Not stored, because a later repeat may be authorised or within the rate limit.
_UNSTORED_STATUSES = frozenset({Unauthorized.status, Forbidden.status, TooManyRequests.status})


def accepts_idempotency_key(method: str, permission: str) -> bool:
    """Return whether a route replays its first response.

    Routes whose permission is not a scope manage credentials: their responses are never stored.
    """
    return method.upper() in METHODS and permission in SCOPES


class Replayed(Exception):
    """Raised instead of running the handler: `response` is the stored response to the first request with this key."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


async def claim_key(request: Request, session: SessionDep) -> None:
    """Claim the request's `Idempotency-Key`, if it has one, for the transaction of its session.

    Raises `Replayed` if its response is stored, `RequestInFlight` if another request holds the key, `KeyReused` if the
    key was sent with another request, `AnswerTooLarge` if the response was too large to store, `Forbidden` if the
    caller lacks a scope of the first request, and `InvalidContent` for a malformed key.
    """
    if IDEMPOTENCY_KEY not in request.headers:
        return
    caller: Caller = request.state.caller
    attempt = Attempt(session, caller.user_id, _key(request), await _fingerprint(request), caller.scopes)
    stored = await claim(attempt)
    if stored is not None:
        response = _replayed_response(stored, attempt)
        request.state.replayed = True  # for the log
        raise Replayed(response)
    request.state.attempt = attempt


async def reject_idempotency_key(request: Request) -> None:
    """Raise `BadRequest` for an `Idempotency-Key` on a route whose responses contain credentials and are not stored."""
    if IDEMPOTENCY_KEY in request.headers:
        fault = _header_fault("idempotency_key:refused")
        raise BadRequest(fault.detail, errors=[fault])


async def replay(_request: Request, replayed: Exception) -> Response:
    """Return the stored response; the exception handler of `Replayed`."""
    assert isinstance(replayed, Replayed)
    return replayed.response


class _ResponseStoringRoute(APIRoute):
    """Claims the `Idempotency-Key` of POST and PATCH requests, and stores the response in the same transaction.

    `StrictRoute` runs first: it authorises the caller and reads the body. The other methods are idempotent by
    definition (RFC 9110, section 9.2.2).
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        methods = METHODS & set(options.get("methods") or ())
        self._stores_responses = False
        if methods:
            permission = (options.get("openapi_extra") or {}).get(DECLARATION, "")
            self._stores_responses = all(accepts_idempotency_key(method, permission) for method in methods)
            claim = Depends(claim_key if self._stores_responses else reject_idempotency_key)
            options["dependencies"] = [claim, *(options.get("dependencies") or ())]
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        return self._storing(handler) if self._stores_responses else handler

    def _storing(self, handler: Handler) -> Handler:
        async def respond(request: Request) -> Response:
            request.state.attempt = None
            try:
                response = await handler(request)
            except RegisterError as error:
                return await _store_error_response(request, error)
            if request.state.attempt is not None:
                await store_response(request.state.attempt, response)
            return response

        return respond


class IdempotentRoute(StrictRoute, _ResponseStoringRoute):
    """A strict route that supports `Idempotency-Key`."""


def _header_fault(key: str) -> Fault:
    return Fault.of(f"/{IDEMPOTENCY_KEY}", key, source="header")


def _key(request: Request) -> str:
    values = request.headers.getlist(IDEMPOTENCY_KEY)
    key = values[0].strip(" \t")
    if len(values) > 1 or not re.fullmatch(KEY_PATTERN, key):
        fault = _header_fault("idempotency_key")
        raise InvalidContent(fault.detail, errors=[fault])
    return key


def _value(request: Request, name: str) -> bytes:
    """Return the value of a header, whose lines are one list (RFC 9110, section 5.3)."""
    return ", ".join(request.headers.getlist(name)).encode("latin-1")


async def _fingerprint(request: Request) -> bytes:
    scope = request.scope
    parts = [scope["method"].encode(), scope["path"].encode("utf-8", "backslashreplace"), scope["query_string"]]
    parts += [_value(request, name) for name in _FINGERPRINT_HEADERS]
    later = [_value(request, name) for name in _LATER_FINGERPRINT_HEADERS if name in request.headers]
    digest = blake2b(digest_size=32)
    for part in (*parts, await request.body(), *later):
        digest.update(len(part).to_bytes(8))  # delimits the parts, so that different requests have different input
        digest.update(part)
    return digest.digest()


async def _store_error_response(request: Request, error: RegisterError) -> Response:
    """Roll back the request, store the problem document of its error for the key, and return it.

    The document is returned rather than raised, so that the session dependency commits it. Raises the error again if
    the request has no key, or if the error must not be replayed: a server error, or a status in `_UNSTORED_STATUSES`.
    """
    attempt: Attempt | None = request.state.attempt
    reported = error_for(error) if isinstance(error, IntegrityViolation) else error
    if attempt is None or reported is None:
        raise error
    if reported.status >= InternalError.status or reported.status in _UNSTORED_STATUSES:
        raise error
    await attempt.session.undo()
    # The rollback released the advisory lock, so another request may have claimed the key.
    if await claim(attempt) is not None:
        raise RequestInFlight from error
    response = answer_with_problem(request, reported)
    await store_response(attempt, response)
    return response


def _replayed_response(stored: Any, attempt: Attempt) -> Response:
    """Return the stored response, marked as replayed. Raises `KeyReused`, `Forbidden` or `AnswerTooLarge`."""
    if stored.fingerprint != attempt.fingerprint:
        raise KeyReused(errors=[_header_fault(KeyReused.code)])
    if missing := set(stored.scopes) - attempt.scopes:
        had = named("scope", sorted(missing))
        raise Forbidden(f"This token does not have the {had} of the first request with this key.", scopes=missing)
    if stored.body is None:
        raise AnswerTooLarge(stored.status)
    response = Response(stored.body, stored.status, stored.headers)
    response.headers[REPLAYED] = "true"
    return response
