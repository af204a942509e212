"""Slow, silent, endless and unread clients of a real service, as the kernel and the memory of the process show them."""

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.conftest import ADMIN_TOKEN
from tests.faults.conftest import LONG, Size, serving
from tests.faults.postgres import Postgres
from tests.faults.service import Service
from tests.waiting import HANG_TIMEOUT, wait_until

MEBIBYTE = 1024 * 1024
HOST = b"Host: register.test\r\n"
AUTHORIZED = HOST + b"Authorization: Bearer " + ADMIN_TOKEN.encode() + b"\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"
JSON = b"Content-Type: application/json\r\n"
POST = b"POST /api/v1/departments HTTP/1.1\r\n" + AUTHORIZED + JSON
BULK = b"POST /api/v1/departments/bulk HTTP/1.1\r\n" + AUTHORIZED + JSON
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
# Pages of 4 and 8.7 MB.
PAGE = b"GET /api/v1/departments?limit=50&sort=-id HTTP/1.1\r\n" + AUTHORIZED + b"\r\n"
LARGE_PAGE = PAGE.replace(b"limit=50", b"limit=109")


@pytest.fixture(scope="module")
def stall_seconds(size: Size) -> int:
    return 10 if size is LONG else 2


@pytest.fixture(scope="module")
def front(postgres: Postgres, stall_seconds: int) -> Iterator[Service]:
    """A service with the limits of clients of the default settings, or shorter ones, and large pages."""
    stall = str(stall_seconds)
    with serving(postgres, REQUEST_STALL_SECONDS=stall, EXPORT_STALL_SECONDS=stall, LOG_LEVEL="ERROR") as service:
        with service.client() as client:
            bodies = [{"name": f"D {number}", "description": "𝄞" * 20_000} for number in range(120)]
            for start in range(0, 120, 20):
                items = {"items": [{"op": "create", "data": body} for body in bodies[start : start + 20]]}
                response = client.post("/departments/bulk", json=items)
                assert response.is_success, response.text
            assert len(client.get("/departments?limit=50&sort=-id").content) > 4_000_000
            assert len(client.get("/departments?limit=109&sort=-id").content) > 8_700_000
        yield service


def connect(service: Service, *parts: bytes) -> socket.socket:
    host, port = service.address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=HANG_TIMEOUT)
    for part in parts:
        connection.sendall(part)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Return whether the peer has closed the connection. Reads the responses so far."""
    try:
        while select.select([connection], [], [], 0)[0]:
            if not connection.recv(MEBIBYTE):
                return True
    except ConnectionError:
        return True
    return False


def memory(service: Service) -> int:
    """Return the resident memory of the service in bytes."""
    assert service.process is not None
    pages = int(Path(f"/proc/{service.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def assert_others_are_served(service: Service) -> None:
    assert service.status("/health/live") == 200


SLOW = {
    "nothing": (b"", b""),
    "first byte": (b"G", b""),
    "head": (b"GET /health/live HTTP/1.1\r\nX-Drip: ", b"a"),
    "line ends": (LIVE, b"\r\n"),
    "body that stops": (POST + b"Content-Length: 100000\r\n\r\n" + b" " * 50_000, b""),
    "body": (POST + b"Content-Length: 100000\r\n\r\n", b" "),
    "body after much of it": (BULK + b"Content-Length: 16000000\r\n\r\n" + b" " * 1_000_000, b" "),
    "chunk extension": (CHUNKED + b"1;", b"e"),
    "trailers": (CHUNKED + b"1\r\n \r\n0\r\nT: ", b"t"),
    "half a request after another": (LIVE + POST + b"Content-Length: 100\r\n\r\n{", b""),
    "body after a rejection": (
        b"POST /api/v1/departments HTTP/1.1\r\n" + HOST + b"Content-Length: 99999\r\n\r\n",
        b" ",
    ),
}


def test_slow_clients_are_disconnected(front: Service) -> None:
    with ExitStack() as stack:
        open_ones = {kind: stack.enter_context(connect(front, first)) for kind, (first, _) in SLOW.items()}

        def all_are_closed() -> bool:
            for kind, connection in tuple(open_ones.items()):
                with suppress(ConnectionError):
                    connection.sendall(SLOW[kind][1])
                if is_closed(connection):
                    del open_ones[kind]
            return not open_ones

        wait_until(all_are_closed, pause=0.5)
    assert_others_are_served(front)


ENDLESS = {
    "request line": (b"GET /", b"a" * 10_000),
    "header": (b"GET / HTTP/1.1\r\nX-Long: ", b"a" * 10_000),
    "headers": (b"GET / HTTP/1.1\r\n", b"a:b\r\n" * 2_000),
    "trailers": (CHUNKED + b"0\r\n", b"a:b\r\n" * 2_000),
    "chunk extension": (CHUNKED + b"1;", b"e" * 10_000),
    "chunks of one byte": (CHUNKED, b"1\r\n \r\n" * 2_000),
    "requests": (b"", PAGE * 100),
    "body": (CHUNKED, b"2710\r\n" + b" " * 10_000 + b"\r\n"),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_endless_client_is_disconnected_early(front: Service, kind: str) -> None:
    first, more = ENDLESS[kind]
    before = memory(front)
    sent = 0
    with connect(front, first) as connection, suppress(ConnectionError):
        # The bytes that a client can send include the buffers of the kernel, which are small with this option.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        while sent < 200 * MEBIBYTE:
            connection.sendall(more)
            sent += len(more)
            if kind == "requests":
                is_closed(connection)
    assert_others_are_served(front)
    # The server reads 17 MiB of a body.
    assert sent < (17 + 5 if kind == "body" else 5) * MEBIBYTE
    assert memory(front) - before < 20 * MEBIBYTE


def test_unfinished_bodies_take_little_memory(front: Service) -> None:
    before = memory(front)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(front, BULK + b"Content-Length: 16000000\r\n\r\n")) for _ in range(40)]
        peak = before
        for _ in range(15):
            for client in clients:
                with suppress(ConnectionError):
                    client.sendall(b" " * MEBIBYTE)
            peak = max(peak, memory(front))
        assert_others_are_served(front)
        assert max(peak, memory(front)) - before < 100 * MEBIBYTE


def test_unread_responses_take_little_memory_and_are_closed(front: Service) -> None:
    before = memory(front)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(front, PAGE)) for _ in range(100)]
        for client in clients:
            assert select.select([client], [], [], HANG_TIMEOUT)[0]
        assert_others_are_served(front)
        assert memory(front) - before < 100 * MEBIBYTE
        port = int(front.address.rpartition(":")[2])
        wait_until(lambda: not established(port, {client.getsockname()[1] for client in clients}), pause=0.5)


def established(port: int, clients: set[int]) -> set[int]:
    """Return those ports of clients whose connection to the port is still open on the side of the server."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = [(int(row[1].split(":")[1], 16), int(row[2].split(":")[1], 16)) for row in rows if row[3] == "01"]
    return {remote for local, remote in ends if local == port and remote in clients}


def test_silent_connections_leave_room_for_others(front: Service) -> None:
    with ExitStack() as stack:
        for _ in range(1_100):
            stack.enter_context(connect(front))
        for _ in range(150):
            with connect(front, LIVE) as client:
                assert client.recv(64).startswith(b"HTTP/1.1 200")


def test_honest_slow_clients_are_served(size: Size, front: Service, stall_seconds: int) -> None:
    """A body of 1 KB a second, a slowly read page, pipelined requests, and a connection that is used again later."""
    seconds = 25 if size is LONG else stall_seconds + 3
    body = b'{"name": "slow"' + b" " * 1024 * seconds + b"}"
    with (
        connect(front, POST + b"Content-Length: %d\r\n\r\n" % len(body)) as writing,
        connect(front, LIVE) as idle,
        connect(front, LIVE * 30) as pipelining,
        httpx.Client(base_url=front.address, timeout=HANG_TIMEOUT) as client,
    ):
        slow = threading.Thread(target=read_slowly, args=(front, 20 if size is LONG else 4))
        slow.start()
        for start in range(0, len(body), 1024):
            writing.sendall(body[start : start + 1024])
            time.sleep(1)
        assert writing.recv(64).startswith(b"HTTP/1.1 201")
        responses = b""
        while responses.count(b"HTTP/1.1 200") < 30:
            responses += pipelining.recv(MEBIBYTE)
        idle.recv(MEBIBYTE)
        idle.sendall(LIVE)
        assert idle.recv(64).startswith(b"HTTP/1.1 200")
        assert client.get("/health/live").status_code == 200
        slow.join()


def read_slowly(service: Service, seconds: int) -> None:
    """Read a page in so many seconds."""
    with connect(service) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        connection.sendall(LARGE_PAGE)
        read = connection.recv(MEBIBYTE)
        length = int(read.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        total, piece = len(read), length // (seconds * 10) + 1
        while total < length:
            chunk = connection.recv(piece)
            assert chunk, "the connection was closed"
            total += len(chunk)
            time.sleep(0.1 * len(chunk) / piece)


def test_half_a_body_is_read_to_its_end_when_the_service_stops(size: Size, front: Service) -> None:
    assert front.process is not None
    with connect(front, POST + b'Content-Length: 15\r\n\r\n{"name":') as connection:
        assert_others_are_served(front)
        front.process.terminate()
        wait_until(lambda: not accepts(front))
        connection.sendall(b' "SIG"}')
        assert connection.recv(64).startswith(b"HTTP/1.1 201")
    assert front.process.wait(2 if size is LONG else HANG_TIMEOUT) == 0
    front.start()


def accepts(service: Service) -> bool:
    try:
        with connect(service):
            return True
    except ConnectionRefusedError:
        return False
