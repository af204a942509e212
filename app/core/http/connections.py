"""The client connections of a server process, and their limits together."""

import asyncio
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from app.core.config import Settings
from app.utils.metrics import Metrics

# The key of the `Connections` in the state of the lifespan, which the server passes to each protocol.
CONNECTIONS = "connections"
LOOK_SECONDS = 1
# The server reads on beyond the application's limit of a body, so that the client can read the rejection.
_BODY_MARGIN_BYTES = 1024 * 1024
# Bytes per second from which on a reader is disconnected only if the unread bytes reach twice their limit.
_SLOW_READER_RATE = 64 * 1024
# Files of a process other than client connections: database connections, logs, and those of the interpreter.
_OTHER_FILES = 128


class Connection(Protocol):
    """A connection as `Connections` uses it."""

    # Bytes that the client read between the last two looks; infinite if all, or if the response is new.
    pace: float

    def look(self) -> None:
        """Count a second, and close the connection if its client is too slow."""

    def unread_bytes(self) -> int:
        """Return the number of bytes that the process holds because the client does not read."""

    def cut(self, error: str) -> None:
        """Close the connection without a response, and count it as an error."""


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
        self._open: dict[Connection, None] = {}
        # Dictionaries instead of sets, because they are ordered: the connection that waits the longest is the first.
        self._waiting: dict[Connection, None] = {}
        self._blocked: dict[Connection, None] = {}

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

    def add(self, connection: Connection) -> None:
        """Add a new connection. If there are too many, the one that waits the longest for a request is closed."""
        self._open[connection] = self._waiting[connection] = None
        if len(self._open) > self._max_connections:
            next(iter(self._waiting)).cut("TooManyConnections")

    def wait(self, connection: Connection) -> None:
        """Record that the connection waits for a request."""
        self._waiting.pop(connection, None)
        if connection in self._open:
            self._waiting[connection] = None

    def work(self, connection: Connection) -> None:
        """Record that the request of the connection is complete and its response is not."""
        self._waiting.pop(connection, None)

    def block(self, connection: Connection) -> None:
        """Record that the client does not read as fast as the response is written."""
        self._blocked[connection] = None
        self._limit_unread(self._blocked)

    def unblock(self, connection: Connection) -> None:
        self._blocked.pop(connection, None)

    def discard(self, connection: Connection) -> bool:
        """Forget a connection. Returns whether it was open."""
        was_open = connection in self._open
        for connections in (self._open, self._waiting, self._blocked):
            connections.pop(connection, None)
        return was_open

    def count(self, error: str) -> None:
        """Count a connection that the service closes because of its client."""
        self._errors.labels(error).inc()

    def _limit_unread(self, connections: Iterable[Connection]) -> None:
        """Close the connections of the slowest readers while the responses of all have too many unread bytes.

        Up to twice the limit, only slow readers are disconnected: a page is unread as a whole when it is written.
        """
        unread = {connection: size for connection in connections if (size := connection.unread_bytes())}
        total = sum(unread.values())
        if total <= self._max_unread_bytes:
            return
        for connection in sorted(unread, key=lambda connection: connection.pace):
            is_slow = connection.pace < _SLOW_READER_RATE * LOOK_SECONDS
            if total <= self._max_unread_bytes * (1 if is_slow else 2):
                break
            connection.cut("SlowestReader")
            total -= unread[connection]


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
