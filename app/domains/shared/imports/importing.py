"""Files that become objects: read, matched with what is registered, and written as one batch, or only planned."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

from anyio import to_thread
from sqlalchemy import ARRAY, Executable, Text, any_, bindparam, func, or_, select

from app.domains.shared.bulk.batch import BulkOutcome, write_batch
from app.domains.shared.bulk.fault_budget import FaultBudget
from app.domains.shared.bulk.items import read_key
from app.domains.shared.collection import Collection
from app.domains.shared.imports.columns import Hints, Member, members_of, name_columns
from app.domains.shared.imports.files import FileFormat, check_names, read_lines, read_table
from app.domains.shared.imports.rows import ImportRow, RowReader
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.reading.reader import CollectionReader
from app.utils.exceptions import Fault

Action = Literal["create", "change", "unchanged", "fault"]

_ACTIONS: dict[str | None, Action] = {"created": "create", "updated": "change", "unchanged": "unchanged"}
# So many bytes are read before others have their turn.
_READ_AT_ONCE = 64 * 1024


@dataclass(frozen=True, slots=True)
class ImportFile:
    """A file, and how it is to be read."""

    content: bytes
    form: FileFormat
    raw: bool = False
    match_ids: bool = False
    mapping: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What became of a row, or what would have; see `ItemResult`. The faults point into the file."""

    number: int
    action: Action
    id: int | None = None
    version: int | None = None
    faults: tuple[Fault, ...] = ()
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What became of all rows, in their order."""

    rows: list[RowOutcome]
    outcome: BulkOutcome
    # Whether there are more faults than are told.
    cut: bool

    @property
    def faults(self) -> list[Fault]:
        """What kept the file from being written."""
        return [fault for row in self.rows for fault in row.faults]


async def import_file(service: CollectionReader, file: ImportFile, *, dry_run: bool) -> ImportResult:
    """Write all rows of a file, or none of them if one has a fault.

    Raises what `read_table`, `read_lines`, `name_columns` and `write_batch` raise.
    """
    budget = FaultBudget()
    if len(file.content) <= _READ_AT_ONCE:
        rows = _read(service.collection, file, budget)
    else:
        rows = await to_thread.run_sync(_read, service.collection, file, budget)
    await _choose_keys(service, rows)
    sent = [row for row in rows if row.item is not None]
    faulty = any(row.faults for row in rows)
    outcome = await write_batch(
        service,
        [row.item for row in sent],
        # A plan tells what would become of the good rows, too.
        atomic=not dry_run,
        # What is wrong with other rows is found nevertheless, but nothing is written.
        dry_run=dry_run or faulty,
        label=partial(_label, sent),
    )
    # What is wrong with the items counts, too.
    told = FaultBudget()
    outcomes = _outcomes(rows, outcome, told)
    return ImportResult(outcomes, outcome, cut=budget.cut or outcome.batch.budget.cut or told.cut)


def _read(collection: Collection, file: ImportFile, budget: FaultBudget) -> list[ImportRow]:
    table, hints = file.form == "csv", Hints()
    columns: dict[str, Member | None] = {}

    def choose(names: Sequence[str], row: int) -> list[str]:
        check_names(names)
        columns.update(name_columns(members_of(collection), names, file.mapping, hints, table=table, row=row))
        return [name for name, member in columns.items() if member is not None]

    if table:
        found = read_table(file.content, choose, raw=file.raw)
    else:
        found = read_lines(file.content)
        choose(list(dict.fromkeys(name for row in found for name in row.values)), found[0].number)
    return RowReader(collection, columns, hints, budget, table=table, match_ids=file.match_ids).read(found)


def _label(sent: Sequence[ImportRow], index: int) -> str:
    return f"row {sent[index].number}"


async def _choose_keys(service: CollectionReader, rows: Sequence[ImportRow]) -> None:
    """Let rows with both keys go by the external id, or else by a code whose object has no external id yet.

    One with another external id is another object, however it is called: codes may be given anew.
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
    found = (await service.session.execute(_find_keys(service.model), values)).all()
    known_ids = {row.external_id for row in found}
    nameless = {row.code for row in found if row.external_id is None}
    for item, by_external_id, by_code in both:
        if by_external_id not in known_ids and by_code in nameless:
            del item["external_id"]
            item["code"] = item["data"]["code"]


@cache
def _find_keys(model: type[RegisterObject]) -> Executable:
    """Return the statement of the codes, in small letters, and the external ids that objects have of those given."""
    table = table_of(model)
    codes, external_ids = (bindparam(name, type_=ARRAY(Text)) for name in ("codes", "external_ids"))
    code = func.lower(table.c.code)
    query = select(code.label("code"), table.c.external_id)
    return query.where(or_(code == any_(codes), table.c.external_id == any_(external_ids)))


def _outcomes(rows: Sequence[ImportRow], outcome: BulkOutcome, budget: FaultBudget) -> list[RowOutcome]:
    results = iter(outcome.items)
    made = []
    for row in rows:
        if row.item is None:
            made.append(RowOutcome(row.number, "fault", faults=tuple(row.faults)))
            continue
        result = next(results)
        if row.faults or result.faults:
            told: list[Fault] = []
            # What a cell holds that cannot be read is missing to the item, but not in the file.
            unread = {fault.pointer for fault in row.faults}
            found = (fault for fault in map(row.placed, result.faults) if fault.pointer not in unread)
            for fault in (*row.faults, *found):
                if budget.allows(told):
                    told.append(fault)
            made.append(RowOutcome(row.number, "fault", result.id, faults=tuple(told)))
        else:
            # Without a status it waits for others to be right.
            action = _ACTIONS.get(result.status, "unchanged")
            made.append(RowOutcome(row.number, action, result.id, result.version, (), result.before, result.after))
    return made
