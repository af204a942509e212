"""Middleware in front of the routes: head of the request, trusted hosts, HEAD, and the trailing slash."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.utils.exceptions import BadRequest, HeadersTooLarge, RegisterError
from app.utils.problems import problem_response

# A name of the DNS, a colon and a port. `urlsplit` keeps the last values.
_MAX_HOST_LENGTH = 253 + 6
_OPEN_TO_ANY_HOST = ("/health", "/metrics")
# The colon, the blank and the line end of a header.
_HEADER_OVERHEAD = 4
# The key of the error in the state of a request that the server's protocol rejects.
REJECTION = "rejection"
# The characters of a host and a port (RFC 3986, section 3.2.2).
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")


class RequestHeadMiddleware:
    """Rejects requests whose head is too large, or has not exactly one valid Host (RFC 9112, section 3.2).

    A WebSocket handshake is rejected, too: as an ordinary request it would get a response that its client cannot use.
    A request that the server's protocol could not parse gets the error of the protocol.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._fault(scope) if scope["type"] == "http" else None
        if error is not None:
            await problem_response(error, scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _fault(self, scope: Scope) -> RegisterError | None:
        if REJECTION in scope["state"]:
            return scope["state"][REJECTION]  # type: ignore[no-any-return]
        size = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
        hosts: list[bytes] = []
        upgrade = b""
        for name, value in scope["headers"]:
            size += len(name) + len(value) + _HEADER_OVERHEAD
            if name == b"host":
                hosts.append(value)
            elif name == b"upgrade":
                upgrade = value
        if size > self._limit:
            return HeadersTooLarge(f"The request line and the headers may have at most {self._limit:,} bytes.")
        if len(hosts) != 1 and (hosts or scope["http_version"] != "1.0"):
            return BadRequest("A request must have exactly one Host header.")
        if hosts and not _HOST.fullmatch(hosts[0]):
            return BadRequest("The Host header must be a host name or address, with or without a port.")
        if upgrade.lower() == b"websocket":
            return BadRequest("WebSocket is not supported.", headers={"Connection": "close"})
        return None


class TrustedHostsMiddleware:
    """Rejects requests for hosts that are not trusted; `*.example.com` matches every subdomain.

    Probes and scrapes use addresses instead of names, so their paths are exempt.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._parent_suffixes = tuple(host[1:] for host in self._hosts if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(_OPEN_TO_ANY_HOST) and not self._trusts(scope):
            error = BadRequest("This service does not serve that host name.")
            await problem_response(error, scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _trusts(self, scope: Scope) -> bool:
        sent = Headers(scope=scope).get("host", "")
        if len(sent) > _MAX_HOST_LENGTH:
            return False
        try:
            host = urlsplit(f"//{sent}").hostname or ""
        except ValueError:
            return False
        return host in self._hosts or host.endswith(self._parent_suffixes)


class HeadMiddleware:
    """Answers HEAD on every path with GET, with the same headers and no body (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope.setdefault("state", {})["head"] = True  # a handler may skip a costly body
        # A copy: the server, which must send no body, and the log read the method from the original scope.
        inner = {**scope, "method": "GET"}
        try:
            await self._app(inner, receive, send_without_body)
        finally:
            scope.update(route=inner.get("route"), path=inner["path"])


class TrailingSlashMiddleware:
    """Removes a trailing slash from the path; a redirect would make clients drop the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope["path"] = scope["path"][:-1]
        await self._app(scope, receive, send)
