"""Places of a resource that a server process shares among its callers."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.utils.exceptions import CallerBusy, ServiceUnavailable
from app.utils.request_context import current_user_id


class SharedPlaces:
    """A number of places, of which the requests of one user, or of one address, never hold more than a share.

    By default the share is all but the last place, or the only one. Requests of which neither is given, and work
    outside of requests, have no share.
    """

    def __init__(self, count: int, busy: type[ServiceUnavailable], share: int | None = None) -> None:
        self._free = count
        self._busy = busy
        self._share = max(1, count - 1) if share is None else share
        self._held = Counter[int | str]()  # by the id of the user, or the address

    @property
    def free(self) -> int:
        """The number of free places."""
        return self._free

    def take(self, holder: int | str | None, number: int = 1) -> None:
        """Take places for a user, by id, or for an address.

        Raises `CallerBusy` beyond the share of a user, and the error `busy` beyond the share of an address, or if fewer
        places are free.
        """
        if holder is not None and self._held[holder] + number > self._share:
            raise self._busy if isinstance(holder, str) else CallerBusy
        if number > self._free:
            raise self._busy
        self._free -= number
        if holder is not None:
            self._held[holder] += number

    def give_back(self, holder: int | str | None, number: int = 1) -> None:
        """Give back places that `take` took for the user or the address."""
        self._free += number
        if holder is not None:
            self._held[holder] -= number
            if not self._held[holder]:
                del self._held[holder]

    @contextmanager
    def place(self, address: str | None = None) -> Iterator[None]:
        """Hold a place for the user of the current request, else for the address. Raises the errors of `take`."""
        user = current_user_id()
        holder = address if user is None else user
        self.take(holder)
        try:
            yield
        finally:
            self.give_back(holder)
