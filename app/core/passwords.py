"""Hashes passwords with Argon2id (RFC 9106), in a few threads outside the event loop."""

import asyncio
import os
import re
import secrets
import sys
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TypeVar

from anyio import CapacityLimiter
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.utils.exceptions import HashingBusy

MIN_LENGTH = 12
MAX_LENGTH = 256

# Further hashes would be ready too late to be useful.
_MAX_WAITING = 100
_NICENESS = 10
_OUTER_NON_LETTERS = re.compile(r"^[\W\d_]+|[\W\d_]+$")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """The result of a password check; `new_hash` replaces a stored hash with weaker parameters."""

    is_valid: bool
    new_hash: str | None = None


class Passwords:
    """Hashes and checks with OWASP's parameters for Argon2id: 19 MiB, 2 passes, 1 lane.

    At most `concurrency` hashes are computed at the same time, which limits the use of memory and CPU. Every method
    raises `HashingBusy` if too many calls wait already.
    """

    def __init__(self, concurrency: int) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._concurrency = concurrency

    async def hash(self, password: str) -> str:
        """Return the hash to store."""
        return await self._run_in_thread(lambda: self._hasher.hash(_normalise(password)))

    async def verify(self, stored_hash: str | None, password: str) -> PasswordCheck:
        """Check a password. Without a stored hash it is wrong, and the check takes the same time."""
        return await self._run_in_thread(lambda: self._verify(stored_hash, _normalise(password)))

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

    async def _run_in_thread(self, work: Callable[[], T]) -> T:
        if self._limiter.statistics().tasks_waiting >= _MAX_WAITING:
            raise HashingBusy
        async with self._limiter:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _lower_priority() -> None:
    """Lower the priority of this thread below that of the event loop, which serves all other requests."""
    if sys.platform == "linux":  # elsewhere only processes have a priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _normalise(password: str) -> str:
    # Keyboards encode the same letter differently (NIST SP 800-63B).
    return unicodedata.normalize("NFC", password)


def is_common(password: str, *user_words: str | None) -> bool:
    """Return whether a password is common, ignoring case.

    A password is common if it is in a list of common passwords, also with digits and punctuation around it; if it
    repeats a single character; or if it is one of `user_words`, such as name and e-mail address, also with digits and
    punctuation around it or without the domain of the address.
    """
    folded = password.casefold()
    core = _OUTER_NON_LETTERS.sub("", folded)
    if len(set(folded)) == 1 or not _common_passwords().isdisjoint({folded, core}):
        return True
    words = {part for word in user_words if word for part in (word.casefold(), word.casefold().partition("@")[0])}
    return folded in words or core in words


@cache
def _common_passwords() -> frozenset[str]:
    # Loaded at first use: the package's lists are large.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # noqa: PLC0415

    return frozenset(FREQUENCY_LISTS["passwords"])
