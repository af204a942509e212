"""How many faults of a batch or a file are told: all of a hostile one would make an answer larger than the request."""

from collections.abc import Sized

from app.utils.validation import MAX_FAULTS

MAX_TOTAL_FAULTS = 1000


class FaultBudget:
    """What the items of a batch, or the rows of a file, share.

    One of them tells as many faults as a request of its own would, and when the budget is spent its first one only:
    none counts as good. `cut` tells whether there are more.
    """

    def __init__(self) -> None:
        self._left = MAX_TOTAL_FAULTS
        self.cut = False

    def allows(self, faults: Sized) -> bool:
        """Return whether one that has these faults may have one more, and count that."""
        count = len(faults)
        if count >= MAX_FAULTS or (count and self._left <= 0):
            self.cut = True
            return False
        self._left -= 1
        return True
