"""Imports a local file."""

from collections import Counter
from pathlib import Path

import click

from app.core.config import Settings
from app.domains.collections import COLLECTIONS
from app.domains.register.restore import database_with_long_timeouts
from app.domains.shared.imports.files import FILE_TYPES, FileFormat
from app.domains.shared.imports.importing import ImportFile, import_file
from app.domains.shared.service import CollectionService
from app.utils.exceptions import RegisterError
from app.utils.wording import joined, truncated

_MAX_FAULTS = 20
_SERVICES = {entry.name: entry.service for entry in COLLECTIONS}


async def import_table(
    settings: Settings,
    url: str,
    path: Path,
    *,
    collection: str | None,
    mapping: tuple[str, ...],
    match_ids: bool,
    raw: bool,
    dry_run: bool,
) -> Counter[str]:
    """Import a CSV or NDJSON file of one collection, or plan the import, and return the number of rows by action.

    Raises `RegisterError` if the file cannot be read or has faults, and `click.UsageError` if the collection or the
    format cannot be derived from the file name. Nothing is written in these cases.
    """
    service = _service_of(path, collection)
    file_format = _format_of(path)
    file = ImportFile(_read_content(path, settings.max_bulk_bytes), file_format, raw, match_ids, mapping)
    async with database_with_long_timeouts(settings, url) as (database, caller), database.transaction() as session:
        try:
            imported = await import_file(service(session, caller), file, dry_run=dry_run)
        except RegisterError as error:
            raise _with_faults(path, error) from error
        if imported.faults:
            raise _with_faults(path, RegisterError("Nothing was imported.", errors=imported.faults))
    return Counter(row.action for row in imported.rows)


def _service_of(path: Path, collection: str | None) -> type[CollectionService]:
    # Downloaded lists have names such as departments-2026-11-26.csv.
    name = collection or path.name.partition(".")[0].partition("-")[0]
    if name not in _SERVICES:
        known = joined(list(_SERVICES), "or")
        raise click.UsageError(f"The collection of {path.name} is unknown. Set --collection to {known}.")
    return _SERVICES[name]


def _read_content(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise RegisterError(f"Cannot read {path}: {error.strerror}.") from error
    if len(content) > max_bytes:
        raise RegisterError(f"{path} has more than {max_bytes:,} bytes (MAX_BULK_BYTES). Split it.")
    return content


def _format_of(path: Path) -> FileFormat:
    for file_format in FILE_TYPES.values():
        if path.suffix.lower() == f".{file_format}":
            return file_format
    raise click.UsageError(f"{path.name} is neither a .csv nor a .ndjson file.")


def _with_faults(path: Path, error: RegisterError) -> RegisterError:
    """Return the error with its first faults in the message, because the command line prints only the message."""
    messages = [f"{path.name}{each.pointer}: {each.detail}" for each in error.errors]
    return RegisterError("\n".join([str(error), *truncated(messages, _MAX_FAULTS)]))
