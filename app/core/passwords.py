"""Hashes passwords with Argon2id (RFC 9106), in a few threads outside the event loop."""

import asyncio
import os
import secrets
import sys
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from anyio import CapacityLimiter
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.core.places import SharedPlaces
from app.utils.exceptions import HashingBusy
from app.utils.password_strength import weakness_of

MIN_LENGTH = 12
MAX_LENGTH = 256

# Further hashes would be ready too late to be useful.
_MAX_WAITING = 100
_NICENESS = 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """The result of a password check; `new_hash` replaces a stored hash with weaker parameters."""

    is_valid: bool
    new_hash: str | None = None


class Passwords:
    """Hashes and checks with OWASP's parameters for Argon2id: 19 MiB, 2 passes, 1 lane.

    At most `concurrency` hashes are computed at the same time, which limits the use of memory and CPU. The calls that
    are computed or wait have `places`, at most half of them for one user, or one `address` of clients that are not
    signed in. Every method raises `HashingBusy` if no place is free and beyond the share of an address, and
    `CallerBusy` beyond the share of a user.
    """

    def __init__(self, concurrency: int) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._concurrency = concurrency
        places = concurrency + _MAX_WAITING
        self.places = SharedPlaces(places, HashingBusy, share=places // 2)

    async def hash(self, password: str, *, address: str | None = None) -> str:
        """Return the hash to store."""
        return await self._run_in_thread(lambda: self._hasher.hash(_normalise(password)), address)

    async def verify(self, stored_hash: str | None, password: str, *, address: str | None = None) -> PasswordCheck:
        """Check a password. Without a stored hash it is wrong, and the check takes the same time."""
        return await self._run_in_thread(lambda: self._verify(stored_hash, _normalise(password)), address)

    async def weakness(self, password: str, *personal: str | None, address: str | None = None) -> str | None:
        """Return `weakness_of` the password, computed in a thread because it takes milliseconds."""
        return await self._run_in_thread(lambda: weakness_of(_normalise(password), *personal), address)

    def _verify(self, stored_hash: str | None, password: str) -> PasswordCheck:
        # Computed in any case: otherwise the first check without a stored hash would take longer.
        dummy_hash = self._dummy_hash
        try:
            self._hasher.verify(stored_hash or dummy_hash, password)
        except (VerificationError, InvalidHashError):
            return PasswordCheck(is_valid=False)
        if stored_hash is None:
            return PasswordCheck(is_valid=False)
        new_hash = self._hasher.hash(password) if self._hasher.check_needs_rehash(stored_hash) else None
        return PasswordCheck(is_valid=True, new_hash=new_hash)

    @cached_property
    def _dummy_hash(self) -> str:
        return self._hasher.hash(secrets.token_urlsafe())

    @cached_property
    def _limiter(self) -> CapacityLimiter:
        return CapacityLimiter(self._concurrency)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._concurrency, "password", initializer=_lower_priority)

    async def _run_in_thread(self, work: Callable[[], T], address: str | None) -> T:
        with self.places.place(address):
            async with self._limiter:
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _lower_priority() -> None:
    """Lower the priority of this thread below that of the event loop, which serves all other requests."""
    if sys.platform == "linux":  # elsewhere only processes have a priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _normalise(password: str) -> str:
    # Keyboards encode the same letter differently (NIST SP 800-63B).
    return unicodedata.normalize("NFC", password)
