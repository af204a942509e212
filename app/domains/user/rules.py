"""Rules of users: at least one active administrator, managed only by administrators; no cycle of managers."""

from collections.abc import Iterator, Sequence

from sqlalchemy import exists, select

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.core.permissions import LEVELS, AccessLevel, Scope, scopes_of
from app.domains.shared.rules import Rule, RuleViolation, Values, Write, missing_scopes
from app.domains.shared.trees import NoCycle
from app.domains.user.models import User
from app.domains.user.sessions import end_sessions
from app.utils.exceptions import FirstAdministrator, LastAdministrator


class Administrators(Rule):
    """Keeps an active administrator and the first administrator, and limits grants to the scopes of the token.

    Deactivation ends all sessions of the user.
    """

    watches = ("access_level", "is_active")
    applies_to_restores = True

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller)
        self._has_other_administrators = True
        self._writes: Sequence[Write] = ()

    def concerns(self, values: Values) -> bool:
        return values["access_level"] == "admin" and "admin" not in self.caller.scopes

    def concerns_new(self, values: Values) -> bool:
        return not self.caller.scopes >= _scopes_to_grant(values["access_level"])

    def lock(self, write: Write) -> str | None:
        # Two concurrent removals could leave no administrator, so an advisory lock serialises them. Waiting for that
        # lock while holding the row lock would deadlock with a concurrent update; `Rule.lock` explains the lock order.
        return "administrators" if _removes_administrator(write) else None

    async def load(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        self._writes = writes
        if any(_removes_administrator(write) for write in writes):
            ids = [write.id for write in writes if write.before is not None]
            query = exists().where(User.access_level == "admin", User.is_active, User.id.not_in(ids))
            self._has_other_administrators = bool(await session.scalar(select(query)))

    def check(self, write: Write) -> Iterator[RuleViolation]:
        if write.after is None and write.before is not None and write.before["created_by_id"] is None:
            yield RuleViolation(FirstAdministrator, FirstAdministrator.text)
        scopes = _required_scopes(write)
        for pointer in _granting_fields(write) or [""]:
            yield from missing_scopes(self.caller, scopes, pointer)

    def check_together(self, rejected: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:
        del rejected  # after the first violation there is an administrator, so that one more call finds none
        if self._has_other_administrators:
            return
        # At most one of several writes of the same user is not rejected; the sort puts it last.
        results = {write.id: write.result for write in sorted(self._writes, key=lambda write: not write.is_rejected)}
        if not any(map(_is_administrator, results.values())):
            # If several writes together remove all administrators, the last of these writes is rejected.
            last = [write for write in self._writes if _removes_administrator(write) and not write.is_rejected][-1]
            after = last.after
            pointer = "" if after is None else "/access_level" if after["is_active"] else "/is_active"
            yield last, RuleViolation(LastAdministrator, LastAdministrator.text, pointer)

    async def apply(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        changed = [write.id for write in writes if write.after is None or write.changes(*self.watches)]
        session.forget_callers(*filter(None, changed))
        deactivated = [
            write.id
            for write in writes
            if write.id is not None and write.changes("is_active") and write.after is not None
            if not write.after["is_active"]
        ]
        if deactivated:
            # Sessions of inactive users are invalid anyway, but reactivation must not revive them.
            await end_sessions(session, *deactivated)


def _granting_fields(write: Write) -> list[str]:
    """Return the pointers to the fields with which a write gives the user scopes."""
    if write.before is None:
        return ["/access_level"]
    is_activated = write.changes("is_active") and not write.before["is_active"]
    is_granted = {"/access_level": write.changes("access_level"), "/is_active": is_activated}
    return [pointer for pointer, granted in is_granted.items() if granted]


def _required_scopes(write: Write) -> frozenset[Scope]:
    """Return the scopes that a write requires: `admin` for an administrator, and those that it gives the user."""
    levels = [values["access_level"] for values in (write.before, write.after) if values is not None]
    scopes = _scopes_to_grant(levels[-1]) if _granting_fields(write) else frozenset()
    return scopes | ({"admin"} if "admin" in levels else frozenset())


def _scopes_to_grant(level: AccessLevel) -> frozenset[Scope]:
    """Return the scopes that are required to give a user an access level: those of the level, none for the lowest."""
    return frozenset() if level == LEVELS[0] else scopes_of(level)


class NoCycleOfManagers(NoCycle):
    """The rule that no user is, directly or through others, the own manager. Restores keep older cycles."""

    column = "manager_id"
    watches = ("manager_id",)
    applies_to_restores = False
    max_ancestors = 10_000


def _is_administrator(values: Values | None) -> bool:
    return values is not None and values["access_level"] == "admin" and values["is_active"]


def _removes_administrator(write: Write) -> bool:
    """Return whether a write removes an active administrator: by deletion, deactivation or demotion."""
    return _is_administrator(write.before) and not _is_administrator(write.after)
