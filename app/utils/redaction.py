"""Removes credentials from log lines, bounds their length, and escapes characters that are not printable.

Texts are cut first, so that the work does not depend on the length of what a client sent. Each pattern scans a text
once: quantifiers are possessive, and a match begins only where a word begins. Escapes come last: a line of the log has
no line break or terminal sequence of a client.
"""

import re
from collections.abc import Callable, Mapping, MutableMapping
from functools import lru_cache
from itertools import islice
from typing import Any

from app.utils.wording import printable

# The maximum lengths of a text, of a traceback in one text, and of a name, in characters.
MAX_TEXT = 2_000
MAX_TRACEBACK = 20_000
MAX_NAME = 100
# The maximum number of entries in all lists and mappings of one value, and of their levels.
MAX_ENTRIES = 2_000
MAX_DEPTH = 10

REDACTED = "[redacted]"
# Ends a text that was cut. The patterns also match a credential that the cut has split.
CUT = " [cut]"

_TRACEBACK = "exception"
_INDENTATION = "    "
_SECRET_WORD = "password|passwd|secret|token|authorization|cookie|api[-_]?key|credential"  # noqa: S105 - names of them
_SECRET_NAME = re.compile(_SECRET_WORD, re.IGNORECASE)
_AT_CUT = rf"{re.escape(CUT)}\Z"
_SCHEME = re.compile(r"(?i)\b(bearer|basic)\s++[A-Za-z0-9._~+/=-]+")
_USER_INFO = re.compile(rf"(://[^:/@\s]*+:)[^@\s]++(@|{_AT_CUT})?")
# Assignments such as `password=…` and `"password": "…"`. The credentials of schemes are replaced before.
_ASSIGNMENT = re.compile(
    rf"(?i)(?<![\w-])(?=[\w-]*?(?:{_SECRET_WORD}))([\w-]++[\"']?\s*+[=:]\s*+[\"']?+)"
    rf"(?!bearer |basic |\[redacted|\[cut\]\Z)[^\s\"'&,;]+"
)
# Tokens of the service anywhere in a text, such as in a path.
_OPAQUE_TOKEN = re.compile(rf"(?<![A-Za-z0-9])(pr[tlr]_)(?:[A-Za-z0-9]{{20,}}|[A-Za-z0-9]++(?={_AT_CUT}))")
_JWT = re.compile(rf"\beyJ[\w-]++(?:\.[\w-]++(\.[\w-]*+)?+)?+(\.?+{_AT_CUT})?+")

Event = MutableMapping[str, Any]


def redact(_logger: Any, _method: str, event: Event) -> Event:
    """Replace values with a secret's name, and credentials inside texts; cut long texts; escape texts and names."""
    # The code chooses most names, so nearly all are printable.
    return {name if name.isprintable() else printable(name): _clean(name, value) for name, value in event.items()}


def _clean(name: str, value: Any) -> Any:
    if _is_secret(name):
        return REDACTED
    if isinstance(value, str):
        return _clean_traceback(value) if name == _TRACEBACK else clean_text(value)
    if value is None or isinstance(value, int | float):
        return value
    return _NestedValue().clean(value)


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def clean_text(text: str, max_length: int = MAX_TEXT) -> str:
    """Return a text cut to `max_length` characters, with its credentials replaced, in printable characters."""
    if len(text) > max_length:
        text = text[:max_length] + CUT
    # Shortcut, because every request logs: no scheme of credentials, assignment, JSON, URL or token.
    is_plain = " " not in text and "=" not in text and '":' not in text and "://" not in text
    if is_plain and "_" not in text and "eyJ" not in text and text.isprintable():
        return text
    return printable(_without_credentials(text))


def _clean_traceback(text: str) -> str:
    if len(text) > MAX_TRACEBACK:
        text = text[:MAX_TRACEBACK] + CUT
    # Messages of exceptions can contain lines of a client. No entry of the log begins with the indentation.
    lines = _without_credentials(text).split("\n")
    return "\n".join(f"{_INDENTATION}{printable(line)}" for line in lines)


def _without_credentials(text: str) -> str:
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    return text


def _without_user_info(match: re.Match[str]) -> str:
    # Without an `@` the text after the colon is a port and a path. It is consumed all the same: no later match in it
    # could end differently, and searching it again would take quadratic time.
    prefix, end = match.groups()
    return match[0] if end is None else f"{prefix}{REDACTED}{end}"


def _without_jwt(match: re.Match[str]) -> str:
    signature, cut = match.groups()
    return match[0] if signature is None and cut is None else REDACTED + (CUT if cut else "")


_REPLACEMENTS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (_SCHEME, rf"\1 {REDACTED}"),
    (_USER_INFO, _without_user_info),
    (_ASSIGNMENT, rf"\1{REDACTED}"),
    (_OPAQUE_TOKEN, rf"\1{REDACTED}"),
    (_JWT, _without_jwt),
)


class _NestedValue:
    """Cleans a value that is not a text, with a common limit for the entries of all its levels."""

    def __init__(self) -> None:
        self._entries_left = MAX_ENTRIES

    def clean(self, value: Any, depth: int = 0) -> Any:
        if value is None or isinstance(value, int | float):
            return value
        if isinstance(value, str):
            return clean_text(value)
        if not isinstance(value, Mapping | list | tuple):
            return clean_text(repr(value))
        if depth == MAX_DEPTH:
            return CUT.strip()
        return self._mapping(value, depth) if isinstance(value, Mapping) else self._list(value, depth)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        cleaned = {}
        for key in islice(value, self._take(len(value))):
            name = str(key)
            # A longer name could have a secret's name behind the cut, and cached names must be short.
            is_secret = len(name) > MAX_NAME or _is_secret(name)
            cleaned[clean_text(name, MAX_NAME)] = REDACTED if is_secret else self.clean(value[key], depth + 1)
        return cleaned | ({CUT.strip(): ""} if len(cleaned) < len(value) else {})

    def _list(self, value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
        cleaned = [self.clean(each, depth + 1) for each in value[: self._take(len(value))]]
        return cleaned + ([CUT.strip()] if len(cleaned) < len(value) else [])

    def _take(self, entries: int) -> int:
        """Return the number of these entries that may be logged."""
        granted = min(entries, self._entries_left)
        self._entries_left -= granted
        return granted
