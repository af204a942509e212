"""Streams long results: read batch by batch through a cursor of PostgreSQL, and sent batch by batch.

A stream has a separate connection; that of the request's session is returned first. The stream frees its connection
when its client stalls or leaves or is no longer authorised, and a process runs only a few streams at a time.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import anyio
import anyio.lowlevel
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from app.core.caller import Caller
from app.core.config import Settings
from app.core.database import Database
from app.core.database_errors import with_translated_errors
from app.core.engine import Row
from app.core.http.routing import authorise_again
from app.core.places import SharedPlaces
from app.core.prepared import FastStatement, Prepared
from app.utils.exceptions import ExportsBusy, Forbidden, ServiceUnavailable, Unauthorized
from app.utils.request_context import request_state

# With batches of the maximum size the round trips cost next to nothing. Rows with thousands of links are large, so a
# batch has as many rows as fit into its bytes by the average length of the last batch.
FIRST_BATCH_ROWS, MAX_BATCH_ROWS = 20, 500
BATCH_BYTES = 1024 * 1024
# A batch is sent in pieces, because the server copies each, and a slow client must read one within its time limit.
PIECE_BYTES = 64 * 1024
# Seconds by which PostgreSQL's idle timeout exceeds that of the client, so that the latter ends first.
_GRACE_SECONDS = 5
# Seconds between two checks of the permission: with the check itself less than a second.
RECHECK_SECONDS = 0.8
# Seconds after the last successful check for which a stream continues while checks wait or fail for lack of a database.
MAX_UNCHECKED_SECONDS = 10.0

Rows = list[Row]


async def read_in_batches(
    connection: AsyncConnection, statement: Prepared, values: dict[str, Any], seconds: float | None = None
) -> AsyncGenerator[Rows]:
    """Yield the rows of a statement in batches, through a cursor of PostgreSQL; the first batch may be empty.

    The driver reads them: SQLAlchemy's cursor reads 50 rows at a time, however large they are. Raises
    `ServiceUnavailable` as every statement does, also if the server does not respond for `seconds`.
    """
    driver: Any = (await connection.get_raw_connection()).driver_connection
    cursor = await with_translated_errors(driver.cursor(statement.sql, *statement.arguments(values), timeout=seconds))
    size = FIRST_BATCH_ROWS
    rows: Rows = await with_translated_errors(cursor.fetch(size, timeout=seconds))
    yield rows
    while len(rows) == size:
        size = _next_batch_rows(rows)
        rows = await with_translated_errors(cursor.fetch(size, timeout=seconds))
        if rows:
            yield rows


def _next_batch_rows(rows: Rows) -> int:
    length = sum(len(cell) for row in rows for cell in row if isinstance(cell, (bytes, str)))
    return max(1, min(MAX_BATCH_ROWS, len(rows) * BATCH_BYTES // (length or 1)))


class Streams:
    """Limits and reads the streams of one process."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self.places = SharedPlaces(settings.export_concurrency, ExportsBusy)
        self.stall_seconds = settings.export_stall_seconds
        # The transaction is idle while the client reads the pieces of a batch.
        self._idle_seconds = self.stall_seconds * (BATCH_BYTES // PIECE_BYTES) + _GRACE_SECONDS

    async def read(
        self, statement: FastStatement, values: dict[str, Any], *further: FastStatement
    ) -> AsyncGenerator[Rows]:
        """Yield the rows of statements in batches, all from one snapshot; the first batch of each may be empty.

        Raises `ExportsBusy` if the process already reads the maximum number of streams, `CallerBusy` if all but one are
        of the request's user, and `ServiceUnavailable` as every statement does.
        """
        statements = [await each.prepare(self._database.pool_timeout) for each in (statement, *further)]
        tables = sorted({table for each in statements for table in each.tables})
        seconds = self._database.statement_seconds
        with self.places.place():
            async with self._database.snapshot(self._idle_seconds, tables) as connection:
                for prepared in statements:
                    async with aclosing(read_in_batches(connection, prepared, values, seconds)) as batches:
                        async for rows in batches:
                            yield rows


class CallerDeniedError(Exception):
    """The caller of a stream may no longer read it: it lost a scope, its token or session ended, or it was deactivated.

    Or no check of this succeeded for `MAX_UNCHECKED_SECONDS`.
    """


class StreamedResponse(StreamingResponse):
    """A streaming response that frees its connection when the client stalls or leaves, or is no longer authorised.

    Raises `CallerDeniedError` in the last case, so that the server cuts the connection of the client.
    """

    def __init__(self, chunks: AsyncGenerator[bytes], stall_seconds: float, **options: Any) -> None:
        super().__init__(_shielded_from_cancellation(chunks), **options)
        self._chunks = chunks
        self._stall_seconds = stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope(deadline=_next_deadline()) as sending:
            watching = asyncio.create_task(_end_without_permission(sending, Request(scope)))
            try:
                await super().__call__(scope, receive, send)
            finally:
                watching.cancel()
        if sending.cancelled_caught:
            raise CallerDeniedError

    async def stream_response(self, send: Send) -> None:
        async def send_with_timeout(message: Message) -> None:
            # The connection of a stalled client is cut, so that the partial result does not look complete.
            async with asyncio.timeout(self._stall_seconds):
                await send(message)

        try:
            await super().stream_response(send_with_timeout)
        finally:
            with anyio.CancelScope(shield=True):
                await self._chunks.aclose()


async def _shielded_from_cancellation(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yield the chunks, and let a disconnect of the client cancel the stream only between two of them.

    A stream cancelled inside a chunk could not wait for PostgreSQL to clean up.
    """
    while True:
        with anyio.CancelScope(shield=True):
            chunk = await anext(chunks, None)
        # Sending to a client that has left returns without suspending, so cancellation needs a checkpoint here.
        await anyio.lowlevel.checkpoint_if_cancelled()
        if chunk is None:
            return
        for start in range(0, len(chunk), PIECE_BYTES):
            yield chunk[start : start + PIECE_BYTES]


async def _end_without_permission(sending: anyio.CancelScope, request: Request) -> None:
    """Cancel the scope once the caller of the request is no longer authorised, or lost one of its scopes.

    The content of a stream may depend on any of the caller's scopes: its types of changes, holders, filters, columns.
    Each successful check extends the deadline of the scope, so a look-up that fails or hangs cannot keep the stream.
    """
    caller: Caller = request.state.caller
    # The look-up belongs to no user: the stream may hold the whole share of its user in the connections.
    request_state.set({})
    try:
        with suppress(Unauthorized, Forbidden):
            while True:
                await asyncio.sleep(RECHECK_SECONDS)
                with suppress(ServiceUnavailable):  # the next check decides, before the deadline
                    await authorise_again(request)
                    request.state.caller.require(*caller.scopes)
                    sending.deadline = _next_deadline()
    finally:
        sending.cancel()


def _next_deadline() -> float:
    return anyio.current_time() + MAX_UNCHECKED_SECONDS
