"""What can be done with users."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, BigInteger, all_, bindparam, exists, literal_column, select

from app.core.permissions import Scope, scopes_of
from app.core.security import end_sessions
from app.domains.shared.bulk_items import Item
from app.domains.shared.bulk_rules import BulkRules
from app.domains.shared.documents import Document, Documents
from app.domains.shared.models import table_of
from app.domains.shared.service import CollectionService
from app.domains.shared.writes import Lock
from app.domains.user.models import User
from app.domains.user.schemas import UserRead, UserReplace
from app.utils.exceptions import Fault, FirstAdministrator, Forbidden, LastAdministrator

_FIRST_STAYS = "The first administrator cannot be deleted: the command line acts on its behalf."
_LAST_STAYS = "This is the last active administrator."
_ADMINISTRATORS_LOCK = "administrators"
_USERS = table_of(User)
_OTHER_ADMINISTRATORS = select(
    exists()
    .where(
        _USERS.c.access_level == literal_column("'admin'"),
        _USERS.c.is_active,
        _USERS.c.id != bindparam("key", type_=BigInteger),
    )
    .label("exist")
)


_ADMINISTRATORS_BESIDES = select(
    exists()
    .where(
        _USERS.c.access_level == literal_column("'admin'"),
        _USERS.c.is_active,
        _USERS.c.id != all_(bindparam("ids", type_=ARRAY(BigInteger))),
    )
    .label("exist")
)


class UserBulkRules(BulkRules):
    """What `UserService` asks of single writes, for many at once."""

    _is_locked = False
    _others = True

    async def before_locking(self, items: Sequence[Item]) -> None:
        if any(item.deletes for item in items):
            await self._lock_administrators()  # first, as in `UserService._lock`

    async def load(self, items: Sequence[Item]) -> None:
        if any(_was_administrator(item) and not _is_administrator(item) for item in items):
            await self._lock_administrators()
            ids = [item.id for item in items if item.current is not None]
            self._others = await self.session.scalar(_ADMINISTRATORS_BESIDES, {"ids": ids})

    def check(self, items: Sequence[Item]) -> None:
        for item in items:
            if item.deletes and item.current is not None:
                self._check_delete(item, item.current)
            elif item.body is not None:
                self._check_levels(item, item.body)
        self._keep_an_administrator(items)

    async def before_writing(self, items: Sequence[Item]) -> None:
        ended = [
            item.id
            for item in items
            if item.id is not None and item.updates and item.current is not None
            if item.current["is_active"] and not _field(item, "is_active")
        ]
        if ended:
            await end_sessions(self.session, *ended)

    def _check_delete(self, item: Item, current: Mapping[str, Any]) -> None:
        if current["created_by_id"] is None:
            item.refuse("", FirstAdministrator.code, _FIRST_STAYS)
        if current["access_level"] == "admin":
            self._demand(item, "admin", "")

    def _check_levels(self, item: Item, body: Any) -> None:
        if item.current is None:
            if body.access_level == "admin":
                self._demand(item, "admin", "/data/access_level")
            return
        if "admin" in {item.current["access_level"], body.access_level}:
            self._demand(item, "admin", "")
        if body.access_level != item.current["access_level"]:
            for scope in sorted(scopes_of(body.access_level)):
                self._demand(item, scope, "/data/access_level")

    def _demand(self, item: Item, scope: Scope, pointer: str) -> None:
        try:
            self.caller.demand(scope)
        except Forbidden as error:
            item.refuse(pointer, Forbidden.code, error.detail)
            self.missing_scope = self.missing_scope or scope

    def _keep_an_administrator(self, items: Sequence[Item]) -> None:
        stay = any(_is_administrator(item) if item.ok else _was_administrator(item) for item in items)
        if not self._others and not stay:
            # Of several who leave together the last one stays.
            last = [item for item in items if item.ok and _was_administrator(item)][-1]
            pointer = "" if last.deletes else "/data/access_level" if _field(last, "is_active") else "/data/is_active"
            last.refuse(pointer, LastAdministrator.code, _LAST_STAYS)

    async def _lock_administrators(self) -> None:
        if not self._is_locked:
            await self.session.lock(_ADMINISTRATORS_LOCK)
            self._is_locked = True


def _field(item: Item, name: str) -> Any:
    return getattr(item.body, name, None)


def _was_administrator(item: Item) -> bool:
    """Return whether an item is about somebody who is an active administrator so far."""
    return item.current is not None and item.current["access_level"] == "admin" and item.current["is_active"]


def _is_administrator(item: Item) -> bool:
    """Return whether an item leaves, or makes, an active administrator."""
    return not item.deletes and _field(item, "access_level") == "admin" and _field(item, "is_active")


class UserService(CollectionService):
    """Users: what they may do is for those who may do everything."""

    model = User
    documents = Documents(UserRead, User)
    schema = UserReplace
    bulk_rules = UserBulkRules
    guarded = ("access_level", "is_active")

    async def create(self, body: Any) -> Document:
        """Add a user, who can't sign in until there is a password.

        Raises what every collection raises, and `Forbidden` when a token without the scope `admin` makes an
        administrator.
        """
        if body.access_level == "admin":
            self.caller.demand("admin")
        return await super().create(body)

    async def replace(self, reference: str, body: Any, if_match: str | None) -> Document:
        if body.access_level == "admin":
            self.caller.demand("admin")
        return await super().replace(reference, body, if_match)

    async def _lock(self, reference: str, if_match: str | None, lock: Lock = "change") -> dict[str, Any]:
        current = await super()._lock(reference, if_match, lock)
        if lock == "delete" and current["access_level"] == "admin":
            # Whom nobody may refer to any more is waited for by one who changes another administrator at the same
            # time, and has the administrators' lock: this one must come first.
            await self.session.undo()
            await self._lock_administrators()
            current = await super()._lock(reference, if_match, lock)
        return current

    def _authorise(self, current: dict[str, Any], body: Any) -> None:
        if "admin" in {current["access_level"], body.access_level}:
            self.caller.demand("admin")
        if body.access_level != current["access_level"]:
            # Nobody gives to others what the own token was not given.
            for scope in sorted(scopes_of(body.access_level)):
                self.caller.demand(scope)

    async def _before_update(self, current: dict[str, Any], body: Any) -> None:
        if not (body.access_level == "admin" and body.is_active):
            await self._keep_an_administrator(current, "/access_level" if body.is_active else "/is_active")
        if current["is_active"] and not body.is_active:
            # They would be refused anyhow, but must not come back to life with the user.
            await end_sessions(self.session, current["id"])

    async def _delete(self, current: dict[str, Any]) -> None:
        # Nothing may refer to it yet, and the command line acts on its behalf.
        if current["created_by_id"] is None:
            raise FirstAdministrator(_FIRST_STAYS)
        if current["access_level"] == "admin":
            self.caller.demand("admin")
        await self._keep_an_administrator(current, "")
        await super()._delete(current)

    async def _keep_an_administrator(self, current: dict[str, Any], pointer: str) -> None:
        """Raise `LastAdministrator` when without this user no active administrator would be left."""
        if not (current["access_level"] == "admin" and current["is_active"]):
            return
        # Two who each leave one another would leave nobody, so one waits; the check is a statement of its own, to see
        # what the other has committed meanwhile.
        await self._lock_administrators()
        if not await self.session.scalar(_OTHER_ADMINISTRATORS, {"key": current["id"]}):
            faults = [Fault(pointer, LastAdministrator.code, _LAST_STAYS)] if pointer else []
            raise LastAdministrator(_LAST_STAYS, errors=faults)

    async def _lock_administrators(self) -> None:
        await self.session.lock(_ADMINISTRATORS_LOCK)
