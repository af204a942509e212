"""nginx in front of the service, with the configuration of the documentation."""

import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import URL

from app.utils.exceptions import (
    BadRequest,
    ContentTooLarge,
    HeadersTooLarge,
    OutcomeUnknown,
    RegisterError,
    ServiceUnavailable,
    TooManyRequests,
)
from tests.conftest import LONG_TIMEOUT_APP, text_of
from tests.services import Service, client_of_proxy, free_port, make_certificate, replaced, started
from tests.waiting import HANG_TIMEOUT, wait_until

pytestmark = pytest.mark.skipif(
    not (shutil.which("nginx") and shutil.which("openssl")),
    reason="needs nginx and openssl; `.ci/run` installs both (Debian: apt-get install nginx-light openssl)",
)
MIB = 1024 * 1024
# Clients have another address than the proxy, so that the two can be told apart.
CLIENT = "127.0.0.2"
MAIN = """
{1}
daemon off;
pid {0}/nginx.pid;
error_log {0}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {0}/bodies;
    proxy_temp_path {0}/proxy;
    fastcgi_temp_path {0}/fastcgi;
    scgi_temp_path {0}/scgi;
    uwsgi_temp_path {0}/uwsgi;
    include {0}/register.conf;
}}
"""


@pytest.fixture(scope="module")
def service(root: Path, served_database: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A replica that trusts the proxy."""
    log = tmp_path_factory.mktemp("service") / "log"
    settings = {"DATABASE_URL": text_of(served_database), "FORWARDED_ALLOW_IPS": "127.0.0.1"}
    with started(root, log, *LONG_TIMEOUT_APP, "serve", **settings) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture(scope="module")
def proxy(root: Path, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The TLS port of an nginx in front of the replica and of a second one, which is down."""
    with started_nginx(root, tmp_path_factory.mktemp("nginx"), service.address) as port:
        yield port


@contextmanager
def started_nginx(root: Path, directory: Path, address: str) -> Iterator[int]:
    """Run nginx with the configuration of the documentation and shorter time limits; yield its TLS port."""
    port = free_port()
    make_certificate(directory)
    # The directories of pytest are closed to the user of nginx.
    user = "user root;" if os.geteuid() == 0 else ""
    changes = {
        "127.0.0.1:8000": f"127.0.0.1:{httpx.URL(address).port}",
        "127.0.0.1:8001": f"127.0.0.1:{free_port()}",
        "listen 80 ": f"listen 127.0.0.1:{free_port()} ",
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "/etc/nginx/register.pem": f"{directory}/register.pem",
        "/etc/nginx/register.key": f"{directory}/register.key",
        "client_header_timeout 10s": "client_header_timeout 1s",
        "client_body_timeout 10s": "client_body_timeout 1s",
    }
    (directory / "register.conf").write_text(replaced(root / "docs/proxy/nginx.conf", changes))
    (directory / "nginx.conf").write_text(MAIN.format(directory, user))
    command = ["nginx", "-p", str(directory), "-e", f"{directory}/error.log", "-c", f"{directory}/nginx.conf"]
    checked = subprocess.run([*command, "-t", "-q"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    with subprocess.Popen(command) as nginx:
        try:
            wait_until(lambda: nginx.poll() is not None or can_connect(port))
            assert nginx.poll() is None
            yield port
        finally:
            nginx.terminate()


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def connect(port: int) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", port), HANG_TIMEOUT, source_address=(CLIENT, 0))
    return context.wrap_socket(plain)


@pytest.fixture
def client(proxy: int) -> Iterator[httpx.Client]:
    with client_of_proxy(proxy, CLIENT) as client:
        yield client


def logged_client(service: Service, path: str) -> list[str]:
    """Return the client addresses of the logged requests for a path."""
    wait_until(lambda: path in service.log.read_text("utf-8"))
    lines = [line for line in service.log.read_text("utf-8").splitlines() if f"path={path} " in line]
    return [word.removeprefix("client=") for line in lines for word in line.split() if word.startswith("client=")]


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-Forwarded-For": "203.0.113.9"}, {"X-Forwarded-For": "203.0.113.9, 127.0.0.1"}, {"X-Real-IP": "1.1.1.1"}],
)
def test_service_sees_the_address_of_the_client_and_no_forged_one(
    client: httpx.Client, service: Service, headers: dict[str, str]
) -> None:
    path = f"/unknown/{uuid4().hex}"
    assert client.get(path, headers=headers).status_code == 404
    assert logged_client(service, path) == [CLIENT]


def test_scheme_cannot_be_forged_either(client: httpx.Client) -> None:
    response = client.get("/health/live", headers={"X-Forwarded-Proto": "http"})
    assert "strict-transport-security" in response.headers


def test_largest_body_passes_and_larger_ones_are_rejected(client: httpx.Client) -> None:
    item = json.dumps({"items": [{"op": "create", "data": {"name": "Behind a proxy"}}]}).encode()
    for size, status in ((16 * MIB, 200), (16 * MIB + 1, 413), (18 * MIB, 413)):
        response = client.post(
            "/api/v1/departments/bulk",
            content=item.ljust(size),
            headers={"Content-Type": "application/json"},
        )
        assert response.status_code == status, response.text
    assert_problem(response, ContentTooLarge, "/api/v1/departments/bulk")


def assert_problem(response: httpx.Response, error: type[RegisterError], path: str) -> None:
    """Check that a response of nginx is a problem document like those of the service."""
    problem = response.json()
    assert (response.status_code, response.headers["content-type"]) == (error.status, "application/problem+json")
    assert (problem["type"], problem["title"]) == (f"/problems/{error.name}", error.title)
    assert (problem["status"], problem["code"]) == (error.status, error.code)
    assert (problem["instance"], problem["errors"], len(problem["request_id"])) == (path, [], 32)
    assert problem["detail"]
    assert ("retry-after" in response.headers) == (error.status in {429, 503})


def exchange(port: int, data: bytes) -> tuple[int, bytes]:
    """Send raw bytes, and return the status and the rest of what the proxy sends until it closes the connection."""
    with connect(port) as connection:
        connection.sendall(data)
        received = read_all(connection)
    return int(received.split()[1]) if received else 0, received


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"GET /" + b"x" * 33_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", HeadersTooLarge),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 33_000 + b"\r\n\r\n", HeadersTooLarge),
        (b"GET / HTTP/1.1\r\n\r\n", BadRequest),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", BadRequest),
        (b"GET /%0 HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest),
    ],
)
def test_malformed_request_gets_a_problem_document(proxy: int, head: bytes, error: type[RegisterError]) -> None:
    status, received = exchange(proxy, head)
    assert (status, b"application/problem+json" in received) == (error.status, True)
    problem = json.loads(received.partition(b"\r\n\r\n")[2])
    assert (problem["code"], problem["type"], problem["title"]) == (error.code, f"/problems/{error.name}", error.title)


def test_path_in_a_problem_document_cannot_break_its_json(proxy: int) -> None:
    status, received = exchange(proxy, b'POST /a"b\\c?d=" HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n')
    assert (status, json.loads(received.partition(b"\r\n\r\n")[2])["instance"]) == (413, "/a")


@pytest.mark.parametrize("data", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_unfinished_head_is_closed(proxy: int, data: bytes) -> None:
    assert exchange(proxy, data) == (0, b"")


def test_unfinished_body_is_closed_and_reaches_no_replica(proxy: int, service: Service) -> None:
    head = b"POST /api/v1/unfinished HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
    assert exchange(proxy, head + b"{") == (0, b"")
    assert "/api/v1/unfinished" not in service.log.read_text("utf-8")


def test_upgrade_is_not_passed_on(client: httpx.Client) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"}
    assert client.get("/health/live", headers=headers).json() == {"status": "ok"}


def test_connections_of_an_address_are_limited(root: Path, tmp_path: Path) -> None:
    with ExitStack() as held:
        silent = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        port = held.enter_context(started_nginx(root, tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}"))
        for _ in range(50):
            held.enter_context(connect(port)).sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client = held.enter_context(client_of_proxy(port, CLIENT))
        assert_problem(client.get("/health/live"), TooManyRequests, "/health/live")


@pytest.mark.parametrize(
    ("method", "error"), [("GET", ServiceUnavailable), ("POST", OutcomeUnknown), ("DELETE", OutcomeUnknown)]
)
def test_missing_replicas_give_documented_errors(
    root: Path, tmp_path: Path, method: str, error: type[RegisterError]
) -> None:
    with (
        started_nginx(root, tmp_path, f"http://127.0.0.1:{free_port()}") as port,
        client_of_proxy(port, CLIENT) as client,
    ):
        assert_problem(client.request(method, "/api/v1/departments"), error, "/api/v1/departments")


def read_all(connection: ssl.SSLSocket) -> bytes:
    """Read until the server closes the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except (ConnectionResetError, ssl.SSLEOFError):
        pass
    return b"".join(parts)
