"""What the services of requests have in common."""

from typing import Self

from app.core.database import Session, SessionDep
from app.core.security import Caller, CallerDep


class RequestService:
    """A service of one request, with its session and its caller."""

    def __init__(self, session: Session, caller: Caller) -> None:
        self.session = session
        self.caller = caller

    @classmethod
    async def provide(cls, session: SessionDep, caller: CallerDep) -> Self:
        """Make the service; FastAPI would call the class itself in a thread, which costs more."""
        return cls(session, caller)
