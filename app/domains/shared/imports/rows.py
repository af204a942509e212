"""What the rows of a file mean: the items of a batch, in the types of the collection's schemas.

Of a reference that a row gives twice, as `parent` and as `parent_id`, the first one counts: it tells what the object is
called, which holds in another register, too.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from app.domains.shared.bulk.fault_budget import FaultBudget
from app.domains.shared.bulk.items import ITEM, NAMED, read_key
from app.domains.shared.collection import Collection, LinkSet
from app.domains.shared.imports.columns import Columns, Hints, Kind, Member, members_of
from app.domains.shared.imports.files import FileRow
from app.domains.shared.models import RegisterObject
from app.domains.shared.reading.cells import BadCellError, CellReference, read_id, read_ids, read_links, read_reference
from app.domains.shared.schemas import is_id
from app.utils.exceptions import ContentTooLarge, Fault
from app.utils.validation import json_pointer

MAX_FILE_LINKS = 200_000
# Of several members for one reference the first of these counts.
_REFERENCES: tuple[Kind, ...] = ("brief", "external_id", "id")
_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


@dataclass(slots=True)
class ImportRow:
    """A row, and the item that it becomes. `places` has what its fields were made of: the names in the file, and the
    members that these are. Cells of a `table` have no parts but the places of links.
    """

    number: int
    faults: list[Fault]
    table: bool
    item: dict[str, Any] | None = None
    places: dict[str, tuple[str, Member]] = field(default_factory=dict)

    def placed(self, fault: Fault) -> Fault:
        """Return a fault of the item with a pointer into the file."""
        _, *parts = fault.pointer.split("/")
        if parts and parts[0] == "data":
            parts = parts[1:]
        if parts:
            name, member = self.places.get(parts[0], (parts[0], None))
            made = None if member is None else _made_of(member)
            known = takewhile(str.isdigit if self.table else lambda part: part != made, parts[1:])
            parts = [json_pointer([name])[1:], *known]
        return Fault("/" + "/".join([str(self.number), *parts]), fault.code, fault.detail)


class RowReader:
    """Reads the rows of one file; their own ids, unless `match_ids`, name rows of this file only."""

    def __init__(
        self,
        collection: Collection,
        columns: Columns,
        hints: Hints,
        budget: FaultBudget,
        *,
        table: bool,
        match_ids: bool,
    ) -> None:
        self._model = collection.model
        self._known = members_of(collection)
        self._columns = columns
        self._table = table
        self._match_ids = match_ids
        # Where in the batch the object is that has an id in the file; None if several have it.
        self._indexes: dict[int, int | None] = {}
        self._links_left = MAX_FILE_LINKS
        self._hints = hints
        self._budget = budget
        # What the file calls the ids of its rows.
        self._own_name = next((name for name, member in columns.items() if member and member.name == "id"), None)

    def read(self, rows: Sequence[FileRow]) -> list[ImportRow]:
        """Return the rows with the items that they become; those that cannot be read have none."""
        readable = [row for row in rows if not row.faults]
        if not self._match_ids:
            for index, row in enumerate(readable):
                # Ids that only tell which rows refer to which may be anything.
                with suppress(BadCellError):
                    if (key := self._own_id(row)) is not None:
                        self._indexes[key] = None if key in self._indexes else index
        return [ImportRow(row.number, row.faults, self._table) if row.faults else self._read(row) for row in rows]

    def _own_id(self, row: FileRow) -> int | None:
        """Return the id that a row has in the file, if it has one. Raises `BadCellError` for what is no id."""
        value = None if self._own_name is None else row.values.get(self._own_name)
        if value is None or type(value) is int:
            return value
        if not isinstance(value, str):
            raise BadCellError("Write an id as a whole number.")
        return read_id(value.strip())

    def _read(self, row: FileRow) -> ImportRow:
        made = ImportRow(row.number, row.faults, self._table)
        if self._own_name is not None and (own := self._columns[self._own_name]):
            made.places["id"] = (self._own_name, own)
        data: dict[str, Any] = {}
        for name, member in self._telling(row):
            made.places[member.field] = (name, member)
            value = row.values[name]
            try:
                data[member.field] = self._cell(member, value) if self._table else self._value(member, value)
            except BadCellError as error:
                if self._budget.allows(row.faults):
                    row.add_fault(name, "bad_cell", str(error))
        for name in row.values:
            # Of a fault that nobody is told no name is looked up.
            if name not in self._columns and self._budget.allows(row.faults):
                row.add_fault(name, "unknown_member", self._hints.after("There is no such member.", name, self._known))
        made.item = self._item(row, data)
        return made

    def _telling(self, row: FileRow) -> Iterator[tuple[str, Member]]:
        """Yield the names and members of a row that say what the object is to be."""
        chosen: dict[str, tuple[str, Member]] = {}
        for name in row.values:
            member = self._columns.get(name)
            if member is None or member.kind == "own":
                continue
            other = chosen.get(member.field)
            if other is None or _REFERENCES.index(member.kind) < _REFERENCES.index(other[1].kind):
                chosen[member.field] = (name, member)
        yield from chosen.values()

    def _item(self, row: FileRow, data: dict[str, Any]) -> dict[str, Any] | None:
        """Return what a row becomes: nothing, if its id cannot be read, so that it makes no other object."""
        if self._match_ids and self._own_name is not None:
            try:
                key = self._own_id(row)
            except BadCellError as error:
                if self._budget.allows(row.faults):
                    row.add_fault(self._own_name, "bad_cell", str(error))
                return None
            if key is not None:
                return {"op": "update", "id": key, "data": data}
        for name in ("external_id", "code"):
            # One that can be none is a fault of the data like others.
            if data.get(name) is not None and read_key(name, data[name]) is not None:
                return {"op": "upsert", name: data[name], "data": data}
        # Where there is nothing yet, nothing can be cleared.
        return {"op": "create", "data": {name: value for name, value in data.items() if value is not None}}

    def _cell(self, member: Member, cell: str | None) -> Any:
        """Return what a cell stands for. Raises `BadCellError`."""
        if cell is None:
            return [] if member.link is not None else None
        if member.link is not None:
            self._count(cell.count("|") + 1)
        if member.kind == "links":
            return self._links(member, cell)
        if member.kind == "brief":
            return self._refer(read_reference(cell.strip()), member.target)
        if member.kind == "external_id":
            return {"external_id": cell}
        if member.kind == "id":
            return self._refer(("id", read_id(cell.strip())), member.target)
        read = _READERS.get(member.kind)
        return cell if read is None else read(cell)

    def _links(self, member: Member, cell: str) -> list[dict[str, Any]]:
        link = member.link
        assert link is not None  # of a member that lists links
        return [
            _entry(link, self._refer(reference, link.target_model), detail) for reference, detail in read_links(cell)
        ]

    def _value(self, member: Member, value: Any) -> Any:
        """Return what a member of a JSON object stands for. What it can't is for the schema to refuse."""
        if member.kind == "id" and type(value) is int:
            return self._refer(("id", value), member.target)
        if member.kind == "brief" and value is not None:
            return self._refer_to(value, member.target)
        if member.kind == "external_id" and value is not None:
            return {"external_id": value}
        if member.link is not None and isinstance(value, list):
            self._count(len(value))
        if member.kind == "links" and member.link is not None and isinstance(value, list):
            return [self._shown_link(member.link, entry) for entry in value]
        return value

    def _shown_link(self, link: LinkSet, entry: Any) -> Any:
        """Return an entry of links as bodies have it, of one that lists show."""
        if not isinstance(entry, dict) or link.target in entry:
            return entry
        reference = self._refer_to(entry, link.target_model)
        return {name: value for name, value in entry.items() if name not in _BRIEF} | {link.target: reference}

    def _count(self, links: int) -> None:
        """Raise `ContentTooLarge` for more links than there is memory for: each takes many times its text."""
        self._links_left -= links
        if self._links_left < 0:
            raise ContentTooLarge(f"A file may have at most {MAX_FILE_LINKS} links.")

    def _refer_to(self, brief: Any, target: type[RegisterObject] | None) -> Any:
        """Return the reference to the object that a brief shows. Raises `BadCellError`."""
        reference = _named(brief)
        found = self._refer(reference, target)
        label = brief.get("name")
        if reference != ("id", found) or label is None or self._match_ids or not is_id(found):
            return found
        # If the id is one of another register, the object that has it here is some other one.
        return {NAMED: (found, label)}

    def _refer(self, reference: CellReference, target: type[RegisterObject] | None) -> Any:
        column, value = reference
        if column != "id":
            return {column: value}
        if target is not self._model or int(value) not in self._indexes:
            return value
        index = self._indexes[int(value)]
        if index is None:
            raise BadCellError("Several rows of the file have this id.")
        return {ITEM: index}


def _made_of(member: Member) -> str | None:
    """Return the part of a reference that only the item has, not the file."""
    if member.kind == "external_id":
        return "external_id"
    return member.link.target if member.link is not None and member.kind == "links" else None


_BRIEF = frozenset({"id", "code", "external_id", "name"})


def _named(brief: Any) -> CellReference:
    """Return the key that a brief has, as cells choose it. Raises `BadCellError`."""
    if isinstance(brief, dict):
        for name in ("code", "external_id"):
            if isinstance(brief.get(name), str):
                return name, brief[name]
        if type(brief.get("id")) is int:
            return "id", brief["id"]
    raise BadCellError("Refer to an object by its `code`, `external_id` or `id`.")


def _entry(link: LinkSet, target: Any, detail: str | None) -> dict[str, Any]:
    if detail is None:
        return {link.target: target}
    if link.detail is None:
        raise BadCellError("These links have no detail behind a colon.")
    return {link.target: target, link.detail: detail}


def _number(cell: str) -> float:
    if not _NUMBER.fullmatch(cell.strip()):
        raise BadCellError("Write a number in digits, with a point before its fraction.")
    return float(cell)


def _boolean(cell: str) -> bool:
    if cell.strip().lower() not in _BOOLEANS:
        raise BadCellError("Write true or false.")
    return _BOOLEANS[cell.strip().lower()]


_READERS: dict[Kind, Callable[[str], Any]] = {
    "number": _number,
    "boolean": _boolean,
    "ids": lambda cell: list(read_ids(cell)),
}
