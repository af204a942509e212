"""Middleware in front of the routes: header limit, trusted hosts, HEAD, and the trailing slash."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.utils.exceptions import BadRequest, HeadersTooLarge
from app.utils.problems import problem_response

_OPEN_TO_ANY_HOST = ("/health", "/metrics")


class HeaderLimitMiddleware:
    """Rejects requests with too many header bytes, which take time to read line by line."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and sum(len(name) + len(value) for name, value in scope["headers"]) > self._limit:
            error = HeadersTooLarge(f"The headers may have at most {self._limit:,} bytes.")
            await problem_response(error, scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


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
        try:
            host = urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or ""
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
