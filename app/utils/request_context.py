"""The request that the current task handles."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

# The state of the request (`scope["state"]`), which `RequestMiddleware` sets; empty outside a request.
request_state: ContextVar[Mapping[str, Any]] = ContextVar("request_state", default={})  # noqa: B039 - never changed
