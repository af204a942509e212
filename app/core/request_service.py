"""The base class of the services that handle requests."""

from typing import Self

from app.core.caller import Caller, CallerDep
from app.core.database import RegisterSession, SessionDep


class RequestService:
    """A service of one request, with the request's session and caller."""

    def __init__(self, session: RegisterSession, caller: Caller) -> None:
        self.session = session
        self.caller = caller

    @classmethod
    async def provide(cls, session: SessionDep, caller: CallerDep) -> Self:
        """Create the service of a request. FastAPI would call a class as a dependency in a thread."""
        return cls(session, caller)
