"""Estimates with zxcvbn how hard a password is to guess."""

import re
import threading
from collections.abc import Iterator
from itertools import permutations
from math import prod
from typing import Any

# The title of the OpenAPI document.
SERVICE_NAME = "Process Register"
# At least 10^8 guesses, by the thresholds of zxcvbn.
MIN_SCORE = 3
# zxcvbn rejects longer passwords.
MAX_ESTIMATED_LENGTH = 72

# zxcvbn looks up each part of a password once for each way to read its symbols as letters: 800 ways for a password with
# all of these symbols, which would take 2 seconds. The product of these ways and the square of the length has a limit.
_MAX_LOOKUPS = 24 * MAX_ESTIMATED_LENGTH**2
# The words of a name or an address of which all orders are considered.
_MAX_WORDS = 4
_SEPARATORS = ("", " ", ".", "-", "_")
_WORD = re.compile(r"[^\W_]{2,}")
_OUTER_NON_LETTERS = re.compile(r"^[\W\d_]+|[\W\d_]+$")

# The text of the fault by zxcvbn's pattern, or by its dictionary. The texts of zxcvbn are never shown.
_KEYS = {
    "repeat": "common_password:repeat",
    "sequence": "common_password:sequence",
    "spatial": "common_password:keyboard",
    "date": "common_password:date",
    "regex": "common_password:date",
    "user_inputs": "common_password:personal",
    "english_wikipedia": "common_password:word",
    "us_tv_and_film": "common_password:word",
    "female_names": "common_password:name",
    "male_names": "common_password:name",
    "surnames": "common_password:name",
    "passwords": "common_password",
}

# zxcvbn keeps the personal words of a call in a dictionary of the module.
_lock = threading.Lock()


def weakness_of(password: str, *personal: str | None) -> str | None:
    """Return why a password is easy to guess, as the key of a fault's text, or None if it is not.

    Considers the first `MAX_ESTIMATED_LENGTH` characters, fewer if they have many symbols that stand for letters.
    `personal` are texts that an attacker tries first, such as name and e-mail address; the name of the service is
    always one. Takes milliseconds, at most about 0.1 seconds, and loads the dictionaries at first use.
    """
    # Loaded at first use: the dictionaries take 13 MB.
    from zxcvbn import matching, zxcvbn  # noqa: PLC0415

    considered = _bounded(password[:MAX_ESTIMATED_LENGTH])
    core = _OUTER_NON_LETTERS.sub("", considered).lower()
    with _lock:
        estimate = zxcvbn(considered, list(_personal_words(*personal, SERVICE_NAME)))
        if estimate["score"] < MIN_SCORE:
            return _reason(estimate["sequence"])
        # zxcvbn overestimates digits and punctuation around a common password.
        dictionaries = (name for name in ("user_inputs", "passwords") if core in matching.RANKED_DICTIONARIES[name])
        return next((_KEYS[name] for name in dictionaries), None)


def _reason(sequence: list[dict[str, Any]]) -> str:
    """Return the key of the fault for the longest part of a password that zxcvbn recognises."""
    matches = [match for match in sequence if match["pattern"] != "bruteforce"]
    longest: dict[str, Any] = max(matches, key=lambda match: len(match["token"]), default={})
    return _KEYS.get(longest.get("dictionary_name") or longest.get("pattern", ""), "common_password")


def _personal_words(*texts: str | None) -> Iterator[str]:
    """Yield the texts, the part of an address before `@`, and their words in each order, with each separator."""
    for text in texts:
        if not text:
            continue
        yield text[:MAX_ESTIMATED_LENGTH]
        words = _WORD.findall(text.partition("@")[0][:MAX_ESTIMATED_LENGTH])[:_MAX_WORDS]
        for count in range(1, len(words) + 1):
            for order in permutations(words, count):
                yield from (separator.join(order) for separator in _SEPARATORS)


def _bounded(password: str) -> str:
    """Return the longest beginning of a password for which zxcvbn makes at most `_MAX_LOOKUPS` lookups."""
    while _readings(password) * len(password) ** 2 > _MAX_LOOKUPS:
        password = password[:-1]
    return password


def _readings(password: str) -> int:
    """Return about how many ways zxcvbn tries to read the symbols of a password as letters."""
    from zxcvbn.matching import L33T_TABLE  # noqa: PLC0415 - as above

    characters = set(password)
    return prod(max(1, len(characters.intersection(symbols))) for symbols in L33T_TABLE.values())
