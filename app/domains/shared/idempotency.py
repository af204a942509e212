"""Requests that may be sent again: the first answer to each `Idempotency-Key` is kept, and given again.

The row of a key is written in the transaction of the request itself, so both are there or neither is. That no request
is carried out twice rests on the primary key of the table alone: of two transactions that keep an answer to one key the
second one fails. The advisory lock is for the caller, who learns at once that the first request is still at work.
"""

import json
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self

from fastapi import Request, Response
from sqlalchemy import (
    ARRAY,
    BigInteger,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from app.core.arguments import DirectRoute, Handler
from app.core.bodies import StrictRequest
from app.core.database import abandon, commit
from app.core.database_errors import IntegrityViolation
from app.core.permissions import SCOPES
from app.core.routing import LargeBodyRoute, StrictRoute, declared_permission
from app.core.security import Caller
from app.core.statements import Statement, advisory_key, execute, prepare
from app.domains.shared.constraints import explain
from app.domains.shared.models import IdempotencyKey, table_of
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
from app.utils.problems import problem_response

IDEMPOTENCY_KEY = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
# Printable ASCII without blanks at its ends, which are no part of a header's value.
KEY_PATTERN = "^[!-~]([ -~]{0,253}[!-~])?$"
METHODS = frozenset({"POST", "PATCH"})
HOURS_KEPT = 24
LARGEST_KEPT = 16 * 1024 * 1024

# Besides method, address and body these decide what a request does.
_DECISIVE = ("content-type", "if-match")
# Whoever may do more by now, or less, is judged anew.
_NEVER_KEPT = frozenset({Unauthorized.status, Forbidden.status, TooManyRequests.status})


def takes_key(method: str, permission: str) -> bool:
    """Whether a route answers a repeat with what it answered first.

    Not those of credentials, which nobody may use by a scope: their answers are kept nowhere.
    """
    return method.upper() in METHODS and permission in SCOPES


class _AnswersOnce(DirectRoute):
    """Stands behind `StrictRoute`, so that the caller is authorised and the body read before anything is done here."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        methods = METHODS & (self.methods or set())
        if not methods:
            return handler  # the others are idempotent by what they mean (RFC 9110, section 9.2.2)
        permission = declared_permission(self)
        answer = answer_once if all(takes_key(method, permission) for method in methods) else _refuse

        async def keyed_handler(request: Request) -> Response:
            if IDEMPOTENCY_KEY in request.headers:
                return await answer(handler, request)
            return await handler(request)

        return keyed_handler


class RepeatableRoute(StrictRoute, _AnswersOnce):
    """A strict route that honours `Idempotency-Key`."""


class RepeatableLargeRoute(LargeBodyRoute, _AnswersOnce):
    """A route for many objects at once that honours `Idempotency-Key`."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request as its key knows it."""

    user_id: int
    key: str
    fingerprint: bytes
    scopes: frozenset[str]

    @classmethod
    async def of(cls, request: StrictRequest) -> Self:
        """Raises `InvalidContent` for a key that is none."""
        caller: Caller = request.state.caller
        return cls(caller.user_id, _key(request), await _fingerprint(request), caller.scopes)

    @property
    def lock(self) -> int:
        return advisory_key(f"{IDEMPOTENCY_KEY} {self.user_id} {self.key}")


async def answer_once(handler: Handler, plain: Request) -> Response:
    """Answer a request that has a key: as its first one was answered, or by the handler, whose answer is kept.

    Raises `RequestInFlight`, `KeyReused`, `AnswerTooLarge`, `Forbidden` and what the handler raises.
    """
    # A route without a body hands on the request as it came.
    limit: int = plain.app.state.settings.max_body_bytes
    request = plain if isinstance(plain, StrictRequest) else StrictRequest(plain.scope, plain.receive, limit)
    attempt = await Attempt.of(request)
    kept = await _claim(request, attempt)
    if kept is not None:
        response = _again(kept, attempt)
        request.state.replayed = True  # for the log
        return response
    try:
        response = await handler(request)
    except RegisterError as error:
        await _keep_refusal(request, attempt, error)
        raise
    await _keep(request, attempt, response)
    return response


async def _refuse(_handler: Handler, _request: Request) -> Response:
    detail = f"An {IDEMPOTENCY_KEY} means nothing here: answers that carry credentials are not kept."
    raise BadRequest(detail, errors=[Fault(f"/{IDEMPOTENCY_KEY}", "idempotency_key", detail, "header")])


def _key(request: Request) -> str:
    given = request.headers.getlist(IDEMPOTENCY_KEY)
    key = given[0].strip(" \t")
    if len(given) > 1 or not re.fullmatch(KEY_PATTERN, key):
        detail = f"An {IDEMPOTENCY_KEY} has 1 to 255 printable characters of ASCII."
        raise InvalidContent(detail, errors=[Fault(f"/{IDEMPOTENCY_KEY}", "idempotency_key", detail, "header")])
    return key


async def _fingerprint(request: StrictRequest) -> bytes:
    scope = request.scope
    parts = [scope["method"].encode(), scope["path"].encode("utf-8", "backslashreplace"), scope["query_string"]]
    parts += [request.headers.get(name, "").encode("latin-1") for name in _DECISIVE]
    digest = blake2b(digest_size=32)
    for part in (*parts, await request.body()):
        digest.update(len(part).to_bytes(8))  # or else what ends one part could begin the next
        digest.update(part)
    return digest.digest()


async def _claim(request: Request, attempt: Attempt) -> Any | None:
    """Return what is kept of the key, or None when it is this request's.

    Raises `RequestInFlight` when it is another one's.
    """
    (row,) = await execute(request.state.session, _CLAIM, user_id=attempt.user_id, key=attempt.key, lock=attempt.lock)
    if row.status is not None:
        return row
    if not row.claimed:
        raise RequestInFlight
    return None


async def _keep(request: Request, attempt: Attempt, response: Response) -> None:
    """Keep the answer, which is final when the transaction is committed."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.raw_headers}
    headers.pop("content-length", None)
    body = bytes(response.body)
    rows = await execute(
        request.state.session,
        _KEEP,
        user_id=attempt.user_id,
        key=attempt.key,
        fingerprint=attempt.fingerprint,
        scopes=sorted(attempt.scopes),
        status=response.status_code,
        headers=json.dumps(headers),
        body=body if len(body) <= LARGEST_KEPT else None,
    )
    if not rows:
        raise RequestInFlight  # and what this one wrote is undone


async def _keep_refusal(request: Request, attempt: Attempt, error: RegisterError) -> None:
    """Keep the problem document of an error that undid what was written, if the same request is to meet it again."""
    refusal = explain(error) if isinstance(error, IntegrityViolation) else error
    if refusal is None or refusal.status >= InternalError.status or refusal.status in _NEVER_KEPT:
        return
    await abandon(request.state.session)
    # The lock went with the transaction: another one may have been faster since.
    if await _claim(request, attempt) is not None:
        raise RequestInFlight from error
    await _keep(request, attempt, problem_response(refusal, request.scope))
    await commit(request.state.session)


def _again(kept: Any, attempt: Attempt) -> Response:
    """Return the first answer once more."""
    if kept.fingerprint != attempt.fingerprint:
        detail = f"This {IDEMPOTENCY_KEY} was sent with another request before."
        raise KeyReused(detail, errors=[Fault(f"/{IDEMPOTENCY_KEY}", KeyReused.code, detail, "header")])
    if missing := set(kept.scopes) - attempt.scopes:
        scope = min(missing)
        raise Forbidden(f"The first request with this key was made with the scope {scope}.", scope=scope)
    if kept.body is None:
        raise AnswerTooLarge(kept.status)
    response = Response(kept.body, kept.status, json.loads(kept.headers))
    response.headers[REPLAYED] = "true"
    return response


def _claim_statement() -> Statement:
    """Return the statement that reads what is kept of a key, or else takes the lock of it unless another one has it."""
    table = table_of(IdempotencyKey)
    headers = cast(table.c.headers, Text).label("headers")  # the dialect would parse it, the bare driver would not
    kept = (
        select(table.c.fingerprint, table.c.scopes, table.c.status, headers, table.c.body)
        .where(
            table.c.user_id == bindparam("user_id", type_=BigInteger),
            table.c.key == bindparam("key", type_=String),
            table.c.expires_at > func.now(),
        )
        .cte("kept")
        .prefix_with("MATERIALIZED")
    )
    one = select(literal_column("1")).subquery("one")
    lock = func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger))
    # Of those who only read nobody keeps another one waiting.
    claimed = case((exists(select(kept.c.status)), literal_column("false")), else_=lock)
    return prepare(select(claimed.label("claimed"), *kept.c).select_from(one.outerjoin(kept, literal_column("true"))))


def _keep_statement() -> Statement:
    """Return the statement that keeps an answer, in the place of an expired one; no row when one is kept already."""
    table = table_of(IdempotencyKey)
    adding = insert(table).values(
        user_id=bindparam("user_id", type_=BigInteger),
        key=bindparam("key", type_=String),
        fingerprint=bindparam("fingerprint", type_=LargeBinary),
        scopes=bindparam("scopes", type_=ARRAY(Text)),
        status=bindparam("status", type_=SmallInteger),
        headers=bindparam("headers", type_=JSONB),
        body=bindparam("body", type_=LargeBinary),
        expires_at=func.now() + literal_column(f"interval '{HOURS_KEPT} hours'"),
    )
    new = {column.name: adding.excluded[column.name] for column in table.c if not column.primary_key}
    keys = list(table.primary_key.columns)
    replacing = adding.on_conflict_do_update(index_elements=keys, set_=new, where=table.c.expires_at <= func.now())
    return prepare(replacing.returning(table.c.status))


_CLAIM = _claim_statement()
_KEEP = _keep_statement()
