"""The cost of a page of matches depends on the size of the page, not of the table."""

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL

from app.domains.department.lists import DepartmentListQuery
from app.domains.department.service import DepartmentService
from app.domains.shared.query.pages import Position
from app.domains.shared.query.ranking import search_order
from app.domains.shared.reading.documents import documents_of
from tests.plans import filled, nodes

ROWS = 20_000
FILL = f"""
    INSERT INTO departments (name, code, created_at, updated_at)
    SELECT 'Department ' || (n * 7919) % {ROWS}, CASE WHEN n % 3 = 0 THEN 'C-' || n END,
           now() - n * interval '1 minute', now() - (n * 31) % {ROWS} * interval '1 minute'
      FROM generate_series(1, {ROWS}) AS n
"""


@pytest.fixture(scope="module")
async def large(server_url: URL, template: URL) -> AsyncIterator[asyncpg.Connection]:
    """A database with many departments, read-only for these tests."""
    async with filled(server_url, template, FILL, "departments") as connection:
        yield connection


@pytest.mark.parametrize(
    ("q", "key", "sort"),
    [
        ("department", None, None),  # in every name
        ("department", ("2", str(ROWS // 2)), None),
        ("department", None, "-updated_at"),
        ("departmnet", None, None),  # similar to a word of every name
        ("departmnet", None, "-updated_at"),
        ("1234", None, None),  # in few names and codes
        ("123", None, None),
        ("123", ("3", "1000"), None),
        ("123", None, "-updated_at"),
        ("absent", None, None),
        ("absent", None, "-updated_at"),
    ],
)
async def test_search_neither_sorts_nor_scans_the_table(
    large: asyncpg.Connection, q: str, key: tuple[str, str] | None, sort: str | None
) -> None:
    order = search_order(sort, DepartmentListQuery.declaration)
    statement = (
        await documents_of(DepartmentService.collection).page(order, None, "after" if key else "first").prepare()
    )
    values: dict[str, Any] = {"limit": 20, "offset": 0, "filter_q": q}
    arguments = statement.arguments(values | (Position("after", key).arguments() if key else {}))
    explained = json.loads(await large.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}", *arguments))
    visited = 0
    for node in nodes(explained[0]["Plan"]):
        if node["Actual Loops"] == 0:
            continue
        if node.get("Relation Name") == "departments":
            assert node["Node Type"] in {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}, node
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            visited += (rows + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"]
        if node["Node Type"] == "Sort":
            assert node["Actual Rows"] < 1000, node
    # 512 rows belong to the sample.
    assert visited < 2500, visited


async def test_vocabulary_is_searched_once_for_each_word(large: asyncpg.Connection) -> None:
    order = search_order(None, DepartmentListQuery.declaration)
    statement = await documents_of(DepartmentService.collection).page(order).prepare()
    arguments = statement.arguments({"limit": 20, "offset": 0, "filter_q": "departmnet deparment"})
    explained = json.loads(await large.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}", *arguments))
    scans = [node for node in nodes(explained[0]["Plan"]) if node.get("Alias", "").startswith("search_vocabulary")]
    assert sum(node["Actual Loops"] for node in scans) == 2
