"""Every order that is offered is read from an index: a page costs what it shows, not what the table holds."""

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from app.domains.department.service import DepartmentService
from app.domains.shared.lists import SORTS
from tests.conftest import Committed

ROWS = 20_000
FILL = f"""
    INSERT INTO departments (name, code, created_at, updated_at)
    SELECT 'Department ' || (n * 7919) % {ROWS}, CASE WHEN n % 3 = 0 THEN 'C-' || n END,
           now() - n * interval '1 minute', now() - (n * 31) % {ROWS} * interval '1 minute'
      FROM generate_series(1, {ROWS}) AS n
"""


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


@pytest.fixture
async def large(committed: Committed) -> Any:
    url = committed.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(url)
    await connection.execute(FILL)
    await connection.execute("ANALYZE departments")
    yield connection
    await connection.close()


async def test_no_page_sorts_or_scans_the_table(large: asyncpg.Connection) -> None:
    for name in SORTS:
        for sort in (name, f"-{name}"):
            statement = DepartmentService.documents.page(sort)
            arguments = statement.arguments({"limit": 50, "offset": 0})
            explained = json.loads(await large.fetchval(f"EXPLAIN (FORMAT JSON) {statement.sql}", *arguments))
            (page,) = (node for node in nodes(explained[0]["Plan"]) if node.get("Subplan Name") == "CTE page")
            kinds = {node["Node Type"] for node in nodes(page)}
            assert kinds <= {"Limit", "Index Scan"}, (sort, kinds)
