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
from contextlib import suppress
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.core.http.connections import CONNECTIONS, LOOK_SECONDS, Connections
from app.core.http.middleware import REJECTION
from app.utils.exceptions import BadRequest, HeadersTooLarge, RegisterError

# The parser and the application handle each chunk of a body, which costs more than the bytes of a short one.
_FREE_CHUNK_BYTES = 16
# The kernel accepts this many bytes more than it can send, so that the process sees what a client does not read.
# Otherwise the kernel takes megabytes for each connection, while the process still holds the whole response.
_UNSENT_BYTES = 128 * 1024
# Stands for a request that has no complete head. HTTP/1.0 closes the connection after the response.
_REJECTED_REQUEST = b"GET / HTTP/1.0\r\n\r\n"
_CONNECT = "CONNECT"


class GuardedProtocol(HttpToolsProtocol):
    """A connection that is closed when its client is slower, or sends more, than the settings allow.

    The body of a request is a leaky bucket: it may be late by `REQUEST_STALL_SECONDS` at `MIN_BODY_RATE`, and bytes
    that came faster earlier give no credit. While the service itself does not read, the clock stops.

    The application needs `RequestHeadMiddleware`, which sends the responses to rejected requests.
    """

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._registry: Connections = app_state[CONNECTIONS]
        self.url = b""  # uvicorn sets it when a request begins
        # The requests without a complete response. uvicorn's `cycle` is the last of them, and may wait for the others.
        self._requests: list[RequestResponseCycle] = []
        # A request is expected or incomplete.
        self._arriving = True
        # A request has begun and is not complete.
        self._is_partial = False
        # No more requests are read; the connection closes after the last response.
        self._is_ending = False
        self._late_bytes = 0
        self._overhead_left = self._registry.max_overhead_bytes
        self._body_bytes = self._body_bytes_seen = 0
        self._unread_seen = self._unread_looks = 0
        # Bytes that the client read between the last two looks; infinite if all, or if the response is new.
        self.pace = math.inf

    # Events of the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._registry.add(self)
        with suppress(OSError):  # the client may have disconnected
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                connection = transport.get_extra_info("socket")
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self._registry.discard(self)
        self._disconnect_requests()
        super().connection_lost(exc)
        # After a reset uvicorn leaves this timer armed, and with it all objects of the connection in memory.
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._is_ending:
            self._stop_reading()
            return
        if not self._arriving and self._is_idle():
            # Line ends, which may precede a request, begin no message.
            self._arriving, self._late_bytes = True, 0
        self._overhead_left -= len(data)
        try:
            self._parse(data)
        except HttpParserError:
            self._reject(BadRequest("The request is not valid HTTP."))
            return
        if self._overhead_left < 0:
            self._reject(self._overhead_error())
        elif self._body_bytes > self._registry.max_body_bytes:
            self.cut("EndlessBody")
        elif self.pipeline:
            self._stop_reading()

    def _parse(self, data: bytes) -> None:
        """Parse bytes of requests. Raises `HttpParserError`.

        The parser takes what follows the head of a request with `Upgrade` for another protocol. The service ignores the
        header (RFC 9110, section 7.8): the request is parsed again without the upgrade, and so is its body.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                if self.scope["method"] == _CONNECT:  # the client expects a tunnel, no other request
                    self._end()
                    self.cycle.keep_alive = False
                    return
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = HttpRequestParser(self)
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        lines = [
            f"{self.scope['method']} {self.url.decode('latin-1')} HTTP/{self.scope['http_version']}".encode("latin-1")
        ]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"connection"]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            lines.append(b"connection: close")
        return b"\r\n".join([*lines, b"", b""])

    def _should_upgrade(self) -> bool:
        """Return whether a request with an upgrade is parsed again; uvicorn then ignores the first parsing of it."""
        return self.scope["method"] != _CONNECT

    def _stop_reading(self) -> None:
        # The application resumes reading whenever it waits for its client to disconnect.
        if not self.transport.is_closing():
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._registry.block(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._registry.unblock(self)
        self._unread_seen = 0

    # Events of the parser

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= self._registry.max_pipelined and not self._is_ending:
            self.cut("TooManyPipelinedRequests")
            raise HttpParserError("Too many pipelined requests.")  # ends the parsing of the data
        self._arriving = self._is_partial = True
        self._late_bytes = self._body_bytes = self._body_bytes_seen = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if not self._is_idle() and self.cycle not in self._requests:
            self._requests.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        size = len(body)
        self._body_bytes += size
        more = size + min(size, _FREE_CHUNK_BYTES)
        self._overhead_left = min(self._overhead_left + more, self._registry.max_overhead_bytes)
        super().on_body(body)

    def on_message_complete(self) -> None:
        # If the response was complete before the body, uvicorn waits for the next request without a timer.
        self._arriving, self._overhead_left = self._is_idle(), self._registry.max_overhead_bytes
        self._late_bytes, self._is_partial = 0, False
        super().on_message_complete()
        if not self._arriving:
            self._registry.work(self)

    # Events of the response

    def on_response_complete(self) -> None:
        self._requests = [request for request in self._requests if not request.response_complete]
        if not self.pipeline:
            self._registry.wait(self)
            self.cycle.body = bytearray()  # the application may not have read it
        super().on_response_complete()

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
        self._late_bytes = max(0, self._late_bytes + self._registry.body_rate * LOOK_SECONDS - came)
        if self._late_bytes > self._registry.body_rate * self._registry.stall_seconds:
            self.cut("SlowRequest")

    def _look_at_response(self) -> None:
        held = self.unread_bytes()
        # The kernel takes bytes in large steps, so only its own unread bytes show that a client reads slowly.
        before, self._unread_seen = self._unread_seen, held and held + _unread_by_peer(self.transport)
        self.pace = max(0, before - self._unread_seen) if before else math.inf
        self._unread_looks = 0 if self.pace else self._unread_looks + 1
        if self._unread_looks * LOOK_SECONDS >= self._registry.unread_seconds:
            self.cut("UnreadResponse")

    def _overhead_error(self) -> RegisterError:
        is_long_line = len(self.url) > self._registry.max_overhead_bytes // 2
        return BadRequest("The request line is too long.") if is_long_line else HeadersTooLarge()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _reject(self, error: RegisterError) -> None:
        """Send a problem document after the responses to earlier requests, and close the connection.

        A request whose response has begun gets no other: it ends, and the connection closes.
        """
        if self.transport.is_closing():
            return
        self._registry.count(type(error).__name__)
        has_cycle = self._is_partial and self.cycle is not None and self.cycle.scope is self.scope
        self._end()
        if not has_cycle:
            self._begin_rejection(error)
        elif self.cycle.response_complete:
            self.transport.close()
        elif self.pipeline:
            self.cycle.keep_alive = False
            self.scope["state"][REJECTION] = error
        elif self.cycle.response_started:
            self.cycle.keep_alive = False
        else:
            self._abandon_request()
            self._begin_rejection(error)

    def _end(self) -> None:
        """Read no more requests."""
        self._is_ending, self._arriving = True, False
        self._registry.work(self)

    def _abandon_request(self) -> None:
        """Let the application see a disconnected client, and send nothing of its response."""
        self.cycle.disconnected = self.cycle.response_complete = True
        self.cycle.message_event.set()

    def _begin_rejection(self, error: RegisterError) -> None:
        """Let the application send the error in the turn of the connection, with its headers, log line and metrics."""
        self.parser = HttpRequestParser(self)
        self.parser.feed_data(_REJECTED_REQUEST)
        self.scope["state"][REJECTION] = error
        self.scope["method"] = self.scope["path"] = ""  # may be unknown

    def cut(self, error: str) -> None:
        """Close the connection without a response."""
        if self._registry.discard(self):
            self._registry.count(error)
            self._disconnect_requests()
            self.transport.abort()

    def _disconnect_requests(self) -> None:
        """Let the application see the end of the connection in each request; uvicorn does so in the last only."""
        for request in self._requests:
            request.disconnected = True
            request.message_event.set()


def _unread_by_peer(transport: asyncio.Transport) -> int:
    """Return the number of bytes that the kernel holds because the peer has not taken them; 0 if it does not tell."""
    if sys.platform != "linux":
        return 0
    import fcntl  # noqa: PLC0415 - not on Windows
    import termios  # noqa: PLC0415 - not on Windows

    with suppress(OSError):
        number = fcntl.ioctl(transport.get_extra_info("socket"), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(number, sys.byteorder)
    return 0
