"""The servers of the tests of faults, in two sizes."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.postgres import DURABLE, WITHOUT_FSYNC, Postgres
from tests.faults.service import Service

# Starts the service with settings.
StartService = Callable[..., Service]


@dataclass(frozen=True)
class Size:
    """The settings of PostgreSQL, the number of faults, and that of acknowledged writes between two of them."""

    postgres: Mapping[str, str]
    rounds: int
    writes: int


SMALL = Size(WITHOUT_FSYNC, rounds=1, writes=40)
LONG = Size(DURABLE, rounds=8, writes=400)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sys.platform != "linux":
        for item in items:
            if "tests/faults/" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="finds processes in /proc"))


@pytest.fixture(
    scope="package",
    params=[pytest.param(SMALL, id="small"), pytest.param(LONG, id="long", marks=pytest.mark.faults)],
)
def size(request: pytest.FixtureRequest) -> Size:
    chosen: Size = request.param
    return chosen


@contextmanager
def directory_of_a_server() -> Iterator[Path]:
    """A new directory, whose path is short enough for a socket: the address then stays the same after each start."""
    directory = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def running(postgres: Postgres) -> Iterator[Postgres]:
    """Run a new server with a register during the block."""
    postgres.start()
    try:
        postgres.initialise()
        yield postgres
    finally:
        postgres.stop()


@pytest.fixture(scope="package")
def postgres(size: Size) -> Iterator[Postgres]:
    """A server that each test repairs after its faults."""
    with directory_of_a_server() as directory, running(Postgres(directory, size.postgres)) as server:
        yield server


@pytest.fixture
def start_service(root: Path, tmp_path: Path) -> Iterator[StartService]:
    """Starts services, and ends them after the test."""
    started: list[Service] = []

    def start(postgres: Postgres, **settings: str) -> Service:
        service = Service(root, postgres, tmp_path / "service.log", **settings)
        started.append(service)
        service.start()
        return service

    yield start
    for service in started:
        service.end()


@pytest.fixture
def service(start_service: StartService, postgres: Postgres) -> Service:
    return start_service(postgres)
