"""The types of text in bodies and parameters.

Text is trimmed, normalised to Unicode NFC and free of control characters. Blanks and characters that are displayed as
nothing are trimmed; a key has none of the latter at all.

The validation context of a body, if it has one, is a function that returns whether a text of a field is exempt from the
rule for characters that are displayed as nothing, because it comes from the register or from an export of one and may
be older than the rule. `exempt_stored` and `exempt_all` are such functions.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    HttpUrl,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)

from app.domains.shared.models import CODE_LENGTH, EXTERNAL_ID_LENGTH, NAME_LENGTH, URL_LENGTH
from app.utils.fault_codes import described_pattern, invalid, text_of
from app.utils.text.invisible import has_ignorable, is_visible, trimmed
from app.utils.text.normalisation import MAX_COMBINING_MARKS, TextTooLongError, TooManyMarksError, to_nfc
from app.utils.wording import counted

# URL parsers ignore white space and control characters, which would then be stored.
URL_PATTERN = described_pattern(r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s\x00-\x1f\x7f-\x9f]+$", text_of("url"))
DESCRIPTION_LENGTH = 20_000
CODE_PATTERN = described_pattern(
    rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{CODE_LENGTH - 1}}}$",
    f"A code has 1 to {CODE_LENGTH} letters A to Z, digits, dots, underscores and hyphens, and begins with a letter or "
    "digit.",
)

# Includes surrogates, which UTF-8 cannot encode and PostgreSQL cannot store.
_LINE_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TEXT_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# A character that PostgreSQL can neither store nor compare.
UNSTORABLE_CHARACTER = re.compile(r"[\x00\ud800-\udfff]")


def normalised(text: str, max_length: int) -> str:
    """Return a text in Unicode NFC. Raises the error of a validator if normalising it could take long."""
    try:
        return to_nfc(text, max_length)
    except TextTooLongError as error:
        raise invalid("string_too_long", characters=counted(max_length, "character")) from error
    except TooManyMarksError as error:
        raise invalid("too_many_combining_marks", marks=MAX_COMBINING_MARKS) from error


def _reject_line_controls(value: str) -> str:
    if _LINE_CONTROL.search(value):
        raise invalid("control_character")
    return value


def _check_line(value: str) -> str:
    _reject_line_controls(value)
    if not is_visible(value):
        raise invalid("invisible_text")
    return value


def reject_ignorable(value: str, info: ValidationInfo) -> str:
    """Return a key. Raises the error of a validator if it is a new one with characters displayed as nothing."""
    if has_ignorable(value) and not _is_exempt(value, info):
        raise invalid("invisible_text:key")
    return value


def _reject_ignorable_code(value: object) -> object:
    # The pattern permits none of these characters, but its error does not name them.
    if isinstance(value, str) and has_ignorable(value):
        raise invalid("invisible_text:key")
    return value


def _is_exempt(text: str, info: ValidationInfo) -> bool:
    return info.context is not None and info.context(info.field_name, text)


def exempt_stored(current: Mapping[str, Any]) -> Callable[[str, str], bool]:
    """Return the validation context of a body that changes an object with these values."""
    return lambda name, text: current.get(name) == text


def exempt_all(_name: str, _text: str) -> bool:
    """Exempt every text: the validation context of an export, and of a body whose object is not yet known."""
    return True


def _check_lines(value: str) -> str:
    if _TEXT_CONTROL.search(value):
        raise invalid("control_character:lines")
    return value


def _check_http_url(value: str) -> str:
    try:
        _URL.validate_python(value)
    except ValidationError as error:
        raise invalid("url") from error
    return value


_URL = TypeAdapter(Annotated[str, Field(pattern=URL_PATTERN), AfterValidator(HttpUrl)])


def _trim_line(value: str) -> str:
    # Invisible text is left for the check, which has a better error than for text that is too short.
    return trimmed(value) or value


def _text(
    max_length: int,
    check: Callable[[str], str],
    trim: Callable[[str], str] | None,
    *,
    min_length: int | None = 1,
    **field: Any,
) -> tuple[Any, ...]:
    def normalise(value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value  # left for Pydantic to reject
        if trim is None:
            return normalised(value, max_length)
        text = normalised(value.strip(), max_length)
        if text.isascii() or (clean := trim(text)) == text:
            return text
        return text if _is_exempt(text, info) else clean

    # Normalisation runs first: a Before validator wraps the validators on its left.
    return (
        Field(min_length=min_length, max_length=max_length, **field),
        BeforeValidator(normalise),
        AfterValidator(check),
    )


def single_line(max_length: int, **field: Any) -> tuple[Any, ...]:
    """Return the metadata of text of one line; `max_length` is in characters of the normalised text."""
    return _text(max_length, _check_line, _trim_line, **field)


def key_text(max_length: int, **field: Any) -> tuple[Any, ...]:
    """Return the metadata of text that a key is compared with: only blanks are trimmed. See `single_line`."""
    return _text(max_length, _check_line, str.strip, **field)


def comparable_code(text: str) -> str:
    """Return a text to compare codes with. A text that is not ASCII becomes one that no code equals or contains.

    Codes are ASCII, but the folded form of other characters may be, too.
    """
    return text if text.isascii() else "\ufffd"


def multiple_lines(max_length: int, **field: Any) -> tuple[Any, ...]:
    """Return the metadata of text of several lines; see `single_line`."""
    return _text(max_length, _check_lines, trimmed, **field)


def part_of_line(max_length: int) -> tuple[Any, ...]:
    """Return the metadata of a part of text: blanks at its ends count, and it needs no visible character."""
    return _text(max_length, _reject_line_controls, None)


def part_of_lines(max_length: int) -> tuple[Any, ...]:
    """Return the metadata of a part of text of several lines; see `part_of_line`."""
    return _text(max_length, _check_lines, None)


Name = Annotated[str, *single_line(NAME_LENGTH, description="Display name.", examples=["Accounts payable"])]
Description = Annotated[
    str, *multiple_lines(DESCRIPTION_LENGTH, min_length=None, description="Free text, which may have several lines.")
]
Code = Annotated[
    str,
    Field(
        pattern=CODE_PATTERN,
        description="Human-readable key, unique in the collection ignoring case.",
        examples=["FIN-01"],
    ),
    BeforeValidator(_reject_ignorable_code),
]
# The external id by which an existing object is found, and which may be older than `reject_ignorable`.
StoredExternalId = Annotated[
    str,
    *key_text(EXTERNAL_ID_LENGTH, description="Key of the object in its source system, unique in the collection."),
]
ExternalId = Annotated[StoredExternalId, AfterValidator(reject_ignorable)]
HttpAddress = Annotated[
    str,
    # The URL parser drops or encodes control characters, but the original text is stored.
    *single_line(URL_LENGTH, min_length=None),
    AfterValidator(_check_http_url),
    WithJsonSchema({"type": "string", "format": "uri", "pattern": URL_PATTERN, "maxLength": URL_LENGTH}),
]
