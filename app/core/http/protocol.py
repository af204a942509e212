"""HTTP/1.1 as uvicorn implements it, with limits of time and bytes while requests arrive and responses are read.

uvicorn has one timer, for idle connections, and no limits of bytes: it waits for the rest of a request without end, and
holds unread responses without end. A reverse proxy in front has such limits; with this class the service needs none to
survive slow and endless clients.

The attributes of uvicorn's protocol that are used here are public by name but not documented. A test fails when one of
them is removed (`tests/core/test_protocol.py`).
"""

import asyncio
import math
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.core.config import Settings
from app.utils.exceptions import BadRequest, HeadersTooLarge, RegisterError
from app.utils.metrics import Metrics
from app.utils.problems import problem_response

# The key of the `Connections` in the state of the lifespan, which the server passes to each protocol.
CONNECTIONS = "connections"
LOOK_SECONDS = 1
# The server reads on beyond the application's limit of a body, so that the client can read the rejection.
_BODY_MARGIN_BYTES = 1024 * 1024
# The parser and the application handle each chunk of a body, which costs more than the bytes of a short one.
_FREE_CHUNK_BYTES = 16
# The kernel accepts this many bytes more than it can send, so that the process sees what a client does not read.
# Otherwise the kernel takes megabytes for each connection, while the process still holds the whole response.
_UNSENT_BYTES = 128 * 1024
# Files of a process other than client connections: database connections, logs, and those of the interpreter.
_OTHER_FILES = 128


class Connections:
    """The client connections of a server process. One clock looks at all of them every second.

    A second in which the process itself was too busy counts once, so a busy process does not close the connections of
    clients that it kept waiting.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.stall_seconds = settings.request_stall_seconds
        self.body_rate = settings.min_body_rate
        self.max_body_bytes = max(settings.max_body_bytes, settings.max_bulk_bytes) + _BODY_MARGIN_BYTES
        # The application rejects such a head by a 431; this limit also covers chunk headers and trailers.
        self.max_overhead_bytes = 2 * settings.max_header_bytes
        self.max_pipelined = settings.max_pipelined_requests
        self.unread_seconds = settings.export_stall_seconds
        self._max_unread_bytes = settings.max_unread_bytes
        self._max_connections = min(settings.max_connections, max(1, raise_file_limit() - _OTHER_FILES))
        self._errors = metrics.errors
        self._open: dict[GuardedProtocol, None] = {}
        # Dictionaries instead of sets, because they are ordered: the connection that waits the longest is the first.
        self._waiting: dict[GuardedProtocol, None] = {}
        self._blocked: dict[GuardedProtocol, None] = {}

    async def watch(self) -> None:
        """Look at the connections every second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Close the connections of clients that are too slow; a call counts as a second."""
        for connection in tuple(self._open):
            connection.look()
        self._limit_unread(self._open)

    def add(self, connection: "GuardedProtocol") -> None:
        """Add a new connection. If there are too many, the one that waits the longest for a request is closed."""
        self._open[connection] = self._waiting[connection] = None
        if len(self._open) > self._max_connections:
            next(iter(self._waiting)).cut("TooManyConnections")

    def wait(self, connection: "GuardedProtocol") -> None:
        """Record that the connection waits for a request."""
        self._waiting.pop(connection, None)
        if connection in self._open:
            self._waiting[connection] = None

    def work(self, connection: "GuardedProtocol") -> None:
        """Record that the request of the connection is complete and its response is not."""
        self._waiting.pop(connection, None)

    def block(self, connection: "GuardedProtocol") -> None:
        """Record that the client does not read as fast as the response is written."""
        self._blocked[connection] = None
        self._limit_unread(self._blocked)

    def unblock(self, connection: "GuardedProtocol") -> None:
        self._blocked.pop(connection, None)

    def discard(self, connection: "GuardedProtocol") -> bool:
        """Forget a connection. Returns whether it was open."""
        was_open = connection in self._open
        for connections in (self._open, self._waiting, self._blocked):
            connections.pop(connection, None)
        return was_open

    def count(self, error: str) -> None:
        """Count a connection that the service closes because of its client."""
        self._errors.labels(error).inc()

    def _limit_unread(self, connections: Iterable["GuardedProtocol"]) -> None:
        """Close the connections of the slowest readers while the responses of all have too many unread bytes."""
        unread = {connection: size for connection in connections if (size := connection.unread_bytes())}
        excess = sum(unread.values()) - self._max_unread_bytes
        if excess <= 0:
            return
        for connection in sorted(unread, key=lambda connection: connection.pace):
            connection.cut("SlowestReader")
            excess -= unread[connection]
            if excess <= 0:
                break


class GuardedProtocol(HttpToolsProtocol):
    """A connection that is closed when its client is slower, or sends more, than the settings allow.

    The body of a request is a leaky bucket: it may be late by `REQUEST_STALL_SECONDS` at `MIN_BODY_RATE`, and bytes
    that came faster earlier give no credit. While the service itself does not read, the clock stops.
    """

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all: Connections = app_state[CONNECTIONS]
        # A request is expected or incomplete.
        self._arriving = True
        self._late_bytes = 0
        self._overhead_left = self._all.max_overhead_bytes
        self._body_bytes = self._body_bytes_seen = 0
        self._unread_seen = self._unread_looks = 0
        # Bytes that the client read between the last two looks; infinite if all, or if the response is new.
        self.pace = math.inf

    # Events of the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        super().connection_lost(exc)
        # After a reset uvicorn leaves this timer armed, and with it all objects of the connection in memory.
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if not self._arriving and self._is_idle():
            # Line ends, which may precede a request, begin no message.
            self._arriving, self._late_bytes = True, 0
        self._overhead_left -= len(data)
        super().data_received(data)
        if self._overhead_left < 0:
            self._reject(self._overhead_error())
        elif self._body_bytes > self._all.max_body_bytes:
            self.cut("EndlessBody")
        elif self.pipeline and not self.transport.is_closing():
            # The application resumes reading whenever it waits for its client to disconnect.
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._all.block(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._all.unblock(self)
        self._unread_seen = 0

    # Events of the parser

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= self._all.max_pipelined:
            self.cut("TooManyPipelinedRequests")
            raise HttpParserError("Too many pipelined requests.")  # ends the parsing of the data
        self._arriving, self._late_bytes = True, 0
        self._body_bytes = self._body_bytes_seen = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        size = len(body)
        self._body_bytes += size
        self._overhead_left += size + min(size, _FREE_CHUNK_BYTES)
        super().on_body(body)

    def on_message_complete(self) -> None:
        # If the response was complete before the body, uvicorn waits for the next request without a timer.
        self._arriving, self._overhead_left = self._is_idle(), self._all.max_overhead_bytes
        self._late_bytes = 0
        super().on_message_complete()
        if not self._arriving:
            self._all.work(self)

    # Events of the response

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self._all.wait(self)
            self.cycle.body = bytearray()  # the application may not have read it
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._reject(BadRequest(msg))

    # Limits

    def unread_bytes(self) -> int:
        """Return the number of bytes that the system has not accepted, because the client does not read."""
        return self.transport.get_write_buffer_size()

    def look(self) -> None:
        """Count a second, and close the connection if its client is too slow."""
        self._look_at_response()
        if self._arriving and not self.flow.read_paused:
            self._look_at_request()

    def _look_at_request(self) -> None:
        came, self._body_bytes_seen = self._body_bytes - self._body_bytes_seen, self._body_bytes
        self._late_bytes = max(0, self._late_bytes + self._all.body_rate * LOOK_SECONDS - came)
        if self._late_bytes > self._all.body_rate * self._all.stall_seconds:
            self.cut("SlowRequest")

    def _look_at_response(self) -> None:
        before, self._unread_seen = self._unread_seen, self.unread_bytes()
        self.pace = max(0, before - self._unread_seen) if before else math.inf
        self._unread_looks = 0 if self.pace else self._unread_looks + 1
        if self._unread_looks * LOOK_SECONDS >= self._all.unread_seconds:
            self.cut("UnreadResponse")

    def _overhead_error(self) -> RegisterError:
        is_long_line = len(getattr(self, "url", b"")) > self._all.max_overhead_bytes // 2
        return BadRequest("The request line is too long.") if is_long_line else HeadersTooLarge()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _reject(self, error: RegisterError) -> None:
        """Send a problem document and close the connection; if a response is being sent, only close it."""
        if self.transport.is_closing():
            return
        name = type(error).__name__
        if not self._is_idle() and self.cycle.response_started:
            self.cut(name)
            return
        self._all.count(name)
        response = problem_response(error, {"type": "http", "path": ""})
        lines = [b"HTTP/1.1 %d " % response.status_code, *(b"%b: %b" % header for header in response.raw_headers)]
        self.transport.write(b"\r\n".join([*lines, b"connection: close", b"", bytes(response.body)]))
        self.transport.close()

    def cut(self, error: str) -> None:
        """Close the connection without a response."""
        if self._all.discard(self):
            self._all.count(error)
            self.transport.abort()


def raise_file_limit() -> int:
    """Raise the limit of open files of this process as far as the system allows, and return it."""
    if sys.platform == "win32":
        return sys.maxsize
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS has a lower limit than it reports
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
