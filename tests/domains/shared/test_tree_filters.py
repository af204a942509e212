"""The filters by the place in a tree, compared with a model in Python, and the rows that they read."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import pytest
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domains.department.lists import DepartmentListQuery
from app.domains.shared.models import table_of
from app.models import Department
from tests.builders import make, make_department, make_process
from tests.catalogue import LISTS, TREES, every_collection, every_tree
from tests.conftest import Committed, Statements
from tests.domains.shared.properties import draw_examples
from tests.domains.shared.test_tree_limits import (
    BINARY,
    FLAT,
    SIZES,
    add_chain,
    empty,
    every_shape,
    every_state,
    explain,
    fill,
    rows_read,
)
from tests.plans import nodes
from tests.test_contract import CALLER

__all__ = ["empty"]

NODES = 7
Parents = tuple[int | None, ...]
# The parent of each node, by number: also cycles, as old ones, and nodes below them.
graphs = st.tuples(*(st.sampled_from([None, *(set(range(NODES)) - {node})]) for node in range(NODES)))


def level_of(node: int, parents: Parents) -> int | None:
    seen = {node}
    level, parent = 1, parents[node]
    while parent is not None:
        if parent in seen:
            return None
        seen.add(parent)
        level, parent = level + 1, parents[parent]
    return level


def literals(arguments: dict[str, Any]) -> dict[str, str]:
    """Return the arguments of a statement as SQL."""
    return {
        name: f"CAST('{{{','.join(map(str, value))}}}' AS bigint[])" if isinstance(value, list) else str(value)
        for name, value in arguments.items()
    }


async def page(client: httpx.AsyncClient, address: str) -> list[int]:
    """Return the ids of a list, whose `total` is right."""
    response = await client.get(f"{address}&count=exact")
    assert response.status_code == 200, response.text
    document = response.json()
    ids = [item["id"] for item in document["items"]]
    assert document["total"] == len(ids)
    return ids


def queries() -> Iterator[tuple[str, set[int], set[int], bool | None]]:
    """Yield queries with the levels that they include and exclude, and the value of `has_children`."""
    for included in ({1}, {2}, {1, 3}, {7}, set(range(1, NODES + 1)), {2**63 - 1}, set[int]()):
        for excluded in ({1}, {2, 4}, {1, 2}, set[int]()):
            for has_children in (len(excluded) < 2, None):
                parts = [f"level={level}" for level in included] + [f"level__not={level}" for level in excluded]
                parts += [] if has_children is None else [f"has_children={str(has_children).lower()}"]
                yield "&".join(parts), included, excluded, has_children


@every_tree
@pytest.mark.parametrize("parents", draw_examples(graphs, 3))
async def test_filters_equal_the_model(
    client: httpx.AsyncClient, connection: AsyncConnection, collection: str, parents: Parents
) -> None:
    ids = [(await make(client, collection))["id"] for _ in range(NODES)]
    for node, parent in enumerate(parents):
        values = {"id": ids[node], "parent": None if parent is None else ids[parent]}
        await connection.execute(text(f"UPDATE {collection} SET parent_id = :parent WHERE id = :id"), values)
    for query, included, excluded, has_children in queries():
        expected = [
            ids[node]
            for node in range(NODES)
            if not included or level_of(node, parents) in included
            if level_of(node, parents) not in excluded
            if has_children in {None, node in parents}
        ]
        assert await page(client, f"/{collection}?{query}") == expected, query


@every_tree
async def test_every_kind_of_list_has_the_filters(
    client: httpx.AsyncClient, statements: Statements, collection: str
) -> None:
    root = await make(client, collection, name="Kettle")
    inner = await make(client, collection, name="Kettle", parent_id=root["id"])
    leaf = await make(client, collection, name="Kettle", parent_id=inner["id"])
    for query, expected in (
        ("level=1&level=3", [root, leaf]),
        ("level__not=2", [root, leaf]),
        ("has_children=true&level=2", [inner]),
        (f"level=3&within={inner['id']}&parent_id={inner['id']}", [leaf]),
        (f"level=1&within={inner['id']}", []),
        (f"level=1&level=2&level=9&within={root['id']}", [root, inner]),
        (f"level__not=3&within={inner['id']}", [inner]),
        (f"level=2&id={root['id']}", []),
    ):
        ids = [each["id"] for each in expected]
        for address in (
            f"/{collection}?{query}",
            f"/{collection}?{query}&q=kettle",
            f"/{collection}?{query}&sort=-name",
        ):
            with statements.counted() as seen:
                assert sorted(await page(client, address)) == ids, address
            assert len(seen) == 2 + CALLER
        counted = (await client.get(f"/{collection}/stats?group_by=parent&{query}")).json()
        assert counted["total"] == len(ids)


@every_tree
async def test_exports_have_the_filters(committed: Committed, collection: str) -> None:
    root = await make(committed.client, collection)
    await make(committed.client, collection, parent_id=root["id"])
    for query, lines in (("level=2&has_children=false", 1), ("level=1&level__not=1", 0)):
        address = f"/{collection}?{query}&within={root['id']}"
        response = await committed.client.get(address, headers={"Accept": "application/x-ndjson"})
        assert response.text.count("\n") == lines


async def test_lists_below_a_path_have_the_filters(client: httpx.AsyncClient) -> None:
    department = await make_department(client)
    root = await make_process(client, department_ids=[department["id"]])
    await make_process(client, parent_id=root["id"])
    below = await make_process(client, parent_id=root["id"], department_ids=[department["id"]])
    address = f"/departments/{department['id']}/processes"
    assert await page(client, f"{address}?level=2") == [below["id"]]
    assert await page(client, f"{address}?level__not=2&has_children=true") == [root["id"]]


async def test_levels_beyond_the_limit_of_ancestors_are_found(
    client: httpx.AsyncClient, connection: AsyncConnection
) -> None:
    chain = await add_chain(connection, "locations", 150)
    assert await page(client, "/locations?level=150&level=102") == [chain[101], chain[149]]


async def test_requests_for_other_levels_share_a_statement(client: httpx.AsyncClient, statements: Statements) -> None:
    for queries_ in (("level=2", "level=7&level=9"), ("level__not=1", "level__not=1&level__not=1")):
        texts = set()
        for query in queries_:
            with statements.counted() as seen:
                assert (await client.get(f"/departments?{query}")).status_code == 200
            texts.add(seen[-1])
        assert len(texts) == 1


@every_tree
async def test_roots_are_selected_without_a_recursion(
    client: httpx.AsyncClient, statements: Statements, collection: str
) -> None:
    for query in ("level=1", "level__not=1"):
        with statements.counted() as seen:
            await client.get(f"/{collection}?{query}")
        assert "RECURSIVE" not in seen[-1]


@every_tree
@pytest.mark.parametrize("value", ["0", "-1", "1.0", "+1", "", "9223372036854775808", "one"])
async def test_level_is_a_positive_integer(client: httpx.AsyncClient, collection: str, value: str) -> None:
    for path in (f"/{collection}?", f"/{collection}/stats?group_by=parent&"):
        for name in ("level", "level__not"):
            response = await client.get(f"{path}{name}={quote(value)}")
            assert response.status_code == 422
            assert [fault["pointer"] for fault in response.json()["errors"]] == [f"/{name}/0"]


@every_collection
def test_trees_and_only_trees_have_these_filters(collection: str) -> None:
    names = {"level", "level__not", "has_children"}
    assert names & LISTS[collection].declaration.parameters.keys() == (names if collection in TREES else set())


@pytest.mark.parametrize("name", ["level", "level__not"])
@every_shape
async def test_objects_below_the_levels_are_not_read(empty: asyncpg.Connection, shape: str, name: str) -> None:
    table = table_of(Department)
    read = []
    for size in SIZES:
        await fill(empty, size, shape)
        values: Any = {name: [2, 3]}
        selection, arguments = DepartmentListQuery(**values).selection()
        assert selection is not None
        # The rows of the list itself are limited.
        listed = table.select().where(selection(table)).limit(5)
        read.append(await rows_read(empty, listed, literals(arguments)))
    # A flat tree has all its objects at level 2, which are read as possible parents of those at level 3.
    assert read[1] <= (3 * SIZES[1] if shape == FLAT else read[0] + 20)


@every_shape
@every_state
async def test_filters_read_each_object_a_fixed_number_of_times(
    empty: asyncpg.Connection, state: str, shape: str
) -> None:
    table = table_of(Department)
    for size in SIZES:
        await fill(empty, size, shape, state)
        for name, value in (
            ("level", [1, size]),
            ("level__not", [1, size]),
            ("within", 1),
            ("has_children", True),
            ("has_children", False),
        ):
            values: Any = {name: value}
            selection, arguments = DepartmentListQuery(**values).selection()
            assert selection is not None
            listed = table.select().where(selection(table))
            assert await rows_read(empty, listed, literals(arguments)) <= 4 * size


@pytest.mark.parametrize("shape", [BINARY, FLAT])
async def test_no_row_is_compared_with_all_elements_of_a_set(empty: asyncpg.Connection, shape: str) -> None:
    await fill(empty, SIZES[1], shape)
    table = table_of(Department)
    for query in (
        {"within": 1, "level": [2, 7]},
        {"level": [2, 7], "level__not": [3]},
        {"within": 1, "level__not": [3]},
    ):
        values: dict[str, Any] = query
        selection, arguments = DepartmentListQuery(**values).selection()
        assert selection is not None
        plan = await explain(empty, table.select().where(selection(table)), literals(arguments))
        filters = [node.get("Filter", "") for node in nodes(plan) if "Relation Name" in node]
        assert not any(re.search(r"ANY \((\$|\(?InitPlan)", each) for each in filters), (query, filters)
