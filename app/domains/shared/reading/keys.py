"""References to objects in paths."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    Select,
    select,
)

from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.query.orders import Condition
from app.domains.shared.query.reference_parameters import CODE, ID_PATTERN, is_code, parse_id
from app.domains.shared.reading.documents import by_code, by_id
from app.domains.shared.texts import CODE_PATTERN
from app.utils.exceptions import NotFound
from app.utils.fault_codes import described_pattern, text_of

REFERENCE_PATTERN = described_pattern(
    f"^({ID_PATTERN}|{CODE}{CODE_PATTERN[1:-1]})$", "Must be an id, or `code:` and a code."
)


@dataclass(frozen=True, slots=True)
class Key:
    """A condition that selects one object by the parameter `key`, and the value of the parameter."""

    condition: Condition
    value: int | str


def not_found(model: type[RegisterObject]) -> NotFound:
    return NotFound(text_of("not_found", noun=model.noun))


def parse_key(reference: str, model: type[RegisterObject]) -> Key:
    """Return the key of a reference in a path: an `id`, or `code:` and a code.

    Raises `NotFound` if it is neither. An id has no leading zeros, and at most 64 bits.
    """
    if (object_id := parse_id(reference)) is not None:
        return Key(by_id, object_id)
    if reference.startswith(CODE) and is_code(code := reference.removeprefix(CODE)):
        return Key(by_code, code)
    raise not_found(model)


@cache
def select_id(model: type[RegisterObject], condition: Condition) -> Select[Any]:
    """Return the statement that selects the object's `id`, without a row if it does not exist."""
    table = table_of(model)
    return select(table.c.id).where(condition(table))
