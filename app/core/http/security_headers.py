"""What browsers are told to refuse, and what nobody may keep."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# For answers that are no pages; a page brings a policy of its own.
_POLICY, _NO_PAGE = b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"
_ALWAYS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
_ALWAYS_BUT_FOR_PAGES = [*_ALWAYS, (_POLICY, _NO_PAGE)]
_TWO_YEARS = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")
# Tokens stand there, and in every object the names of those who made and changed it.
_NO_STORE = (b"cache-control", b"no-store")
_API = "/api/"


class SecurityHeadersMiddleware:
    """Adds the headers that every answer has, unless it brings its own (OWASP Secure Headers Project)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                has_policy = any(name == _POLICY for name, _ in headers)
                headers += _ALWAYS if has_policy else _ALWAYS_BUT_FOR_PAGES
                if scope["scheme"] == "https":
                    headers.append(_TWO_YEARS)
                if scope["path"].startswith(_API):
                    headers.append(_NO_STORE)
            await send(message)

        await self._app(scope, receive, send_with_headers)
