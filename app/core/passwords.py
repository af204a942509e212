"""Passwords: hashed by Argon2id (RFC 9106), away from the event loop, a few at a time."""

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

# Hashes that wait longer than this many others would be answered too late to be of use.
_MAX_WAITING = 100
_NICENESS = 10
_NOT_LETTERS_AROUND = re.compile(r"^[\W\d_]+|[\W\d_]+$")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """Whether a password is right, and the hash to store instead when the old one has weaker parameters."""

    is_valid: bool
    new_hash: str | None = None


class Passwords:
    """Hashes and checks with OWASP's parameters for Argon2id: 19 MiB, 2 passes, 1 lane.

    At most `concurrency` hashes are computed at once, so that neither memory nor processors run out. Every method
    raises `HashingBusy` when too many wait already.
    """

    def __init__(self, concurrency: int) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._concurrency = concurrency

    async def hash(self, password: str) -> str:
        """Return the hash to store."""
        return await self._in_thread(lambda: self._hasher.hash(_normalised(password)))

    async def verify(self, known: str | None, password: str) -> PasswordCheck:
        """Check a password. Without a known hash this takes as long as with one, and the password is wrong."""
        return await self._in_thread(lambda: self._verify(known, _normalised(password)))

    def _verify(self, known: str | None, password: str) -> PasswordCheck:
        nobodys = self._nobodys  # made by the first who comes, whether known or not: only making it would take longer
        try:
            self._hasher.verify(known or nobodys, password)
        except (VerificationError, InvalidHashError):
            return PasswordCheck(is_valid=False)
        if known is None:
            return PasswordCheck(is_valid=False)
        return PasswordCheck(True, self._hasher.hash(password) if self._hasher.check_needs_rehash(known) else None)

    @cached_property
    def _nobodys(self) -> str:
        return self._hasher.hash(secrets.token_urlsafe())

    @cached_property
    def _limiter(self) -> CapacityLimiter:
        return CapacityLimiter(self._concurrency)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._concurrency, "password", initializer=_lower_priority)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._limiter.statistics().tasks_waiting >= _MAX_WAITING:
            raise HashingBusy
        async with self._limiter:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _lower_priority() -> None:
    """Let the event loop's thread, and with it all other requests, go before this one."""
    if sys.platform == "linux":  # elsewhere priorities are those of whole processes
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _normalised(password: str) -> str:
    # Keyboards differ in how they spell the same letter (NIST SP 800-63B).
    return unicodedata.normalize("NFC", password)


def is_common(password: str, *own: str | None) -> bool:
    """Return whether a password is among the first that anybody would try.

    That is: a common one, also with digits and signs around it; one character again and again; or one of the user's
    `own` words, such as name and e-mail address.
    """
    folded = password.casefold()
    core = _NOT_LETTERS_AROUND.sub("", folded)
    if len(set(folded)) == 1 or not _common().isdisjoint({folded, core}):
        return True
    words = {part for word in own if word for part in (word.casefold(), word.casefold().partition("@")[0])}
    return folded in words or core in words


@cache
def _common() -> frozenset[str]:
    # Read when it is first needed: the package's lists are large.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # noqa: PLC0415

    return frozenset(FREQUENCY_LISTS["passwords"])
