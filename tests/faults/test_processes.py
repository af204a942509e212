"""Processes of the service are killed and stopped under a writing load."""

from collections.abc import Iterator

import pytest

from tests.faults.conftest import Size, serving
from tests.faults.load import writing_load
from tests.faults.postgres import Postgres
from tests.faults.service import Service


@pytest.fixture(scope="module")
def workers(postgres: Postgres) -> Iterator[Service]:
    with serving(postgres, WORKERS="2") as service:
        yield service


def test_no_acknowledged_write_is_lost_when_the_service_is_killed(
    size: Size, postgres: Postgres, service: Service
) -> None:
    with writing_load(service, postgres) as load:
        for _ in load.rounds(size):
            service.kill_group()
            service.start()
    load.verify()


def test_no_acknowledged_write_is_lost_when_the_service_is_stopped(
    size: Size, postgres: Postgres, service: Service
) -> None:
    with writing_load(service, postgres) as load:
        for _ in load.rounds(size):
            assert service.stop() == 0
            service.start()
    load.verify()


def test_killed_worker_is_replaced(size: Size, postgres: Postgres, workers: Service) -> None:
    with writing_load(workers, postgres) as load:
        for _ in load.rounds(size):
            workers.kill_a_worker()
    load.verify()


def test_workers_end_with_their_parent(size: Size, postgres: Postgres, workers: Service) -> None:
    with writing_load(workers, postgres) as load:
        for _ in load.rounds(size):
            workers.kill_parent()
            workers.start()
    load.verify()
