"""Snippets are bounded work, and equal those of a naive implementation."""

import json
import re
import sys
from collections.abc import Sequence
from itertools import product
from string import ascii_lowercase
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domains.search import service, snippets
from app.domains.search.schemas import MAX_RESULTS
from app.domains.search.snippets import MAX_LEAD, MAX_LENGTH, MAX_SEARCHED_LENGTH, Part, snippet
from app.domains.shared.models import EXTERNAL_ID_LENGTH
from tests.builders import make_department
from tests.growth import assert_proportionate

# All that `q` has room for.
MANY_WORDS = " ".join(sorted(map("".join, product(ascii_lowercase, ascii_lowercase)))[:170])
# Characters that folding keeps, removes, lengthens and reorders, of spaced and unspaced scripts.
ALPHABET = "abABß́ée.,_- \tœıİ人力资ｶがकि̀ς9ﷺ½𝒜"  # noqa: RUF001


def naive_snippet(text: str, words: str) -> list[Part]:
    """Return the snippet, with one alternative for each word, after all matches are found."""
    pieces = [snippets._fold(character) for character in text]
    places = [place for place, piece in enumerate(pieces) for _ in piece]
    folded = sorted({snippets._fold(word) for word in words.split()} - {""}, key=lambda word: (-len(word), word))
    alternatives = [re.escape(word) if word >= "\u0e00" else rf"(?<![^\W_]){re.escape(word)}" for word in folded]
    spans = []
    for match in re.finditer("|".join(alternatives), "".join(pieces)) if alternatives else ():
        end = places[match.end() - 1] + 1
        while end < len(text) and snippets._MARK.match(text[end]):
            end += 1
        spans.append((places[match.start()], end))
    return naive_parts(text, spans)


def naive_parts(text: str, spans: Sequence[tuple[int, int]]) -> list[Part]:
    first = spans[0][0] if spans else 0
    begin, end = 0, len(text)
    if len(text) > MAX_LENGTH:
        begin = max(0, min(first - MAX_LEAD, len(text) - MAX_LENGTH))
        if begin and (blank := text.find(" ", begin, first)) >= 0:
            begin = blank + 1
        end = min(len(text), begin + MAX_LENGTH)
        if end < len(text) and (blank := text.rfind(" ", max(first + 1, end - MAX_LEAD), end)) >= 0:
            end = blank
    parts: list[tuple[str, bool]] = [("…", False)] if begin else []
    position = begin
    for start, stop in spans:
        if stop > end:
            break
        if start < position:
            continue
        parts += [(text[position:start], False), (text[start:stop], True)]
        position = stop
    parts.append((text[position:end], False))
    if end < len(text):
        parts.append(("…", False))
    return [{"text": part, "match": match} for part, match in parts if part]


WORDS = st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=8).map(" ".join)


@given(st.text(ALPHABET, min_size=1, max_size=60), WORDS)
def test_snippet_of_a_short_text_equals_the_naive_one(text: str, words: str) -> None:
    assert snippet(text, words) == naive_snippet(text, words)


@given(st.lists(st.text(ALPHABET, max_size=8), min_size=1, max_size=12), st.integers(20, 60), WORDS)
def test_snippet_of_a_long_text_equals_the_naive_one(parts: list[str], times: int, words: str) -> None:
    text = " ".join(parts) + " word" * times + " ".join(parts)
    assert snippet(text, words) == naive_snippet(text, words)


@pytest.mark.parametrize(
    ("text", "words", "marked"),
    [
        ("zz ﷺﷺ end", "صلى الله عليه وسلم", ["ﷺ", "ﷺ"]),
        ("½ cup", "1 2", ["½"]),
        ("㍿ x", "株 式 会 社", ["㍿"]),
        ("zz ﬄ", "f l", ["ﬄ"]),
    ],
)
def test_matches_within_a_character_are_one_part(text: str, words: str, marked: list[str]) -> None:
    parts = snippet(text, words)
    assert "".join(str(part["text"]) for part in parts) == text
    assert [part["text"] for part in parts if part["match"]] == marked


GROWING = st.text("ab1 ﷺ½㍿ﬄǆ人資́", max_size=60)


@given(GROWING, st.integers(1, 20), st.text("ab12 صلى株式会社fldz人資", max_size=30))
def test_parts_together_are_a_passage_of_the_text(piece: str, times: int, words: str) -> None:
    text = (piece + " ") * times
    parts = snippet(text, words)
    passage = "".join(str(part["text"]) for part in parts)
    assert passage.removeprefix("…").removesuffix("…") in text
    assert len(text) > MAX_LENGTH or passage == text


@pytest.mark.parametrize("character", ["ﷺ", "㍿", "½", "a", "é"])
def test_searched_text_is_limited_after_folding(monkeypatch: pytest.MonkeyPatch, character: str) -> None:
    searched = []

    class Searching:
        def finditer(self, folded: str) -> Any:
            searched.append(len(folded))
            return iter(())

    monkeypatch.setattr(snippets, "_pattern", lambda _words: Searching())
    for size in (100, 20_000):
        snippet(character * size, "word")
    assert searched[0] >= 100 * len(snippets._fold(character))
    assert MAX_SEARCHED_LENGTH - 18 <= searched[1] <= MAX_SEARCHED_LENGTH


def test_character_is_folded_to_at_most_18() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    assert max(map(len, map(snippets._fold, characters))) == 18


def test_each_distinct_character_is_folded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    folded = []
    fold = snippets._fold

    def count(text: str) -> str:
        folded.append(len(text))
        return fold(text)

    monkeypatch.setattr(snippets, "_fold", count)
    snippet("äöü " * 1000, "zz")
    assert sum(folded[-1:]) == 7  # with the separators


@given(st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=30), st.text("abc ", max_size=80))
def test_longest_word_is_marked(words: list[str], text: str) -> None:
    assert snippet(text, " ".join(words)) == naive_snippet(text, " ".join(words))


def with_words(kind: str, count: int) -> str:
    return {
        "words of two letters": " ".join(sorted(map("".join, product(ascii_lowercase, ascii_lowercase)))[:count]),
        "words with equal beginnings": " ".join(f"a{'b' * number}c" for number in range(count)),
        "words of one letter more each": " ".join("b" * number for number in range(2, count + 2)),
        "unspaced words": " ".join(f"人{chr(0x4E00 + number)}" for number in range(count)),
        "long words": " ".join(f"{number}{'ि' * 60}" for number in range(count)),
    }[kind]


TEXTS = {
    "words": "zz yy xx ww ",
    "nearly words": "ab ac abb z",
    "letters": "a",
    "blanks": " ",
    "unspaced": "人",
    "marks": "é́́́",
    "vowel signs": "ि",
    "expanding": "ﷺ ",
    "capitals": "ÄB ",
}
KINDS = [
    "words of two letters",
    "words with equal beginnings",
    "words of one letter more each",
    "unspaced words",
    "long words",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_work_is_proportionate_to_the_text(kind: str, text: str) -> None:
    words = with_words(kind, 170)
    assert_proportionate(lambda size: snippet((TEXTS[text] * size)[:size], words), 20_000)


@pytest.mark.parametrize("text", TEXTS)
def test_work_is_proportionate_to_the_words(text: str) -> None:
    long = (TEXTS[text] * 20_000)[:20_000]
    assert_proportionate(lambda count: snippet(long, with_words("words of two letters", count)), 17)
    assert_proportionate(lambda count: snippet(long, with_words("words with equal beginnings", count)), 17)


def test_text_after_the_passage_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    class Counting:
        def finditer(self, folded: str) -> Any:
            for match in re.finditer(r"(?<![^\W_])word", folded):
                found.append(match.start())
                yield match

    monkeypatch.setattr(snippets, "_pattern", lambda _words: Counting())
    parts = snippet("x " * 500 + "word " * 600, "word")
    marked = sum(1 for part in parts if part["match"])
    assert (marked, len(found)) == (28, 29)


def test_expression_is_made_once_for_all_texts_of_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    snippets._pattern.cache_clear()
    made = []
    any_of = snippets._any_of

    def count(words: Sequence[str]) -> str:
        made.append(words)
        return any_of(words)

    monkeypatch.setattr(snippets, "_any_of", count)
    row = {"type": 0, "id": 1, "code": "C", "name": "N", "rank": 4, "description": "zz " * 1300}
    page = {"words": "ab cd", "rows": [row] * MAX_RESULTS}
    assert len(json.loads(service._items(json.dumps(page).encode()))) == MAX_RESULTS
    assert made == [["ab", "cd"]]


def test_alternatives_begin_with_different_characters() -> None:
    assert snippets._any_of(sorted(["ab", "abc", "abd", "b", "cd"])) == "ab(?:c|d)?|b|cd"


async def test_search_of_many_words_marks_them(client: httpx.AsyncClient) -> None:
    assert len(MANY_WORDS) <= EXTERNAL_ID_LENGTH
    made = await make_department(client, name="Last", description=f"{MANY_WORDS} {'zz ' * 1000}")
    (found,) = (await client.get("/search", params={"q": MANY_WORDS})).json()["items"]
    assert found["object"]["id"] == made["id"]
    assert [part["text"] for part in found["snippet"] if part["match"]] == MANY_WORDS.split()[:66]
