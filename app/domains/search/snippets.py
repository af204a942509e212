"""Snippets: a passage of an object's text with the matches marked."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

# The maximum length of a snippet, and the maximum context before the first match, in characters.
MAX_LENGTH, MAX_LEAD = 200, 60

# Equals `search_folded` of revision 0006 for single letters. Matches by its other rules are left unmarked.
_LETTERS = str.maketrans(
    {"ς": "σ", "ø": "o", "đ": "d", "ł": "l", "ı": "i", "ħ": "h", "ŧ": "t", "ß": "ss", "æ": "ae", "œ": "oe"}  # noqa: RUF001
)
_MARK = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670"
    "\u200b-\u200f\u2060\ufe00-\ufe0f\ufeff]+"
)
# The first code point of the scripts that write words without blanks.
_FIRST_UNSPACED = "\u0e00"

Part = dict[str, str | bool]


def snippet(text: str, words: str) -> list[Part]:
    """Return a passage of `text` in parts. A part with `match` is the beginning of a word that is one of `words`.

    `words` are folded and separated by blanks.
    """
    spans = list(_spans(text, words))
    begin, end = _passage(text, spans[0][0] if spans else 0)
    parts: list[Part] = []
    position = begin
    for first, last in spans:
        if last > end:
            break
        _add(parts, text[position:first], match=False)
        _add(parts, text[first:last], match=True)
        position = last
    _add(parts, text[position:end], match=False)
    if begin and parts:
        parts.insert(0, {"text": "…", "match": False})
    if end < len(text):
        parts.append({"text": "…", "match": False})
    return parts


def _add(parts: list[Part], text: str, *, match: bool) -> None:
    if text:
        parts.append({"text": text, "match": match})


def _passage(text: str, match: int) -> tuple[int, int]:
    if len(text) <= MAX_LENGTH:
        return 0, len(text)
    begin = max(0, min(match - MAX_LEAD, len(text) - MAX_LENGTH))
    if begin and (blank := text.find(" ", begin, match)) >= 0:
        begin = blank + 1
    end = min(len(text), begin + MAX_LENGTH)
    if end < len(text) and (blank := text.rfind(" ", max(match + 1, end - MAX_LEAD), end)) >= 0:
        end = blank
    return begin, end


def _spans(text: str, words: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each match in `text`, in order."""
    folded, places = _folded(text)
    for match in _pattern(words.split()).finditer(folded) if words else ():
        last = places[match.end() - 1]
        # Include the combining marks of the last letter.
        end = last + 1
        while end < len(text) and _MARK.match(text[end]):
            end += 1
        yield places[match.start()], end


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    # The longest alternative first; otherwise its prefix would match instead.
    folded = sorted({_fold(word) for word in words}, key=lambda word: (-len(word), word))
    alternatives = [re.escape(word) if word >= _FIRST_UNSPACED else rf"(?<![^\W_]){re.escape(word)}" for word in folded]
    return re.compile("|".join(alternatives))


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """Return the folded text, and for each of its characters the index of its origin in `text`."""
    if text.isascii():
        return text.lower(), range(len(text))
    pieces = [_fold_character(character) for character in text]
    return "".join(pieces), [place for place, piece in enumerate(pieces) for _ in piece]


# Even a long text has only a few dozen distinct characters.
@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    return _fold(character)


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKD", _MARK.sub("", unicodedata.normalize("NFKD", text)).lower()).translate(_LETTERS)
