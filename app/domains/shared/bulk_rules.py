"""What a collection has to say of a batch besides what holds for all of them."""

from collections.abc import Sequence

from app.core.database import RegisterSession
from app.core.permissions import Scope
from app.core.security import Caller
from app.domains.shared.bulk_items import Item


class BulkRules:
    """The rules of a collection that has none of its own. Each method is called once a batch, `check` repeatedly."""

    def __init__(self, session: RegisterSession, caller: Caller) -> None:
        self.session = session
        self.caller = caller
        # What the caller lacks for an item with the fault `forbidden`.
        self.missing_scope: Scope | None = None

    async def before_locking(self, items: Sequence[Item]) -> None:
        """Take the locks that come before those of the objects."""

    async def load(self, items: Sequence[Item]) -> None:
        """Read what `check` needs; the objects are locked, and the items were validated."""

    def check(self, items: Sequence[Item]) -> None:
        """Add a fault to each item that may not be written, as things are with the others."""

    async def before_writing(self, items: Sequence[Item]) -> None:
        """Do what goes with the writes; `items` are those that will be written."""
