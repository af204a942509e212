"""References to objects in query parameters: an id, `code:` and a code, or `external_id:` and an external id.

The value of a parameter is an integer for an id, and the reference itself for a key. A reference has one spelling:
what only looks like an id or a key is rejected.
"""

import re
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter, ValidationError, WithJsonSchema

from app.domains.shared.models import EXTERNAL_ID_LENGTH
from app.domains.shared.references import MAX_ID, is_id
from app.domains.shared.texts import CODE_PATTERN, StoredExternalId
from app.utils.fault_codes import TEXTS, described_pattern, invalid

CODE, EXTERNAL_ID = "code:", "external_id:"

_ID = re.compile("[1-9][0-9]{0,18}")
_CODE = re.compile(CODE_PATTERN.removesuffix("$"))
_STORED_EXTERNAL_ID = TypeAdapter[str](StoredExternalId)
_KEY_PATTERN = described_pattern(f"^({CODE}{CODE_PATTERN[1:-1]}|{EXTERNAL_ID}.+)$", TEXTS["bad_reference:parameter"])


def is_code(text: str) -> bool:
    """Return whether an object can have this code."""
    return _CODE.fullmatch(text) is not None


def parse_reference(value: object) -> int | str:
    """Return the value of a parameter. Raises the error of a validator if it is not a reference."""
    if is_id(value):
        return value
    if isinstance(value, str):
        if _ID.fullmatch(value) and int(value) <= MAX_ID:
            return int(value)
        if value.startswith(CODE) and is_code(value.removeprefix(CODE)):
            return value
        if value.startswith(EXTERNAL_ID):
            return EXTERNAL_ID + _parse_external_id(value.removeprefix(EXTERNAL_ID))
    raise invalid("bad_reference:parameter")


def _parse_external_id(text: str) -> str:
    try:
        # The type of bodies trims blanks; here they would be another spelling.
        if text == text.strip():
            return _STORED_EXTERNAL_ID.validate_python(text)
    except ValidationError:
        pass
    raise invalid("bad_reference:parameter")


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
