"""The servers of the tests of faults, in two sizes."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import LONG_TIMEOUT_ENV
from tests.faults.postgres import DURABLE, WITHOUT_FSYNC, Postgres
from tests.faults.service import Service


@dataclass(frozen=True)
class Size:
    """The settings of PostgreSQL, the number of faults, and that of acknowledged writes between two of them."""

    postgres: Mapping[str, str]
    rounds: int
    writes: int


SMALL = Size(WITHOUT_FSYNC, rounds=1, writes=40)
LONG = Size(DURABLE, rounds=5, writes=300)


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


@contextmanager
def serving(postgres: Postgres, **settings: str) -> Iterator[Service]:
    """Run a service during the block, with the time limits of tests except those in the settings."""
    with directory_of_a_server() as directory:
        service = Service(postgres, directory / "service.log", **LONG_TIMEOUT_ENV | settings)
        try:
            service.start()
            yield service
        finally:
            service.end()


@pytest.fixture(scope="package")
def service(postgres: Postgres) -> Iterator[Service]:
    """A service that each test starts again if it has stopped it."""
    with serving(postgres, LOCK_TIMEOUT="1") as service:
        yield service
