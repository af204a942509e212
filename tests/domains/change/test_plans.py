"""A page of changes looks at a number of rows that does not depend on how many changes there are or match."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import asyncpg
import pytest
from sqlalchemy import URL

from app.core.prepared import FastStatement
from app.domains.change.service import READ_SCOPES
from app.domains.collections import COLLECTIONS
from app.domains.department.models import Department
from app.domains.shared.query.orders import Start
from app.domains.shared.reading.documents import by_code, by_id
from app.domains.shared.reading.history_pages import WINDOW, _page
from app.domains.shared.reading.history_rows import excluded_members
from app.domains.shared.reading.history_selection import ChangeFilters, ObjectOfChanges
from tests.plans import filled, nodes

ROWS = 100_000
# The last hour has 60 rows. Roles and links were changed only long ago, and all their changes are of `parent`. One
# actor, one collection, one action, one code and one member have a single change each.
FILL = f"""
    TRUNCATE changes RESTART IDENTITY;
    INSERT INTO changes (at, actor_id, actor_name, type, object_id, object_code, object_name, action, before, after)
    SELECT now() - ({ROWS} - n) * interval '1 minute', CASE WHEN n = 7 THEN 999 ELSE 100 + n % 20 END, 'Actor',
           CASE WHEN n = 8 THEN 'api_tokens' WHEN n <= 5000 THEN 'roles'
                ELSE (ARRAY['processes', 'departments', 'locations', 'users'])[1 + n % 4] END,
           n / 10, CASE WHEN n = 11 THEN 'Rare' WHEN n % 2 = 0 THEN 'Common' ELSE 'C' || n END, 'Something',
           CASE WHEN n = 9 THEN 'deleted' WHEN n <= 2500 THEN 'linked' WHEN n % 3 = 0 THEN 'created' ELSE 'updated' END,
           CASE WHEN n = 10 THEN '{{"description": "Something"}}'::jsonb END,
           CASE WHEN n <= 5000 THEN '{{"parent": null}}'::jsonb ELSE '{{"name": "Something", "kind": "x"}}' END
      FROM generate_series(1, {ROWS}) AS n
"""
NOW = datetime.now(UTC)
TYPES = tuple(READ_SCOPES)
READABLE_BY_VIEWERS = tuple(name for name in TYPES if name not in {"users", "api_tokens"})
# Most lists look at one page of each type and action.
MAX_ROWS_READ = 4000


@pytest.fixture(scope="module")
async def large(server_url: URL, template: URL) -> AsyncIterator[asyncpg.Connection]:
    async with filled(server_url, template, FILL, "changes") as connection:
        yield connection


def listing(*types: str, **filters: Any) -> tuple[ChangeFilters, int]:
    return ChangeFilters(types or TYPES, by_type=bool(types), **filters), MAX_ROWS_READ


def with_member(*types: str, **filters: Any) -> tuple[ChangeFilters, int]:
    return listing(*types, **filters)[0], WINDOW + MAX_ROWS_READ


HOUR, DAY = NOW - timedelta(hours=1), NOW - timedelta(days=1)
LISTS: dict[str, tuple[ChangeFilters, int]] = {
    "all": listing(),
    "all without users and tokens": listing(*READABLE_BY_VIEWERS),
    "of an object": listing("roles", object_id=200),
    "of an object with an action": listing("roles", object_id=200, actions=["linked"]),
    "of an actor": listing(actor_id=110),
    "of an actor with one change": listing(actor_id=999),
    "of an unknown actor": listing(actor_id=12345),
    "of an actor with a rare action": listing(actor_id=109, actions=["deleted"]),
    "of an actor with an action of long ago": listing(actor_id=110, actions=["linked"]),
    "of a collection": listing("processes"),
    "of a collection of long ago": listing("roles"),
    "of a collection with one change": listing("api_tokens"),
    "of a collection without changes": listing("resources"),
    "with a frequent action": listing(actions=["updated"]),
    "with an action of long ago": listing(actions=["linked"]),
    "with a rare action": listing(actions=["deleted"]),
    "with an action that never occurs": listing(actions=["unlinked"]),
    "with two actions": listing(actions=["deleted", "created", "created"]),
    "of a collection with an action": listing("users", actions=["created"]),
    "of a collection without such an action": listing("users", actions=["linked"]),
    "of a collection by an actor": listing("processes", actor_id=112),
    "of a collection of long ago by an actor": listing("roles", actor_id=112),
    "of a code": listing(code="common"),
    "of a rare code": listing(code="RARE"),
    "of an unknown code": listing(code="never"),
    "of a code since an hour ago": listing(code="common", since=HOUR),
    "since long ago": listing(since=NOW - timedelta(days=30)),
    "since an hour ago": listing(since=HOUR),
    "since tomorrow": listing(since=NOW + timedelta(days=1)),
    "of an actor since an hour ago": listing(actor_id=110, since=HOUR),
    "of a collection since an hour ago": listing("processes", since=HOUR),
    "with an action since a day ago": listing(actions=["linked", "updated"], since=DAY),
    "before an id": listing("users", before_id=60_000),
    "with a frequent member": with_member(members=["name"]),
    "with a rare member": with_member(members=["description"]),
    "with a member that never occurs": with_member(members=["password"]),
    "with two members": with_member(members=["description", "kind"]),
    "with a frequent member of another collection": with_member("roles", members=["name"]),
    "with a member of a collection without changes": with_member("resources", members=["name"]),
    "with a frequent member and a rare action": with_member(actions=["deleted"], members=["name", "parent"]),
    "with a member since an hour ago": with_member(members=["name"], since=HOUR),
    "with a member of an actor with one change": with_member(actor_id=999, members=["parent"]),
    "with a member and a rare code": with_member(code="rare", members=["parent"]),
    "with a member before an id": with_member(members=["name"], before_id=60_000),
}
# Callers without any scope see the fewest members.
EXCLUDED = excluded_members((entry.collection for entry in COLLECTIONS), frozenset())
UPDATED = listing("departments", actions=["updated"])[0]
# By name: the statement, its arguments, and the maximum number of rows at which it looks.
STATEMENTS: dict[str, tuple[FastStatement, dict[str, Any], int]] = {
    **{
        f"{name}, {start}": (
            _page(filters.selection(), start, EXCLUDED),
            filters.arguments() | {"key_0": "50000"},
            limit,
        )
        for name, (filters, limit) in LISTS.items()
        for start in get_args(Start)
    },
    **{
        f"history by {name}": (
            _page(UPDATED.selection(ObjectOfChanges(Department, condition)), "first", EXCLUDED),
            UPDATED.arguments() | {"key": key},
            MAX_ROWS_READ,
        )
        for name, condition, key in (("id", by_id, 2000), ("code", by_code, "FIN-01"))
    },
}


def literal(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return f"'{{{','.join(value)}}}'" if isinstance(value, list) else f"'{value}'"


async def explain(
    connection: asyncpg.Connection, statement: FastStatement, values: dict[str, Any], mode: str
) -> list[dict[str, Any]]:
    """Return the nodes of the plan that were executed."""
    prepared = await statement.prepare()
    arguments = prepared.arguments({"limit": 50, "offset": 0} | values)
    await connection.execute(f"SET plan_cache_mode = {mode}")
    await connection.execute(f"PREPARE page AS {prepared.sql}")
    try:
        executed = f"EXECUTE page ({', '.join(map(literal, arguments))})"
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {executed}")
    finally:
        await connection.execute("DEALLOCATE page")
    return [node for node in nodes(json.loads(explained)[0]["Plan"]) if node["Actual Loops"]]


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", STATEMENTS)
async def test_page_of_changes_is_read_from_an_index(large: asyncpg.Connection, name: str, mode: str) -> None:
    statement, values, max_rows = STATEMENTS[name]
    plan = await explain(large, statement, values, mode)
    reads = [node for node in plan if node.get("Relation Name") == "changes"]
    assert {node["Node Type"] for node in reads} <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}
    removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    looked_at = [
        (node["Actual Rows"] + sum(node.get(each, 0) for each in removed)) * node["Actual Loops"] for node in reads
    ]
    assert sum(looked_at) <= max_rows


@pytest.mark.parametrize("name", LISTS)
async def test_page_has_the_newest_changes_that_match(large: asyncpg.Connection, name: str) -> None:
    filters, _ = LISTS[name]
    await assert_same_as_a_plain_query(large, filters, 50_000)


async def assert_same_as_a_plain_query(connection: asyncpg.Connection, filters: ChangeFilters, position: int) -> None:
    expected = await connection.fetch(
        """
        SELECT id FROM changes
         WHERE type = ANY ($1) AND ($2::text[] IS NULL OR action = ANY ($2))
           AND ($3::text[] IS NULL OR before ?| $3 OR after ?| $3)
           AND ($4::text IS NULL OR lower(object_code) = lower($4))
           AND ($5::bigint IS NULL OR actor_id = $5) AND ($6::bigint IS NULL OR object_id = $6)
           AND ($7::timestamptz IS NULL OR at >= $7) AND ($8::bigint IS NULL OR id < $8)
         ORDER BY id DESC
        """,
        *(filters.types, filters.actions, filters.members, filters.code),
        *(filters.actor_id, filters.object_id, filters.since, filters.before_id),
    )
    ids_of: dict[Start, list[int]] = {
        "first": [row["id"] for row in expected],
        "after": [row["id"] for row in expected if row["id"] < position],
        "before": [row["id"] for row in reversed(expected) if row["id"] > position],
    }
    for start, ids in ids_of.items():
        statement = await _page(filters.selection(), start, EXCLUDED).prepare()
        arguments = {"limit": 50, "offset": 3, "key_0": str(position)} | filters.arguments()
        row = await connection.fetchrow(statement.sql, *statement.arguments(arguments))
        page = ids[3:53]
        assert row is not None
        assert [item["id"] for item in json.loads(row["items"])] == (page[::-1] if start == "before" else page)
        assert row["rows"] == min(51, max(0, len(ids) - 3))


# Three days with a change an hour, then eight changes of a clock that is 20 days ahead, then 25 days with a change an
# hour after it was set back, one change of a clock that is a year behind, and another day.
SET_BACK = """
    TRUNCATE changes RESTART IDENTITY;
    INSERT INTO changes (at, actor_id, type, object_id, object_code, object_name, action, after)
    SELECT now() + CASE WHEN n BETWEEN 73 AND 80 THEN interval '20 days' WHEN n = 680 THEN interval '-1 year'
                        ELSE n * interval '1 hour' - interval '3 days' END,
           n % 3, (ARRAY['roles', 'users'])[1 + n % 2], n, 'C', 'Something',
           (ARRAY['created', 'updated'])[1 + n / 2 % 2], '{"name": "Something"}'
      FROM generate_series(1, 704) AS n
"""


@pytest.fixture(scope="module")
async def set_back(server_url: URL, template: URL) -> AsyncIterator[asyncpg.Connection]:
    async with filled(server_url, template, SET_BACK, "changes") as connection:
        yield connection


@pytest.mark.parametrize("days", [-400, -2, 0.1, 1, 5, 10.5, 19.99, 20.5, 24, 30])
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"actor_id": 1},
        {"types": ("roles",), "by_type": True},
        {"actions": ["created"]},
        {"members": ["name"]},
        {"code": "c"},
        {"before_id": 600},
    ],
    ids=str,
)
async def test_no_change_is_missing_after_the_clock_was_set_back(
    set_back: asyncpg.Connection, days: float, filters: dict[str, Any]
) -> None:
    chosen = replace(ChangeFilters(TYPES, by_type=False, since=NOW + timedelta(days=days)), **filters)
    for position in (70, 77, 400):
        await assert_same_as_a_plain_query(set_back, chosen, position)
