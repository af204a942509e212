"""The cost of a page of matches depends on the size of the page, not of the table."""

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL

from app.domains.department.lists import DepartmentListQuery
from app.domains.department.service import DepartmentService
from app.domains.role.lists import RoleListQuery
from app.domains.role.service import RoleService
from app.domains.shared.query.pages import Position
from app.domains.shared.query.ranking import search_order
from app.domains.shared.query.search import MAX_CANDIDATES, MAX_COMPARED, SAMPLE_ROWS
from app.domains.shared.reading.documents import documents_of
from tests.catalogue import COLLECTIONS
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
    values: dict[str, Any] = {"limit": 20, "offset": 0, "filter_q": q, "readable": COLLECTIONS}
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
    arguments = statement.arguments(
        {"limit": 20, "offset": 0, "filter_q": "departmnet deparment", "readable": COLLECTIONS}
    )
    explained = json.loads(await large.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}", *arguments))
    scans = [node for node in nodes(explained[0]["Plan"]) if node.get("Alias", "").startswith("search_vocabulary")]
    assert sum(node["Actual Loops"] for node in scans) == 2


LETTERS = "translate(n::text, '0123456789', 'abcdefghij')"
# Each is many words of which the index finds every one for `procurement`.
FLOODS = {
    "similar": f"'procuremen' || {LETTERS}",
    "similar at the end": f"{LETTERS} || 'procurement'",
    "longer, so not similar": f"repeat('klmnopqrstuv', 2) || 'procurement' || {LETTERS}",
    "equal in many collections": "'procuremant'",
}
# Ordinary words, and more of one flood. Without an object, the vocabulary is not searched.
FLOOD = """
    INSERT INTO departments (name) VALUES ('Other');
    INSERT INTO search_vocabulary (collection, word)
    SELECT 'departments', 'warehouse' || translate(n::text, '0123456789', 'qrstuvwxyz')
      FROM generate_series(1, {ordinary}) AS n;
    INSERT INTO search_vocabulary (collection, word)
    SELECT 'departments', {flood} FROM generate_series(100000, 99999 + {size}) AS n;
"""


async def words_read(connection: asyncpg.Connection, q: str) -> int:
    """Return the number of rows of the vocabulary that a search reads."""
    order = search_order(None, DepartmentListQuery.declaration)
    statement = await documents_of(DepartmentService.collection).page(order).prepare()
    arguments = statement.arguments({"limit": 20, "offset": 0, "filter_q": q, "readable": COLLECTIONS})
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    explained = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}", *arguments))
    read = 0
    for node in nodes(explained[0]["Plan"]):
        if node.get("Relation Name") == "search_vocabulary" and node["Actual Loops"]:
            assert node["Node Type"] != "Seq Scan", node
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            read += (rows + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"]
    assert read > 0
    return round(read)


@pytest.mark.parametrize("flood", FLOODS)
async def test_number_of_compared_words_does_not_grow_with_the_vocabulary(
    server_url: URL, template: URL, flood: str
) -> None:
    fill = FLOOD.format(ordinary=5_000, flood=FLOODS[flood], size=30_000)
    async with filled(server_url, template, fill, "search_vocabulary") as connection:
        for q in ("procurement", "procuremnt", "procurement procuremnt procurment procuremetn"):
            assert await words_read(connection, q) <= MAX_COMPARED + SAMPLE_ROWS + len(q.split())
        # The index serves words that few others are similar to.
        assert await words_read(connection, "maintenance") <= SAMPLE_ROWS + 100
        assert await words_read(connection, "zzzz") <= SAMPLE_ROWS + 100


# Statements after the flood, which make a sample by ids miss it, or the table larger than its rows.
LAYOUTS = {
    "gap in the ids": "SELECT setval(pg_get_serial_sequence('search_vocabulary', 'id'), 10000000);"
    "INSERT INTO search_vocabulary (collection, word) VALUES ('departments', 'last')",
    "many gaps": "SELECT setval(pg_get_serial_sequence('search_vocabulary', 'id'), 10000000);"
    "INSERT INTO search_vocabulary (collection, word) VALUES ('departments', 'later');"
    "SELECT setval(pg_get_serial_sequence('search_vocabulary', 'id'), 10000000000);"
    "INSERT INTO search_vocabulary (collection, word) VALUES ('departments', 'last')",
    "deleted words": "DELETE FROM search_vocabulary WHERE id % 3 > 0",
}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_number_of_compared_words_does_not_depend_on_ids(server_url: URL, template: URL, layout: str) -> None:
    fill = FLOOD.format(ordinary=5_000, flood=FLOODS["longer, so not similar"], size=60_000) + LAYOUTS[layout]
    async with filled(server_url, template, fill, "search_vocabulary") as connection:
        for q in ("procurement", SIXTEEN_WORDS):
            assert await words_read(connection, q) <= MAX_COMPARED + SAMPLE_ROWS + len(q.split())
        assert await words_read(connection, "maintenance") <= SAMPLE_ROWS + 100


SIXTEEN_WORDS = " ".join(f"procuremne{letter}" for letter in "abcdefghijklmnop")


@pytest.mark.parametrize("size", [1_000, 8_000])
async def test_words_of_a_search_share_the_limit_in_a_small_vocabulary(
    server_url: URL, template: URL, size: int
) -> None:
    fill = FLOOD.format(ordinary=1_000, flood=FLOODS["longer, so not similar"], size=size)
    async with filled(server_url, template, fill, "search_vocabulary") as connection:
        # Some words are looked up in the index, and the others are compared with the oldest words.
        assert await words_read(connection, SIXTEEN_WORDS) <= 2 * MAX_COMPARED + SAMPLE_ROWS


@pytest.mark.parametrize("words", [0, 1, 30])
async def test_similar_words_are_found_in_a_vocabulary_of_any_size(server_url: URL, template: URL, words: int) -> None:
    fill = FLOOD.format(ordinary=words, flood=FLOODS["similar"], size=0)
    fill += "INSERT INTO departments (name) VALUES ('Procurement')"
    async with filled(server_url, template, fill, "search_vocabulary") as connection:
        order = search_order(None, DepartmentListQuery.declaration)
        statement = await documents_of(DepartmentService.collection).page(order).prepare()
        arguments = statement.arguments({"limit": 20, "offset": 0, "filter_q": "procuremetn", "readable": COLLECTIONS})
        assert b"Procurement" in (await connection.fetchrow(statement.sql, *arguments))["items"]


async def test_index_gives_a_thousand_candidates(server_url: URL, template: URL) -> None:
    # A small part of the vocabulary, which the sample does not find frequent.
    fill = FLOOD.format(ordinary=60_000, flood=FLOODS["similar"], size=2_000)
    async with filled(server_url, template, fill, "search_vocabulary") as connection:
        assert await words_read(connection, "procurement") <= MAX_CANDIDATES + SAMPLE_ROWS + 1


async def test_oldest_similar_words_are_found_in_a_flood(server_url: URL, template: URL) -> None:
    made = "INSERT INTO departments (name) VALUES ('Procurement');"
    fill = made + FLOOD.format(ordinary=5_000, flood=FLOODS["similar"], size=30_000)
    async with filled(server_url, template, fill, "search_vocabulary") as connection:
        order = search_order(None, DepartmentListQuery.declaration)
        statement = await documents_of(DepartmentService.collection).page(order).prepare()
        arguments = statement.arguments({"limit": 20, "offset": 0, "filter_q": "procuremetn", "readable": COLLECTIONS})
        row = await connection.fetchrow(statement.sql, *arguments)
        assert b"Procurement" in row["items"]


# Words of departments, which hide the role from a search that compares its word with them.
WORDS = "INSERT INTO search_vocabulary (collection, word) SELECT '{}', {} FROM generate_series(100000, {}) AS n;"
UNREADABLE = {
    "estimated": WORDS.format("departments", FLOODS["similar"], 130_000)
    + WORDS.format("roles", f"'warehouse' || {LETTERS}", 112_000)
    + "INSERT INTO roles (name) VALUES ('Procurement')",
    "older": WORDS.format("departments", f"'warehouse' || {LETTERS}", 112_000)
    + "INSERT INTO roles (name) VALUES ('Procurement');"
    + WORDS.format("roles", FLOODS["longer, so not similar"], 130_000),
}


@pytest.mark.parametrize("words", UNREADABLE)
async def test_number_of_unreadable_words_changes_no_search(server_url: URL, template: URL, words: str) -> None:
    async with filled(server_url, template, UNREADABLE[words], "search_vocabulary") as connection:
        order = search_order(None, RoleListQuery.declaration)
        statement = await documents_of(RoleService.collection).page(order).prepare()
        for readable, is_found in ((["roles"], True), (COLLECTIONS, False)):
            values = {"limit": 20, "offset": 0, "filter_q": "procuremetn", "readable": readable}
            row = await connection.fetchrow(statement.sql, *statement.arguments(values))
            assert (b"Procurement" in row["items"]) is is_found
