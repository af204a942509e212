"""Requests as different users."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request

from app.core.caller import Caller
from app.core.permissions import scopes_of
from app.utils.request_context import request_state


@contextmanager
def requests_of(user: int | None) -> Iterator[None]:
    """Run a block as the requests of a user."""
    state = request_state.set({} if user is None else {"caller_id": user})
    try:
        yield
    finally:
        request_state.reset(state)


async def as_user(request: Request, permission: str) -> None:  # noqa: ARG001 - as `authorise` is called
    """Authorise a request as the user whose id it names, without a look-up, which would need a connection, too."""
    request.state.caller_id = int(request.headers.get("X-User", "1"))
    request.state.caller = Caller(request.state.caller_id, "User", "admin", scopes_of("admin"))
