"""PostgreSQL crashes, goes away and freezes under a writing load."""

from collections.abc import Iterator

import pytest

from tests.faults.conftest import Size, serving
from tests.faults.load import WRITERS, writing_load
from tests.faults.postgres import Postgres
from tests.faults.service import Service


@pytest.fixture(scope="module")
def impatient_service(postgres: Postgres) -> Iterator[Service]:
    with serving(postgres, STATEMENT_TIMEOUT="1", CONNECT_TIMEOUT="1", POOL_TIMEOUT="1") as service:
        yield service


def test_no_acknowledged_write_is_lost_when_a_backend_is_killed(
    size: Size, postgres: Postgres, service: Service
) -> None:
    with writing_load(service, postgres) as load:
        for _ in load.rounds(size):
            postgres.kill_a_backend()
    assert load.refused
    service.wait_until_ready()
    load.verify()


def test_no_acknowledged_write_is_lost_when_postgresql_is_killed(
    size: Size, postgres: Postgres, service: Service
) -> None:
    with writing_load(service, postgres) as load:
        for _ in load.rounds(size):
            postgres.kill()
            postgres.start()
    service.wait_until_ready()
    load.verify()


def test_service_reconnects_when_postgresql_returns(size: Size, postgres: Postgres, service: Service) -> None:
    with writing_load(service, postgres) as load:
        for _ in load.rounds(size):
            postgres.stop()
            load.wait_for_refusals(size.writes)
            service.wait_for_status("/health/ready", 503)
            assert service.status("/health/live") == 200
            postgres.start()
    service.wait_until_ready()
    load.verify()
    assert load.outcomes["disconnected"] == 0


def test_frozen_postgresql_is_unavailable_until_it_continues(
    size: Size, postgres: Postgres, impatient_service: Service
) -> None:
    service = impatient_service
    with writing_load(service, postgres) as load:
        for _ in load.rounds(size):
            with postgres.frozen():
                service.wait_for_status("/health/ready", 503)
                assert service.status("/health/live") == 200
                load.wait_for_refusals(WRITERS)
    service.wait_until_ready()
    load.verify()
    assert load.outcomes["disconnected"] == 0
