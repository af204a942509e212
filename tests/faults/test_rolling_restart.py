"""Rolling restarts of two replicas behind HAProxy, with the configuration of the documentation."""

import asyncio
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import httpx
import pytest
from sqlalchemy import URL

from tests.conftest import LONG_TIMEOUT_APP, connected, text_of
from tests.services import Service, client_of_proxy, free_port, make_certificate, replaced, started
from tests.waiting import wait_until

pytestmark = pytest.mark.faults
REPLICAS = ("replica1", "replica2")
RESTARTS = 6


@contextmanager
def haproxy(root: Path, directory: Path, replicas: dict[str, int]) -> Iterator[int]:
    """Run HAProxy with the configuration of the documentation; yield its TLS port."""
    assert shutil.which("haproxy"), "HAProxy is missing. Install it (Debian and Ubuntu: apt-get install haproxy)."
    port = free_port()
    make_certificate(directory)
    pem = directory / "both.pem"
    pem.write_bytes((directory / "register.pem").read_bytes() + (directory / "register.key").read_bytes())
    changes = {
        "maxconn 8000": f"maxconn 1000\n    stats socket {directory}/control",
        "bind :443": f"bind 127.0.0.1:{port}",
        "/etc/haproxy/register.pem": str(pem),
        "replica1 127.0.0.1:8000": f"replica1 127.0.0.1:{replicas['replica1']}",
        "replica2 127.0.0.1:8001": f"replica2 127.0.0.1:{replicas['replica2']}",
    }
    configuration = directory / "haproxy.cfg"
    configuration.write_text(replaced(root / "docs/proxy/haproxy.cfg", changes))
    subprocess.run(["haproxy", "-c", "-q", "-f", configuration], check=True)
    with subprocess.Popen(["haproxy", "-db", "-q", "-f", configuration]) as process:
        try:
            yield port
        finally:
            process.kill()


def is_up(directory: Path, replica: str) -> bool:
    """Return whether HAProxy sends requests to a replica."""
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(f"{directory}/control")
            control.sendall(b"show stat\n")
            with control.makefile() as lines:
                rows = [line.split(",") for line in lines]
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return any(row[:2] == ["register", replica] and row[17] == "UP" for row in rows)


class Load:
    """Clients that read and write until the end of the context; `outcomes` counts statuses and kinds of failures."""

    def __init__(self, port: int, writers: int, readers: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.codes: list[str] = []
        self._port = port
        self._ended = threading.Event()
        works = [self._write] * writers + [self._read] * readers
        self._threads = [threading.Thread(target=self._run, args=(work, n)) for n, work in enumerate(works)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[httpx.Client, str], httpx.Response], number: int) -> None:
        with client_of_proxy(self._port) as client:
            done = 0
            while not self._ended.is_set():
                done += 1
                try:
                    response = work(client, f"T{number}-{done}")
                except httpx.HTTPError as error:
                    self.outcomes[repr(error)] += 1
                else:
                    self.outcomes[f"{response.request.method} {response.status_code}"] += 1

    def _write(self, client: httpx.Client, code: str) -> httpx.Response:
        response = client.post("/api/v1/roles", json={"code": code, "name": code})
        if response.status_code == 201:
            self.codes.append(code)
        return response

    def _read(self, client: httpx.Client, _code: str) -> httpx.Response:
        return client.get("/api/v1/roles?limit=5")


async def test_rolling_restart_fails_no_request(root: Path, tmp_path: Path, served_database: URL) -> None:
    settings = {"DATABASE_URL": text_of(served_database), "FORWARDED_ALLOW_IPS": "127.0.0.1", "DRAIN_SECONDS": "2"}
    ports = {replica: free_port() for replica in REPLICAS}
    with ExitStack() as stack:

        def start(replica: str) -> Service:
            variables = settings | {"PORT": str(ports[replica]), "LOG_LEVEL": "WARNING"}
            service = stack.enter_context(started(root, tmp_path / "log", *LONG_TIMEOUT_APP, "serve", **variables))
            service.wait_until_ready()
            return service

        def restart(replica: str) -> None:
            services[replica].process.send_signal(signal.SIGTERM)
            assert services[replica].exit_status() == 0
            services[replica] = start(replica)
            wait_until(lambda: is_up(tmp_path, replica))

        services = {replica: start(replica) for replica in REPLICAS}
        port = stack.enter_context(haproxy(root, tmp_path, ports))
        wait_until(lambda: all(is_up(tmp_path, replica) for replica in REPLICAS))
        with Load(port, writers=2, readers=2) as load:
            for number in range(RESTARTS):
                await asyncio.to_thread(restart, REPLICAS[number % len(REPLICAS)])
    assert load.outcomes.keys() == {"POST 201", "GET 200"}, load.outcomes
    async with connected(served_database) as connection:
        kept = await connection.fetchval("SELECT count(*) FROM roles WHERE code = ANY($1)", load.codes)
    assert kept == len(load.codes)
