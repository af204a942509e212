"""The stop of the service: SIGTERM and the drain, several workers, and the end of the parent process."""

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from sqlalchemy import URL

from app.core.readiness import Readiness
from app.core.server.stopping import prepare_stop
from tests.conftest import LONG_TIMEOUT_APP, text_of
from tests.services import Service, started
from tests.test_cli import servers_of
from tests.waiting import HANG_TIMEOUT, wait_until


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def serve(served_database: URL) -> dict[str, str]:
    """The settings of `serve` on the database of this module."""
    return {"DATABASE_URL": text_of(served_database)}


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_service_drains_at_sigterm_and_stops_at_a_second_signal(
    root: Path, tmp_path: Path, serve: dict[str, str], second: signal.Signals
) -> None:
    settings = serve | {"DRAIN_SECONDS": str(HANG_TIMEOUT)}
    with started(root, tmp_path / "log", *LONG_TIMEOUT_APP, "serve", **settings) as service:
        service.wait_until_ready()
        with httpx.Client(base_url=service.address, timeout=HANG_TIMEOUT) as kept_alive:
            assert "connection" not in kept_alive.get("/health/live").headers
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: service.get("/health/ready").status_code == 503)
            # New connections and connections from before the signal are served, and closed after the response.
            for response in (kept_alive.get("/api/v1"), service.get("/health/live"), service.get("/docs")):
                assert (response.status_code < 500, response.headers["connection"]) == (True, "close")
        assert service.process.poll() is None
        service.process.send_signal(second)
        assert service.exit_status() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_service_stops_when_the_drain_is_over(root: Path, tmp_path: Path, serve: dict[str, str], workers: str) -> None:
    settings = serve | {"DRAIN_SECONDS": "0.2", "WORKERS": workers}
    with started(root, tmp_path / "log", *LONG_TIMEOUT_APP, "serve", **settings) as service:
        wait_until(lambda: service.log.read_text("utf-8").count("startup complete") == int(workers))
        # The workers get the signal twice, from the process group and from their parent.
        service.send_to_group(signal.SIGTERM)
        assert service.exit_status() == 0
        log = service.log.read_text("utf-8")
    assert log.count("draining") == int(workers)
    assert "Traceback" not in log


@pytest.mark.parametrize(("printed", "workers"), [("Initialising", "1"), ("Upgrading", "1"), ("startup complete", "2")])
def test_run_exits_with_0_when_its_process_group_gets_sigterm(
    root: Path, tmp_path: Path, printed: str, workers: str
) -> None:
    data_dir = tmp_path / "data"
    settings = {"DATA_DIR": str(data_dir), "WORKERS": workers, "DEMO_DATA": "false"}
    with started(root, tmp_path / "log", *LONG_TIMEOUT_APP, "run", **settings) as service:
        service.wait_until_printed(printed)
        service.send_to_group(signal.SIGTERM)
        service.send_to_group(signal.SIGTERM)  # make passes the signal on, too
        assert service.exit_status() == 0
        assert servers_of(data_dir) == []
        assert "Traceback" not in service.log.read_text("utf-8")


def test_command_reports_sigterm_in_its_exit_status(root: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    command = (sys.executable, "-m", "app", "create-admin", "second@register.example")
    with started(root, tmp_path / "log", *command, DATA_DIR=str(data_dir)) as service:
        service.wait_until_printed("Initialising")
        service.send_to_group(signal.SIGTERM)
        assert service.exit_status() == 128 + signal.SIGTERM
        assert servers_of(data_dir) == []


@pytest.mark.parametrize("options", [("--reload",), ()])
def test_workers_end_when_their_parent_is_killed(
    root: Path, tmp_path: Path, serve: dict[str, str], options: tuple[str, ...]
) -> None:
    settings = serve | {"WORKERS": "2", "DRAIN_SECONDS": str(HANG_TIMEOUT)}
    with started(root, tmp_path / "log", *LONG_TIMEOUT_APP, "serve", *options, **settings) as service:
        service.wait_until_ready()
        workers = children_of(service.process.pid)
        assert len(workers) >= 2  # the resource tracker of multiprocessing included
        service.process.kill()
        service.exit_status()
        wait_until(lambda: not any(map(is_running, workers)))
        port = httpx.URL(service.address).port
        with socket.create_server(("127.0.0.1", port or 0)):
            pass


@contextmanager
def started_with_broken_pipe(root: Path, tmp_path: Path, **settings: str) -> Iterator[Service]:
    """Run `serve`, whose output goes to a pipe, until the reader of the pipe has ended."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with started(root, pipe, *LONG_TIMEOUT_APP, "serve", LOG_LEVEL="INFO", **settings) as service:
        service.wait_until_ready()
        os.close(reader)
        yield service


@pytest.mark.parametrize("workers", ["1", "2"])
def test_service_whose_log_cannot_be_written_serves_and_stops(
    root: Path, tmp_path: Path, serve: dict[str, str], workers: str
) -> None:
    with started_with_broken_pipe(root, tmp_path, **serve, DRAIN_SECONDS="0.2", WORKERS=workers) as service:
        for path, status in (("/health/live", 200), ("/api/v1/processes", 401), ("/absent", 404)):
            assert service.get(path).status_code == status
        service.process.send_signal(signal.SIGTERM)
        assert service.exit_status() == 0


def test_workers_whose_log_cannot_be_written_end_with_their_parent(
    root: Path, tmp_path: Path, serve: dict[str, str]
) -> None:
    with started_with_broken_pipe(root, tmp_path, **serve, WORKERS="2") as service:
        workers = children_of(service.process.pid)
        service.process.kill()
        service.exit_status()
        wait_until(lambda: not any(map(is_running, workers)))


def test_run_with_workers_starts_again_after_kill_9(root: Path, tmp_path: Path) -> None:
    data_dir, log = tmp_path / "data", tmp_path / "log"
    settings = {"DATA_DIR": str(data_dir), "WORKERS": "2", "DEMO_DATA": "false"}
    with started(root, log, *LONG_TIMEOUT_APP, "run", **settings) as killed:
        killed.wait_until_ready()
        workers = children_of(killed.process.pid)
        killed.process.kill()
        killed.exit_status()
        with started(root, log, *LONG_TIMEOUT_APP, "run", **settings) as again:
            again.wait_until_ready()
            wait_until(lambda: not any(map(is_running, workers)))
            again.process.send_signal(signal.SIGTERM)
            assert again.exit_status() == 0
    assert servers_of(data_dir) == []


@asynccontextmanager
async def prepared(drain_seconds: float) -> AsyncIterator[tuple[Readiness, asyncio.Queue[bool]]]:
    """Prepare a stop in this process; the queue gets the readiness at each call of the server's handler."""
    state, calls = Readiness.__new__(Readiness), asyncio.Queue[bool]()
    state.stopping = False
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: calls.put_nowait(state.stopping)) for number in numbers]
    try:
        prepare_stop(state, drain_seconds)
        yield state, calls
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


async def test_server_is_stopped_after_the_drain_and_not_before() -> None:
    async with prepared(0.01) as (state, calls):
        signal.raise_signal(signal.SIGTERM)
        assert (state.stopping, calls.empty()) == (True, True)
        assert await asyncio.wait_for(calls.get(), HANG_TIMEOUT)


async def test_sigint_stops_the_server_at_once() -> None:
    async with prepared(HANG_TIMEOUT) as (state, calls):
        signal.raise_signal(signal.SIGINT)
        assert (state.stopping, calls.get_nowait()) == (True, True)


@pytest.mark.parametrize(("drain_seconds", "expected"), [(0, 1), (HANG_TIMEOUT, 0)])
async def test_worker_ignores_a_repeated_sigterm(
    monkeypatch: pytest.MonkeyPatch, drain_seconds: float, expected: int
) -> None:
    sentinel, parent = os.pipe()
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(sentinel=sentinel))
    async with prepared(drain_seconds) as (state, calls):
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert (state.stopping, calls.qsize()) == (True, expected)
        # The end of the parent stops the worker during its drain.
        os.close(parent)
        for _ in range(expected + 1):
            assert await asyncio.wait_for(calls.get(), HANG_TIMEOUT)
        await asyncio.sleep(0)
        assert calls.empty()
    os.close(sentinel)
