"""Places of a resource that a server process shares among its callers."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.utils.exceptions import CallerBusy, ServiceUnavailable
from app.utils.request_context import current_user_id


class SharedPlaces:
    """A number of places, of which the requests of one user never hold more than a share.

    By default the share is all but the last place, or the only one. Requests that are not authorised and work outside
    of requests have no share.
    """

    def __init__(self, count: int, busy: type[ServiceUnavailable], share: int | None = None) -> None:
        self._free = count
        self._busy = busy
        self._share = max(1, count - 1) if share is None else share
        self._held = Counter[int]()  # by the id of the user

    @property
    def free(self) -> int:
        """The number of free places."""
        return self._free

    def take(self, user: int | None, number: int = 1) -> None:
        """Take places for a user.

        Raises `CallerBusy` beyond the share of the user, and the error `busy` if fewer places are free.
        """
        if user is not None and self._held[user] + number > self._share:
            raise CallerBusy
        if number > self._free:
            raise self._busy
        self._free -= number
        if user is not None:
            self._held[user] += number

    def give_back(self, user: int | None, number: int = 1) -> None:
        """Give back places that `take` took for the user."""
        self._free += number
        if user is not None:
            self._held[user] -= number
            if not self._held[user]:
                del self._held[user]

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for the user of the current request. Raises the errors of `take`."""
        user = current_user_id()
        self.take(user)
        try:
            yield
        finally:
            self.give_back(user)
