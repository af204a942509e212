"""Reads what `export` wrote into another register, or into the one that it came from.

Objects are written in batches, each with its history in a transaction of its own, which also keeps which object became
of which: so an import that was interrupted goes on, and one that is repeated finds everything as it should be. What an
object refers to that comes later in the files is set at the end.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.core.caller import Caller
from app.core.config import Settings
from app.core.database import Database, RegisterSession
from app.core.database_errors import NO_TABLE, sqlstate_of
from app.core.migrations import head_revision
from app.domains.collections import in_reference_order
from app.domains.register.export_files import Line, checked_manifest, digest_of, fault, lines_of
from app.domains.register.exported_objects import data_of, fields_of, moment_of, new_id, targets_of
from app.domains.register.imported_ids import ImportedId, ImportedIds, Old
from app.domains.role.models import RoleHolder
from app.domains.role.service import HOLDERS, RoleService
from app.domains.shared.bulk.batch import BulkOutcome, write_batch
from app.domains.shared.bulk.items import ITEM, ItemResult
from app.domains.shared.collection import foreign_keys
from app.domains.shared.models import RegisterObject
from app.domains.shared.schemas import is_id
from app.domains.shared.service import CollectionService
from app.domains.user.administrators import first_administrator
from app.utils.exceptions import RegisterError

# So many lines are one transaction.
BATCH = 1000
# Nobody waits for these statements, and they may wait for others.
_STATEMENT_TIMEOUT_SECONDS = 600.0
_MAX_FAULTS = 20
_HOLDERS = RoleHolder.__tablename__
_REVISION = text("SELECT version_num FROM alembic_version")
# What comes later in the files: collections come in this order, and lines in that of their ids.
_ENTRIES = in_reference_order()
_ORDER = {entry.name: place for place, entry in enumerate(_ENTRIES)}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _DeferredReference:
    """A reference to what comes later in the files."""

    line: Line
    field: str
    target: Old


async def import_register(settings: Settings, url: str, directory: Path) -> Counter[str]:
    """Import an export, or go on with it, and return how many objects were `created`, `updated`, …

    Those that an interrupted import had written are `done` already. Raises `RegisterError` when the export is not
    complete or not as it was written, when an object cannot be written (what was written before it stays), or when the
    database has another schema; and `ServiceUnavailable`.
    """
    names = [f"{table}.ndjson" for table in (*_ORDER, _HOLDERS)]
    manifest = checked_manifest(directory, names)
    async with database_with_long_timeouts(settings, url) as (database, administrator):
        caller = replace(
            administrator, message=f"Import of what was exported at {manifest.exported_at:%Y-%m-%d %H:%M:%S} UTC"
        )
        ids = await ImportedIds.begin(database, digest_of(manifest, names))
        length = sum(manifest.files[name].rows for name in names)
        watched = sys.stderr.isatty()
        with click.progressbar(length=length, label="Importing", file=sys.stderr, hidden=not watched) as progress:
            run = _Run(database, caller, ids, directory, progress.update)
            for entry in _ENTRIES:
                await run.write_collection(entry.service)
            for entry in _ENTRIES:
                await run.write_later(entry.service)
            await run.write_holders()
        await ids.finish(database)
    return run.counts


@asynccontextmanager
async def database_with_long_timeouts(settings: Settings, url: str) -> AsyncIterator[tuple[Database, Caller]]:
    """Yield a database whose statements may take long, and the first administrator.

    Raises `RegisterError` when the schema is not ours, or there is no administrator.
    """
    timeouts = dict.fromkeys(
        ("statement_timeout", "lock_timeout", "idle_in_transaction_timeout"), _STATEMENT_TIMEOUT_SECONDS
    )
    database = Database(url, settings.model_copy(update=timeouts | {"pool_size": 1}))
    try:
        async with database.transaction() as session:
            try:
                revision = await session.scalar(_REVISION)
            except DBAPIError as error:
                if sqlstate_of(error) != NO_TABLE:
                    raise
                await session.undo()
                revision = None
            if revision is not None and revision != (head := head_revision()):
                detail = f"but this version of the service works with {head}"
                raise RegisterError(f"The database has schema revision {revision}, {detail}.")
            caller = revision and await first_administrator(session)
        if caller is None:
            raise RegisterError("Run `python -m app init` first.")
        yield database, caller
    finally:
        await database.dispose()


class _Run:
    """One run of an import."""

    def __init__(
        self, database: Database, caller: Caller, ids: ImportedIds, directory: Path, advance: Callable[[int], None]
    ) -> None:
        self._database = database
        self._caller = caller
        self._ids = ids
        self._directory = directory
        self._advance = advance
        self._later: dict[str, list[_DeferredReference]] = defaultdict(list)
        self.counts: Counter[str] = Counter()

    async def write_collection(self, service: type[CollectionService]) -> None:
        """Write all objects of a collection."""
        table = service.collection.name
        for lines in _batches(_ascending(lines_of(self._directory / f"{table}.ndjson"), table)):
            last = lines[-1].document["id"]
            later = [each for line in lines for each in _later(service.collection.model, line, last)]
            self._later[table] += later
            async with self._database.transaction() as session:
                await self._ids.lock(session)
                moments = [moment_of(table, line) for line in lines]
                known = await self._ids.find(session, table, [line.document for line in lines], moments)
                if all(each.is_done for each in known.values()):
                    self.counts["done"] += len(lines)
                else:
                    await self._write(
                        service, session, lines, known, {(each.line.number, each.field) for each in later}
                    )
            self._advance(len(lines))

    async def _write(
        self,
        service: type[CollectionService],
        session: RegisterSession,
        lines: list[Line],
        known: Mapping[int, ImportedId],
        later: set[tuple[int, str]],
    ) -> None:
        table = service.collection.name
        found: dict[Old, Any] = dict(await self._ids.look_up(session, targets_of(service.collection, lines)))
        # What is written together may be referred to by its place.
        found |= {(table, line.document["id"]): {ITEM: index} for index, line in enumerate(lines)}
        items: list[dict[str, Any]] = []
        for line in lines:
            key = known[line.document["id"]].id
            data = data_of(
                service.collection,
                line,
                found,
                [field for field in fields_of(service.collection) if (line.number, field) not in later],
            )
            if key is None:
                data = {name: value for name, value in data.items() if value is not None}
                items.append({"op": "create", "data": data})
            else:
                items.append({"op": "update", "id": key, "data": data})
        outcome = await self._write_items(service, session, lines, items)
        ids = {line.document["id"]: item.id for line, item in zip(lines, outcome.items, strict=True) if item.id}
        await self._ids.record(session, table, ids)
        self.counts.update(str(item.status) for item in outcome.items)

    async def write_later(self, service: type[CollectionService]) -> None:
        """Set the references of a collection to what came later."""
        table = service.collection.name
        for batch in _batches(self._later[table]):
            async with self._database.transaction() as session:
                wanted = {each.target for each in batch} | {(table, each.line.document["id"]) for each in batch}
                found = await self._ids.look_up(session, wanted)
                data: dict[int, dict[str, Any]] = defaultdict(dict)
                for each in batch:
                    data[each.line.document["id"]][each.field] = new_id(
                        found, *each.target, table, each.line, each.field
                    )
                items = [{"op": "update", "id": found[table, old], "data": members} for old, members in data.items()]
                lines = {each.line.document["id"]: each.line for each in batch}
                await self._write_items(service, session, list(lines.values()), items)

    async def _write_items(
        self, service: type[CollectionService], session: RegisterSession, lines: Sequence[Line], items: Sequence[Any]
    ) -> BulkOutcome:
        def label(index: int) -> str:
            return f"line {lines[index].number}"

        outcome = await write_batch(
            service(session, self._caller, restoring=True), items, atomic=True, dry_run=False, label=label
        )
        if outcome.refused:
            _reject(service.collection.name, lines, outcome.items)
        return outcome

    async def write_holders(self) -> None:
        """Add who holds which role."""
        for lines in _batches(lines_of(self._directory / f"{_HOLDERS}.ndjson")):
            async with self._database.transaction() as session:
                pairs = [_holder(line) for line in lines]
                found = await self._ids.look_up(session, {old for pair in pairs for old in pair if is_id(old[1])})
                roles = RoleService(session, self._caller, restoring=True)
                for line, pair in zip(lines, pairs, strict=True):
                    role, user = (str(new_id(found, *old, _HOLDERS, line, f"{old[0][:-1]}_id")) for old in pair)
                    await roles.link(HOLDERS, role, user, None)
            self._advance(len(lines))


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _ascending(lines: Iterable[Line], table: str) -> Iterator[Line]:
    """Yield lines whose ids ascend: by that it is known which of them come later."""
    last = 0
    for line in lines:
        key = line.document.get("id")
        if not is_id(key) or key <= last:
            raise fault(f"{table}.ndjson", line.number, "id", "Ids are whole numbers, and ascend from line to line.")
        last = key
        yield line


def _later(model: type[RegisterObject], line: Line, last: int) -> Iterator[_DeferredReference]:
    """Yield the references of a line to what comes after its batch, which ends with the id `last`."""
    place = _ORDER[model.__tablename__]
    for field, target in foreign_keys(model).items():
        key = line.document.get(field)
        other = _ORDER[target.__tablename__]
        if is_id(key) and (other > place or (other == place and key > last)):
            yield _DeferredReference(line, field, (target.__tablename__, key))


def _holder(line: Line) -> list[tuple[str, Any]]:
    """Return what a line names as a role and its holder, whatever that is."""
    return [("roles", line.document.get("role_id")), ("users", line.document.get("user_id"))]


def _reject(table: str, lines: Sequence[Line], items: Sequence[ItemResult]) -> NoReturn:
    """Raise an error that tells the faults of a batch."""
    told = [
        str(fault(f"{table}.ndjson", line.number, each.pointer.removeprefix("/data").removeprefix("/"), each.detail))
        for line, item in zip(lines, items, strict=True)
        for each in item.faults
    ]
    more = [f"… and {len(told) - _MAX_FAULTS} more."] if len(told) > _MAX_FAULTS else []
    raise RegisterError("\n".join([*told[:_MAX_FAULTS], *more, "What came before these lines is imported."]))
