"""Who is calling, and whether they may."""

import base64
import ipaddress
import time
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any

from cachetools import TLRUCache
from fastapi import Depends, Request
from sqlalchemy import Executable, text
from sqlalchemy.exc import DBAPIError

from app.core.database import Database, RegisterSession
from app.core.database_errors import NO_TABLE, sqlstate_of
from app.core.permissions import ADMIN_SESSION, PUBLIC, SCOPES, SESSION, AccessLevel, Scope, scopes_of
from app.core.tokens import API_TOKEN, Tokens, is_well_formed
from app.utils.exceptions import (
    BEARER,
    ConnectionLost,
    DatabaseReadOnly,
    Fault,
    Forbidden,
    InvalidContent,
    OutcomeUnknown,
    Unauthorized,
)

CHANGE_MESSAGE = "X-Change-Message"
LONGEST_MESSAGE = 500

_BASIC = 'Basic realm="process-register", charset="UTF-8"'
REFUSED = f'{BEARER}, error="invalid_token"'
_MOST_CACHED = 10_000
# Unicode's control characters, surrogates and separators of lines and paragraphs.
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})
UNKNOWN_ADDRESS = "unknown"

# The first administrator is the one user whom nobody created.
_FIRST_ADMINISTRATOR = text("SELECT id, name FROM users WHERE created_by_id IS NULL ORDER BY id LIMIT 1")
_BY_SESSION = text(
    """
    SELECT u.id, u.name, u.access_level, s.scopes, s.id AS session_id
      FROM sessions s JOIN users u ON u.id = s.user_id
     WHERE s.id = :session_id AND u.id = :user_id AND s.expires_at > now() AND u.is_active
    """
)
_LOOK_UP = """
        SELECT u.id, u.name, u.access_level, t.scopes, t.id AS token_id,
               extract(epoch FROM t.expires_at)::float8 AS expires_at,
               t.last_used_at IS NULL OR t.last_used_at < now() - interval '1 minute'
                   OR t.token_hash <> :current_hash AS is_stale
          FROM api_tokens t JOIN users u ON u.id = t.user_id
         WHERE t.token_hash = ANY(:hashes) AND t.expires_at > now() AND u.is_active
"""
_BY_API_TOKEN_UNTOUCHED = text(_LOOK_UP)
# That it was used is written in the same statement, at most once a minute.
_BY_API_TOKEN = text(
    f"""
        WITH found AS ({_LOOK_UP}
        ), used AS (
            UPDATE api_tokens t SET last_used_at = now(), token_hash = :current_hash
              FROM found WHERE t.id = found.token_id AND found.is_stale
               -- Of several at once one writes: the others wait for it, and look again.
               AND (t.last_used_at IS NULL OR t.last_used_at < now() - interval '1 minute'
                    OR t.token_hash <> :current_hash)
        )
        SELECT id, name, access_level, scopes, expires_at FROM found
    """  # noqa: S608 - made of our own text
)


_END_SESSIONS = text("DELETE FROM sessions WHERE user_id = ANY(:user_ids)")


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request is made, and what the history tells of it.

    Without an `id` it is the register itself, when it makes the first administrator.
    """

    id: int | None
    name: str | None
    access_level: AccessLevel
    scopes: frozenset[Scope]
    # Only when the user signed in, not with an API token.
    session_id: int | None = None
    expires_at: float = float("inf")
    request_id: str | None = None
    message: str | None = None

    @property
    def user_id(self) -> int:
        """The id of a caller who is a user."""
        assert self.id is not None
        return self.id

    def signature(self) -> dict[str, Any]:
        """Return what the history keeps of the caller, as the parameters of a statement."""
        return {
            "caller_id": self.id,
            "caller_name": self.name,
            "request_id": self.request_id,
            "message": self.message,
        }

    def demand(self, scope: Scope) -> None:
        """Raise `Forbidden` unless the caller has the scope."""
        if scope not in self.scopes:
            if scope not in scopes_of(self.access_level):
                detail = f"The access level {self.access_level} does not include the scope {scope}."
            else:
                detail = f"This token was not given the scope {scope}."
            raise Forbidden(detail, scope=scope)


REGISTER = Caller(None, None, "admin", scopes_of("admin"))


async def first_administrator(session: RegisterSession) -> Caller | None:
    """Return the first administrator, on whose behalf the command line acts; None before one is made, or the schema."""
    try:
        row = (await session.execute(_FIRST_ADMINISTRATOR)).one_or_none()
    except DBAPIError as error:
        if sqlstate_of(error) != NO_TABLE:
            raise
        return None
    return None if row is None else Caller(row.id, row.name, "admin", scopes_of("admin"))


class Authenticator:
    """Finds out who is calling. What it found it remembers for `cache_seconds`, which are at most one."""

    def __init__(self, database: Database, tokens: Tokens, cache_seconds: float) -> None:
        self._database = database
        self._tokens = tokens
        # With the instant at which we asked: what the answer took belongs to the second, too.
        self._known: TLRUCache[str, tuple[Caller, float]] = TLRUCache(
            _MOST_CACHED, lambda _token, known, _now: known[1] + cache_seconds, time.monotonic
        )

    async def authorise(self, request: Request, permission: str) -> None:
        """Make the request its caller's, or raise `Unauthorized` or `Forbidden`.

        Raises `InvalidContent` for a change message that can't be kept.
        """
        if permission == PUBLIC:
            return
        known = await self._identify(_bearer(request))
        request.state.caller_id = known.id
        if permission in {SESSION, ADMIN_SESSION} and known.session_id is None:
            raise Forbidden("Credentials are managed by a user who signed in, not by an API token.", scope=SESSION)
        if permission == ADMIN_SESSION:
            known.demand("admin")
        elif permission in SCOPES:
            known.demand(permission)
        # Reading changes nothing, so that there is nothing to be said of it.
        message = None if request.method == "GET" else _message(request.headers.getlist(CHANGE_MESSAGE))
        request.state.caller = replace(known, request_id=request.state.request_id, message=message)

    async def admit(self, request: Request) -> None:
        """Let only administrators see a page that browsers open, which ask for a name and a password.

        The password is an API token with the scope `operations:read`: it can be revoked, and takes no time to check.
        One without it is refused as any other, so that the browser asks again.
        """
        token = _password_of_basic(request) or _bearer(request, _BASIC)
        if "operations:read" not in (await self._identify(token, _BASIC)).scopes:
            raise Unauthorized("The token was not given the scope operations:read.", challenge=_BASIC)

    async def _identify(self, token: str, challenge: str = REFUSED) -> Caller:
        known = self._known.get(token)
        if known is None:
            asked_at = time.monotonic()
            found = await self._find(token)
            if found is None:
                raise Unauthorized("The token is not valid, or not any more.", challenge=challenge)
            known = self._known[token] = found, asked_at
        caller, _ = known
        if caller.expires_at <= time.time():
            raise Unauthorized("The token has expired.", challenge=challenge)
        return caller

    async def _find(self, token: str) -> Caller | None:
        if token.startswith(API_TOKEN):
            return await self._find_api_token(token)
        said = self._tokens.read_access_token(token)
        if said is None:
            return None
        row = await self._row(_BY_SESSION, session_id=said.session_id, user_id=said.user_id)
        if row is None:
            return None
        scopes = _narrowed(row.access_level, row.scopes)
        return Caller(row.id, row.name, row.access_level, scopes, row.session_id, said.expires_at)

    async def _find_api_token(self, token: str) -> Caller | None:
        if not is_well_formed(API_TOKEN, token):
            return None
        hashes = self._tokens.api_token_hashes(token)
        values = {"hashes": hashes, "current_hash": hashes[0]}
        try:
            row = await self._row(_BY_API_TOKEN, **values)
        except DatabaseReadOnly:
            row = await self._row(_BY_API_TOKEN_UNTOUCHED, **values)
        if row is None:
            return None
        scopes = _narrowed(row.access_level, row.scopes)
        return Caller(row.id, row.name, row.access_level, scopes, expires_at=row.expires_at)

    async def _row(self, statement: Executable, **values: Any) -> Any:
        """Return the only row of a statement in a transaction of its own, or None: the request has no session yet."""
        try:
            async with self._database.transaction() as session:
                return (await session.execute(statement, values)).one_or_none()
        except OutcomeUnknown as error:
            raise ConnectionLost from error  # the use of a token is at most written once more


async def authorise(request: Request, permission: str) -> None:
    """Make the request its caller's; every route asks this first, or what `app.dependency_overrides` has in its place.

    Raises `Unauthorized`, `Forbidden` and `InvalidContent`; see `Authenticator.authorise`.
    """
    authenticator: Authenticator = request.app.state.authenticator
    await authenticator.authorise(request, permission)


async def end_sessions(session: RegisterSession, *user_ids: int) -> None:
    """Sign users out everywhere."""
    await session.execute(_END_SESSIONS, {"user_ids": list(user_ids)})


def _narrowed(level: AccessLevel, scopes: list[Scope] | None) -> frozenset[Scope]:
    return scopes_of(level) if scopes is None else scopes_of(level) & frozenset(scopes)


def _bearer(request: Request, challenge: str = BEARER) -> str:
    given = request.headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("Send a token: `Authorization: Bearer …`.", challenge=challenge)
    return token.strip()


def _password_of_basic(request: Request) -> str | None:
    """Return the password of HTTP's basic authentication (RFC 7617)."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except ValueError:  # not ASCII, not Base64, or not UTF-8 in it
        return None


def _message(given: list[str]) -> str | None:
    """Return what the header says of a change; UTF-8, which Starlette reads as Latin-1.

    Raises `InvalidContent` when it is too long, has control characters, or stands there twice.
    """
    if not given:
        return None
    header = given[0]
    with suppress(UnicodeDecodeError):  # then it was Latin-1 after all
        header = header.encode("latin-1").decode()
    message = unicodedata.normalize("NFC", header.strip())
    is_text = all(unicodedata.category(character) not in _CONTROL for character in message)
    if len(given) > 1 or len(message) > LONGEST_MESSAGE or not is_text:
        detail = f"A change message is one line of at most {LONGEST_MESSAGE} characters."
        raise InvalidContent(detail, errors=[Fault(f"/{CHANGE_MESSAGE}", "change_message", detail, "header")])
    return message or None


def client_address(request: Request) -> str:
    """Return the address of the client, of IPv6 its /64 network: a single customer has all of that."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return UNKNOWN_ADDRESS
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:  # a socket for both kinds; all of IPv4 is in one /64
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


async def get_caller(request: Request) -> Caller:
    """Return the caller, whom the route has authorised before it read anything else of the request."""
    caller: Caller = request.state.caller
    return caller


CallerDep = Annotated[Caller, Depends(get_caller)]
