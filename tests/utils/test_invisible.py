"""The characters that are displayed as nothing."""

import sys
import unicodedata
from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from app.utils.text.invisible import has_ignorable, is_visible, trimmed

CHARACTERS = [character for character in map(chr, range(sys.maxunicode + 1)) if not "\ud800" <= character <= "\udfff"]
# Pydantic's engine of regular expressions knows the properties of Unicode.
IGNORABLE = TypeAdapter(Annotated[str, Field(pattern=r"^[\p{Default_Ignorable_Code_Point}\p{Bidi_Control}]$")])


def is_ignorable(character: str) -> bool:
    try:
        IGNORABLE.validate_python(character)
    except ValidationError:
        return False
    return True


def test_ignorable_characters_are_those_of_unicode() -> None:
    ignorable = {character for character in CHARACTERS if has_ignorable(character)}
    assert ignorable == {character for character in CHARACTERS if is_ignorable(character)}
    assert len(ignorable) == 4174


def test_every_ignorable_character_is_trimmed_at_both_ends() -> None:
    for character in filter(has_ignorable, CHARACTERS):
        assert trimmed(f" {character} Ada{character} {character}") == "Ada"
        assert trimmed(f"A{character}da") == f"A{character}da"
        assert not is_visible(character)
        assert trimmed(character * 3) == ""


def test_trimming_twice_is_trimming_once() -> None:
    for character in CHARACTERS:
        for text in (character, f"{character}\ufe0f", f"e{character}\u200b", f"\u3164{character}\U000e0100 "):
            once = trimmed(unicodedata.normalize("NFC", text))
            assert trimmed(unicodedata.normalize("NFC", once)) == once


@pytest.mark.parametrize(
    "name",
    [
        "Coffee \u2615\ufe0f",
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        "\u8fbb\U000e0100",
        "\u845b\ufe00",
    ],
)
def test_form_of_the_last_character_stays(name: str) -> None:
    assert trimmed(f"\u200b{name}\u200b ") == name


def test_visible_text_has_a_character_that_is_displayed_by_itself() -> None:
    assert [is_visible(text) for text in ("", " ", "\u0301", "\u0301\u3164\u0301", "\u200b\xa0")] == [False] * 5
    assert [is_visible(text) for text in ("a", "\u200ba", "\u0301a", "\u4e2d", "\U0001f600")] == [True] * 5
