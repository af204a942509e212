"""Who is calling, and whether they may."""

import base64
import ipaddress
import time
import unicodedata
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from cachetools import TLRUCache
from fastapi import Request

from app.core.caller import Caller
from app.core.permissions import ADMIN_SESSION, PUBLIC, SCOPES, SESSION
from app.utils.exceptions import (
    BEARER,
    Fault,
    Forbidden,
    InvalidContent,
    Unauthorized,
)

CHANGE_MESSAGE = "X-Change-Message"
MAX_MESSAGE_LENGTH = 500

_BASIC = 'Basic realm="process-register", charset="UTF-8"'
REFUSED = f'{BEARER}, error="invalid_token"'
_MAX_CACHED_CALLERS = 10_000
# Unicode's control characters, surrogates and separators of lines and paragraphs.
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})
UNKNOWN_ADDRESS = "unknown"


# Returns the caller that a token stands for, or None when it stands for nobody (any more).
FindCaller = Callable[[str], Awaitable[Caller | None]]


class Authenticator:
    """Authorises requests. It remembers what `find` returned for `cache_seconds`, which are at most one."""

    def __init__(self, find: FindCaller, cache_seconds: float) -> None:
        self._find = find
        # With the instant at which we asked: what the answer took belongs to the second, too.
        self._known: TLRUCache[str, tuple[Caller, float]] = TLRUCache(
            _MAX_CACHED_CALLERS, lambda _token, known, _now: known[1] + cache_seconds, time.monotonic
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
            known.require("admin")
        elif permission in SCOPES:
            known.require(permission)
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


async def authorise(request: Request, permission: str) -> None:
    """Make the request its caller's; every route asks this first, or what `app.dependency_overrides` has in its place.

    Raises `Unauthorized`, `Forbidden` and `InvalidContent`; see `Authenticator.authorise`.
    """
    authenticator: Authenticator = request.app.state.authenticator
    await authenticator.authorise(request, permission)


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
    if len(given) > 1 or len(message) > MAX_MESSAGE_LENGTH or not is_text:
        detail = f"A change message is one line of at most {MAX_MESSAGE_LENGTH} characters."
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
