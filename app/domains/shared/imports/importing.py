"""Imports a file: reads it, matches its rows with existing objects, and writes them as one batch, or plans that."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

from sqlalchemy import ARRAY, Executable, Text, any_, bindparam, or_, select

from app.core.threads import run_in_thread
from app.domains.shared.bulk.batch import BulkOutcome, write_batch
from app.domains.shared.bulk.fault_budget import FaultBudget
from app.domains.shared.collection import Collection
from app.domains.shared.imports.columns import Hints, Member, members_of, name_columns
from app.domains.shared.imports.files import FileFormat, check_names, read_lines, read_table
from app.domains.shared.imports.rows import ImportRow, RowReader
from app.domains.shared.models import RegisterObject, folded, table_of
from app.domains.shared.reading.reader import CollectionReader
from app.domains.shared.references import read_key
from app.utils.exceptions import Fault

Action = Literal["create", "change", "unchanged", "fault"]

_ACTIONS: dict[str | None, Action] = {"created": "create", "updated": "change", "unchanged": "unchanged"}
# Larger files are read in a thread, so that they do not block the event loop.
_MAX_INLINE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ImportFile:
    """A file, and the options for reading it."""

    content: bytes
    form: FileFormat
    raw: bool = False
    match_ids: bool = False
    mapping: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """The result of a row, as `ItemResult` is that of an item. Faults point into the file."""

    number: int
    action: Action
    id: int | None = None
    version: int | None = None
    faults: tuple[Fault, ...] = ()
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The results of all rows, in their order."""

    rows: list[RowOutcome]
    outcome: BulkOutcome
    # Whether there are more faults than these.
    is_truncated: bool

    @property
    def faults(self) -> list[Fault]:
        """The faults of all rows; with any, the file is not written."""
        return [fault for row in self.rows for fault in row.faults]


async def import_file(service: CollectionReader, file: ImportFile, *, dry_run: bool) -> ImportResult:
    """Write all rows of a file, or none of them if one has a fault.

    Raises the errors of `read_table`, `read_lines`, `name_columns` and `write_batch`.
    """
    budget = FaultBudget()
    if len(file.content) <= _MAX_INLINE_BYTES:
        rows = _read(service.collection, file, budget)
    else:
        rows = await run_in_thread(_read, service.collection, file, budget)
    await _choose_keys(service, rows)
    readable = [row for row in rows if row.item is not None]
    has_faults = any(row.faults for row in rows)
    outcome = await write_batch(
        service,
        [row.item for row in readable],
        # A plan also shows the results of the valid rows.
        atomic=not dry_run,
        # With faulty rows nothing is written, but a dry run still finds the faults of the other rows.
        dry_run=dry_run or has_faults,
        label=partial(_label, readable),
    )
    # A budget for the faults of rows and items together.
    total = FaultBudget()
    outcomes = _outcomes(rows, outcome, total)
    is_truncated = any(each.is_truncated for each in (budget, outcome.batch.budget, total))
    return ImportResult(outcomes, outcome, is_truncated=is_truncated)


def _read(collection: Collection, file: ImportFile, budget: FaultBudget) -> list[ImportRow]:
    table, hints = file.form == "csv", Hints()
    columns: dict[str, Member | None] = {}

    def select_columns(names: Sequence[str], row: int) -> list[str]:
        check_names(names)
        columns.update(name_columns(members_of(collection), names, file.mapping, hints, table=table, row=row))
        return [name for name, member in columns.items() if member is not None]

    if table:
        rows = read_table(file.content, select_columns, raw=file.raw)
    else:
        rows = read_lines(file.content)
        select_columns(list(dict.fromkeys(name for row in rows for name in row.values)), rows[0].number)
    return RowReader(collection, columns, hints, budget, table=table, match_ids=file.match_ids).read(rows)


def _label(rows: Sequence[ImportRow], index: int) -> str:
    return f"row {rows[index].number}"


async def _choose_keys(service: CollectionReader, rows: Sequence[ImportRow]) -> None:
    """Match a row with both keys by external id, or else by code if that object has no external id yet.

    An object with the code but another external id is a different object, because codes may be reused.
    """
    both = []
    for row in rows:
        if row.item is not None and "external_id" in row.item:
            external_id, code = (read_key(name, row.item["data"].get(name)) for name in ("external_id", "code"))
            if external_id is not None and code is not None:
                both.append((row.item, external_id[1], code[1]))
    if not both:
        return
    external_ids, codes = [external_id for _, external_id, _ in both], [code for _, _, code in both]
    values = {"codes": codes, "external_ids": external_ids}
    stored = (await service.session.execute(_find_keys(service.model), values)).all()
    stored_ids = {row.external_id for row in stored}
    codes_without_id = {row.code for row in stored if row.external_id is None}
    for item, own_id, own_code in both:
        if own_id not in stored_ids and own_code in codes_without_id:
            del item["external_id"]
            item["code"] = item["data"]["code"]


@cache
def _find_keys(model: type[RegisterObject]) -> Executable:
    """Return the statement that finds objects with one of the `codes` or `external_ids`, and returns both keys.

    Codes are folded.
    """
    table = table_of(model)
    codes, external_ids = (bindparam(name, type_=ARRAY(Text)) for name in ("codes", "external_ids"))
    code = folded(table.c.code)
    query = select(code.label("code"), table.c.external_id)
    return query.where(or_(code == any_(codes), table.c.external_id == any_(external_ids)))


def _outcomes(rows: Sequence[ImportRow], outcome: BulkOutcome, budget: FaultBudget) -> list[RowOutcome]:
    results = iter(outcome.items)
    outcomes = []
    for row in rows:
        if row.item is None:
            outcomes.append(RowOutcome(row.number, "fault", faults=tuple(row.faults)))
            continue
        result = next(results)
        if row.faults or result.faults:
            faults: list[Fault] = []
            # The item lacks the value of an unreadable cell: leave out its fault that the value is missing.
            pointers = {fault.pointer for fault in row.faults}
            found = (fault for fault in map(row.point_into_file, result.faults) if fault.pointer not in pointers)
            for fault in (*row.faults, *found):
                if budget.allows(faults):
                    faults.append(fault)
            outcomes.append(RowOutcome(row.number, "fault", result.id, faults=tuple(faults)))
        else:
            # A valid item of a rejected batch has no status.
            action = _ACTIONS.get(result.status, "unchanged")
            outcomes.append(RowOutcome(row.number, action, result.id, result.version, (), result.before, result.after))
    return outcomes
