"""PostgreSQL crashes, goes away and freezes under a writing load."""

from tests.faults.conftest import Size, StartService
from tests.faults.load import WRITERS, writing_load
from tests.faults.postgres import Postgres
from tests.faults.service import Service


def test_no_acknowledged_write_is_lost_when_a_backend_is_killed(size: Size, postgres: Postgres, service: Service) -> None:
    with writing_load(service, postgres) as load:
        for _ in range(size.rounds):
            load.wait_for_writes(size.writes)
            postgres.kill_a_backend()
        load.wait_for_writes(size.writes)
    assert load.refused
    service.wait_until_ready()
    load.verify()


def test_no_acknowledged_write_is_lost_when_postgresql_is_killed(
    size: Size, postgres: Postgres, service: Service
) -> None:
    with writing_load(service, postgres) as load:
        for _ in range(size.rounds):
            load.wait_for_writes(size.writes)
            postgres.kill()
            postgres.start()
        load.wait_for_writes(size.writes)
    service.wait_until_ready()
    load.verify()


def test_service_reconnects_when_postgresql_returns(size: Size, postgres: Postgres, service: Service) -> None:
    with writing_load(service, postgres) as load:
        for _ in range(size.rounds):
            load.wait_for_writes(size.writes)
            postgres.stop()
            load.wait_for_refusals(size.writes)
            service.wait_for_status("/health/ready", 503)
            assert service.status("/health/live") == 200
            postgres.start()
        load.wait_for_writes(size.writes)
    service.wait_until_ready()
    load.verify()
    assert load.outcomes["disconnected"] == 0


def test_frozen_postgresql_is_unavailable_until_it_continues(
    size: Size, postgres: Postgres, start_service: StartService
) -> None:
    service = start_service(postgres, STATEMENT_TIMEOUT="1", CONNECT_TIMEOUT="1", POOL_TIMEOUT="1")
    with writing_load(service, postgres) as load:
        for _ in range(size.rounds):
            load.wait_for_writes(size.writes)
            with postgres.frozen():
                load.wait_for_refusals(WRITERS)
                service.wait_for_status("/health/ready", 503)
                assert service.status("/health/live") == 200
        load.wait_for_writes(size.writes)
    service.wait_until_ready()
    load.verify()
    assert load.outcomes["disconnected"] == 0
