"""Requests that may be sent again: the first answer to each `Idempotency-Key` is kept, and given again.

The row of a key is written in the transaction of the request itself, so both are there or neither is. That no request
is carried out twice rests on the primary key of the table alone: of two transactions that keep an answer to one key the
second one fails. The advisory lock is for the caller, who learns at once that the first request is still at work.
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
from app.utils.problems import answer_with_problem

# Printable ASCII without blanks at its ends, which are no part of a header's value.
KEY_PATTERN = "^[!-~]([ -~]{0,253}[!-~])?$"
METHODS = frozenset({"POST", "PATCH"})

# Besides method, address and body these decide what a request does.
_DECISIVE = ("content-type", "if-match")
# Whoever may do more by now, or less, is judged anew.
_NEVER_KEPT = frozenset({Unauthorized.status, Forbidden.status, TooManyRequests.status})


def accepts_idempotency_key(method: str, permission: str) -> bool:
    """Whether a route answers a repeat with what it answered first.

    Not those of credentials, which nobody may use by a scope: their answers are kept nowhere.
    """
    return method.upper() in METHODS and permission in SCOPES


class Replayed(Exception):
    """The first request with this key was answered before; `response` is that answer, and the handler does not run."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


async def claim_key(request: Request, session: SessionDep) -> None:
    """Claim the request's `Idempotency-Key`, if it has one, for the transaction of its session.

    Raises `Replayed` when its answer is kept, `RequestInFlight` when another request holds the key, `KeyReused` when
    it was sent with another request, `AnswerTooLarge`, `Forbidden`, and `InvalidContent` for a malformed key.
    """
    if IDEMPOTENCY_KEY not in request.headers:
        return
    caller: Caller = request.state.caller
    attempt = Attempt(session, caller.user_id, _key(request), await _fingerprint(request), caller.scopes)
    kept = await claim(attempt)
    if kept is not None:
        response = _replayed_response(kept, attempt)
        request.state.replayed = True  # for the log
        raise Replayed(response)
    request.state.attempt = attempt


async def reject_idempotency_key(request: Request) -> None:
    """Raise `BadRequest` for an `Idempotency-Key` where answers carry credentials, which are not kept."""
    if IDEMPOTENCY_KEY in request.headers:
        detail = f"An {IDEMPOTENCY_KEY} means nothing here: answers that carry credentials are not kept."
        raise BadRequest(detail, errors=[Fault(f"/{IDEMPOTENCY_KEY}", "idempotency_key", detail, "header")])


async def replay(_request: Request, replayed: Exception) -> Response:
    """Answer a request whose first answer is kept; the handler of `Replayed`."""
    assert isinstance(replayed, Replayed)
    return replayed.response


class _ResponseStoringRoute(APIRoute):
    """Claims the `Idempotency-Key` of POST and PATCH requests, and keeps the answer in the same transaction.

    It stands behind `StrictRoute`, which has authorised the caller and read the body. The other methods are idempotent
    by definition (RFC 9110, section 9.2.2).
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        methods = METHODS & set(options.get("methods") or ())
        self._keeps = False
        if methods:
            permission = (options.get("openapi_extra") or {}).get(DECLARATION, "")
            self._keeps = all(accepts_idempotency_key(method, permission) for method in methods)
            claim = Depends(claim_key if self._keeps else reject_idempotency_key)
            options["dependencies"] = [claim, *(options.get("dependencies") or ())]
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        return self._keeping(handler) if self._keeps else handler

    def _keeping(self, handler: Handler) -> Handler:
        async def keep_answer(request: Request) -> Response:
            request.state.attempt = None
            try:
                response = await handler(request)
            except RegisterError as error:
                return await _store_error_response(request, error)
            if request.state.attempt is not None:
                await store_response(request.state.attempt, response)
            return response

        return keep_answer


class IdempotentRoute(StrictRoute, _ResponseStoringRoute):
    """A strict route that honours `Idempotency-Key`."""


def _key(request: Request) -> str:
    given = request.headers.getlist(IDEMPOTENCY_KEY)
    key = given[0].strip(" \t")
    if len(given) > 1 or not re.fullmatch(KEY_PATTERN, key):
        detail = f"An {IDEMPOTENCY_KEY} has 1 to 255 printable characters of ASCII."
        raise InvalidContent(detail, errors=[Fault(f"/{IDEMPOTENCY_KEY}", "idempotency_key", detail, "header")])
    return key


async def _fingerprint(request: Request) -> bytes:
    scope = request.scope
    parts = [scope["method"].encode(), scope["path"].encode("utf-8", "backslashreplace"), scope["query_string"]]
    parts += [request.headers.get(name, "").encode("latin-1") for name in _DECISIVE]
    digest = blake2b(digest_size=32)
    for part in (*parts, await request.body()):
        digest.update(len(part).to_bytes(8))  # or else what ends one part could begin the next
        digest.update(part)
    return digest.digest()


async def _store_error_response(request: Request, error: RegisterError) -> Response:
    """Return the problem document of an error, kept for the key of the request; what was written before it is undone.

    The document is returned and not raised, so that the session dependency commits it. Raises the error again when the
    request has no key, or when the same request is not to meet the same refusal.
    """
    attempt: Attempt | None = request.state.attempt
    refusal = error_for(error) if isinstance(error, IntegrityViolation) else error
    if attempt is None or refusal is None or refusal.status >= InternalError.status or refusal.status in _NEVER_KEPT:
        raise error
    await attempt.session.undo()
    # The lock went with the transaction: another request may have been faster since.
    if await claim(attempt) is not None:
        raise RequestInFlight from error
    response = answer_with_problem(request, refusal)
    await store_response(attempt, response)
    return response


def _replayed_response(kept: Any, attempt: Attempt) -> Response:
    """Return the first answer once more."""
    if kept.fingerprint != attempt.fingerprint:
        detail = f"This {IDEMPOTENCY_KEY} was sent with another request before."
        raise KeyReused(detail, errors=[Fault(f"/{IDEMPOTENCY_KEY}", KeyReused.code, detail, "header")])
    if missing := set(kept.scopes) - attempt.scopes:
        scope = min(missing)
        raise Forbidden(f"The first request with this key was made with the scope {scope}.", scope=scope)
    if kept.body is None:
        raise AnswerTooLarge(kept.status)
    response = Response(kept.body, kept.status, kept.headers)
    response.headers[REPLAYED] = "true"
    return response
