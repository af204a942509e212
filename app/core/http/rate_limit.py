"""The limit of requests per caller, which each server process keeps in its memory."""

import math

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from throttled import MemoryStore, RateLimiterType, Throttled

from app.core.http.authorisation import Authenticator, client_address, sent_token
from app.utils.exceptions import RateLimited
from app.utils.problems import answer_with_problem

# Beyond it, the caller whose last request is the oldest is forgotten. A caller takes about 300 bytes.
MAX_CALLERS = 10_000
PROBES = frozenset({"/health", "/health/live", "/health/ready"})
METRICS = "/metrics"


class RateLimitMiddleware:
    """Rejects the requests of a caller beyond a rate, before anything of the request is read but its head.

    A caller is a user, with all tokens and sessions, or the address of a client without a valid token. An access token
    counts for its user by its signature, unless it was rejected, and an API token once a request with it was
    authenticated, so the guesses of a token count for the address. Probes and scrapes are not limited, except scrapes
    with unknown tokens.

    `rate` has the syntax of `RATE_LIMIT`. The generic cell rate algorithm (GCRA) keeps one number per caller.
    """

    def __init__(self, app: ASGIApp, rate: str, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator
        store = MemoryStore(options={"MAX_SIZE": MAX_CALLERS})
        self._limiter = Throttled(using=RateLimiterType.GCRA.value, quota=rate, store=store)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PROBES:
            request = Request(scope)
            error = self._error(request)
            if error is not None:
                await answer_with_problem(request, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _error(self, request: Request) -> RateLimited | None:
        token = sent_token(request)
        user = None if token is None else self._authenticator.known_user(token)
        if request.scope["path"] == METRICS and (token is None or user is not None):
            return None
        result = self._limiter.limit(f"address {client_address(request)}" if user is None else f"user {user}")
        if not result.limited:
            return None
        request.state.caller_id = user  # for the log
        return RateLimited(retry_after=max(1, math.ceil(result.state.retry_after)))
