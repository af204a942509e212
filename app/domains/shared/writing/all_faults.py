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
    first = () if isinstance(error, (Duplicate, UnknownReference)) else error.errors
    # A new object that refers to itself does not exist.
    reported = {fault.pointer for fault in first}
    unknown = [each for each in await _unknown_references(session, model, links, body) if each.pointer not in reported]
    if not duplicates and not unknown:
        return error
    faults = (*first, *duplicates, *unknown)
    if len(faults) == len(unknown):
        return UnknownReference(_summary_of_unknown(len(faults)), errors=faults[:MAX_FAULTS])
    detail = faults[0].detail if len(faults) == 1 else summary(len(faults))
    kind = InvalidContent if unknown else Conflict if first else Duplicate
    return kind(detail, errors=faults[:MAX_FAULTS])


def _summary_of_unknown(count: int) -> str:
    if count > MAX_FAULTS:
        return f"The request references {count:,} objects that do not exist. The first {MAX_FAULTS} are listed."
    return "The request references objects that do not exist."


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


async def _unknown_references(
    session: RegisterSession, model: type[RegisterObject], links: Sequence[LinkSet], body: Any
) -> tuple[Fault, ...]:
    references = [
        (f"/{name}", target, key)
        for name, target in foreign_keys(model).items()
        if (key := getattr(body, name)) is not None
    ]
    for link_set in links:
        references += body_link_targets(body, link_set)
    known: set[tuple[type[RegisterObject], int]] = set()
    for target in {target for _, target, _ in references}:
        column = table_of(target).c.id
        ids = {key for _, model_of_key, key in references if model_of_key is target}
        known |= {(target, key) for key in await session.scalars(select(column).where(column.in_(ids)))}
    return tuple(
        Fault.of(pointer, "unknown_reference") for pointer, target, key in references if (target, key) not in known
    )
