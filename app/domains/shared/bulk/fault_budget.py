"""The limit of reported faults: all faults of a hostile batch would make a response larger than the request."""

from collections.abc import Sized

from app.utils.validation import MAX_FAULTS

MAX_TOTAL_FAULTS = 1000


class FaultBudget:
    """The budget that the items of a batch, or the rows of a file, share.

    An item has at most as many faults as a single request. Once the budget is spent, only the first fault of each item
    is still reported, so that no faulty item looks valid. `is_truncated` is set when a fault is left out.
    """

    def __init__(self) -> None:
        self._left = MAX_TOTAL_FAULTS
        self.is_truncated = False

    @property
    def limit(self) -> int:
        """The number of faults that an item without faults may have."""
        return max(1, min(self._left, MAX_FAULTS))

    def is_spent(self, faults: Sized) -> bool:
        """Return whether an item with these faults may have no other one, which is then left out."""
        count = len(faults)
        is_spent = count >= MAX_FAULTS or (count > 0 and self._left <= 0)
        self.is_truncated |= is_spent
        return is_spent

    def allows(self, faults: Sized) -> bool:
        """Return whether an item with these faults may have one more, and count it."""
        if self.is_spent(faults):
            return False
        self._left -= 1
        return True
