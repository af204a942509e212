"""Imports an export into another register, or into the one from which it was exported.

Each batch of objects is written with its history and its `ImportedObject`s in a separate transaction, so an interrupted
import can be resumed, and a repeated import changes nothing. References to later objects are deferred to the end.
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
from app.domains.register.export_files import Line, export_digest, line_error, load_verified_manifest, read_lines
from app.domains.register.exported_objects import body_fields, import_data, parse_created_at, referenced_ids, resolve_id
from app.domains.register.imported_ids import ExportedId, ImportedId, ImportedIds
from app.domains.role.models import RoleHolder
from app.domains.role.service import HOLDERS, RoleService
from app.domains.shared.bulk.batch import BulkOutcome, write_batch
from app.domains.shared.bulk.items import ITEM_INDEX, ItemResult
from app.domains.shared.collection import foreign_keys
from app.domains.shared.models import RegisterObject
from app.domains.shared.reading.preconditions import UNCONDITIONAL
from app.domains.shared.references import is_id
from app.domains.shared.service import CollectionService
from app.domains.user.administrators import NOT_INITIALISED, first_administrator
from app.utils.exceptions import RegisterError
from app.utils.wording import truncated

# The number of lines per transaction.
BATCH = 1000
# No request waits for these statements, and they may wait for locks of requests.
_STATEMENT_TIMEOUT_SECONDS = 600.0
_MAX_FAULTS = 20
_HOLDERS = RoleHolder.__tablename__
_REVISION = text("SELECT version_num FROM alembic_version")
# The order of collections in the files; the lines of a collection are in the order of their ids.
_ENTRIES = in_reference_order()
_ORDER = {entry.name: position for position, entry in enumerate(_ENTRIES)}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _DeferredReference:
    """A reference to an object that comes later in the files."""

    line: Line
    field: str
    target: ExportedId


async def import_register(settings: Settings, url: str, directory: Path) -> Counter[str]:
    """Begin or resume the import of an export, and return the number of objects by result (`created`, `updated`, …).

    Objects that an interrupted import wrote count as `done`. Raises `RegisterError` if the export is incomplete or was
    altered, if an object cannot be written (earlier batches stay), or if the database has another schema revision.
    Raises `ServiceUnavailable` if the database is not available.
    """
    names = [f"{table}.ndjson" for table in (*_ORDER, _HOLDERS)]
    manifest = load_verified_manifest(directory, names)
    async with database_with_long_timeouts(settings, url) as (database, administrator):
        caller = replace(administrator, message=f"Import of the export of {manifest.exported_at:%Y-%m-%d %H:%M:%S} UTC")
        ids = await ImportedIds.begin(database, export_digest(manifest, names))
        total = sum(manifest.files[name].rows for name in names)
        is_terminal = sys.stderr.isatty()
        with click.progressbar(length=total, label="Importing", file=sys.stderr, hidden=not is_terminal) as progress:
            run = _ImportRun(database, caller, ids, directory, progress.update)
            for entry in _ENTRIES:
                await run.write_collection(entry.service)
            for entry in _ENTRIES:
                await run.write_deferred_references(entry.service)
            await run.write_holders()
        await ids.finish(database)
    return run.counts


@asynccontextmanager
async def database_with_long_timeouts(settings: Settings, url: str) -> AsyncIterator[tuple[Database, Caller]]:
    """Yield a database with long timeouts of statements and locks, and the first administrator.

    Raises `RegisterError` if the schema has another revision or does not exist, or if there is no administrator.
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
                detail = f"but this version of the service requires {head}"
                raise RegisterError(f"The database has schema revision {revision}, {detail}.")
            caller = revision and await first_administrator(session)
        if caller is None:
            raise RegisterError(NOT_INITIALISED)
        yield database, caller
    finally:
        await database.dispose()


class _ImportRun:
    """One run of an import."""

    def __init__(
        self, database: Database, caller: Caller, ids: ImportedIds, directory: Path, advance: Callable[[int], None]
    ) -> None:
        self._database = database
        self._caller = caller
        self._ids = ids
        self._directory = directory
        self._advance = advance
        self._deferred: dict[str, list[_DeferredReference]] = defaultdict(list)
        self.counts: Counter[str] = Counter()

    async def write_collection(self, service: type[CollectionService]) -> None:
        """Write all objects of a collection, without their deferred references."""
        table = service.collection.name
        for lines in _batches(_check_ascending(read_lines(self._directory / f"{table}.ndjson"), table)):
            last = lines[-1].document["id"]
            deferred = [each for line in lines for each in _deferred_references(service.collection.model, line, last)]
            self._deferred[table] += deferred
            async with self._database.transaction() as session:
                await self._ids.lock(session)
                created_ats = [parse_created_at(table, line) for line in lines]
                imported = await self._ids.find(session, table, [line.document for line in lines], created_ats)
                if all(each.is_done for each in imported.values()):
                    self.counts["done"] += len(lines)
                else:
                    await self._write(
                        service, session, lines, imported, {(each.line.number, each.field) for each in deferred}
                    )
            self._advance(len(lines))

    async def _write(
        self,
        service: type[CollectionService],
        session: RegisterSession,
        lines: list[Line],
        imported: Mapping[int, ImportedId],
        deferred: set[tuple[int, str]],
    ) -> None:
        table = service.collection.name
        ids: dict[ExportedId, Any] = dict(await self._ids.resolve(session, referenced_ids(service.collection, lines)))
        # Objects of the same batch are referred to by their position.
        ids |= {(table, line.document["id"]): {ITEM_INDEX: index} for index, line in enumerate(lines)}
        items: list[dict[str, Any]] = []
        for line in lines:
            key = imported[line.document["id"]].id
            data = import_data(
                service.collection,
                line,
                ids,
                [field for field in body_fields(service.collection) if (line.number, field) not in deferred],
            )
            if key is None:
                data = {name: value for name, value in data.items() if value is not None}
                items.append({"op": "create", "data": data})
            else:
                items.append({"op": "update", "id": key, "data": data})
        outcome = await self._write_items(service, session, lines, items)
        new_ids = {line.document["id"]: item.id for line, item in zip(lines, outcome.items, strict=True) if item.id}
        await self._ids.record(session, table, new_ids)
        self.counts.update(str(item.status) for item in outcome.items)

    async def write_deferred_references(self, service: type[CollectionService]) -> None:
        """Set the deferred references of a collection, once all objects exist."""
        table = service.collection.name
        for batch in _batches(self._deferred[table]):
            async with self._database.transaction() as session:
                exported_ids = {each.target for each in batch} | {(table, each.line.document["id"]) for each in batch}
                ids = await self._ids.resolve(session, exported_ids)
                data: dict[int, dict[str, Any]] = defaultdict(dict)
                for each in batch:
                    data[each.line.document["id"]][each.field] = resolve_id(
                        ids, *each.target, table, each.line, each.field
                    )
                items = [
                    {"op": "update", "id": ids[table, old_id], "data": members} for old_id, members in data.items()
                ]
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
        if outcome.is_rejected:
            _raise_faults(service.collection.name, lines, outcome.items)
        return outcome

    async def write_holders(self) -> None:
        """Add the holders of roles."""
        for lines in _batches(read_lines(self._directory / f"{_HOLDERS}.ndjson")):
            async with self._database.transaction() as session:
                pairs = [_holder_ids(line) for line in lines]
                ids = await self._ids.resolve(session, {each for pair in pairs for each in pair if is_id(each[1])})
                roles = RoleService(session, self._caller, restoring=True)
                for line, pair in zip(lines, pairs, strict=True):
                    role, user = (str(resolve_id(ids, *each, _HOLDERS, line, f"{each[0][:-1]}_id")) for each in pair)
                    await roles.link(HOLDERS, role, user, UNCONDITIONAL)
            self._advance(len(lines))


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _check_ascending(lines: Iterable[Line], table: str) -> Iterator[Line]:
    """Yield the lines; raise `RegisterError` unless their ids ascend, because references are deferred by id."""
    last = 0
    for line in lines:
        key = line.document.get("id")
        if not is_id(key) or key <= last:
            raise line_error(f"{table}.ndjson", line.number, "id", "Must be greater than the id of the previous line.")
        last = key
        yield line


def _deferred_references(model: type[RegisterObject], line: Line, last: int) -> Iterator[_DeferredReference]:
    """Yield the references of a line to objects after its batch, whose last id is `last`."""
    position = _ORDER[model.__tablename__]
    for field, target in foreign_keys(model).items():
        key = line.document.get(field)
        target_position = _ORDER[target.__tablename__]
        if is_id(key) and (target_position > position or (target_position == position and key > last)):
            yield _DeferredReference(line, field, (target.__tablename__, key))


def _holder_ids(line: Line) -> list[tuple[str, Any]]:
    """Return the exported ids of the role and its holder in a line, unchecked."""
    return [("roles", line.document.get("role_id")), ("users", line.document.get("user_id"))]


def _raise_faults(table: str, lines: Sequence[Line], items: Sequence[ItemResult]) -> NoReturn:
    """Raise a `RegisterError` with the first faults of a batch."""
    file = f"{table}.ndjson"
    messages = [
        str(line_error(file, line.number, each.pointer.removeprefix("/data").removeprefix("/"), each.detail))
        for line, item in zip(lines, items, strict=True)
        for each in item.faults
    ]
    remedy = "This batch was rolled back. All earlier batches are imported."
    raise RegisterError("\n".join([*truncated(messages, _MAX_FAULTS), remedy]))
