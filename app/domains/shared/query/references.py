"""References to objects in query parameters: an id, `code:` and a code, or `external_id:` and an external id.

The value of a parameter is an integer for an id, and the reference itself for a key. A reference has one spelling, so
that what only looks like an id is rejected. A statement looks up the keys itself.
"""

import re
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter, ValidationError, WithJsonSchema
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    String,
    TableValuedAlias,
    Text,
    bindparam,
    column,
    func,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.types import TypeEngine

from app.domains.shared.models import EXTERNAL_ID_LENGTH, Base, folded
from app.domains.shared.schemas import MAX_ID, is_id
from app.domains.shared.texts import CODE_PATTERN, StoredExternalId
from app.utils.fault_codes import TEXTS, described_pattern, invalid
from app.utils.text.folding import fold

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


ReferenceParameter = Annotated[
    int | str,
    PlainValidator(parse_reference),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_ID},
                {"type": "string", "maxLength": len(EXTERNAL_ID) + EXTERNAL_ID_LENGTH, "pattern": _KEY_PATTERN},
            ]
        }
    ),
]


def has_key(value: Any) -> bool:
    """Return whether a reference, or one of a list of references, is a key."""
    return any(isinstance(each, str) for each in _listed(value))


def has_external_id(value: Any) -> bool:
    """Return whether a reference, or one of a list of references, is an external id."""
    return any(isinstance(each, str) and each.startswith(EXTERNAL_ID) for each in _listed(value))


def _listed(value: Any) -> list[int | str]:
    return value if isinstance(value, list) else [value]


def key_arguments(name: str, value: Any) -> dict[str, list[Any]]:
    """Return the arguments of `select_ids` for a reference, or for a list of references."""
    references = _listed(value)
    keys = [each for each in references if isinstance(each, str)]
    return {
        name: [each for each in references if isinstance(each, int)],
        f"{name}_codes": [fold(each.removeprefix(CODE)) for each in keys if each.startswith(CODE)],
        f"{name}_external_ids": [each.removeprefix(EXTERNAL_ID) for each in keys if each.startswith(EXTERNAL_ID)],
    }


def select_ids(name: str, collection: str) -> ColumnElement[int]:
    """Return an uncorrelated subquery of the ids of references, with the arguments of `key_arguments`.

    It has one row for each reference, which is 0, the id of no object, if no object has the key.
    """
    ids = _values(name, BigInteger())
    codes, external_ids = _values(f"{name}_codes", Text()), _values(f"{name}_external_ids", String())
    coded, identified = (Base.metadata.tables[collection].alias(alias) for alias in ("coded", "identified"))
    rows = union_all(
        select(ids.c.value),
        _ids(coded).select_from(codes.outerjoin(coded, folded(coded.c.code) == codes.c.value)),
        _ids(identified).select_from(
            external_ids.outerjoin(identified, identified.c.external_id == external_ids.c.value)
        ),
    )
    return rows.scalar_subquery()


def _values(name: str, kind: TypeEngine[Any]) -> TableValuedAlias:
    values = func.unnest(bindparam(name, type_=ARRAY(kind)))
    return values.table_valued(column("value", kind), name="reference").render_derived()


def _ids(table: FromClause) -> Select[Any]:
    return select(func.coalesce(table.c.id, literal_column("0"), type_=BigInteger))
