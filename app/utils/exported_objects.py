"""The objects of an export, as bodies of the register that they are imported into."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from app.domains.shared.schemas import LARGEST_ID
from app.domains.shared.service import CollectionService
from app.domains.shared.writes import foreign_keys
from app.utils.export_files import Line, fault
from app.utils.imported_ids import Old

T = TypeVar("T")


def fields_of(service: type[CollectionService]) -> Iterator[str]:
    """Yield the members of objects that are written; the short forms of links would only say the same again."""
    short = {link.short for link in service.links}
    return (name for name in service.schema.model_fields if name not in short)


def targets_of(service: type[CollectionService], lines: Sequence[Line]) -> set[Old]:
    """Return what the lines refer to."""
    wanted = set()
    for line in lines:
        for field, target in foreign_keys(service.model).items():
            wanted.add((target.__tablename__, line.document.get(field)))
        for link in service.links:
            wanted |= {(link.target_model.__tablename__, entry.get("id")) for entry in _entries(line, link.field)}
    return {(table, key) for table, key in wanted if type(key) is int and 0 < key <= LARGEST_ID}


def _entries(line: Line, field: str) -> list[dict[str, Any]]:
    entries = line.document.get(field)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def data_of(
    service: type[CollectionService], line: Line, found: Mapping[Old, Any], fields: Iterable[str]
) -> dict[str, Any]:
    """Return the members of a line as bodies have them, with ids of this register."""
    table = service.model.__tablename__
    targets = foreign_keys(service.model)
    links = {link.field: link for link in service.links}
    data: dict[str, Any] = {}
    for field in fields:
        if field not in line.document:
            continue  # of an earlier revision
        value = line.document[field]
        if field in targets and value is not None:
            value = new_id(found, (targets[field].__tablename__, value), table, line, field)
        elif field in links:
            link = links[field]
            kept = (link.detail,) if link.detail else ()
            value = [
                {link.target: new_id(found, (link.target_model.__tablename__, entry.get("id", 0)), table, line, field)}
                | {name: entry.get(name) for name in kept}
                for entry in _entries(line, field)
            ]
        data[field] = value
    return data


def new_id(found: Mapping[Old, T], old: Old, table: str, line: Line, field: str) -> T:
    if old not in found:
        raise fault(f"{table}.ndjson", line.number, field, "It refers to an object that the export does not have.")
    return found[old]
