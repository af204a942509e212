"""Whole lists, streamed: as NDJSON, one document a line, or as CSV (RFC 4180)."""

import csv
import io
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from fastapi import Request, Response

from app.core.prepared import Prepared
from app.core.streaming import Rows, Streamed, Streams
from app.domains.shared.cells import safe
from app.utils.exceptions import NotAcceptable

Format = Literal["json", "ndjson", "csv"]
# The first of those that are equally welcome is given.
MEDIA_TYPES: dict[Format, str] = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv"}


@dataclass(frozen=True, slots=True)
class Export:
    """A whole list: a statement that returns one `body`, or the cells of one row, for each object."""

    collection: str
    statement: Prepared
    values: dict[str, Any]
    # Of the table; None for NDJSON.
    header: tuple[str, ...] | None
    raw: bool

    @property
    def format(self) -> Format:
        return "ndjson" if self.header is None else "csv"


def wanted_format(request: Request) -> Format:
    """Return what suits the client best (RFC 9110, section 12.5.1). Raises `NotAcceptable` when nothing does."""
    return _wanted(",".join(request.headers.getlist("accept")) or "*/*")


@lru_cache(maxsize=32)
def _wanted(accept: str) -> Format:
    welcome: dict[Format, float] = {name: _quality(media_type, accept) for name, media_type in MEDIA_TYPES.items()}
    best = max(welcome, key=lambda name: welcome[name])
    if not welcome[best]:
        raise NotAcceptable(f"A list comes as {', '.join(MEDIA_TYPES.values())}.")
    return best


def _quality(media_type: str, accept: str) -> float:
    """Return how welcome a media type is: what the most specific range says that has it."""
    ranges = {media_type: 2, f"{media_type.partition('/')[0]}/*": 1, "*/*": 0}
    found = (-1, 0.0)
    for each in accept.split(","):
        name, *parameters = (part.strip().lower() for part in each.split(";"))
        if name in ranges:
            found = max(found, (ranges[name], _weight(parameters)))
    return found[1]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0 <= weight <= 1 else 0.0
    return 1.0


async def exported(export: Export, request: Request) -> Response:
    """Answer with a whole list. What goes wrong before the first byte is raised; later it cuts the answer short."""
    streams: Streams = request.app.state.streams
    batches = streams.read(export.statement, export.values)
    first = await anext(batches)
    if request.scope["state"].get("head"):
        await batches.aclose()
        chunks = _nothing()
    else:
        chunks = _chunks(export, first, batches)
    media_type = MEDIA_TYPES[export.format] + ("; charset=utf-8; header=present" if export.format == "csv" else "")
    name = f"{export.collection}-{datetime.now(UTC):%Y-%m-%d}.{export.format}"
    # A header of its own: Starlette would add the character set once more.
    headers = {
        "Content-Type": media_type,
        "Content-Disposition": f'attachment; filename="{name}"',
        "Vary": "Accept",
    }
    return Streamed(chunks, streams.stall_seconds, headers=headers)


async def _nothing() -> AsyncGenerator[bytes]:
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
    """Return the documents in the `body` of rows as NDJSON."""
    # PostgreSQL breaks the lines between the entries of lists; inside of strings there are no line breaks in JSON.
    return b"".join([row.body.replace(b"\n", b"") + b"\n" for row in rows])


def _write_cells(rows: Rows) -> bytes:
    return _table([[safe(cell) for cell in row] for row in rows])


def _write_raw_cells(rows: Rows) -> bytes:
    return _table(rows)


def _table(rows: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
