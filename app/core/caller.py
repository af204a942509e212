"""The caller of a request."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from app.core.permissions import AccessLevel, Scope, readable_collections, scopes_of
from app.utils.exceptions import Forbidden
from app.utils.fault_codes import text_of
from app.utils.wording import named


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request, with the fields that the history records.

    Without an `id` the caller is the register itself, which creates the first administrator.
    """

    id: int | None
    name: str | None
    access_level: AccessLevel
    scopes: frozenset[Scope]
    # None for an API token: only a sign-in has a session.
    session_id: int | None = None
    expires_at: float = float("inf")
    request_id: str | None = None
    message: str | None = None

    @property
    def user_id(self) -> int:
        """The id of the caller, who must be a user."""
        assert self.id is not None
        return self.id

    def signature(self) -> dict[str, Any]:
        """Return the fields of the caller that the history records, as the parameters of a statement."""
        return {
            "caller_id": self.id,
            "caller_name": self.name,
            "request_id": self.request_id,
            "message": self.message,
        }

    @property
    def readable(self) -> frozenset[str]:
        """The names of the collections that the caller may read."""
        return readable_collections(self.scopes)

    def require(self, *scopes: Scope) -> None:
        """Raise `Forbidden` unless the caller has the scopes.

        The error names all missing scopes; if the access level lacks some of them, only those.
        """
        missing = set(scopes) - self.scopes
        if missing:
            beyond_level = missing - scopes_of(self.access_level)
            names = sorted(beyond_level or missing)
            key = "forbidden" if beyond_level else "forbidden:token"
            raise Forbidden(text_of(key, level=self.access_level, scopes=named("scope", names)), scopes=names)


SYSTEM_CALLER = Caller(None, None, "admin", scopes_of("admin"))


async def get_caller(request: Request) -> Caller:
    """Return the caller, authorised by the route before it reads anything else of the request."""
    caller: Caller = request.state.caller
    return caller


CallerDep = Annotated[Caller, Depends(get_caller)]
