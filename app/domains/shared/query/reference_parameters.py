"""References to objects in query parameters: an id, `code:` and a code, or `external_id:` and an external id.

The value of a parameter is an integer for an id, and the reference itself for a key. A reference has one spelling:
what only looks like an id or a key is rejected.
"""

import re
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.domains.shared.models import EXTERNAL_ID_LENGTH
from app.domains.shared.references import MAX_ID, is_id
from app.domains.shared.texts import CODE_PATTERN, StoredExternalId
from app.utils.fault_codes import TEXTS, described_pattern, invalid, pattern_text
from app.utils.validation import faults_of

CODE, EXTERNAL_ID = "code:", "external_id:"

ID_PATTERN = "[1-9][0-9]{0,18}"
_ID = re.compile(ID_PATTERN)
# A text that was probably meant as an id.
_LIKE_ID = re.compile(r"[+-]?\d")
_CODE = re.compile(CODE_PATTERN.removesuffix("$"))
_STORED_EXTERNAL_ID = TypeAdapter[str](StoredExternalId)
_KEY_PATTERN = described_pattern(f"^({CODE}{CODE_PATTERN[1:-1]}|{EXTERNAL_ID}.+)$", TEXTS["bad_reference:parameter"])


def is_code(text: str) -> bool:
    """Return whether an object can have this code."""
    return _CODE.fullmatch(text) is not None


def parse_id(text: str) -> int | None:
    """Return the id that a text spells, or None."""
    return int(text) if _ID.fullmatch(text) and int(text) <= MAX_ID else None


def parse_reference(value: object) -> int | str:
    """Return the value of a parameter. Raises the error of a validator, with the fault, if it is not a reference."""
    if is_id(value):
        return value
    if not isinstance(value, str):
        raise invalid("bad_reference:parameter")
    if (object_id := parse_id(value)) is not None:
        return object_id
    if value.startswith(CODE):
        return CODE + _parse_code(value.removeprefix(CODE))
    if value.startswith(EXTERNAL_ID):
        return EXTERNAL_ID + _parse_external_id(value.removeprefix(EXTERNAL_ID))
    raise _fault_of(value)


def _parse_code(text: str) -> str:
    if not is_code(text):
        raise invalid("bad_reference:code", reason=pattern_text(CODE_PATTERN))
    return text


def _parse_external_id(text: str) -> str:
    # The type of bodies trims blanks; here they would be another spelling.
    if text != text.strip():
        raise invalid("bad_reference:blanks")
    try:
        return _STORED_EXTERNAL_ID.validate_python(text)
    except ValidationError as error:
        raise invalid("bad_reference:external_id", reason=next(faults_of(error)).detail) from error


def _fault_of(text: str) -> PydanticCustomError:
    if _LIKE_ID.match(text.lstrip()):
        return invalid("bad_reference:digits")
    if f"{text.partition(':')[0].strip().lower()}:" in {CODE, EXTERNAL_ID}:
        return invalid("bad_reference:prefix")
    return invalid("bad_reference:parameter")


REFERENCE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MAX_ID},
        {"type": "string", "maxLength": len(EXTERNAL_ID) + EXTERNAL_ID_LENGTH, "pattern": _KEY_PATTERN},
    ]
}
ReferenceParameter = Annotated[int | str, PlainValidator(parse_reference), WithJsonSchema(REFERENCE_SCHEMA)]


def keys_of(value: Any) -> list[str]:
    """Return the keys among a reference, or a list of references."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
