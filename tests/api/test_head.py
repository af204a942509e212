"""HEAD over a real connection: the next bytes after a response must be the next response."""

import http.client
from urllib.parse import urlsplit

import pytest

from tests.conftest import ADMIN_TOKEN
from tests.waiting import HANG_TIMEOUT


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/api/v1/processes?limit=2", "application/json", 200),
        ("/api/v1/processes/1", "application/json", 200),
        ("/api/v1/processes", "text/csv", 200),
        ("/api/v1/processes", "application/x-ndjson", 200),
        ("/api/v1/processes/999999", "application/json", 404),
        ("/api/v1/processes?limit=0", "application/json", 422),
        ("/nowhere", "application/json", 404),
        ("/health/live", "application/json", 200),
        ("/docs", "text/html", 200),
    ],
)
def test_head_has_the_headers_of_get_and_leaves_the_connection_usable(
    live_server: str, path: str, accept: str, status: int
) -> None:
    address = urlsplit(live_server)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=HANG_TIMEOUT)
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Accept": accept}
    connection.request("HEAD", path, headers=headers)
    head = connection.getresponse()
    assert (head.status, head.read()) == (status, b"")
    socket = connection.sock
    connection.request("GET", path, headers=headers)
    got = connection.getresponse()
    body = got.read()
    assert got.status == status
    assert body
    assert connection.sock is socket  # it was not reopened
    assert head.getheader("Content-Type") == got.getheader("Content-Type")
    if got.getheader("Content-Length"):
        assert head.getheader("Content-Length") == got.getheader("Content-Length") == str(len(body))
    connection.close()
