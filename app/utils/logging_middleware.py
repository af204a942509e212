"""The middleware around every request: its id, its log line, its metrics, and the response to unhandled errors."""

import asyncio
import re
import secrets
import time

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.utils.exceptions import InternalError, OutcomeUnknown, ServiceUnavailable
from app.utils.metrics import Metrics
from app.utils.problems import problem_response
from app.utils.request_context import request_state

REQUEST_ID = "X-Request-ID"
_HEADER = REQUEST_ID.lower().encode()
_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# All-zero ids are invalid, and so is version ff.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
_UNMATCHED = "(unmatched)"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

logger = structlog.get_logger("app.request")


class RequestMiddleware:
    """Sets the id of each request, logs and measures the request, and responds to unhandled errors.

    Pure ASGI: BaseHTTPMiddleware would start a task group for each request and lose context variables.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        outer_state = request_state.set(state)
        structlog.contextvars.bind_contextvars(request_id=request_id, **_trace(scope))
        status = 0
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((_HEADER, request_id.encode()))
            await send(message)

        self._metrics.in_progress.inc()
        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if status:
                raise
            # The grace period of the shutdown is over: the server cancels the remaining requests.
            is_read = scope["method"] in {"GET", "HEAD", "OPTIONS"}
            problem = ServiceUnavailable("The service is stopping.") if is_read else OutcomeUnknown()
            self._metrics.errors.labels(type(problem).__name__).inc()
            logger.warning("aborted at shutdown", code=problem.code)
            await problem_response(problem, scope)(scope, receive, send_with_id)
        except Exception as error:
            self._metrics.errors.labels(type(error).__name__).inc()
            logger.exception("request failed", method=scope["method"], path=scope["path"])
            if status:
                raise  # the response has begun: the server must cut the connection
            # Starlette would raise the error again after its own response, and the server would drop the connection.
            response: Response = problem_response(InternalError(), scope)
            await response(scope, receive, send_with_id)
        finally:
            self._metrics.in_progress.dec()
            self._finish(scope, status, time.perf_counter() - started)
            structlog.contextvars.unbind_contextvars("request_id", "trace_id", "parent_id")
            request_state.reset(outer_state)

    def _finish(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        method = scope["method"] if scope["method"] in _METHODS else "(other)"
        self._metrics.observe(method, route, status, seconds)
        logger.info(
            "request",
            method=method,
            route=route,
            path=scope["path"],
            status=status,
            duration_ms=round(seconds * 1000, 2),
            caller=scope["state"].get("caller_id"),
            client=(scope.get("client") or (None,))[0],
            **({"replayed": True} if scope["state"].get("replayed") else {}),
        )


def _trace(scope: Scope) -> dict[str, str]:
    """Return the ids of the `traceparent` header (W3C Trace Context, level 1); empty if it is absent or invalid."""
    for name, value in scope["headers"]:
        if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
            return {"trace_id": match[1].decode(), "parent_id": match[2].decode()}
    return {}


def _request_id(scope: Scope) -> str:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == _HEADER and _VALID_ID.fullmatch(value):
            return value.decode()
    return secrets.token_hex(16)
