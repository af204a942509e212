"""The disk of PostgreSQL is full under a writing load."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.conftest import Size, directory_of_a_server, running, serving
from tests.faults.load import writing_load
from tests.faults.postgres import Postgres
from tests.faults.service import Service

DISK_BYTES = 256 * 2**20


@contextmanager
def small_disk() -> Iterator[Path]:
    """A directory with a file system of its own in memory."""
    with directory_of_a_server() as directory:
        options = f"size={DISK_BYTES},mode=0700"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], capture_output=True, text=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip(f"cannot mount a file system: {mounted.stderr.strip()}")
        try:
            yield directory
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Leave no room on a disk during the block."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))
    try:
        yield
    finally:
        ballast.unlink()


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    with small_disk() as directory:
        yield directory


@pytest.fixture(scope="module")
def postgres(disk: Path, size: Size) -> Iterator[Postgres]:
    """A server on the small disk."""
    with running(Postgres(disk, size.postgres)) as server:
        yield server


@pytest.fixture(scope="module")
def service(postgres: Postgres) -> Iterator[Service]:
    with serving(postgres) as service:
        yield service


def test_full_disk_makes_writes_unavailable_until_there_is_room(
    size: Size, disk: Path, postgres: Postgres, service: Service
) -> None:
    with writing_load(service, postgres) as load:
        for _ in load.rounds(size):
            with full(disk), service.client() as reader:
                load.wait_for_refusals(size.writes)
                assert reader.get("/processes").status_code == 200
                service.wait_until_ready()
    load.verify()
    assert load.outcomes.keys() == {"acknowledged", "service_unavailable"}


def test_no_acknowledged_write_is_lost_when_the_log_of_postgresql_is_full(
    size: Size, disk: Path, postgres: Postgres, service: Service
) -> None:
    """PostgreSQL stops itself if its log (WAL) cannot grow. It must be started again once there is room."""
    with writing_load(service, postgres) as load:
        for _ in load.rounds(size):
            with full(disk):
                postgres.fill_the_log()
                service.wait_for_status("/health/ready", 503)
                assert service.status("/health/live") == 200
            postgres.start()
    service.wait_until_ready()
    load.verify()
    assert load.outcomes["disconnected"] == 0
