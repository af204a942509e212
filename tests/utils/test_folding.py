"""Folding in Python and in the database is the same."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.utils.text.folding import LOWER_CASE, fold, fold_email
from tests.domains.shared.properties import draw_examples

APP = Path(__file__).parents[2] / "app"
# The modules that use `lower`, each with its reason. Text of clients is compared by `fold` and `fold_email`.
LOWERED = {
    "api/static_content.py": "content codings",
    "core/http/authorisation.py": "authentication schemes",
    "core/http/bodies.py": "media types",
    "core/http/hints.py": "parameter names",
    "core/http/middleware.py": "header fields and host names",
    "core/http/protocol.py": "header fields",
    "core/http/routing.py": "methods and content codings",
    "utils/password_strength.py": "the form in which zxcvbn looks words up",
    "domains/register/table_files.py": "extensions of files",
    "domains/search/snippets.py": "the folding of search, which revision 0006 has, too",
    "domains/shared/imports/columns.py": "names of columns",
    "domains/shared/imports/rows.py": "Boolean words",
    "domains/shared/query/formats.py": "media types",
    "domains/shared/query/parameters.py": "Booleans in URLs",
    "domains/shared/query/reference_parameters.py": "prefixes of references",
    "utils/text/folding.py": "ASCII text",
    "utils/logging_middleware.py": "header fields",
}
FUNCTIONS: dict[str, Callable[[str], str]] = {"fold": fold, "fold_email": fold_email}
every_function = pytest.mark.parametrize("name", FUNCTIONS)

# Sigmas, letters that are longer in lower case, compatibility forms, composed and decomposed letters, Hangul and its
# parts, letters of other scripts, marks in both orders, and a letter that is not in upper case in every version.
ALPHABET = "aAΣσςİIiıKÅßẞſﬁﷺ㌔ＦＩẹ́́̈ÄΐᾳͅΌᏣꭰᲐა각각がｶﾞＡ𐐀𝐀Ⓐ ǅĲŉ.-" + "\u1e9b\u0323\u0344\u212b\ufb2c"  # noqa: RUF001
CHARACTERS_AT_ONCE = 2000


def known() -> Iterator[str]:
    """Yield the characters of the Unicode version of this Python that a text can contain."""
    for character in map(chr, range(1, 0x110000)):
        if unicodedata.category(character) not in {"Cn", "Cs"}:
            yield character


async def folded(connection: AsyncConnection, name: str, texts: list[str]) -> list[str]:
    query = text(f"SELECT {name}(each) FROM unnest(CAST(:texts AS text[])) AS each")
    return list((await connection.scalars(query, {"texts": texts})).all())


async def unknown_to(connection: AsyncConnection, characters: list[str]) -> set[str]:
    """Return the characters whose compatibility form this version of PostgreSQL does not know yet."""
    query = text("SELECT each FROM unnest(CAST(:texts AS text[])) AS each WHERE normalize(each, NFKD) = each")
    unchanged = set((await connection.scalars(query, {"texts": characters})).all())
    return {each for each in unchanged if unicodedata.normalize("NFKD", each) != each}


def test_text_is_folded_in_one_way() -> None:
    """Neither Python nor SQL compares text by `lower`, apart from tokens of protocols and files."""
    uses = {
        str(path.relative_to(APP)) for path in APP.rglob("*.py") if re.search(r"\blower\b *\(", path.read_text("utf-8"))
    }
    assert uses == LOWERED.keys()


@every_function
async def test_database_folds_every_character_as_python_does(connection: AsyncConnection, name: str) -> None:
    characters = list(known())
    # No character combines with U+001F.
    texts = [
        "\x1f".join(characters[first : first + CHARACTERS_AT_ONCE])
        for first in range(0, len(characters), CHARACTERS_AT_ONCE)
    ]
    found = "\x1f".join(await folded(connection, name, texts)).split("\x1f")
    expected = FUNCTIONS[name]("\x1f".join(texts)).split("\x1f")
    different = {
        one for one, *both in zip("\x1f".join(texts).split("\x1f"), found, expected, strict=True) if both[0] != both[1]
    }
    assert different == await unknown_to(connection, sorted(different))


@every_function
async def test_database_folds_characters_in_context_as_python_does(connection: AsyncConnection, name: str) -> None:
    changed = [each for each in known() if fold(each) != each or unicodedata.combining(each)]
    changed = sorted(set(changed) - await unknown_to(connection, changed))
    texts = [f"Σ{each}\u0301a{each}\u0323ς" for each in changed]
    found = await folded(connection, name, texts)
    assert [one for one, other in zip(texts, found, strict=True) if FUNCTIONS[name](one) != other] == []


@every_function
async def test_database_folds_random_texts_as_python_does(connection: AsyncConnection, name: str) -> None:
    texts = draw_examples(
        st.text(st.sampled_from(ALPHABET) | st.characters(codec="utf-8", exclude_characters="\0")), 500
    )
    texts = [each for each in texts if all(unicodedata.category(part) != "Cn" for part in each)]
    assert await folded(connection, name, texts) == [FUNCTIONS[name](each) for each in texts]
    again = await folded(connection, name, [FUNCTIONS[name](each) for each in texts])
    assert again == [FUNCTIONS[name](each) for each in texts]


@every_function
def test_folded_text_does_not_change(name: str) -> None:
    fold_ = FUNCTIONS[name]
    for character in known():
        once = fold_(character)
        assert fold_(once) == once


def test_table_has_the_lower_case_of_unicode() -> None:
    """A later version of Unicode may only add letters."""
    simple = {
        ord(character): ord(character.lower())
        for character in known()
        if character.lower() != character and unicodedata.normalize("NFD", character) == character
    } | {ord("ς"): ord("σ")}  # noqa: RUF001
    assert simple.items() >= LOWER_CASE.items()
    if unicodedata.unidata_version == "14.0.0":
        assert simple == LOWER_CASE


@pytest.mark.parametrize(
    ("one", "other", "of_texts", "of_emails"),
    [
        ("ΟΔΟΣ", "οδος", True, True),
        ("ΝΊΚΟΣ", "νίκος", True, True),
        ("Ä", "a\u0308", True, True),
        ("\u212a", "k", True, True),  # KELVIN SIGN
        ("İ", "i\u0307", True, True),
        ("İ", "i", False, False),
        ("\uff26\uff29\uff2e", "fin", True, False),
        ("ﬁn", "FIN", True, False),
        ("Straße", "STRAẞE", True, True),
        ("Straße", "STRASSE", False, False),
        ("\u0430", "a", False, False),  # CYRILLIC SMALL LETTER A
        ("é", "e", False, False),
    ],
)
def test_texts_that_are_equal(one: str, other: str, *, of_texts: bool, of_emails: bool) -> None:
    assert (fold(one) == fold(other)) is of_texts
    assert (fold_email(one) == fold_email(other)) is of_emails
