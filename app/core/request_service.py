"""What the services of requests have in common."""

from typing import Self

from app.core.caller import Caller, CallerDep
from app.core.database import RegisterSession, SessionDep


class RequestService:
    """A service of one request, with its session and its caller."""

    def __init__(self, session: RegisterSession, caller: Caller) -> None:
        self.session = session
        self.caller = caller

    @classmethod
    async def provide(cls, session: SessionDep, caller: CallerDep) -> Self:
        """Make the service of a request. A class as a dependency would run in a thread."""
        return cls(session, caller)
