"""How a path names an object, and how a body's references are checked when one of them turns out unknown."""

import re
from dataclasses import dataclass

from sqlalchemy import select

from app.core.database import Session
from app.domains.shared.documents import by_code, by_id
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.orders import Condition
from app.domains.shared.schemas import CODE_PATTERN, LARGEST_ID
from app.utils.exceptions import Fault, NotFound, UnknownReference
from app.utils.validation import MOST_FAULTS

_CODE = re.compile(CODE_PATTERN.removesuffix("$"))
_ID = re.compile("[0-9]{1,19}")
REFERENCE_PATTERN = f"^([0-9]{{1,19}}|code:{CODE_PATTERN[1:-1]})$"


@dataclass(frozen=True, slots=True)
class Key:
    """What selects an object: a condition with the parameter `key`, and its value."""

    condition: Condition
    value: int | str


def not_found(model: type[RegisterObject]) -> NotFound:
    return NotFound(f"There is no such {model.noun}.")


def parse_key(reference: str, model: type[RegisterObject]) -> Key:
    """Return the key in a path: an `id`, or `code:` and a code.

    Raises `NotFound` for what can't be either, so also for numbers beyond 64 bits.
    """
    if _ID.fullmatch(reference) and int(reference) <= LARGEST_ID:
        return Key(by_id, int(reference))
    if reference.startswith("code:") and _CODE.fullmatch(code := reference.removeprefix("code:")):
        return Key(by_code, code)
    raise not_found(model)


async def unknown_references(session: Session, named: list[tuple[str, type[RegisterObject], int]]) -> UnknownReference:
    """Return the error with a pointer for each of `named` (pointer, model, id) that does not exist."""
    known: set[tuple[str, int]] = set()
    connection = await session.connection()
    for model in {model for _, model, _ in named}:
        table = table_of(model)
        ids = {key for _, of, key in named if of is model}
        known |= {(table.name, key) for key in await connection.scalars(select(table.c.id).where(table.c.id.in_(ids)))}
    faults = [
        Fault(pointer, "unknown_reference", "No such object is registered.")
        for pointer, model, key in named
        if (model.__tablename__, key) not in known
    ]
    detail = "The request names objects that do not exist."
    if len(faults) > MOST_FAULTS:
        detail = (
            f"The request names {len(faults)} objects that do not exist, of which these are the first {MOST_FAULTS}."
        )
    return UnknownReference(detail, errors=faults[:MOST_FAULTS])
