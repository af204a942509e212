"""What must hold of users: an administrator stays, and only administrators make and change administrators."""

from collections.abc import Iterator, Sequence

from sqlalchemy import exists, select

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.core.permissions import scopes_of
from app.domains.shared.rules import Rule, RuleViolation, Values, Write, missing_scope
from app.domains.user.models import User
from app.domains.user.sessions import end_sessions
from app.utils.exceptions import FirstAdministrator, LastAdministrator


class Administrators(Rule):
    """An active administrator is left, the first one is not deleted, and a caller grants no scope that the token lacks.

    Deactivated users are signed out everywhere.
    """

    watches = ("access_level", "is_active")
    applies_to_restores = True

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller)
        self._has_others = True

    def concerns(self, values: Values) -> bool:
        return values["access_level"] == "admin" and "admin" not in self.caller.scopes

    def lock(self, write: Write) -> str | None:
        # Two administrators who each leave at the same time would leave nobody, so one waits for the other.
        return "administrators" if _leaves(write) else None

    async def load(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        if any(_leaves(write) for write in writes):
            known = [write.id for write in writes if write.before is not None]
            others = exists().where(User.access_level == "admin", User.is_active, User.id.not_in(known))
            self._has_others = bool(await session.scalar(select(others)))

    def check(self, write: Write) -> Iterator[RuleViolation]:
        before, after = write.before, write.after
        if after is None:
            assert before is not None
            if before["created_by_id"] is None:
                detail = "The first administrator cannot be deleted: the command line acts on its behalf."
                yield RuleViolation(FirstAdministrator, detail)
            if before["access_level"] == "admin":
                yield from missing_scope(self.caller, "admin")
        elif before is None:
            if after["access_level"] == "admin":
                yield from missing_scope(self.caller, "admin", "/access_level")
        else:
            if "admin" in {before["access_level"], after["access_level"]}:
                yield from missing_scope(self.caller, "admin")
            if write.changes("access_level"):
                # A caller grants no scope that the token lacks.
                for scope in sorted(scopes_of(after["access_level"])):
                    yield from missing_scope(self.caller, scope, "/access_level")

    def check_together(self, writes: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:
        # Of several writes of one user the others were refused.
        results = {write.id: write.result for write in sorted(writes, key=lambda write: not write.is_rejected)}
        if not self._has_others and not any(map(_is_administrator, results.values())):
            # Of several who leave together the last one stays.
            last = [write for write in writes if _leaves(write) and not write.is_rejected][-1]
            after = last.after
            pointer = "" if after is None else "/access_level" if after["is_active"] else "/is_active"
            yield last, RuleViolation(LastAdministrator, "This is the last active administrator.", pointer)

    async def apply(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        ended = [
            write.id
            for write in writes
            if write.id is not None and write.changes("is_active") and write.after is not None
            if not write.after["is_active"]
        ]
        if ended:
            # They would be refused anyhow, but must not come back to life with the user.
            await end_sessions(session, *ended)


def _is_administrator(values: Values | None) -> bool:
    return values is not None and values["access_level"] == "admin" and values["is_active"]


def _leaves(write: Write) -> bool:
    """Return whether a write takes an active administrator away."""
    return _is_administrator(write.before) and not _is_administrator(write.after)
