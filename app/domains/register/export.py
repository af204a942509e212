"""Exports the register into a directory: one NDJSON file per collection, from one snapshot, and a manifest.

Each line of a file is one document in the API's format. Credentials are not exported.
"""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import click
from pydantic import BaseModel, Field
from sqlalchemy import Select, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.config import VERSION, Settings
from app.core.database import Database
from app.core.database_errors import NO_PRIVILEGE, NO_TABLE, STATEMENT_ERRORS, sqlstate_of
from app.core.http.streaming import read_in_batches
from app.core.migrations import head_revision
from app.core.prepared import FastStatement, fast_statement
from app.domains.collections import in_reference_order
from app.domains.role.models import RoleHolder
from app.domains.shared.history.models import Change
from app.domains.shared.models import Base, table_of
from app.domains.shared.query.orders import OBJECT_SORTS, Order
from app.domains.shared.query.pages import ListDeclaration
from app.domains.shared.reading.documents import documents_of
from app.domains.shared.reading.history_rows import all_changes
from app.domains.shared.reading.json_text import utf8
from app.domains.shared.reading.streams import lines_of
from app.domains.user.administrators import NOT_INITIALISED
from app.utils.exceptions import RegisterError
from app.utils.wording import counted

FORMAT = 1
MANIFEST = "manifest.json"
# Disks may be slow, and no request waits for this transaction.
_STATEMENT_TIMEOUT_SECONDS = 600.0
_BY_ID = Order("id", ListDeclaration((), OBJECT_SORTS))


class FileEntry(BaseModel):
    """Numbers of rows and bytes and the checksum of a file."""

    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """The contents of an export. A directory without a manifest is not an export."""

    # Incremented when earlier versions of the service cannot read the format correctly.
    format: int
    service_version: str
    schema_revision: str
    exported_at: datetime
    files: dict[str, FileEntry]


@dataclass(frozen=True, slots=True)
class _Part:
    """One file: a statement for the `body` of each line, and one for the number of lines as `total`."""

    name: str
    rows: FastStatement
    total: FastStatement
    values: dict[str, Any] = field(default_factory=dict)


async def export_register(
    settings: Settings, url: str, directory: Path, *, with_history: bool, force: bool
) -> Manifest:
    """Export the register into a directory, which is created if necessary, and return the manifest.

    The files get their final names once all are complete. Raises `RegisterError` if the directory is not empty and
    `force`, which replaces an earlier export, is not set; if a file cannot be written; if the database has another
    schema revision; or if the database role lacks privileges. Raises `ServiceUnavailable` if the database is not
    available.
    """
    _prepare_directory(directory, force=force)
    parts = _parts(with_history=with_history)
    with _temporary_directory(directory) as temporary:
        async with _snapshot(settings, url) as snapshot:
            revision, exported_at = await _revision_and_time(snapshot)
            files = await _write_all(snapshot, parts, temporary)
        manifest = Manifest(
            format=FORMAT, service_version=VERSION, schema_revision=revision, exported_at=exported_at, files=files
        )
        with _File(temporary / MANIFEST) as file:
            file.write(manifest.model_dump_json(indent=2).encode() + b"\n")
        _publish(temporary, directory, manifest)
    return manifest


def _parts(*, with_history: bool) -> list[_Part]:
    parts = []
    for entry in in_reference_order():
        documents = documents_of(entry.collection)
        # No external ids: ids identify the targets of references, since the export has all objects.
        rows = documents.export(_BY_ID, None, None, from_position=False, as_table=False, with_external_ids=frozenset())
        parts.append(_Part(entry.name, rows, documents.count(), {"limit": None, "offset": 0}))
    parts.append(_Part(RoleHolder.__tablename__, _holders(), _count(RoleHolder)))
    if with_history:
        parts.append(_Part(Change.__tablename__, all_changes(), _count(Change)))
    return parts


@fast_statement()
def _holders() -> Select[Any]:
    table = table_of(RoleHolder)
    row = select(table.c.role_id, table.c.user_id).order_by(table.c.role_id, table.c.user_id).subquery("d")
    return select(utf8(func.row_to_json(row.table_valued())).label("body"))


@fast_statement()
def _count(model: type[Base]) -> Select[Any]:
    return select(func.count().label("total")).select_from(table_of(model))


@asynccontextmanager
async def _snapshot(settings: Settings, url: str) -> AsyncIterator[AsyncConnection]:
    export_settings = settings.model_copy(update={"statement_timeout": _STATEMENT_TIMEOUT_SECONDS, "pool_size": 1})
    database = Database(url, export_settings)
    try:
        async with database.snapshot(_STATEMENT_TIMEOUT_SECONDS) as snapshot:
            yield snapshot
    except STATEMENT_ERRORS as error:
        if sqlstate_of(error) != NO_PRIVILEGE:
            raise
        raise RegisterError(
            f"The database role cannot read the whole register: {getattr(error, 'orig', error)}."
        ) from error
    finally:
        await database.dispose()


async def _revision_and_time(snapshot: AsyncConnection) -> tuple[str, datetime]:
    """Return the schema revision of the database and the time of the snapshot."""
    try:
        row = (await snapshot.execute(text("SELECT version_num, now() AS at FROM alembic_version"))).one_or_none()
    except DBAPIError as error:
        if sqlstate_of(error) != NO_TABLE:
            raise
        row = None
    if row is None:
        raise RegisterError(NOT_INITIALISED)
    head = head_revision()
    if row.version_num != head:
        raise RegisterError(
            f"The database has schema revision {row.version_num}, but this version of the service requires {head}."
        )
    return row.version_num, row.at


async def _write_all(snapshot: AsyncConnection, parts: list[_Part], temporary: Path) -> dict[str, FileEntry]:
    total = sum([await _total(snapshot, part) for part in parts])
    files = {}
    is_terminal = sys.stderr.isatty()
    with click.progressbar(length=total, label="Exporting", file=sys.stderr, hidden=not is_terminal) as progress:
        for part in parts:
            name = f"{part.name}.ndjson"
            with _File(temporary / name) as file:
                async for rows in read_in_batches(snapshot, await part.rows.prepare(), part.values):
                    file.write(lines_of(rows), len(rows))
                    progress.update(len(rows))
            files[name] = file.entry
            if not is_terminal:
                click.echo(f"{name}: {counted(file.entry.rows, 'row')}", err=True)
    return files


async def _total(snapshot: AsyncConnection, part: _Part) -> int:
    batches = [rows async for rows in read_in_batches(snapshot, await part.total.prepare(), part.values)]
    total: int = batches[0][0]["total"]
    return total


class _File:
    """A new file with mode 0600, because it has personal data. Closing it syncs it to disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = sha256()
        self._rows = self._bytes = 0

    def __enter__(self) -> Self:
        with _os_errors_as_messages(self._path):
            self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        return self

    def __exit__(self, *_error: object) -> None:
        with _os_errors_as_messages(self._path), self._file as file:
            file.flush()
            os.fsync(file.fileno())

    def write(self, lines: bytes, rows: int = 0) -> None:
        with _os_errors_as_messages(self._path):
            self._file.write(lines)
        self._digest.update(lines)
        self._rows += rows
        self._bytes += len(lines)

    @property
    def entry(self) -> FileEntry:
        return FileEntry(rows=self._rows, bytes=self._bytes, sha256=self._digest.hexdigest())


def _prepare_directory(directory: Path, *, force: bool) -> None:
    with _os_errors_as_messages(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not force and any(directory.iterdir()):
            raise RegisterError(f"{directory} is not empty. Use --force to replace an earlier export in it.")


@contextmanager
def _temporary_directory(directory: Path) -> Iterator[Path]:
    """Yield a temporary directory inside `directory` for incomplete files, and delete it at the end."""
    with _os_errors_as_messages(directory):
        temporary = TemporaryDirectory(prefix=".export-", dir=directory)
    with temporary as name:
        yield Path(name)


def _publish(temporary: Path, directory: Path, manifest: Manifest) -> None:
    with _os_errors_as_messages(directory):
        # The old manifest is removed first and the new one added last: a manifest never describes other files.
        (directory / MANIFEST).unlink(missing_ok=True)
        for part in _parts(with_history=True):
            name = f"{part.name}.ndjson"
            if name in manifest.files:
                (temporary / name).replace(directory / name)
            else:
                (directory / name).unlink(missing_ok=True)
        (temporary / MANIFEST).replace(directory / MANIFEST)


@contextmanager
def _os_errors_as_messages(path: Path) -> Iterator[None]:
    """Convert an `OSError` to a `RegisterError`; `Database.snapshot` would treat it as a lost connection."""
    try:
        yield
    except OSError as error:
        raise RegisterError(f"Cannot write {error.filename or path}: {error.strerror}.") from error
