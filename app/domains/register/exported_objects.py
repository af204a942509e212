"""The objects of an export, as bodies of the register that they are imported into."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from app.domains.register.export_files import Line, fault
from app.domains.register.imported_ids import Old
from app.domains.shared.collection import Collection, LinkSet, foreign_keys
from app.domains.shared.schemas import is_id

T = TypeVar("T")


def fields_of(collection: Collection) -> Iterator[str]:
    """Yield the members of objects that are written; the short forms of links would only say the same again."""
    short = {link.short for link in collection.links}
    return (name for name in collection.body.model_fields if name not in short)


def targets_of(collection: Collection, lines: Sequence[Line]) -> set[Old]:
    """Return what the lines refer to. What is no reference is for `data_of` to tell."""
    wanted: set[Old] = set()
    for line in lines:
        for field, target in foreign_keys(collection.model).items():
            if is_id(key := line.document.get(field)):
                wanted.add((target.__tablename__, key))
        for link in collection.links:
            entries = line.document.get(link.field)
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and is_id(key := entry.get("id")):
                    wanted.add((link.target_model.__tablename__, key))
    return wanted


def data_of(collection: Collection, line: Line, found: Mapping[Old, Any], fields: Iterable[str]) -> dict[str, Any]:
    """Return the members of a line as bodies have them, with ids of this register.

    Raises `RegisterError` for what is no reference, or refers to nothing.
    """
    table = collection.name
    targets = foreign_keys(collection.model)
    links = {link.field: link for link in collection.links}
    data: dict[str, Any] = {}
    for field in fields:
        if field not in line.document:
            continue  # of an earlier revision
        value = line.document[field]
        if field in targets and value is not None:
            value = new_id(found, targets[field].__tablename__, value, table, line, field)
        elif field in links:
            value = _entries(links[field], found, table, line)
        data[field] = value
    return data


def _entries(link: LinkSet, found: Mapping[Old, Any], table: str, line: Line) -> list[dict[str, Any]]:
    entries = line.document[link.field]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise fault(f"{table}.ndjson", line.number, link.field, "It is a list of objects.")
    kept = (link.detail,) if link.detail else ()
    target = link.target_model.__tablename__
    return [
        {link.target: new_id(found, target, entry.get("id"), table, line, link.field)}
        | {name: entry.get(name) for name in kept}
        for entry in entries
    ]


def new_id(found: Mapping[Old, T], target: str, key: Any, table: str, line: Line, field: str) -> T:
    """Return what became of the object of the collection `target` that a member of a line refers to.

    Raises `RegisterError` for what is no id, or that of no object.
    """
    if not is_id(key) or (target, key) not in found:
        raise fault(f"{table}.ndjson", line.number, field, "It refers to an object that the export does not have.")
    return found[target, key]


def moment_of(table: str, line: Line) -> str | None:
    """Return when an object was made, as PostgreSQL reads it; None when the line does not say.

    Raises `RegisterError` for what is no moment.
    """
    value = line.document.get("created_at")
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        instant = moment.astimezone(UTC) if moment.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        instant = None
    if instant is None:
        detail = "It is a moment with its time zone, such as 2026-11-26T13:11:05+00:00."
        raise fault(f"{table}.ndjson", line.number, "created_at", detail)
    return instant.isoformat()
