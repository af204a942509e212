"""The service as real processes, which tests kill and start again."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx

from tests.conftest import ADMIN_TOKEN, COMMAND_ENV
from tests.faults.postgres import Postgres
from tests.faults.processes import Process, processes
from tests.waiting import HANG_TIMEOUT, wait_until, wait_until_ready

ROOT = Path(__file__).parents[2]


class Service:
    """`python -m app serve` on one port, in a process group of its own."""

    def __init__(self, postgres: Postgres, log: Path, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._log = log
        self._environment = {
            "ENV": "test",
            "DATABASE_URL": postgres.url.render_as_string(hide_password=False),
            "PORT": str(port),
            "LOG_LEVEL": "WARNING",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the service, and return once it is ready."""
        with self._log.open("ab") as log:
            process = self.process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve"],
                cwd=ROOT,
                env=COMMAND_ENV | self._environment,
                stderr=log,
                start_new_session=True,
            )
        wait_until_ready(self.address, process.poll)

    def stop(self) -> int:
        """Stop the service with SIGTERM, and return its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(HANG_TIMEOUT)

    def kill_group(self) -> None:
        """Kill all processes of the service with SIGKILL."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(HANG_TIMEOUT)

    def kill_parent(self) -> None:
        """Kill only the main process with SIGKILL, and return once its workers have ended."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(HANG_TIMEOUT)
        wait_until(lambda: not self._group())

    def kill_a_worker(self) -> None:
        """Kill one of the worker processes with SIGKILL, and return once another one has replaced it."""
        before = self._workers()
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: len(self._workers() - {min(before)}) == len(before))

    def _workers(self) -> set[int]:
        return {process.pid for process in self._group() if "spawn_main" in process.command}

    def _group(self) -> list[Process]:
        assert self.process is not None
        return [process for process in processes() if process.group == self.process.pid]

    def client(self, token: str = ADMIN_TOKEN) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"{self.address}/api/v1", headers=headers, timeout=HANG_TIMEOUT)

    def status(self, path: str) -> int:
        """Return the status of a GET request on a new connection."""
        return httpx.get(f"{self.address}{path}", timeout=HANG_TIMEOUT).status_code

    def wait_for_status(self, path: str, status: int) -> None:
        """Return once a path responds with the status."""
        wait_until(lambda: self.status(path) == status, pause=0.1)

    def wait_until_ready(self) -> None:
        """Return once the service is ready again, without a restart."""
        self.wait_for_status("/health/ready", 200)

    def tracebacks(self) -> list[str]:
        """Return the lines of the log that belong to unexpected errors."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [line for line in lines if "Traceback" in line or "request failed" in line]

    def end(self) -> None:
        """End all processes of the service, if any are left."""
        with suppress(ProcessLookupError):
            self.kill_group()
