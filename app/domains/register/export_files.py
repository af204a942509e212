"""Reads and verifies export files."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.core.http.strict_json import parse_json
from app.core.migrations import known_revisions
from app.domains.register.export import FORMAT, MANIFEST, FileEntry, Manifest
from app.utils.exceptions import RegisterError
from app.utils.wording import counted

_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file and its number, from 1."""

    number: int
    document: dict[str, Any]


def load_verified_manifest(directory: Path, names: list[str]) -> Manifest:
    """Return the manifest of an export after verifying the format, the schema revision and the named files.

    Raises `RegisterError` if the export cannot be imported, is incomplete, or was altered.
    """
    try:
        content = (directory / MANIFEST).read_bytes()
        manifest = Manifest.model_validate_json(content)
    except FileNotFoundError as error:
        raise RegisterError(f"{directory} is not an export: it has no {MANIFEST}.") from error
    except OSError as error:
        raise _read_error(directory / MANIFEST, error) from error
    except ValidationError as error:
        raise RegisterError(f"{directory / MANIFEST} is not the manifest of an export.") from error
    if manifest.format != FORMAT:
        raise RegisterError(f"The export has format {manifest.format}, but this version of the service reads {FORMAT}.")
    if manifest.schema_revision not in known_revisions():
        raise RegisterError(
            f"This version of the service does not support schema revision {manifest.schema_revision} of the export. "
            f"Import it with version {manifest.service_version} or a newer one."
        )
    for name in names:
        if name not in manifest.files:
            raise RegisterError(f"The export is incomplete: its manifest does not list {name}.")
        _verify_file(directory / name, manifest.files[name])
    return manifest


def export_digest(manifest: Manifest, names: list[str]) -> bytes:
    """Return the digest that identifies an export by the content of the named files."""
    # In the order of the manifest, because the order of `names` differs between versions of the service.
    digests = [file.sha256 for name, file in manifest.files.items() if name in names]
    return sha256(json.dumps(digests).encode()).digest()


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file. Raises `RegisterError` for a line that is not a JSON object."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                document = parse_json(line)
            except json.JSONDecodeError as error:
                raise line_error(path.name, number, "", f"The line is not JSON: {error.msg}.") from error
            if not isinstance(document, dict):
                raise line_error(path.name, number, "", "The line is not a JSON object.")
            yield Line(number, document)


def line_error(name: str, number: int, member: str, detail: str) -> RegisterError:
    """Return the error of a line or, unless `member` is empty, of a member of the line."""
    return RegisterError(f"{name}, line {number}{member and ', '}{member}: {detail}")


def _verify_file(path: Path, entry: FileEntry) -> None:
    digest = sha256()
    length = rows = 0
    try:
        with path.open("rb") as file:
            while content := file.read(_CHUNK_BYTES):
                digest.update(content)
                length += len(content)
                rows += content.count(b"\n")
    except FileNotFoundError as error:
        raise RegisterError(f"The export is incomplete: {path} is missing.") from error
    except OSError as error:
        raise _read_error(path, error) from error
    if digest.hexdigest() != entry.sha256:
        detail = (
            f"It has {counted(length, 'byte')} instead of {entry.bytes:,}."
            if length != entry.bytes
            else "Its checksum does not match the manifest."
        )
        raise RegisterError(f"{path} was changed after the export. {detail}")
    if rows != entry.rows:
        raise RegisterError(f"{path} has {counted(rows, 'line')} instead of {entry.rows:,}.")


def _read_error(path: Path, error: OSError) -> RegisterError:
    return RegisterError(f"Cannot read {path}: {error.strerror}.")
