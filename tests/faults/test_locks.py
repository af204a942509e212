"""Another session holds locks, for example during maintenance, under a writing load."""

from tests.faults.conftest import Size
from tests.faults.load import writing_load
from tests.faults.postgres import Postgres
from tests.faults.service import Service

# More than the connections of the pool.
WRITERS = 20


def test_locked_tables_are_read_and_the_service_stays_ready(size: Size, postgres: Postgres, service: Service) -> None:
    with writing_load(service, postgres) as load:
        for _ in load.rounds(size):
            with postgres.lock_held("LOCK TABLE processes, departments IN EXCLUSIVE MODE"), service.client() as reader:
                for _ in range(size.writes):
                    assert reader.get("/processes").status_code == 200
                load.wait_for_refusals(4)
                service.wait_until_ready()
    load.verify()
    assert load.outcomes.keys() == {"acknowledged", "database_busy"}


def test_service_with_an_exhausted_pool_stays_ready(size: Size, postgres: Postgres, service: Service) -> None:
    with writing_load(service, postgres, WRITERS) as load:
        for _ in load.rounds(size):
            with postgres.lock_held("LOCK TABLE processes, departments IN EXCLUSIVE MODE"):
                load.wait_for_refusals(WRITERS)
                service.wait_until_ready()
                assert service.status("/health/live") == 200
    load.verify()
    assert load.outcomes.keys() <= {"acknowledged", "database_busy", "caller_busy"}
