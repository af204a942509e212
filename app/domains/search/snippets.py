"""The text in which something was found, with what was asked for made out."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

LENGTH, BEFORE = 200, 60

# Like `search_folded` of revision 0006, letter by letter. What it would find besides is not made out, which is no harm.
_LETTERS = str.maketrans(
    {"ς": "σ", "ø": "o", "đ": "d", "ł": "l", "ı": "i", "ħ": "h", "ŧ": "t", "ß": "ss", "æ": "ae", "œ": "oe"}  # noqa: RUF001
)
_MARK = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670"
    "\u200b-\u200f\u2060\ufe00-\ufe0f\ufeff]+"
)
_FIRST_UNSPACED = "\u0e00"

Part = dict[str, str | bool]


def snippet(text: str, words: str) -> list[Part]:
    """Return a passage of `text` in pieces, those that begin with one of `words` (folded, between blanks) made out."""
    spans = list(_spans(text, words))
    begin, end = _passage(text, spans[0][0] if spans else 0)
    parts: list[Part] = []
    done = begin
    for first, last in spans:
        if last > end:
            break
        _add(parts, text[done:first], match=False)
        _add(parts, text[first:last], match=True)
        done = last
    _add(parts, text[done:end], match=False)
    if begin and parts:
        parts.insert(0, {"text": "…", "match": False})
    if end < len(text):
        parts.append({"text": "…", "match": False})
    return parts


def _add(parts: list[Part], text: str, *, match: bool) -> None:
    if text:
        parts.append({"text": text, "match": match})


def _passage(text: str, match: int) -> tuple[int, int]:
    if len(text) <= LENGTH:
        return 0, len(text)
    begin = max(0, min(match - BEFORE, len(text) - LENGTH))
    if begin and (blank := text.find(" ", begin, match)) >= 0:
        begin = blank + 1
    end = min(len(text), begin + LENGTH)
    if end < len(text) and (blank := text.rfind(" ", max(match + 1, end - BEFORE), end)) >= 0:
        end = blank
    return begin, end


def _spans(text: str, words: str) -> Iterator[tuple[int, int]]:
    """Yield the places in `text` that were asked for, from the first on."""
    folded, places = _folded(text)
    for match in _pattern(words.split()).finditer(folded) if words else ():
        last = places[match.end() - 1]
        # Marks belong to the letter before them.
        end = last + 1
        while end < len(text) and _MARK.match(text[end]):
            end += 1
        yield places[match.start()], end


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    # The longest first, or what it begins with would be made out instead.
    folded = sorted({_fold(word) for word in words}, key=lambda word: (-len(word), word))
    alternatives = [re.escape(word) if word >= _FIRST_UNSPACED else rf"(?<![^\W_]){re.escape(word)}" for word in folded]
    return re.compile("|".join(alternatives))


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """Return the text folded, and of each of its characters the place in `text` that it stands for."""
    if text.isascii():
        return text.lower(), range(len(text))
    pieces = [_fold_character(character) for character in text]
    return "".join(pieces), [place for place, piece in enumerate(pieces) for _ in piece]


# A text of thousands of characters has a few dozen different ones.
@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    return _fold(character)


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKD", _MARK.sub("", unicodedata.normalize("NFKD", text)).lower()).translate(_LETTERS)
