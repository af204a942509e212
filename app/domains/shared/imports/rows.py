"""Converts the rows of a file into the items of a batch, in the types of the collection's schemas.

If a row has a reference twice, as `parent` and as `parent_id`, `parent` takes precedence: its keys are also valid
in other registers.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from typing import Any, TypeVar

from app.core.threads import until_cancelled
from app.domains.shared.bulk.fault_budget import FaultBudget
from app.domains.shared.bulk.items import ID_AND_NAME, ITEM_INDEX
from app.domains.shared.collection import Collection, LinkSet, links_by_name
from app.domains.shared.imports.columns import Columns, Hints, Kind, Member, members_of
from app.domains.shared.imports.files import FileRow
from app.domains.shared.models import RegisterObject
from app.domains.shared.reading.cells import (
    MAX_ENTRY_LENGTH,
    MAX_VALUE_LENGTH,
    BadCellError,
    CellReference,
    read_id,
    read_ids,
    read_links,
    read_reference,
)
from app.domains.shared.references import MAX_LINKS, is_id, read_key
from app.domains.shared.schemas import takes_null
from app.utils.exceptions import ContentTooLarge, Fault
from app.utils.validation import json_pointer
from app.utils.wording import counted

T = TypeVar("T")

MAX_FILE_LINKS = 200_000
# If a row has several members for one reference, the first of these kinds takes precedence.
_REFERENCES: tuple[Kind, ...] = ("brief", "external_id", "id")
_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


@dataclass(slots=True)
class ImportRow:
    """A row and its item. `sources` has the name in the file and the member for each field of the item's data.

    In the pointer to a cell of a `table`, only the index of a link can follow the column.
    """

    number: int
    faults: list[Fault]
    table: bool
    item: dict[str, Any] | None = None
    sources: dict[str, tuple[str, Member]] = field(default_factory=dict)

    def point_into_file(self, fault: Fault) -> Fault:
        """Return a fault of the item with a pointer into the file."""
        _, *parts = fault.pointer.split("/")
        if parts and parts[0] == "data":
            parts = parts[1:]
        if parts:
            name, member = self.sources.get(parts[0], (parts[0], None))
            added = None if member is None else _added_part(member)
            known = takewhile(str.isdigit if self.table else lambda part: part != added, parts[1:])
            parts = [json_pointer([name])[1:], *known]
        return replace(fault, pointer="/" + "/".join([str(self.number), *parts]))


class RowReader:
    """Reads the rows of one file. Unless `match_ids`, the ids of rows serve only for references between these rows."""

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
        # The fields that are never null, and whether they are required.
        fields = collection.body.model_fields.items()
        self._never_null = {name: field.is_required() for name, field in fields if not takes_null(field)}
        self._lists = links_by_name(collection.links)
        self._columns = columns
        self._table = table
        self._match_ids = match_ids
        # The index of the row's item in the batch, by id in the file; None if several rows have the id.
        self._indexes: dict[int, int | None] = {}
        self._links_left = MAX_FILE_LINKS
        self._hints = hints
        self._budget = budget
        # The name in the file of the column with the rows' own ids.
        self._id_name = next((name for name, member in columns.items() if member and member.name == "id"), None)

    def read(self, rows: Sequence[FileRow]) -> list[ImportRow]:
        """Return the rows with their items; unreadable rows have none."""
        readable = [row for row in rows if not row.faults]
        if not self._match_ids:
            for index, row in enumerate(until_cancelled(readable)):
                # An invalid id is not a fault if ids serve only for references between rows.
                with suppress(BadCellError):
                    if (key := self._own_id(row)) is not None:
                        self._indexes[key] = None if key in self._indexes else index
        return [
            ImportRow(row.number, row.faults, self._table) if row.faults else self._read(row)
            for row in until_cancelled(rows)
        ]

    def _own_id(self, row: FileRow) -> int | None:
        """Return the id that a row has in the file, if it has one. Raises `BadCellError` if the value is not an id."""
        value = None if self._id_name is None else row.values.get(self._id_name)
        if value is None or type(value) is int:
            return value
        if not isinstance(value, str):
            raise BadCellError("bad_cell:whole_number")
        return read_id(value.strip())

    def _read(self, row: FileRow) -> ImportRow:
        result = ImportRow(row.number, row.faults, self._table)
        if self._id_name is not None and (id_member := self._columns[self._id_name]):
            result.sources["id"] = (self._id_name, id_member)
        data: dict[str, Any] = {}
        for name, member in self._effective_members(row):
            result.sources[member.field] = (name, member)
            value = row.values[name]
            if value is None and self._table and self._never_null.get(member.field) is False:
                continue  # the object keeps its value, or gets the default
            try:
                data[member.field] = self._cell(member, value) if self._table else self._value(member, value)
            except BadCellError as error:
                if self._budget.allows(row.faults):
                    row.add_fault(name, error.key, **error.values)
        for name in row.values:
            # The budget is checked first, so that no hints are computed for faults that are left out.
            if name not in self._columns and self._budget.allows(row.faults):
                row.add_fault(name, "unknown_member", hint=self._hints.of(name, self._known, "fields"))
        result.item = self._item(row, data)
        return result

    def _effective_members(self, row: FileRow) -> Iterator[tuple[str, Member]]:
        """Yield the names and members of a row that set a field: one member for each field."""
        chosen: dict[str, tuple[str, Member]] = {}
        for name in row.values:
            member = self._columns.get(name)
            if member is None or member.kind == "read_only":
                continue
            other = chosen.get(member.field)
            if other is None or _REFERENCES.index(member.kind) < _REFERENCES.index(other[1].kind):
                chosen[member.field] = (name, member)
        yield from chosen.values()

    def _item(self, row: FileRow, data: dict[str, Any]) -> dict[str, Any] | None:
        """Return the item of a row, or None if its id is invalid, so that it does not create another object."""
        if self._match_ids and self._id_name is not None:
            try:
                key = self._own_id(row)
            except BadCellError as error:
                if self._budget.allows(row.faults):
                    row.add_fault(self._id_name, error.key, **error.values)
                return None
            if key is not None:
                return {"op": "update", "id": key, "data": data}
        for name in ("external_id", "code"):
            # An invalid key is left in the data, where validation finds it.
            if data.get(name) is not None and read_key(name, data[name]) is not None:
                return {"op": "upsert", name: data[name], "data": data}
        # A new object has no links to clear.
        values = {name: value for name, value in data.items() if value is not None or name not in self._lists}
        return {"op": "create", "data": values}

    def _cell(self, member: Member, cell: str | None) -> Any:
        """Return the value of a cell. Raises `BadCellError` if the cell is invalid."""
        if cell is None:
            if member.field in self._never_null:
                raise BadCellError("missing")
            return [] if member.link is not None else None
        if len(cell) > _MAX_LENGTHS.get(member.kind, len(cell)):
            raise BadCellError("string_too_long", characters=counted(_MAX_LENGTHS[member.kind], "character"))
        if member.link is not None:
            self._count_links(cell.count("|") + 1)
        if member.kind == "links":
            return self._links(member, cell)
        if member.kind == "brief":
            return self._resolve(read_reference(cell.strip()), member.target)
        if member.kind == "external_id":
            return {"external_id": cell}
        if member.kind == "id":
            return self._resolve(("id", read_id(cell.strip())), member.target)
        reader = _READERS.get(member.kind)
        return cell if reader is None else reader(cell)

    def _links(self, member: Member, cell: str) -> list[dict[str, Any]]:
        link = member.link
        assert link is not None  # the member lists links
        return [
            _entry(link, self._resolve(reference, link.target_model), detail)
            for reference, detail in _first_links(read_links(cell))
        ]

    def _value(self, member: Member, value: Any) -> Any:
        """Return the value of a member of a JSON object. Invalid values are left for the schema to reject."""
        if member.kind == "id" and type(value) is int:
            return self._resolve(("id", value), member.target)
        if member.kind == "brief" and value is not None:
            return self._resolve_brief(value, member.target)
        if member.kind == "external_id" and value is not None:
            return {"external_id": value}
        if member.link is not None and isinstance(value, list):
            self._count_links(len(value))
        if member.kind == "links" and member.link is not None and isinstance(value, list):
            return [self._link_entry(member.link, entry) for entry in value]
        return value

    def _link_entry(self, link: LinkSet, entry: Any) -> Any:
        """Return an entry of a link list in the form of bodies; `entry` has that form or the one of lists."""
        if not isinstance(entry, dict) or link.target in entry:
            return entry
        reference = self._resolve_brief(entry, link.target_model)
        return {name: value for name, value in entry.items() if name not in _BRIEF} | {link.target: reference}

    def _count_links(self, links: int) -> None:
        """Raise `ContentTooLarge` for too many links in the file: each takes many times the memory of its text."""
        self._links_left -= links
        if self._links_left < 0:
            raise ContentTooLarge(f"A file may have at most {MAX_FILE_LINKS:,} links.")

    def _resolve_brief(self, brief: Any, target: type[RegisterObject] | None) -> Any:
        """Return the reference to the object that a brief shows. Raises `BadCellError` if the brief has no key."""
        reference = _key_of(brief)
        value = self._resolve(reference, target)
        name = brief.get("name")
        if reference != ("id", value) or name is None or self._match_ids or not is_id(value):
            return value
        # An id of another register may belong to a different object in this one: check the name as well.
        return {ID_AND_NAME: (value, name)}

    def _resolve(self, reference: CellReference, target: type[RegisterObject] | None) -> Any:
        """Return a reference in the form of items: by key, by id, or by the item that has the id in this file.

        Raises `BadCellError` if several rows have the id.
        """
        column, value = reference
        if column != "id":
            return {column: value}
        if target is not self._model or int(value) not in self._indexes:
            return value
        index = self._indexes[int(value)]
        if index is None:
            raise BadCellError("bad_cell:repeated_id")
        return {ITEM_INDEX: index}


def _added_part(member: Member) -> str | None:
    """Return the part of a pointer that is in the item's reference, but not in the file."""
    if member.kind == "external_id":
        return "external_id"
    return member.link.target if member.link is not None and member.kind == "links" else None


_BRIEF = frozenset({"id", "code", "external_id", "name"})


def _key_of(brief: Any) -> CellReference:
    """Return the key of a brief, by the same precedence as in cells. Raises `BadCellError` if it has none."""
    if isinstance(brief, dict):
        for name in ("code", "external_id"):
            if isinstance(brief.get(name), str):
                return name, brief[name]
        if type(brief.get("id")) is int:
            return "id", brief["id"]
    raise BadCellError("bad_cell:reference")


def _entry(link: LinkSet, target: Any, detail: str | None) -> dict[str, Any]:
    if detail is None:
        return {link.target: target}
    if link.detail is None:
        raise BadCellError("bad_cell:no_detail")
    return {link.target: target, link.detail: detail}


def _number(cell: str) -> float:
    if not _NUMBER.fullmatch(cell.strip()):
        raise BadCellError("bad_cell:number")
    return float(cell)


def _boolean(cell: str) -> bool:
    if cell.strip().lower() not in _BOOLEANS:
        raise BadCellError("bad_cell:boolean")
    return _BOOLEANS[cell.strip().lower()]


def _first_links(links: Iterator[T]) -> Iterator[T]:
    """Yield as many links as an object may have, and one more, for which the batch rejects the list."""
    return islice(links, MAX_LINKS + 1)


_READERS: dict[Kind, Callable[[str], Any]] = {
    "number": _number,
    "boolean": _boolean,
    "ids": lambda cell: list(_first_links(read_ids(cell))),
}
# The characters of the longest cells. The schema limits those of other kinds.
_MAX_LENGTHS: dict[Kind, int] = {
    "number": MAX_VALUE_LENGTH,
    "boolean": MAX_VALUE_LENGTH,
    "id": MAX_VALUE_LENGTH,
    "brief": MAX_ENTRY_LENGTH,
    "ids": MAX_LINKS * MAX_VALUE_LENGTH,
    "links": MAX_LINKS * MAX_ENTRY_LENGTH,
}
