"""Estimates with zxcvbn how hard a password is to guess."""

import re
import threading
import unicodedata
from collections.abc import Iterator
from itertools import permutations
from math import prod
from typing import Any

from app.utils.text.invisible import has_ignorable

# The title of the OpenAPI document.
SERVICE_NAME = "Process Register"
# At least 10^8 guesses, by the thresholds of zxcvbn.
MIN_SCORE = 3
# zxcvbn rejects longer passwords.
MAX_ESTIMATED_LENGTH = 72
# The longest password, and enough for `MAX_ESTIMATED_LENGTH` characters with three combining marks each.
_MAX_READ = 4 * MAX_ESTIMATED_LENGTH

# zxcvbn looks up each part of a password once for each way to read its symbols as letters: 800 ways for a password with
# all of these symbols, which would take 2 seconds. The product of these ways and the square of the length has a limit.
_MAX_LOOKUPS = 24 * MAX_ESTIMATED_LENGTH**2
# The words of a name or an address of which all orders are considered.
_MAX_WORDS = 4
_SEPARATORS = ("", " ", ".", "-", "_")
_WORD = re.compile(r"[^\W_]{2,}")
_SEPARATOR = re.compile(r"[\W_]")
_NON_LETTER = re.compile(r"[\W\d_]")
_OUTER_NON_LETTERS = re.compile(r"^[\W\d_]+|[\W\d_]+$")
_LATIN_FORM = re.compile(r"LATIN (?P<case>CAPITAL|SMALL) LETTER (?:DOTLESS )?(?P<letter>[A-Z])(?: WITH .+)?")
# Different symbols that separate words. Random passwords have more, or enough other characters.
_MAX_SYMBOLS = 2
# A date without century. Every second random number of 12 digits consists of such dates.
_SHORT_DATE = re.compile(r"\d{5,6}")
# Unrecognised characters that add nothing to a single common word.
_MAX_PADDING = 2

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

    Considers the first `MAX_ESTIMATED_LENGTH` characters, fewer if they have many symbols that stand for letters, and
    the same text without separators. Accents, letter forms and invisible characters make no difference. `personal` are
    texts that an attacker tries first, such as name and e-mail address; the name of the service is always one. Takes
    milliseconds, at most about 0.2 seconds, and loads the dictionaries at first use.
    """
    considered = _bounded(_plain(password))
    words = list(_personal_words(*personal, SERVICE_NAME))
    with _lock:
        for text in dict.fromkeys((considered, _without_separators(considered))):
            if weakness := _weakness(text, words):
                return weakness
    return None


def _weakness(text: str, personal_words: list[str]) -> str | None:
    # Loaded at first use: the dictionaries take 13 MB.
    from zxcvbn import matching, zxcvbn  # noqa: PLC0415

    if not text:
        return "common_password"
    estimate = zxcvbn(text, personal_words)
    if estimate["score"] < MIN_SCORE or _is_predictable(estimate["sequence"]):
        return _reason(estimate["sequence"])
    # zxcvbn overestimates digits and punctuation around a common password.
    core = _OUTER_NON_LETTERS.sub("", text).lower()
    dictionaries = (name for name in ("user_inputs", "passwords") if core in matching.RANKED_DICTIONARIES[name])
    return next((_KEYS[name] for name in dictionaries), None)


def _is_predictable(sequence: list[dict[str, Any]]) -> bool:
    """Return whether a password has at most one common word and `_MAX_PADDING` characters that are not predictable.

    Predictable are personal words, dates, patterns, repetitions and separators. zxcvbn gives three parts the score 3
    whatever they are, because an attacker must find out how many there are.
    """
    words, padding = set[str](), set[str]()
    for match in _parts(sequence):
        is_number = match["pattern"] == "date" and _SHORT_DATE.fullmatch(match["token"])
        if match["pattern"] == "bruteforce" or is_number:
            padding.add(_without_separators(match["token"]).lower())
        elif match["pattern"] == "dictionary" and match["dictionary_name"] != "user_inputs":
            words.add(_NON_LETTER.sub("", match["matched_word"]))
    return len(words - {""}) <= 1 and sum(map(len, padding)) <= _MAX_PADDING


def _parts(sequence: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the parts of a password that zxcvbn distinguishes, and those of a repeated text once."""
    for match in sequence:
        if match["pattern"] == "repeat":
            yield from _parts(match["base_matches"])
        else:
            yield match


def _reason(sequence: list[dict[str, Any]]) -> str:
    """Return the key of the fault for the longest part of a password that zxcvbn recognises."""
    matches = [match for match in sequence if match["pattern"] != "bruteforce"]
    longest: dict[str, Any] = max(matches, key=lambda match: len(match["token"]), default={})
    return _KEYS.get(longest.get("dictionary_name") or longest.get("pattern", ""), "common_password")


def _personal_words(*texts: str | None) -> Iterator[str]:
    """Yield the texts, their words in each order with each separator, and the words of the domain of an address."""
    for text in texts:
        if not text:
            continue
        yield _plain(text)
        local_part, _, domain = text.partition("@")
        yield from _WORD.findall(_plain(domain))
        words = _WORD.findall(_plain(local_part))[:_MAX_WORDS]
        for count in range(1, len(words) + 1):
            for order in permutations(words, count):
                yield from (separator.join(order) for separator in _SEPARATORS)


def _plain(text: str) -> str:
    """Return the beginning of a text in NFKC without combining marks, strokes of letters and invisible characters."""
    text = text[:_MAX_READ]
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        bases = (
            _base_letter(character)
            for character in decomposed
            if not unicodedata.combining(character) and not has_ignorable(character)
        )
        text = unicodedata.normalize("NFC", "".join(bases))
    return text[:MAX_ESTIMATED_LENGTH]


def _base_letter(character: str) -> str:
    """Return a Latin letter without its stroke or hook, and `i` for the dotless one; other characters unchanged."""
    match = _LATIN_FORM.fullmatch(unicodedata.name(character, ""))
    if match is None:
        return character
    return match["letter"] if match["case"] == "CAPITAL" else match["letter"].lower()


def _without_separators(text: str) -> str:
    """Return a text without spaces, and without symbols if it has few different ones; otherwise they are random."""
    symbols = set(_SEPARATOR.findall("".join(text.split())))
    return _SEPARATOR.sub("", text) if len(symbols) <= _MAX_SYMBOLS else "".join(text.split())


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
