"""Finds all faults of a body, because the database, or a rule before it, reports only the first one."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from app.core.database import RegisterSession
from app.domains.shared.collection import LinkSet, body_link_targets, foreign_keys
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.reading.keys import Key, select_id
from app.domains.shared.writing.constraints import duplicate_key_fault
from app.domains.shared.writing.unique_keys import find_key_owners, unique_keys
from app.utils.exceptions import Conflict, Duplicate, Fault, InvalidContent, RegisterError, UnknownReference
from app.utils.validation import MAX_FAULTS, summary

# JSON pointer, model and id of an object that a body refers to.
BodyReference = tuple[str, type[RegisterObject], int]


async def with_all_faults(
    session: RegisterSession,
    model: type[RegisterObject],
    links: Sequence[LinkSet],
    error: RegisterError,
    body: Any,
    key: Key | None,
) -> RegisterError:
    """Return the error for all faults of a body, after `error` reported the first; roll back what the session wrote.

    `key` is the key of the object to update, None for a new one.
    """
    await session.undo()
    duplicates = await _duplicate_keys(session, model, body, key)
    references = _references(model, links, body)
    first = () if isinstance(error, (Duplicate, UnknownReference)) else error.errors
    # A new object that refers to itself does not exist.
    reported = {fault.pointer for fault in first}
    unknown = [each for each in await find_unknown(session, references) if each.pointer not in reported]
    if not duplicates and not unknown:
        return error
    faults = (*first, *duplicates, *unknown)
    if len(faults) == len(unknown):
        return unknown_references(faults)
    detail = faults[0].detail if len(faults) == 1 else summary(len(faults))
    kind = InvalidContent if unknown else Conflict if first else Duplicate
    return kind(detail, errors=faults[:MAX_FAULTS])


def unknown_references(faults: Sequence[Fault]) -> UnknownReference:
    """Return the error for the faults of `find_unknown`."""
    detail = "The request references objects that do not exist."
    if len(faults) > MAX_FAULTS:
        detail = f"The request references {len(faults):,} objects that do not exist. The first {MAX_FAULTS} are listed."
    return UnknownReference(detail, errors=faults[:MAX_FAULTS])


async def _duplicate_keys(
    session: RegisterSession, model: type[RegisterObject], body: Any, key: Key | None
) -> tuple[Fault, ...]:
    own = None if key is None else await session.scalar(select_id(model, key.condition), {"key": key.value})
    keys = {name: getattr(body, name) for name in unique_keys(model)}
    arrays = {f"{name}_values": [] if value is None else [value] for name, value in keys.items()}
    return tuple(
        duplicate_key_fault(model.noun, row.key)
        for row in await session.execute(find_key_owners(model), arrays)
        if row.id is not None and row.id != own
    )


def _references(model: type[RegisterObject], links: Sequence[LinkSet], body: Any) -> list[BodyReference]:
    references = [
        (f"/{name}", target, key)
        for name, target in foreign_keys(model).items()
        if (key := getattr(body, name)) is not None
    ]
    for link_set in links:
        references += body_link_targets(body, link_set)
    return references


async def find_unknown(session: RegisterSession, references: Sequence[BodyReference]) -> tuple[Fault, ...]:
    """Return a fault for each reference to an object that does not exist."""
    known: set[tuple[type[RegisterObject], int]] = set()
    for target in {target for _, target, _ in references}:
        column = table_of(target).c.id
        ids = {key for _, model_of_key, key in references if model_of_key is target}
        known |= {(target, key) for key in await session.scalars(select(column).where(column.in_(ids)))}
    return tuple(
        Fault.of(pointer, "unknown_reference") for pointer, target, key in references if (target, key) not in known
    )
