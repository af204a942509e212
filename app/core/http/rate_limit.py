"""The limit of requests per caller, which each server process keeps in its memory."""

import math

from cachetools import LRUCache
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
# Scrapers send a few requests per minute. A response with the metrics of all routes takes the event loop about 20 ms.
METRICS_RATE = "1/second burst 10"


class RateLimitMiddleware:
    """Rejects the requests of a caller beyond a rate, before anything of the request is read but its head.

    A caller is a user, with all tokens and sessions, or the address of a client without a valid token. An access token
    counts for its user by its signature, and an API token once a request with it was authenticated; neither does after
    a request that was not authenticated. So guesses, and revoked tokens at public addresses, count for the address.
    Probes are not limited; scrapes have a separate limit, `METRICS_RATE`.

    `rate` has the syntax of `RATE_LIMIT`. The generic cell rate algorithm (GCRA) keeps one number per caller.
    """

    def __init__(self, app: ASGIApp, rate: str, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator
        self._limiter = _limiter(rate)
        self._metrics_limiter = _limiter(METRICS_RATE)
        # The tokens of known users whose last request was not authenticated: revoked, or not at a protected address.
        self._unconfirmed: LRUCache[str, None] = LRUCache(MAX_CALLERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        token = sent_token(request)
        user = None if token is None or token in self._unconfirmed else self._authenticator.known_user(token)
        error = self._error(request, user)
        if error is not None:
            await answer_with_problem(request, error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if token is not None:
                self._remember(token, user, is_authenticated=hasattr(request.state, "caller_id"))

    def _error(self, request: Request, user: int | None) -> RateLimited | None:
        limiter = self._metrics_limiter if request.scope["path"] == METRICS else self._limiter
        result = limiter.limit(f"address {client_address(request)}" if user is None else f"user {user}")
        if not result.limited:
            return None
        request.state.caller_id = user  # for the log
        return RateLimited(retry_after=max(1, math.ceil(result.state.retry_after)))

    def _remember(self, token: str, user: int | None, *, is_authenticated: bool) -> None:
        if is_authenticated:
            if user is None:
                self._unconfirmed.pop(token, None)
        elif user is not None:
            self._unconfirmed[token] = None


def _limiter(rate: str) -> Throttled:
    return Throttled(using=RateLimiterType.GCRA.value, quota=rate, store=MemoryStore(options={"MAX_SIZE": MAX_CALLERS}))
