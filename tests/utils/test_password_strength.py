"""The estimate of how hard a new password is to guess."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from zxcvbn import matching

from app.core.passwords import MAX_LENGTH
from app.domains.register.demo_data import DEMO_PASSWORD, DEMO_USERS
from app.utils import password_strength
from app.utils.fault_codes import TEXTS
from app.utils.password_strength import MAX_ESTIMATED_LENGTH, weakness_of
from tests.conftest import ADMIN_PASSWORD

NAME, EMAIL = "Ada Byron Lovelace", "ada.byron@register.example"
# Every character that zxcvbn may read as a letter.
SYMBOLS = "".join(sorted({symbol for symbols in matching.L33T_TABLE.values() for symbol in symbols}))


@pytest.mark.parametrize(
    ("password", "key"),
    [
        ("password", ""),
        ("PassWord", ""),
        ("Password1234", ""),
        ("p@ssword1234", ""),
        ("drowssap1234", ""),
        ("123password!!!", ""),
        ("!!!qwertyuiop!!!", ""),
        ("123456789012", ""),
        ("1234567890", ""),
        ("passwordpassword", "repeat"),
        ("aaaaaaaaaaaaaaaa", "repeat"),
        ("AaAaAaAaAaAa", "repeat"),
        ("xkqxkqxkqxkqxkq", "repeat"),
        (" " * 12, "repeat"),
        ("a" * MAX_LENGTH, "repeat"),
        ("abcdefghijkl", "sequence"),
        ("zyxwvutsrqpo", "sequence"),
        ("fghjkl;'][poi", "keyboard"),
        ("administrator", "word"),
        ("stephanieanna", "name"),
        ("18.05.199018.", "date"),
        (NAME, "personal"),
        (NAME.upper(), "personal"),
        (NAME[::-1], "personal"),
        ("Lovelace Ada", "personal"),
        ("AdaByronLovelace", "personal"),
        ("ada-byron-lovelace", "personal"),
        ("ada_lovelace_1815", "personal"),
        ("Ada Lovelac3", "personal"),
        (EMAIL, "personal"),
        (EMAIL.upper(), "personal"),
        ("ada.byron", "personal"),
        ("ada.byron1815", "personal"),
        ("Process Register", "personal"),
        ("process-register-1", "personal"),
        ("registerprocess", "personal"),
        ("password-password", ""),
        ("password password", ""),
        ("password!password", ""),
        ("password-x-password", ""),
        ("p@ssword-drowssap", ""),
        ("p.a.s.s.w.o.r.d.1", ""),
        ("password - welcome!", ""),
        ("welcome welcome welcome", "repeat"),
        ("kq7vzm-kq7vzm", "repeat"),
        ("register-register", "personal"),
        ("register_2026_register", "personal"),
        ("process-register-api", "personal"),
        ("Ada Byron Lovelace Register", "personal"),
        ("lovelace.1815.lovelace", "personal"),
        ("2024-01-012025-01-01", "date"),
        ("01.01.90-02.02.92", "date"),
        ("2024-01-01-password", "date"),
        ("violet anvil", "name"),
        ("\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44\uff11\uff12\uff13\uff14", ""),
        ("p\u00e4ssw\u00f6rd-p\u00e4ssw\u00f6rd", ""),
        ("p\u00e4ssw\u00f8rd-p\u00e4ssw\u00f8rd", ""),
        ("pass\u200bword\u00ad1234", ""),
        ("reg\u0131ster reg\u0131ster", "personal"),
        ("adalovelac\u00e9", "personal"),
        ("ad\u0101 l\u014dvelace", "personal"),
        ("A\u0301\u0302" * 6, "repeat"),
        ("\u0301" * 12, ""),
    ],
)
def test_password_that_is_easy_to_guess_is_weak(password: str, key: str) -> None:
    assert weakness_of(password, NAME, EMAIL) == f"common_password:{key}".rstrip(":")


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple",
        "correct-horse-battery-staple",
        "violet anvil tide",
        "x7!Kd92#mQp0",
        "K#9!x@2$m%7&",
        "%)&*!(#@%^$!",
        "82946173058294617305",
        "1815 was a year",
        "éüø中\U0001f511 and more",
        "\U0001f436\U0001f431\U0001f98a\U0001f43b\U0001f43c\U0001f428\U0001f42f\U0001f981\U0001f42e",
        "пароль мой длинный",
        "Ada Lovelace walked the dog",
        "Well, it's a dog's life!",
        "password for the other house",
        "nul \0 in the middle",
        "violet anvil tide " * 14,
        ADMIN_PASSWORD,
    ],
)
def test_other_password_is_not_weak(password: str) -> None:
    assert weakness_of(password, NAME, EMAIL, None, "") is None


def test_password_of_the_demo_data_is_not_weak() -> None:
    assert [weakness_of(DEMO_PASSWORD, email, email.partition("@")[0]) for email in DEMO_USERS] == [None] * 3


@pytest.mark.parametrize(
    "password", ["tarnbeck-tarnbeck", "Amara Okafor Tarnbeck", "tarnbeck2024!", "AMARAOKAFO\u0154"]
)
def test_domain_of_the_address_is_personal(password: str) -> None:
    address = "amara.okafor@mail.t\u0101rnbeck.example"
    assert weakness_of(password, "Am\u00e1ra Okafor", address) == "common_password:personal"


def test_name_with_accents_is_weak_without_them() -> None:
    assert weakness_of("Soren Lukasz", "S\u00f8ren \u0141ukasz") == "common_password:personal"


def test_name_is_weak_for_its_user_only() -> None:
    assert weakness_of("Grace Brewster Hopper", "Grace Brewster Hopper") == "common_password:personal"
    assert weakness_of("Grace Brewster Hopper", NAME) is None


@pytest.mark.parametrize("length", [MAX_ESTIMATED_LENGTH, MAX_ESTIMATED_LENGTH + 1, MAX_LENGTH])
def test_long_address_is_weak_for_its_user(length: int) -> None:
    email = f"{'kq7vzm' * 40}@register.example"[-length:]
    assert weakness_of(email, email) is not None


def test_every_weakness_has_a_text() -> None:
    keys = set(password_strength._KEYS.values())
    assert keys == {key for key in TEXTS if key.partition(":")[0] == "common_password"}
    assert set(matching.RANKED_DICTIONARIES) | {"user_inputs"} < set(password_strength._KEYS)


def looked_up(password: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the number of parts of a password that zxcvbn looks up."""
    lengths: list[int] = []
    match = matching.dictionary_match

    def counted(text: str, *arguments: Any, **options: Any) -> Any:
        lengths.append(len(text))
        return match(text, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(matching, "dictionary_match", counted)
        weakness_of(password)
    return sum(length**2 for length in lengths)


@pytest.mark.parametrize(
    "password",
    [
        (SYMBOLS * MAX_LENGTH)[:MAX_LENGTH],
        SYMBOLS + "a" * 200,
        "password" * 6 + SYMBOLS,
        SYMBOLS[::-1] + "password" * 10,
        "4@({[<" * 40,
        "1|!7$5" * 40,
        "1!2@3#4$5%" * 20,
        "0123456789" * 20,
    ],
)
def test_symbols_do_not_multiply_the_work(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = looked_up("correct horse battery staple " * 3, monkeypatch)
    assert usual >= 2 * MAX_ESTIMATED_LENGTH**2
    assert looked_up(password, monkeypatch) <= 25 * usual


def test_long_texts_of_the_user_do_not_multiply_the_work() -> None:
    long_address = "aa.bb.cc.dd.ee@" + "ff." * 50_000
    for text in ("word " * 20_000, "a." * 50_000 + "@b", "x" * 100_000, "@" * 100_000, "\ufdfa" * 50_000, long_address):
        words = list(password_strength._personal_words(text, text))
        assert len(words) < 1_000
        assert max(map(len, words)) <= MAX_ESTIMATED_LENGTH


def test_concurrent_estimates_do_not_share_the_words_of_their_users(monkeypatch: pytest.MonkeyPatch) -> None:
    import zxcvbn as package  # noqa: PLC0415 - the name of its function is the same

    estimate, running, most = package.zxcvbn, threading.Semaphore(1), []

    def watched(*arguments: Any) -> Any:
        most.append(running.acquire(blocking=False))
        try:
            return estimate(*arguments)
        finally:
            running.release()

    monkeypatch.setattr(package, "zxcvbn", watched)
    names = [f"Grace{number} Brewster Hopper" for number in range(8)]
    with ThreadPoolExecutor(4) as threads:
        weaknesses = list(threads.map(lambda name: weakness_of(name, name), names))
    assert weaknesses == ["common_password:personal"] * len(names)
    assert all(most)
