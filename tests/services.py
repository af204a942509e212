"""Real processes of the service, and proxies in front of them."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.conftest import ADMIN_TOKEN, COMMAND_ENV, LONG_TIMEOUT_ENV
from tests.waiting import HANG_TIMEOUT, wait_until, wait_until_ready

OWN = {"DATABASE_URL", "HOST", "PORT", "ENV", "WORKERS", "DRAIN_SECONDS"}
SURROUNDINGS = {name: value for name, value in COMMAND_ENV.items() if name not in OWN} | LONG_TIMEOUT_ENV


@dataclass(frozen=True)
class Service:
    """A command of the service in a process group of its own."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    def wait_until_ready(self) -> None:
        wait_until_ready(self.address, self.process.poll)

    def wait_until_printed(self, text: str) -> None:
        def is_printed() -> bool:
            assert self.process.poll() is None
            return text in self.log.read_text("utf-8")

        wait_until(is_printed)

    def get(self, path: str) -> httpx.Response:
        """Send a request over a new connection."""
        return httpx.get(f"{self.address}{path}", timeout=HANG_TIMEOUT)

    def send_to_group(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def exit_status(self) -> int:
        return self.process.wait(HANG_TIMEOUT)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@contextmanager
def started(root: Path, log: Path, *command: str, **variables: str) -> Iterator[Service]:
    """Run a command of the service on a free port, or that of `PORT`; its group is killed at the end."""
    port = variables.get("PORT", str(free_port()))
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=SURROUNDINGS | variables | {"PORT": port},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Service(process, f"http://127.0.0.1:{port}", log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(HANG_TIMEOUT)


def replaced(file: Path, changes: dict[str, str]) -> str:
    """Return the text of a configuration file of the documentation, with values of this machine."""
    text = file.read_text("utf-8")
    for old, new in changes.items():
        assert old in text, f"{file.name} does not contain {old!r}"
        text = text.replace(old, new)
    return text


def make_certificate(directory: Path) -> None:
    """Write a self-signed certificate, `register.pem`, and its key, `register.key`."""
    key, certificate = directory / "register.key", directory / "register.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", "/CN=register.example", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)


def client_of_proxy(port: int, address: str = "127.0.0.1") -> httpx.Client:
    """Return an administrator's client, with this address, of a proxy with a certificate of `make_certificate`."""
    return httpx.Client(
        transport=httpx.HTTPTransport(verify=False, local_address=address),
        base_url=f"https://127.0.0.1:{port}",
        headers={"Authorization": f"Bearer {ADMIN_TOKEN}", "Host": "register.example"},
        timeout=HANG_TIMEOUT,
    )
