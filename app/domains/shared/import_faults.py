"""How many faults of a file are told: an answer that lists all of a hostile one would be larger than the file."""

from collections.abc import Sized

MOST_FAULTS_OF_FILE = 1000
MOST_FAULTS_OF_ROW = 20


class FaultBudget:
    """What the rows of a file share. When it is spent, a row tells its first fault only: none counts as good."""

    def __init__(self) -> None:
        self._left = MOST_FAULTS_OF_FILE

    def allows(self, faults: Sized) -> bool:
        """Return whether a row that has these faults may have one more, and count that."""
        count = len(faults)
        if count >= MOST_FAULTS_OF_ROW or (count and self._left <= 0):
            return False
        self._left -= 1
        return True
