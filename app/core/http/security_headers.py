"""The headers of all responses: security, the ban on storing those of the API, and the end of connections at a stop."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.readiness import Readiness

# For responses other than pages; a page sets its own policy.
_POLICY, _STRICT_POLICY = b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
_HEADERS_WITH_POLICY = [*_HEADERS, (_POLICY, _STRICT_POLICY)]
_HSTS_TWO_YEARS = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")
# The API's responses contain tokens, and in every object the names of its author and last editor.
_NO_STORE = (b"cache-control", b"no-store")
_API = "/api/"
# While the service is stopping, a proxy must keep no idle connection, on which it could send a request at the end.
_CLOSE = (b"connection", b"close")


class SecurityHeadersMiddleware:
    """Adds the security headers to every response (OWASP Secure Headers Project); a page keeps its own policy.

    While the service is stopping, each response closes its connection.
    """

    def __init__(self, app: ASGIApp, readiness: Readiness) -> None:
        self._app = app
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                has_policy = any(name == _POLICY for name, _ in headers)
                headers += _HEADERS if has_policy else _HEADERS_WITH_POLICY
                if scope["scheme"] == "https":
                    headers.append(_HSTS_TWO_YEARS)
                if scope["path"].startswith(_API):
                    headers.append(_NO_STORE)
                if self._readiness.stopping:
                    headers.append(_CLOSE)
            await send(message)

        await self._app(scope, receive, send_with_headers)
