"""Authenticates callers and authorises their requests."""

import base64
import ipaddress
import math
import time
import unicodedata
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace

from cachetools import LRUCache
from fastapi import Request

from app.core.caller import Caller
from app.core.permissions import ADMIN_SESSION, PUBLIC, SCOPES, SESSION
from app.utils.exceptions import (
    BEARER,
    INVALID_TOKEN,
    Fault,
    Forbidden,
    InvalidContent,
    Unauthorized,
)
from app.utils.fault_codes import text_of
from app.utils.text.invisible import trimmed
from app.utils.text.normalisation import MAX_COMBINING_MARKS, TextTooLongError, TooManyMarksError, to_nfc
from app.utils.wording import counted

CHANGE_MESSAGE = "X-Change-Message"
MAX_MESSAGE_LENGTH = 500

_BASIC = 'Basic realm="process-register", charset="UTF-8"'
_MAX_CACHED_CALLERS = 10_000
# Unicode's control characters, surrogates, and line and paragraph separators.
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})
# The permissions with which credentials are managed.
_CREDENTIALS = frozenset({"admin", SESSION, ADMIN_SESSION})
UNKNOWN_ADDRESS = "unknown"


# Returns the caller of a token, or None if the token is invalid, expired or revoked.
FindCaller = Callable[[str], Awaitable[Caller | None]]
# Returns the user of an access token by its signature alone, or None for any other token.
ReadUser = Callable[[str], int | None]


class Authenticator:
    """Authorises requests, and caches the results of `find` for `cache_seconds`, at most one second.

    Requests that manage credentials do not use cached results. A transaction of this process that changes what a user
    may do ends the caching of the user's callers (`forget_users`).
    """

    def __init__(self, find: FindCaller, read_user: ReadUser, cache_seconds: float) -> None:
        self._find = find
        self._read_user = read_user
        self._cache_seconds = cache_seconds
        # The callers of the tokens that were valid when they were last looked up, with the instant at which the look-up
        # began: its duration counts towards `cache_seconds`.
        self._callers: LRUCache[str, tuple[Caller, float]] = LRUCache(_MAX_CACHED_CALLERS)
        # The number of calls of `forget_users`.
        self._changes = 0

    async def authorise(self, request: Request, permission: str) -> None:
        """Set the request's caller, or raise `Unauthorized` or `Forbidden`.

        Raises `InvalidContent` for an invalid change message.
        """
        if permission == PUBLIC:
            return
        caller = await self._identify(_bearer(request), use_cache=permission not in _CREDENTIALS)
        request.state.caller_id = caller.id
        if permission in {SESSION, ADMIN_SESSION} and caller.session_id is None:
            raise Forbidden("API tokens cannot manage credentials. Sign in as a user.", scopes=[SESSION])
        if permission == ADMIN_SESSION:
            caller.require("admin")
        elif permission in SCOPES:
            caller.require(permission)
        # A read has no change message, because it changes nothing.
        message = None if request.method == "GET" else _message(request.headers.getlist(CHANGE_MESSAGE))
        request.state.caller = replace(caller, request_id=request.state.request_id, message=message)

    def known_user(self, token: str) -> int | None:
        """Return the user of a token that was valid at its last look-up and has not expired, without another look-up.

        The signature is sufficient for an access token that was not looked up yet. None for other tokens.
        """
        entry = self._callers.get(token)
        if entry is None:
            return self._read_user(token)
        return None if entry[0].expires_at <= time.time() else entry[0].id

    def forget(self, token: str) -> None:
        """Have the caller of a token looked up again."""
        entry = self._callers.get(token)
        if entry is not None:
            self._callers[token] = entry[0], -math.inf

    def forget_users(self, user_ids: AbstractSet[int]) -> None:
        """Remove all callers of these users from the cache, also those that are being looked up."""
        self._changes += 1
        for token in [token for token, (caller, _) in self._callers.items() if caller.id in user_ids]:
            del self._callers[token]

    async def admit(self, request: Request) -> None:
        """Raise `Unauthorized` unless an administrator opens a page in a browser.

        The browser prompts for a name and a password. The password is an API token with the scope `operations:read`,
        which can be revoked and is fast to check. A token without the scope also raises `Unauthorized`, so that the
        browser prompts again.
        """
        token = _basic_password(request) or _bearer(request, _BASIC)
        caller = await self._identify(token, _BASIC)
        request.state.caller_id = caller.id
        if "operations:read" not in caller.scopes:
            raise Unauthorized(text_of("forbidden:token", scopes="scope operations:read"), challenge=_BASIC)

    async def _identify(self, token: str, challenge: str = INVALID_TOKEN, *, use_cache: bool = True) -> Caller:
        entry, now = self._callers.get(token), time.monotonic()
        if use_cache and entry is not None and now < entry[1] + self._cache_seconds:
            caller = entry[0]
        else:
            caller = await self._look_up(token, now, challenge)
        if caller.expires_at <= time.time():
            raise Unauthorized("The token has expired.", challenge=challenge)
        return caller

    async def _look_up(self, token: str, now: float, challenge: str) -> Caller:
        changes = self._changes
        caller = await self._find(token)
        if caller is None:
            self._callers.pop(token, None)
            raise Unauthorized("The token is invalid, expired or revoked.", challenge=challenge)
        if changes == self._changes:  # otherwise the result may be older than the change of a user
            self._callers[token] = caller, now
        return caller


async def authorise(request: Request, permission: str) -> None:
    """Authorise a request; every route first calls this function, or its replacement in `app.dependency_overrides`.

    Raises `Unauthorized`, `Forbidden` and `InvalidContent`; see `Authenticator.authorise`.
    """
    authenticator: Authenticator = request.app.state.authenticator
    await authenticator.authorise(request, permission)


def forget_caller(request: Request) -> None:
    """Have the caller of a request looked up again by the next request with the same token."""
    authenticator: Authenticator = request.app.state.authenticator
    with suppress(Unauthorized):  # a replacement of `authorise` may need no token
        authenticator.forget(_bearer(request))


def sent_token(request: Request) -> str | None:
    """Return the token of a request, which may be invalid, or None if there is none."""
    try:
        return _basic_password(request) or _bearer(request)
    except Unauthorized:
        return None


def _bearer(request: Request, challenge: str = BEARER) -> str:
    headers = request.headers.getlist("authorization")
    scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("A token is required. Send it as `Authorization: Bearer …`.", challenge=challenge)
    return token.strip()


def _basic_password(request: Request) -> str | None:
    """Return the password of HTTP Basic authentication (RFC 7617)."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except ValueError:  # not ASCII, not Base64, or not Base64 of UTF-8
        return None


def _message(headers: list[str]) -> str | None:
    """Return the change message of the header, in UTF-8, which Starlette decodes as Latin-1.

    Raises `InvalidContent` if it is too long, has control characters or too many combining marks, or is repeated.
    """
    if not headers:
        return None
    header = headers[0]
    with suppress(UnicodeDecodeError):  # the client sent Latin-1
        header = header.encode("latin-1").decode()
    try:
        message = trimmed(to_nfc(header.strip(), MAX_MESSAGE_LENGTH))
    except TextTooLongError as error:
        raise _message_error("change_message") from error
    except TooManyMarksError as error:
        raise _message_error("too_many_combining_marks") from error
    is_text = all(unicodedata.category(character) not in _CONTROL for character in message)
    if len(headers) > 1 or len(message) > MAX_MESSAGE_LENGTH or not is_text:
        raise _message_error("change_message")
    return message or None


def _message_error(key: str) -> InvalidContent:
    characters = counted(MAX_MESSAGE_LENGTH, "character")
    fault = Fault.of(f"/{CHANGE_MESSAGE}", key, source="header", characters=characters, marks=MAX_COMBINING_MARKS)
    return InvalidContent(fault.detail, errors=[fault])


def client_address(request: Request) -> str:
    """Return the address of the client; for IPv6 its /64 network, all of which belongs to a single customer."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return UNKNOWN_ADDRESS
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:  # of a dual-stack socket; all of IPv4 is in one /64
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
