"""Converts the objects of an export to bodies with the ids of this register."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from app.domains.register.export_files import Line, line_error
from app.domains.register.imported_ids import ExportedId
from app.domains.shared.collection import Collection, LinkSet, foreign_keys
from app.domains.shared.references import is_id

T = TypeVar("T")


def body_fields(collection: Collection) -> Iterator[str]:
    """Yield the members of a body without the short forms of links, which would duplicate the links."""
    short_forms = {link.short for link in collection.links}
    return (name for name in collection.body.model_fields if name not in short_forms)


def referenced_ids(collection: Collection, lines: Sequence[Line]) -> set[ExportedId]:
    """Return the exported ids that the lines refer to. Invalid references are skipped; `import_data` rejects them."""
    references: set[ExportedId] = set()
    for line in lines:
        for field, target in foreign_keys(collection.model).items():
            if is_id(key := line.document.get(field)):
                references.add((target.__tablename__, key))
        for link in collection.links:
            entries = line.document.get(link.field)
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and is_id(key := entry.get("id")):
                    references.add((link.target_model.__tablename__, key))
    return references


def import_data(
    collection: Collection, line: Line, ids: Mapping[ExportedId, Any], fields: Iterable[str]
) -> dict[str, Any]:
    """Return the members of a line as the data of a bulk item, with the ids of this register.

    `ids` maps exported ids to local ones. Raises `RegisterError` for an invalid or unknown reference.
    """
    table = collection.name
    targets = foreign_keys(collection.model)
    links = {link.field: link for link in collection.links}
    data: dict[str, Any] = {}
    for field in fields:
        if field not in line.document:
            continue  # the export has an earlier schema revision
        value = line.document[field]
        if field in targets and value is not None:
            value = resolve_id(ids, targets[field].__tablename__, value, table, line, field)
        elif field in links:
            value = _entries(links[field], ids, table, line)
        data[field] = value
    return data


def _entries(link: LinkSet, ids: Mapping[ExportedId, Any], table: str, line: Line) -> list[dict[str, Any]]:
    entries = line.document[link.field]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise line_error(f"{table}.ndjson", line.number, link.field, "Must be an array of objects.")
    details = (link.detail,) if link.detail else ()
    target = link.target_model.__tablename__
    return [
        {link.target: resolve_id(ids, target, entry.get("id"), table, line, link.field)}
        | {name: entry.get(name) for name in details}
        for entry in entries
    ]


def resolve_id(ids: Mapping[ExportedId, T], target: str, key: Any, table: str, line: Line, field: str) -> T:
    """Return the local id for the exported id `key` of the collection `target`, which a member of a line refers to.

    Raises `RegisterError` if `key` is not an id or is not in `ids`.
    """
    if not is_id(key) or (target, key) not in ids:
        raise line_error(f"{table}.ndjson", line.number, field, "Refers to an object that is not in the export.")
    return ids[target, key]


def parse_created_at(table: str, line: Line) -> str | None:
    """Return the `created_at` of a line in UTC (ISO 8601), or None if the line has none.

    Raises `RegisterError` if the value is not a date and time with a time zone.
    """
    value = line.document.get("created_at")
    if value is None:
        return None
    try:
        created_at = datetime.fromisoformat(value)
        instant = created_at.astimezone(UTC) if created_at.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        instant = None
    if instant is None:
        detail = "Must be an instant with its offset from UTC, such as 2026-11-26T13:11:05+00:00."
        raise line_error(f"{table}.ndjson", line.number, "created_at", detail)
    return instant.isoformat()
