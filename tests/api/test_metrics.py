"""The metrics at `/metrics`."""

from typing import Any

import httpx
import pytest
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families

from app.domains.department.service import DepartmentService
from tests.api.conftest import Server
from tests.builders import make_department
from tests.conftest import Committed, borrowed
from tests.utils.conftest import configured_log
from tests.waiting import wait_until

URL = "http://register.test/metrics"
ONE = "/api/v1/departments/{reference}"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(client: httpx.AsyncClient) -> Samples:
    """Return every sample by its name and labels."""
    text = (await client.get(URL)).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


async def test_metrics_are_in_the_format_of_prometheus(committed: Committed) -> None:
    await make_department(committed.client)
    response = await committed.client.get(URL)
    assert (response.status_code, response.headers["content-type"]) == (200, CONTENT_TYPE_LATEST)
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert {name: families[name].type for name in families if not name.startswith(("python_", "process_"))} == {
        "http_requests": "counter",
        "http_requests_created": "gauge",
        "http_request_duration_seconds": "histogram",
        "http_request_duration_seconds_created": "gauge",
        "http_requests_in_progress": "gauge",
        "register_errors": "counter",
        "event_loop_lag_seconds": "gauge",
        "db_pool_size": "gauge",
        "db_pool_checked_out": "gauge",
        "db_pool_idle": "gauge",
    }
    assert {"process_resident_memory_bytes", "process_cpu_seconds", "python_info"} <= families.keys()
    assert all(family.documentation for family in families.values())


async def test_requests_are_counted_by_route_template(committed: Committed) -> None:
    made = await make_department(committed.client)
    for reference in (made["id"], f"{made['id']}/", "0", "code:absent", "x"):
        await committed.client.get(f"/departments/{reference}")
    await committed.client.get(f"/departments/{made['id']}/tree?depth=-1")
    samples = await scrape(committed.client)
    assert value(samples, "http_requests_total", method="GET", route=ONE, status="200") == 2
    assert value(samples, "http_requests_total", method="GET", route=ONE, status="404") == 3
    assert value(samples, "http_requests_total", method="POST", route="/api/v1/departments", status="201") == 1
    assert value(samples, "http_requests_total", method="GET", route=f"{ONE}/tree", status="422") == 1
    assert value(samples, "http_request_duration_seconds_count", method="GET", route=ONE) == 5
    assert value(samples, "http_request_duration_seconds_bucket", method="GET", route=ONE, le="+Inf") == 5
    assert value(samples, "http_request_duration_seconds_sum", method="GET", route=ONE) > 0


async def test_unknown_routes_and_methods_share_one_label(committed: Committed) -> None:
    await committed.client.get("/nothing/0")
    await committed.client.request("BREW0", "/departments")
    await scrape(committed.client)
    before = (await scrape(committed.client)).keys()
    for number in range(1, 30):
        await committed.client.get(f"/nothing/{number}")
        await committed.client.request(f"BREW{number}", "/departments")
    samples = await scrape(committed.client)
    assert samples.keys() == before
    assert value(samples, "http_requests_total", method="GET", route="(unmatched)", status="404") == 30
    assert value(samples, "http_requests_total", method="(other)", route="/api/v1/departments", status="405") == 30


async def test_metrics_match_the_pool(committed: Committed) -> None:
    async def pool() -> tuple[float, float, float]:
        samples = await scrape(committed.client)
        return (
            value(samples, "db_pool_size"),
            value(samples, "db_pool_checked_out"),
            value(samples, "db_pool_idle"),
        )

    assert await pool() == (10, 0, 0)
    database = committed.app.state.database
    async with borrowed(database), borrowed(database):
        assert await pool() == (10, 2, 0)
    assert await pool() == (10, 0, 2)


async def test_errors_are_counted_by_class(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    client = committed.client

    async def fail(*_args: Any) -> Any:
        raise LookupError

    monkeypatch.setattr(DepartmentService, "page", fail)
    await make_department(client, code="T-1")
    with configured_log():
        for _ in range(2):
            await client.get("/departments")
            await client.get("/departments/0")
            await client.get("/nothing")
            await client.post("/departments", json={"name": "D", "code": "t-1"})
            await client.post("/departments", json={"name": "D", "parent_id": 2**62})
            await client.post("/departments", json={})
    samples = await scrape(client)
    errors = {
        dict(labels)["error"]: count for (name, labels), count in samples.items() if name == "register_errors_total"
    }
    assert errors == {"LookupError": 2, "NotFound": 4, "Duplicate": 2, "UnknownReference": 2, "InvalidContent": 2}
    assert value(samples, "http_requests_total", method="GET", route="/api/v1/departments", status="500") == 2
    # The scrape itself is in progress, and no other request.
    assert value(samples, "http_requests_in_progress") == 1


async def test_applications_do_not_share_their_metrics(committed: Committed, client: httpx.AsyncClient) -> None:
    await client.get("/departments/0")
    samples = await scrape(committed.client)
    assert not [name for name, _ in samples if name == "http_requests_total"]


def test_running_server_measures_the_lag_of_its_event_loop(server: Server) -> None:
    lag = server.app.state.metrics.event_loop_lag
    lag.set(-1.0)
    wait_until(lambda: lag._value.get() >= 0)
