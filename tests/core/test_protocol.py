"""Connections: slow, silent, endless and unread clients. Tests count the looks of the clock instead of waiting."""

import asyncio
import gc
import json
import logging
import resource
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl

from app.core.http import connections
from app.core.http.connections import CONNECTIONS, Connections, raise_file_limit
from app.core.http.middleware import RequestHeadMiddleware
from app.core.http.protocol import GuardedProtocol
from app.utils.logging_middleware import RequestMiddleware
from app.utils.metrics import Metrics
from tests.conftest import settings_for
from tests.waiting import HANG_TIMEOUT, until

# The number of looks after which a client is late, and the number after which its connection is certainly closed.
SECONDS = 10
CLOSED_AFTER = SECONDS + 2
# A connection that is closed shows it soon. On a slow machine a glance can miss it; later glances do not.
GLANCE_SECONDS = 0.2
MEBIBYTE = 1024 * 1024

HOST = b"Host: a\r\n"
GET = b"GET /ok HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /body HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Front:
    """A server with a small application, whose clock is the calls of `look`."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.connections: Connections
        self.port = 0
        self.received = 0
        self.requests = 0
        self.release = asyncio.Event()
        self.disconnects = 0

    def application(self, **settings: Any) -> Starlette:
        async def ok(_request: Request) -> Response:
            self.requests += 1
            return Response(b"ok")

        async def body(request: Request) -> Response:
            return Response(b"%d" % len(await request.body()))

        async def late(request: Request) -> Response:
            await self.release.wait()
            return Response(b"%d" % len(await request.body()))

        async def refused(_request: Request) -> Response:
            return Response(b"no", 401)

        async def large(request: Request) -> Response:
            return Response(b"x" * int(request.query_params["size"]))

        async def stream(_request: Request) -> Response:
            async def parts() -> AsyncIterator[bytes]:
                yield b"first"
                await self.release.wait()
                yield b"last"

            return StreamingResponse(parts())

        async def wait(request: Request) -> Response:
            self.requests += 1
            disconnect = asyncio.ensure_future(request.receive())  # as a streaming response does
            await self.release.wait()
            disconnect.cancel()
            return Response(b"done")

        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Connections]]:
            limits = {"request_stall_seconds": SECONDS, "export_stall_seconds": SECONDS} | settings
            self.connections = Connections(settings_for(None, **limits), self.metrics)
            yield {CONNECTIONS: self.connections}

        methods = ["GET", "POST"]
        endpoints = (ok, body, late, refused, large, stream, wait, self.leaves)
        routes = [Route(f"/{each.__name__}", each, methods=methods) for each in endpoints]
        middleware = [
            Middleware(RequestMiddleware, metrics=self.metrics),
            Middleware(RequestHeadMiddleware, limit=64 * 1024),
        ]
        return Starlette(routes=routes, lifespan=lifespan, middleware=middleware)

    async def leaves(self, request: Request) -> Response:
        self.requests += 1
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.disconnects += 1
        return Response(b"x" * MEBIBYTE)

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.connections.look()

    def status_count(self, status: int) -> float:
        labels = {"method": "(other)", "route": "(unmatched)", "status": str(status)}
        own = labels | {"method": "POST"}
        return sum(self.metrics.registry.get_sample_value("http_requests_total", each) or 0 for each in (labels, own))

    def closed(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("register_errors_total", {"error": reason}) or 0


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Any]]:
    """A function that starts a server with the given settings in the loop of the test."""
    front = Front()
    data_received = GuardedProtocol.data_received

    def count(self: GuardedProtocol, data: bytes) -> None:
        front.received += len(data)
        data_received(self, data)

    monkeypatch.setattr(GuardedProtocol, "data_received", count)
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def run(**settings: Any) -> Front:
        options: dict[str, Any] = {"http": GuardedProtocol, "ws": "none", "log_config": None, "access_log": False}
        server = uvicorn.Server(uvicorn.Config(front.application(**settings), port=0, **options))
        running.append((server, asyncio.create_task(server.serve())))
        async with asyncio.timeout(HANG_TIMEOUT):
            while not server.started:  # noqa: ASYNC110 - the server has no event
                await asyncio.sleep(0.01)
        front.port = server.servers[0].sockets[0].getsockname()[1]
        return front

    yield run
    front.release.set()
    for server, task in running:
        for connection in tuple(server.server_state.connections):
            connection.transport.abort()
        server.should_exit = True
        await task


class Client:
    """A connection to the server."""

    def __init__(self, front: Front, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.front, self.reader, self.writer = front, reader, writer
        self.sent = 0

    async def send(self, data: bytes) -> None:
        """Send bytes, and return once the server has received them, or has closed the connection."""
        before = self.front.received
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

        async def is_received() -> bool:
            return self.front.received >= before + len(data) or self.reader.at_eof() or self.is_reset()

        await until(is_received)

    async def flood(self, data: bytes, most: int) -> int:
        """Send the same bytes again and again until the connection is closed. Returns the number that were received."""
        before = self.front.received
        with suppress(ConnectionError):
            for _ in range(most // len(data)):
                self.writer.write(data)
                await self.writer.drain()
        return self.front.received - before

    def is_reset(self) -> bool:
        return self.reader.exception() is not None

    async def is_closed(self) -> bool:
        """Return whether the server has closed the connection. Reads all responses."""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(GLANCE_SECONDS):
                while await self.reader.read(MEBIBYTE):
                    pass
        return self.reader.at_eof() or self.is_reset()

    async def until_closed(self) -> None:
        await until(self.is_closed)

    async def response(self) -> tuple[int, bytes]:
        """Return the status and the body of the next response."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return int(head.split()[1]), await self.reader.readexactly(length)


@asynccontextmanager
async def connect(front: Front, *, receive_buffer: int | None = None) -> AsyncIterator[Client]:
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", front.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=MEBIBYTE)
    try:
        yield Client(front, reader, writer)
    finally:
        writer.transport.abort()


# The bytes that are sent first, and those that are sent before each look.
SLOW = {
    "nothing": (b"", b""),
    "first byte": (b"G", b""),
    "head": (b"GET /ok HTTP/1.1\r\nX-Drip: ", b"a"),
    "line ends before a request": (b"", b"\r\n"),
    "line ends after a response": (GET, b"\r\n"),
    "body that stops": (POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 50_000, b""),
    "body": (POST + b"Content-Length: 100000\r\n\r\n", b"x" * 100),
    "body after much of it": (POST + b"Content-Length: 16000000\r\n\r\n" + b"x" * 1_000_000, b"x" * 100),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "chunk extension": (CHUNKED + b"1;", b"e"),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\nT: ", b"t"),
    "half a request after another": (GET + POST + b"Content-Length: 100\r\n\r\nx", b""),
    "body after its response": (b"POST /refused HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("kind", SLOW)
async def test_slow_request_is_closed(start: Callable[..., Any], kind: str) -> None:
    front = await start()
    first, drip = SLOW[kind]
    async with connect(front) as client:
        await client.send(first)
        for _ in range(SECONDS - 1):
            await client.send(drip)
            front.look()
        assert not await client.is_closed()
        for _ in range(SECONDS):
            await client.send(drip)
            front.look()
        await client.until_closed()
    assert front.closed("SlowRequest") == 1


async def test_connection_whose_body_came_after_its_response_is_closed(start: Callable[..., Any]) -> None:
    front = await start()
    async with connect(front) as client:
        await client.send(b"POST /refused HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n")
        assert await client.response() == (401, b"no")
        await client.send(b"xx")
        front.look(CLOSED_AFTER)
        await client.until_closed()


async def test_seconds_in_which_the_service_does_not_read_do_not_count(start: Callable[..., Any]) -> None:
    front = await start()
    async with connect(front) as client:
        await client.send(b"POST /late HTTP/1.1\r\n" + HOST + b"Content-Length: 100002\r\n\r\n" + b"x" * 100_000)
        front.look(100)
        front.release.set()
        await client.send(b"xx")
        assert await client.response() == (200, b"100002")


async def test_honest_slow_clients_are_served(start: Callable[..., Any]) -> None:
    front = await start()
    async with connect(front) as client:
        await client.send(POST + b"Content-Length: 60000\r\n\r\n")
        for _ in range(100):  # 600 bytes a second
            await client.send(b"x" * 600)
            front.look()
        assert await client.response() == (200, b"60000")
        # Idle connections have a time limit of their own.
        front.look(25)
        await client.send(GET[:1])
        front.look(SECONDS - 1)
        await client.send(GET[1:])
        assert await client.response() == (200, b"ok")
        await client.send(GET * 30)
        assert [await client.response() for _ in range(30)] == [(200, b"ok")] * 30


async def test_small_chunks_are_no_overhead(start: Callable[..., Any]) -> None:
    front = await start()
    async with connect(front) as client:
        await client.send(CHUNKED)
        for _ in range(100):
            await client.send(b"14\r\n01234567890123456789\r\n" * 1000)
        await client.send(b"0\r\n\r\n")
        assert await client.response() == (200, b"2000000")


ENDLESS = {
    "request line": (b"GET /", b"a" * 1000),
    "header": (b"GET /ok HTTP/1.1\r\nX-Long: ", b"a" * 1000),
    "headers": (b"GET /ok HTTP/1.1\r\n", b"a:b\r\n" * 200),
    "trailer": (CHUNKED + b"0\r\nX-Long: ", b"a" * 1000),
    "trailers": (CHUNKED + b"0\r\n", b"a:b\r\n" * 200),
    "trailer after short chunks": (CHUNKED + b"10\r\n0123456789abcdef\r\n" * 100_000 + b"0\r\nX: ", b"a" * 1000),
    "chunk extension after short chunks": (CHUNKED + b"1\r\nx\r\n2\r\nxy\r\n" * 50 + b"1;", b"a" * 1000),
    "chunk extension": (CHUNKED + b"1;", b"a" * 1000),
    "chunk extensions": (CHUNKED, b"1;eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\r\nx\r\n" * 50),
    "chunks of one byte": (CHUNKED, b"1\r\nx\r\n" * 100),
    "requests": (b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n", GET * 30),
    "bytes after the last request": (GET.replace(HOST, HOST + b"Connection: close\r\n"), b"a" * 1000),
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_endless_request_is_closed_early(start: Callable[..., Any], kind: str) -> None:
    front = await start()
    first, more = ENDLESS[kind]
    async with connect(front) as client:
        await client.send(first)
        assert await client.flood(more, 20 * MEBIBYTE) < MEBIBYTE
        front.release.set()
        await client.until_closed()
        async with connect(front) as other:
            await other.send(GET)
            assert await other.response() == (200, b"ok")


async def test_endless_body_is_closed_beyond_the_limit_of_the_application(start: Callable[..., Any]) -> None:
    front = await start(max_bulk_bytes=2 * MEBIBYTE)
    head = b"POST /refused HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999\r\n\r\n"
    async with connect(front) as client:
        await client.send(head)
        assert await client.response() == (401, b"no")
        received = await client.flood(b"x" * 100_000, 20 * MEBIBYTE)
        await client.until_closed()
    assert 3 * MEBIBYTE <= received < 4 * MEBIBYTE
    assert front.closed("EndlessBody") == 1


async def test_too_large_a_head_gets_a_problem_document(start: Callable[..., Any]) -> None:
    front = await start()
    async with connect(front) as client:
        await client.send(b"GET /ok HTTP/1.1\r\nX: " + b"a" * 65_000)
        await client.send(b"a" * 1_000)
        status, body = await client.response()
    assert (status, b"headers_too_large" in body, len(body) <= 4096) == (431, True, True)
    assert front.closed("HeadersTooLarge") == 1


async def test_server_does_not_read_on_while_requests_queue(start: Callable[..., Any]) -> None:
    front = await start()
    async with connect(front) as client:
        await client.send(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n")
        await client.send(GET)
        (connection,) = front.connections._open
        assert connection.flow.read_paused
        received = front.received
        client.writer.write(GET * 1000)
        front.look(100)
        async with connect(front) as other:
            await other.send(GET)
            assert await other.response() == (200, b"ok")
        assert (front.received, front.requests) == (received + len(GET), 2)


async def test_number_of_pipelined_requests_is_limited(start: Callable[..., Any]) -> None:
    front = await start(max_pipelined_requests=5)
    async with connect(front) as client:
        await client.send(GET * 6)  # one is in progress, five wait
        assert [await client.response() for _ in range(6)] == [(200, b"ok")] * 6
        await client.send(GET * 1000)
        await client.until_closed()
    assert front.closed("TooManyPipelinedRequests") == 1
    assert front.requests <= 6 + 1


async def test_body_that_the_application_did_not_read_is_freed(start: Callable[..., Any]) -> None:
    front = await start()
    async with connect(front) as client:
        await client.send(b"POST /refused HTTP/1.1\r\n" + HOST + b"Content-Length: 60000\r\n\r\n" + b"x" * 60_000)
        assert await client.response() == (401, b"no")
        (connection,) = front.connections._open
        assert connection.cycle.body == b""


async def until_true(condition: Callable[[], bool]) -> None:
    """Return once the condition holds."""

    async def is_true() -> bool:
        return condition()

    await until(is_true)


async def until_unread(front: Front, number: int) -> None:
    """Return once so many connections have unread bytes."""
    await until_true(lambda: sum(each.unread_bytes() > 0 for each in front.connections._open) == number)


LARGE = b"GET /large?size=%d HTTP/1.1\r\n" % (16 * MEBIBYTE) + HOST + b"\r\n"


async def test_unread_response_is_closed(start: Callable[..., Any]) -> None:
    front = await start()
    async with connect(front) as client:
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(LARGE)
        await until_unread(front, 1)
        front.look(SECONDS)
        assert front.closed("UnreadResponse") == 0
        front.look(2)
        assert front.closed("UnreadResponse") == 1
    async with connect(front) as other:
        await other.send(GET)
        assert await other.response() == (200, b"ok")


async def test_slowly_read_response_is_sent_completely(start: Callable[..., Any]) -> None:
    front = await start()
    async with connect(front, receive_buffer=64 * 1024) as client:
        await client.send(LARGE)
        await client.reader.readuntil(b"\r\n\r\n")
        read = 0
        while read < 16 * MEBIBYTE:
            read += len(await client.reader.readexactly(min(256 * 1024, 16 * MEBIBYTE - read)))
            front.look()
    assert front.closed("UnreadResponse") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not tell how much of a response is unread")
@pytest.mark.parametrize(("piece", "buffer"), [(16 * 1024, 32 * 1024), (4 * 1024, 4 * 1024)])
async def test_reader_of_some_bytes_is_not_closed(start: Callable[..., Any], piece: int, buffer: int) -> None:
    """The server's kernel takes more of a response in larger steps than such a client reads in ten seconds."""
    front = await start()
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        # The client's kernel reports the bytes that were read in steps of about half its buffer.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", front.port))
        await loop.sock_sendall(connection, LARGE)
        await until_unread(front, 1)
        for _ in range(10 * SECONDS):
            left = piece
            while left:
                part = await loop.sock_recv(connection, left)
                assert part, "the connection was closed"
                left -= len(part)
            front.look()
        assert front.closed("UnreadResponse") == 0
        front.look(CLOSED_AFTER)
        assert front.closed("UnreadResponse") == 1


@asynccontextmanager
async def readers(front: Front, number: int) -> AsyncIterator[list[Client]]:
    """Clients that have requested a large page each, and have not read it."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(front)) for _ in range(number)]
        for client in clients:
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(LARGE)
        await until_unread(front, number)
        yield clients


def unread(front: Front) -> int:
    return sum(connection.unread_bytes() for connection in front.connections._open)


async def test_unread_responses_are_limited_together(start: Callable[..., Any]) -> None:
    front = await start(max_unread_bytes=56 * MEBIBYTE)
    async with readers(front, 6):
        assert 56 * MEBIBYTE < unread(front) <= 112 * MEBIBYTE
        assert front.closed("SlowestReader") == 0  # not known yet whether they read
        front.look(2)
        assert unread(front) <= 56 * MEBIBYTE
        assert 0 < front.closed("SlowestReader") <= 4


async def test_readers_of_pages_beyond_the_limit_are_served_if_they_read(start: Callable[..., Any]) -> None:
    front = await start(max_unread_bytes=56 * MEBIBYTE)
    async with readers(front, 6) as (slow, *reading):
        for client in reading:
            client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        front.look()
        for _ in range(2):
            for client in reading:
                await client.reader.readexactly(2 * MEBIBYTE)
            front.look()
        assert front.closed("SlowestReader") == 1
        slow.reader._transport.resume_reading()  # type: ignore[attr-defined]
        await slow.until_closed()
        for client in reading:
            assert len(await client.reader.readexactly(12 * MEBIBYTE)) == 12 * MEBIBYTE


async def test_slowest_reader_is_closed_at_twice_the_limit_whatever_its_pace(start: Callable[..., Any]) -> None:
    front = await start(max_unread_bytes=30 * MEBIBYTE)
    clients = [connect(front) for _ in range(6)]
    opened = [await client.__aenter__() for client in clients]
    for client in opened:
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(LARGE)
        assert unread(front) <= 60 * MEBIBYTE
    assert front.closed("SlowestReader") >= 1
    for each in clients:
        await each.__aexit__(None, None, None)


async def test_reader_that_reads_is_not_closed_for_those_that_do_not(start: Callable[..., Any]) -> None:
    front = await start(max_unread_bytes=56 * MEBIBYTE)
    async with connect(front) as reading, connect(front) as first, connect(front) as second, connect(front) as third:
        for client in (reading, first, second):
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(LARGE)
        await until_unread(front, 3)
        front.look()
        reading.reader._transport.resume_reading()  # type: ignore[attr-defined]
        await reading.reader.readexactly(8 * MEBIBYTE)
        front.look()
        third.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await third.send(LARGE)
        await third.send(LARGE)
        assert len(await reading.reader.readexactly(8 * MEBIBYTE)) == 8 * MEBIBYTE


async def test_number_of_connections_is_limited(start: Callable[..., Any]) -> None:
    front = await start(max_connections=3)
    async with connect(front) as busy:
        await busy.send(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n")
        async with connect(front) as silent, connect(front) as used, connect(front) as new:
            await silent.until_closed()
            for client in (used, new):
                await client.send(GET)
                assert await client.response() == (200, b"ok")
            async with connect(front) as newest:
                await used.until_closed()
                await newest.send(GET)
                assert await newest.response() == (200, b"ok")
        front.release.set()
        assert await busy.response() == (200, b"done")
    assert front.closed("TooManyConnections") == 2


async def test_number_of_connections_fits_the_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "raise_file_limit", lambda: 1024)
    assert Connections(settings_for(None), Metrics())._max_connections == 1024 - 128
    monkeypatch.setattr(connections, "raise_file_limit", lambda: 1_000_000)
    assert Connections(settings_for(None), Metrics())._max_connections == 8000


def test_limit_of_open_files_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    assert raise_file_limit() == hard
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


@pytest.mark.parametrize("is_cut", [False, True])
async def test_running_request_ends_with_its_connection_although_others_wait(
    start: Callable[..., Any], caplog: pytest.LogCaptureFixture, *, is_cut: bool
) -> None:
    front = await start()
    async with connect(front) as client:
        await client.send(GET.replace(b"/ok", b"/leaves") + GET)
        await until_true(lambda: front.requests == 1)
        if is_cut:
            next(iter(front.connections._open)).cut("SlowRequest")
        else:
            client.writer.transport.abort()
        await until_true(lambda: front.disconnects == 1)
    assert front.closed("RuntimeError") == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_nothing_is_kept_of_connections_that_were_reset(start: Callable[..., Any]) -> None:
    front = await start()
    for _ in range(1000):
        async with connect(front) as client:
            client.writer.write(GET)
            assert await client.response() == (200, b"ok")
            linger = struct.pack("ii", 1, 0)  # the close sends a reset
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async def is_empty() -> bool:
        return not front.connections._open

    await until(is_empty)
    gc.collect()
    assert sum(isinstance(each, GuardedProtocol) for each in gc.get_objects()) == 0


UPGRADE = POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
BODIES = {
    "length": b"Content-Length: %d\r\n\r\n%b" % (len(GET), GET),
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(GET), GET),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("size", [10_000, 1])
async def test_body_of_a_request_with_an_upgrade_is_its_body(start: Callable[..., Any], body: str, size: int) -> None:
    front = await start()
    async with connect(front) as client:
        data = (UPGRADE + BODIES[body]) * 3 + GET
        for begin in range(0, len(data), size):
            await client.send(data[begin : begin + size])
        for _ in range(3):
            assert await client.response() == (200, b"%d" % len(GET))
        assert await client.response() == (200, b"ok")
    assert front.requests == 1


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (UPGRADE + b"Connection: close\r\nContent-Length: 0\r\n\r\n", 200),
        (UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n", 200),
        (UPGRADE.replace(b"h2c", b"websocket") + b"Content-Length: 44\r\n\r\n", 400),
        (b"CONNECT /ok HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ],
)
async def test_nothing_is_parsed_after_the_last_request(start: Callable[..., Any], head: bytes, status: int) -> None:
    front = await start()
    async with connect(front) as client:
        await client.send(head + GET)
        assert (await client.response())[0] == status
        await client.send(GET)
        await client.until_closed()
    assert front.requests == 0


WAIT = b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n"
REJECTED = {
    "no request": (b"\0", 400),
    "header": (b"GET /ok HTTP/1.1\r\na b: c\r\n\r\n", 400),
    "URL": (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
    "large head": (b"GET /ok HTTP/1.1\r\nX: " + b"a" * 66_000, 431),
    "chunk": (CHUNKED + b"x\r\n", 400),
    "large trailer": (CHUNKED + b"1\r\nx\r\n0\r\nX: " + b"a" * 66_000, 431),
}


@pytest.mark.parametrize("kind", REJECTED)
async def test_rejection_takes_its_turn(start: Callable[..., Any], caplog: pytest.LogCaptureFixture, kind: str) -> None:
    front = await start()
    data, status = REJECTED[kind]
    async with connect(front) as client:
        await client.send(WAIT + GET)
        received = front.received
        client.writer.write(data)

        async def has_arrived() -> bool:
            return bool(front.received > received)

        await until(has_arrived)
        front.look(100)
        front.release.set()
        assert await client.response() == (200, b"done")
        assert await client.response() == (200, b"ok")
        rejected, body = await client.response()
        assert (rejected, json.loads(body)["status"]) == (status, status)
        await client.until_closed()
    assert not [record for record in caplog.records if record.exc_info]
    assert front.status_count(status) == 1


@pytest.mark.parametrize("kind", REJECTED)
async def test_rejection_comes_whatever_the_application_does(start: Callable[..., Any], kind: str) -> None:
    front = await start()
    data, status = REJECTED[kind]
    for first in (b"", CHUNKED if data.startswith(CHUNKED) else data[:-1000]):
        async with connect(front) as client:
            await client.send(first)
            client.writer.write(data.removeprefix(first))
            rejected, body = await client.response()
            assert (rejected, json.loads(body)["status"]) == (status, status)
            await client.until_closed()


@pytest.mark.parametrize("kind", ["chunk", "large trailer"])
async def test_response_that_has_begun_ends_before_the_connection(start: Callable[..., Any], kind: str) -> None:
    front = await start()
    head, rest = CHUNKED, REJECTED[kind][0].removeprefix(CHUNKED)
    async with connect(front) as client, connect(front) as complete:
        await client.send(head.replace(b"/body", b"/stream"))
        assert (await client.reader.readuntil(b"first")).startswith(b"HTTP/1.1 200")
        for part in (rest[:-1000], rest[-1000:]):
            await client.send(part)
        front.release.set()
        assert await client.reader.read() == b"\r\n4\r\nlast\r\n0\r\n\r\n"
        await complete.send(head.replace(b"/body", b"/large?size=%d" % MEBIBYTE))
        assert await complete.response() == (200, b"x" * MEBIBYTE)
        for part in (rest[:-1000], rest[-1000:]):
            await complete.send(part)
        await complete.until_closed()


async def test_connection_without_options_has_the_same_limits(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    front = await start()
    monkeypatch.setattr(socket, "TCP_NOTSENT_LOWAT", 9999)
    async with connect(front) as client:
        await client.send(GET)
        assert await client.response() == (200, b"ok")
        front.look(CLOSED_AFTER)
        await client.until_closed()


def test_uvicorn_has_the_names_that_the_protocol_uses() -> None:
    names = {
        *("connection_made", "connection_lost", "data_received", "pause_writing", "resume_writing"),
        *("on_message_begin", "on_body", "on_message_complete", "on_response_complete"),
        *("_should_upgrade", "_unset_keepalive_if_required"),
    }
    base = httptools_impl.HttpToolsProtocol
    assert names <= vars(base).keys()
    config = uvicorn.Config(lambda: None)
    state = uvicorn.server.ServerState()
    made = base(config, state, {}, asyncio.new_event_loop())
    assert {"transport", "flow", "pipeline", "cycle", "headers", "parser", "scope"} <= vars(made).keys()
    made.loop.close()
    made.on_message_begin()
    assert made.url == b""
    assert {"http_version", "state"} <= made.scope.keys()
    assert "_should_upgrade" in base.on_headers_complete.__code__.co_names
    assert {"read_paused", "pause_reading"} <= {*vars(FlowControl(made.transport)), *vars(FlowControl)}
    cycle = httptools_impl.RequestResponseCycle.__init__.__code__.co_names
    used = {"body", "disconnected", "keep_alive", "message_event", "response_started", "response_complete", "scope"}
    assert used <= set(cycle)
