"""The request that the current task handles."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

# The state of the request (`scope["state"]`), which `RequestMiddleware` sets; empty outside a request.
request_state: ContextVar[Mapping[str, Any]] = ContextVar("request_state", default={})  # noqa: B039 - never changed


def current_user_id() -> int | None:
    """Return the id of the user whose request the task handles; None outside a request, and before authorisation."""
    user: int | None = request_state.get().get("caller_id")
    return user
