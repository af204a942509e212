"""Hashing of passwords and its limits."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher

from app.core.passwords import PasswordCheck, Passwords
from app.utils.exceptions import CallerBusy, HashingBusy
from tests.core.users import requests_of
from tests.waiting import until

PASSWORD = "correct horse battery staple"  # noqa: S105
PARAMETERS = "$argon2id$v=19$m=19456,t=2,p=1$"
WEAKER = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1)


async def test_hash_is_argon2id_with_the_recommended_parameters_and_a_salt() -> None:
    passwords = Passwords(2)
    first, second = await passwords.hash(PASSWORD), await passwords.hash(PASSWORD)
    assert first.startswith(PARAMETERS)
    assert second.startswith(PARAMETERS)
    assert first != second
    assert await passwords.verify(first, PASSWORD) == PasswordCheck(is_valid=True)
    assert await passwords.verify(second, PASSWORD) == PasswordCheck(is_valid=True)


@pytest.mark.parametrize("wrong", ["", PASSWORD[:-1], PASSWORD.upper(), f"{PASSWORD} ", f"{PASSWORD}\0", "é" * 256])
async def test_other_password_is_wrong(wrong: str) -> None:
    passwords = Passwords(2)
    assert await passwords.verify(await passwords.hash(PASSWORD), wrong) == PasswordCheck(is_valid=False)


@pytest.mark.parametrize("password", ["é" * 256, "\U0001f511" * 64, "nul\0 in the middle", "e\u0301 is not \u00e9"])
async def test_any_text_can_be_a_password_as_it_is(password: str) -> None:
    passwords = Passwords(2)
    known = await passwords.hash(password)
    assert await passwords.verify(known, password) == PasswordCheck(is_valid=True)
    assert await passwords.verify(known, password[:3]) == PasswordCheck(is_valid=False)
    assert await passwords.verify(known, f"{password}\0") == PasswordCheck(is_valid=False)


async def test_password_is_the_same_however_a_keyboard_spells_it() -> None:
    passwords = Passwords(2)
    known = await passwords.hash("Zürich am See")
    assert await passwords.verify(known, "Zu\u0308rich am See") == PasswordCheck(is_valid=True)


@pytest.mark.parametrize("known", ["", "$argon2id$", "plain", PARAMETERS, "$2b$12$" + "a" * 53])
async def test_foreign_hash_accepts_no_password(known: str) -> None:
    passwords = Passwords(2)
    assert await passwords.verify(known, PASSWORD) == PasswordCheck(is_valid=False)
    assert await passwords.verify(known, known) == PasswordCheck(is_valid=False)


async def test_weaker_hash_is_replaced_when_the_password_is_right() -> None:
    passwords, weaker = Passwords(2), WEAKER.hash(PASSWORD)
    verdict = await passwords.verify(weaker, PASSWORD)
    assert verdict.is_valid
    assert verdict.new_hash is not None
    assert verdict.new_hash.startswith(PARAMETERS)
    assert await passwords.verify(verdict.new_hash, PASSWORD) == PasswordCheck(is_valid=True)
    assert await passwords.verify(weaker, "wrong password") == PasswordCheck(is_valid=False)


class Counting:
    """A hasher that counts its work."""

    def __init__(self, hasher: PasswordHasher) -> None:
        self.hasher = hasher
        self.verified: list[str] = []

    def verify(self, known: str, password: str) -> bool:
        self.verified.append(known)
        return self.hasher.verify(known, password)

    def hash(self, password: str) -> str:
        return self.hasher.hash(password)

    def check_needs_rehash(self, known: str) -> bool:
        return self.hasher.check_needs_rehash(known)


async def test_unknown_user_costs_as_much_as_a_known_one() -> None:
    passwords = Passwords(2)
    counting = Counting(passwords._hasher)
    passwords._hasher = counting  # type: ignore[assignment]
    known = await passwords.hash(PASSWORD)
    for hashed, password in ((known, PASSWORD), (known, "wrong"), (None, PASSWORD), (None, "")):
        counting.verified.clear()
        verdict = await passwords.verify(hashed, password)
        assert verdict == PasswordCheck(is_valid=hashed is not None and password == PASSWORD)
        assert len(counting.verified) == 1
        assert counting.verified[0].startswith(PARAMETERS)


async def test_first_attempt_of_a_process_costs_the_same_for_known_and_unknown_users() -> None:
    hashed = []
    for known in (None, await Passwords(1).hash(PASSWORD)):
        passwords = Passwords(1)
        await passwords.verify(known, PASSWORD)
        hashed.append("_dummy_hash" in vars(passwords))
    assert hashed == [True, True]


class Held:
    """A hasher that blocks until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.running = self.most = 0
        self._lock = threading.Lock()

    def hash(self, password: str) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.released.wait()
        with self._lock:
            self.running -= 1
        return password


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.released.set()


async def until_running(passwords: Passwords, held: Held, running: int, waiting: int) -> None:
    """Return once `running` hashes are being computed and `waiting` calls wait."""

    async def counts_match() -> bool:
        return (held.running, passwords._limiter.statistics().tasks_waiting) == (running, waiting)

    await until(counts_match)


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_concurrent_hashes_are_limited(held: Held, concurrency: int) -> None:
    passwords = Passwords(concurrency)
    passwords._hasher = held  # type: ignore[assignment]
    tasks = [asyncio.create_task(passwords.hash(str(number))) for number in range(10)]
    await until_running(passwords, held, concurrency, 10 - concurrency)
    held.released.set()
    assert await asyncio.gather(*tasks) == [str(number) for number in range(10)]
    assert held.most == concurrency


async def test_too_many_waiting_calls_are_refused_and_later_ones_are_served(held: Held) -> None:
    passwords = Passwords(2)
    passwords._hasher = held  # type: ignore[assignment]
    tasks = [asyncio.create_task(passwords.hash("")) for _ in range(102)]
    await until_running(passwords, held, 2, 100)
    for work in (passwords.hash(""), passwords.verify(None, "")):
        with pytest.raises(HashingBusy):
            await work
    held.released.set()
    assert await asyncio.gather(*tasks) == [""] * 102
    assert await passwords.hash("later") == "later"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
async def test_hashing_has_a_lower_priority() -> None:
    passwords = Passwords(1)
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    there = await passwords._run_in_thread(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), None)
    assert (there, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())) == (10, here)


async def test_cancelled_call_frees_its_place(held: Held) -> None:
    passwords = Passwords(1)
    passwords._hasher = held  # type: ignore[assignment]
    working, waiting = (asyncio.create_task(passwords.hash(name)) for name in ("working", "waiting"))
    await until_running(passwords, held, 1, 1)
    waiting.cancel()
    await until_running(passwords, held, 1, 0)
    assert passwords.places.free == 100
    held.released.set()
    assert await working == "working"
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_one_address_or_user_holds_at_most_half_of_the_places(held: Held) -> None:
    passwords = Passwords(2)
    passwords._hasher = held  # type: ignore[assignment]
    tasks = [asyncio.create_task(passwords.hash("", address="192.0.2.1")) for _ in range(51)]
    await until_running(passwords, held, 2, 49)
    with pytest.raises(HashingBusy):
        await passwords.hash("", address="192.0.2.1")
    with pytest.raises(HashingBusy):
        await passwords.weakness("", address="192.0.2.1")
    # The address of a user does not matter.
    with requests_of(7):
        tasks += [asyncio.create_task(passwords.hash("", address="192.0.2.1")) for _ in range(50)]
        await until_running(passwords, held, 2, 99)
        tasks.append(asyncio.create_task(passwords.hash("")))
        await until_running(passwords, held, 2, 100)
        with pytest.raises(CallerBusy):
            await passwords.verify(None, "")
        with pytest.raises(CallerBusy):
            await passwords.weakness("")
    with pytest.raises(HashingBusy):
        await passwords.hash("", address="192.0.2.2")
    held.released.set()
    assert await asyncio.gather(*tasks) == [""] * 102
    assert passwords.places.free == 102


async def test_weakness_is_found_in_the_threads_of_the_hashes() -> None:
    passwords = Passwords(1)
    assert await passwords.weakness("passwordpassword") == "common_password:repeat"
    assert await passwords.weakness(PASSWORD, "Ada", None) is None
    # Normalised as it is hashed.
    assert await passwords.weakness("Zu\u0308rich Muller", "Z\u00fcrich Muller") == "common_password:personal"
