"""Streams of whole lists: NDJSON, one document per line, or CSV (RFC 4180)."""

import csv
import io
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import Response

from app.core.http.streaming import Rows, StreamedResponse
from app.core.prepared import FastStatement
from app.domains.shared.query.formats import MEDIA_TYPES, Format
from app.domains.shared.query.pages import Origin
from app.domains.shared.reading.cells import escape_formula


@dataclass(frozen=True, slots=True)
class Export:
    """A whole list: a statement that returns, for each object, its `body` or the cells of a table row."""

    collection: str
    statement: FastStatement
    values: dict[str, Any]
    # The header of the table; None for NDJSON.
    header: tuple[str, ...] | None
    raw: bool

    @property
    def format(self) -> Format:
        return "ndjson" if self.header is None else "csv"


async def export_response(export: Export, origin: Origin) -> Response:
    """Return the response that streams a whole list.

    Raises errors that occur before the first byte; a later error truncates the response.
    """
    batches = origin.streams.read(export.statement, export.values)
    first = await anext(batches)
    if origin.is_head:
        await batches.aclose()
        chunks = _empty_body()
    else:
        chunks = _chunks(export, first, batches)
    media_type = MEDIA_TYPES[export.format] + ("; charset=utf-8; header=present" if export.format == "csv" else "")
    name = f"{export.collection}-{datetime.now(UTC):%Y-%m-%d}.{export.format}"
    # Set as a header, because Starlette would add the character set to `media_type` again.
    headers = {
        "Content-Type": media_type,
        "Content-Disposition": f'attachment; filename="{name}"',
        "Vary": "Accept",
    }
    return StreamedResponse(chunks, origin.streams.stall_seconds, headers=headers)


async def _empty_body() -> AsyncGenerator[bytes]:
    yield b""


async def _chunks(export: Export, first: Rows, batches: AsyncGenerator[Rows]) -> AsyncGenerator[bytes]:
    write = lines_of if export.header is None else _write_raw_cells if export.raw else _write_cells
    try:
        if export.header is not None:
            yield _table([export.header])
        yield write(first)
        async for rows in batches:
            yield write(rows)
    finally:
        await batches.aclose()


def lines_of(rows: Rows) -> bytes:
    """Return the `body` of each row as NDJSON."""
    # PostgreSQL separates the entries of JSON arrays by line breaks; JSON strings contain none.
    return b"".join([row.body.replace(b"\n", b"") + b"\n" for row in rows])


def _write_cells(rows: Rows) -> bytes:
    return _table([[escape_formula(cell) for cell in row] for row in rows])


def _write_raw_cells(rows: Rows) -> bytes:
    return _table(rows)


def _table(rows: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
