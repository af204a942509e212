"""Snippets: a passage of an object's text with the matches marked."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, chain, groupby, islice, takewhile
from operator import itemgetter
from os.path import commonprefix

# The maximum length of a snippet, and the maximum context before the first match, in characters.
MAX_LENGTH, MAX_LEAD = 200, 60
# The length of the beginning of a text that is searched for matches, also of the folded text: folding makes up to 18
# characters of one.
MAX_SEARCHED_LENGTH = 4000

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

    `words` are folded and separated by blanks. Matches beyond `MAX_SEARCHED_LENGTH` are not marked.
    """
    spans = _spans(text, words)
    found = list(islice(spans, 1))
    begin, end = _passage(text, found[0][0] if found else 0)
    parts: list[Part] = []
    position = begin
    # Matches after the passage are not searched for.
    for first, last in takewhile(lambda span: span[1] <= end, chain(found, spans)):
        if first < position:  # another match within the same character
            continue
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
    pattern = _pattern(words)
    if pattern is None:
        return
    pieces = text[:MAX_SEARCHED_LENGTH].lower() if text.isascii() else _fold_characters(text[:MAX_SEARCHED_LENGTH])
    places: Sequence[int] = ()
    for match in pattern.finditer("".join(pieces)):
        places = places or _places(pieces)
        end = places[match.end() - 1] + 1
        # Include the combining marks of the last letter.
        marks = _MARK.match(text, end)
        yield places[match.start()], marks.end() if marks else end


def _places(pieces: Sequence[str]) -> Sequence[int]:
    """Return the index of the piece of each character."""
    return [place for place, piece in enumerate(pieces) for _ in piece]


# The texts of a page have the same words.
@lru_cache(maxsize=16)
def _pattern(words: str) -> re.Pattern[str] | None:
    """Return an expression that matches the longest word at a position, None without words."""
    folded = sorted({_fold(word) for word in words.split()} - {""})
    spaced = [word for word in folded if word < _FIRST_UNSPACED]
    unspaced = [word for word in folded if word >= _FIRST_UNSPACED]
    alternatives = [rf"(?<![^\W_])(?:{_any_of(spaced)})"] if spaced else []
    alternatives += [_any_of(unspaced)] if unspaced else []
    return re.compile("|".join(alternatives)) if alternatives else None


def _any_of(words: Sequence[str]) -> str:
    """Return the expression of the longest of some sorted words, as a tree.

    No two alternatives begin with the same character, so that a match takes one path, whatever the number of words.
    """
    branches = []
    for _, group in groupby(words, key=itemgetter(0)):
        beginning = list(group)
        prefix = commonprefix(beginning)  # noqa: RUF071 - of characters, not of a path
        longer = [word[len(prefix) :] for word in beginning if word != prefix]
        rest = f"(?:{_any_of(longer)}){'?' if prefix in beginning else ''}" if longer else ""
        branches.append(re.escape(prefix) + rest)
    return "|".join(branches)


def _fold_characters(text: str) -> Sequence[str]:
    """Return the folded characters, as far as they have at most `MAX_SEARCHED_LENGTH` characters together."""
    distinct = set(text)
    # Marks are not reordered across NUL, which no stored text contains, so all can be folded at once.
    folded = dict(zip(distinct, _fold("\0".join(distinct)).split("\0"), strict=True))
    pieces = [folded[character] for character in text]
    return pieces[: bisect_right([*accumulate(map(len, pieces))], MAX_SEARCHED_LENGTH)]


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKD", _MARK.sub("", unicodedata.normalize("NFKD", text)).lower()).translate(_LETTERS)
