"""Reads one file of one collection, as the API does, for who has it on this machine."""

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
    """Import a file, or see what that would do, and return how many rows there are of each kind.

    Raises `RegisterError` when it cannot be read or has faults: then nothing is written.
    """
    service = _service_of(path, collection)
    form = _form_of(path)
    file = ImportFile(_content_of(path, settings.max_bulk_bytes), form, raw, match_ids, mapping)
    async with database_with_long_timeouts(settings, url) as (database, caller), database.transaction() as session:
        try:
            imported = await import_file(service(session, caller), file, dry_run=dry_run)
        except RegisterError as error:
            raise _with_faults(path, error) from error
        if imported.faults:
            raise _with_faults(path, RegisterError("Nothing was imported.", errors=imported.faults))
    return Counter(row.action for row in imported.rows)


def _service_of(path: Path, collection: str | None) -> type[CollectionService]:
    # As files are called that lists are downloaded as: departments-2026-11-26.csv.
    name = collection or path.name.partition(".")[0].partition("-")[0]
    if name not in _SERVICES:
        known = ", ".join(_SERVICES)
        raise click.UsageError(f"Say with --collection what {path.name} has: {known}.")
    return _SERVICES[name]


def _content_of(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise RegisterError(f"Cannot read {path}: {error.strerror}.") from error
    if len(content) > most:
        raise RegisterError(f"{path} has more than {most} bytes (MAX_BULK_BYTES). Split it.")
    return content


def _form_of(path: Path) -> FileFormat:
    for form in FILE_TYPES.values():
        if path.suffix.lower() == f".{form}":
            return form
    raise click.UsageError(f"{path.name} is neither .csv nor .ndjson.")


def _with_faults(path: Path, error: RegisterError) -> RegisterError:
    """Return the error with its first faults: there is nobody else to tell them."""
    told = [f"{path.name}{each.pointer}: {each.detail}" for each in error.errors[:_MAX_FAULTS]]
    more = [f"… and {len(error.errors) - _MAX_FAULTS} more."] if len(error.errors) > _MAX_FAULTS else []
    return RegisterError("\n".join([str(error), *told, *more]))
