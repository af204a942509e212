"""The managers of users form no new cycle, by any way of writing; older cycles stay until they are changed."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domains.shared import trees
from app.domains.user.models import User
from app.domains.user.rules import NoCycleOfManagers
from tests.builders import make_user
from tests.domains.shared.bulk import create, faults_of_items, send, write
from tests.domains.shared.properties import draw_examples

NODES = 6
CSV = {"Content-Type": "text/csv"}
# The manager of each user, by number: a graph that may have cycles, as in registers that are older than the rule.
managers = st.lists(st.none() | st.integers(0, NODES - 1), min_size=NODES, max_size=NODES)
changes = st.dictionaries(st.integers(0, NODES - 1), st.none() | st.integers(0, NODES - 1), min_size=1)


def on_cycle(above: list[int | None], node: int) -> bool:
    """Return whether a user is, directly or through others, the own manager."""
    seen: set[int] = set()
    manager = above[node]
    while manager is not None and manager != node and manager not in seen:
        seen.add(manager)
        manager = above[manager]
    return manager == node


async def make_users(client: httpx.AsyncClient, connection: AsyncConnection, above: list[int | None]) -> list[int]:
    """Create users with these managers, past the rules, and return their ids."""
    ids = [(await make_user(client, code=f"M-{number}"))["id"] for number in range(len(above))]
    for key, manager in zip(ids, above, strict=True):
        values = {"id": key, "manager_id": None if manager is None else ids[manager]}
        await connection.execute(text("UPDATE users SET manager_id = :manager_id WHERE id = :id"), values)
    return ids


async def stored_managers(connection: AsyncConnection, ids: list[int]) -> list[int | None]:
    rows = await connection.execute(text("SELECT id, manager_id FROM users WHERE id = ANY(:ids)"), {"ids": ids})
    found = {row.id: row.manager_id for row in rows}
    return [None if found[key] is None else ids.index(found[key]) for key in ids]


@pytest.mark.parametrize(("above", "moves"), draw_examples(st.tuples(managers, changes), 12))
async def test_single_writes_equal_a_search_of_the_graph(
    client: httpx.AsyncClient, connection: AsyncConnection, above: list[int | None], moves: dict[int, int | None]
) -> None:
    ids = await make_users(client, connection, above)
    for node, manager in moves.items():
        changed = [manager if number == node else each for number, each in enumerate(above)]
        body = {"manager_id": None if manager is None else ids[manager], "description": f"To {manager}"}
        response = await client.patch(f"/users/{ids[node]}", json=body)
        if above[node] != manager and on_cycle(changed, node):
            assert (response.status_code, response.json()["code"]) == (409, "cycle")
        else:
            assert response.status_code == 200, response.text
            above = changed
    assert await stored_managers(connection, ids) == above


@pytest.mark.parametrize(("above", "moves"), draw_examples(st.tuples(managers, changes), 25))
async def test_batches_form_no_new_cycle_and_reject_no_more_than_its_moves(
    client: httpx.AsyncClient, connection: AsyncConnection, above: list[int | None], moves: dict[int, int | None]
) -> None:
    ids = await make_users(client, connection, above)
    items = [
        {"op": "update", "id": ids[node], "data": {"manager_id": None if manager is None else ids[manager]}}
        for node, manager in moves.items()
    ]
    response = await send(client, "users", items, atomic=False)
    results = response.json()["items"]
    rejected = {node for node, result in zip(moves, results, strict=True) if result["status"] == "failed"}
    whole = [moves.get(node, each) for node, each in enumerate(above)]
    stored = await stored_managers(connection, ids)
    assert stored == [above[node] if node in rejected else each for node, each in enumerate(whole)]
    moved = {node for node, manager in moves.items() if manager != above[node]}
    assert rejected <= moved
    assert not any(on_cycle(stored, node) for node in moved - rejected)
    # Without the others, each rejected move either forms a cycle with what is stored, or did with all moves.
    for node in rejected:
        alone = [*stored[:node], whole[node], *stored[node + 1 :]]
        assert on_cycle(whole, node) or on_cycle(alone, node)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_older_cycle_stays_until_it_is_changed(
    client: httpx.AsyncClient, connection: AsyncConnection, method: str
) -> None:
    # Two users that manage each other, one that manages itself, and one below the first two.
    one, other, alone, below = await make_users(client, connection, [1, 0, 2, 0])
    assert (await stored_managers(connection, [one, other, alone, below])) == [1, 0, 2, 0]
    for key in (one, alone, below):
        user = (await client.get(f"/users/{key}")).json()
        same = {name: user[name] for name in ("name", "email", "manager_id")} | {"description": "Changed"}
        changed = await client.request(method, f"/users/{key}", json=same)
        assert (changed.status_code, changed.json()["manager_id"]) == (200, user["manager_id"])
        results = await write(client, "users", {"op": "update", "id": key, "data": same | {"name": "In a batch"}})
        assert results[0]["status"] == "updated"
    # Users can be placed below a cycle, and leave it; the cycle cannot be formed again.
    assert (await client.patch(f"/users/{below}", json={"manager_id": other})).status_code == 200
    assert (await client.patch(f"/users/{one}", json={"manager_id": None})).status_code == 200
    assert (await client.patch(f"/users/{one}", json={"manager_id": other})).status_code == 409
    assert (await client.patch(f"/users/{alone}", json={"manager_id": below})).status_code == 200
    assert (await client.patch(f"/users/{alone}", json={"manager_id": alone})).status_code == 409


async def test_text_of_a_cycle_names_the_manager(client: httpx.AsyncClient) -> None:
    key = (await make_user(client))["id"]
    items = [{"op": "update", "id": key, "data": {"manager_id": key}}]
    for response in (await client.patch(f"/users/{key}", json=items[0]["data"]), await send(client, "users", items)):
        (fault,) = response.json()["errors"]
        assert fault["detail"] == "A user cannot be, directly or through others, the manager of themselves."


async def test_user_on_an_older_cycle_can_be_deleted(client: httpx.AsyncClient, connection: AsyncConnection) -> None:
    (alone,) = await make_users(client, connection, [0])
    assert (await client.delete(f"/users/{alone}")).status_code == 204


@pytest.mark.parametrize("dry_run", [True, False])
async def test_import_and_its_plan_reject_cycles(
    client: httpx.AsyncClient, connection: AsyncConnection, *, dry_run: bool
) -> None:
    ids = await make_users(client, connection, [None, 0])
    new = "code,name,email,manager\nM-0,Top,top@x.example,N-1\nN-1,New,new@x.example,M-1\nN-2,Own,own@x.example,N-2\n"
    response = await client.post("/users/import", content=new, headers=CSV, params={"dry_run": dry_run})
    entries = response.json()["rows"] if dry_run else [response.json()]
    found = {(each["pointer"], each["code"]) for entry in entries for each in entry.get("errors", ())}
    assert found == {(f"/{row}/manager", "cycle") for row in (2, 3, 4)}, response.text
    assert await stored_managers(connection, ids) == [None, 0]


async def test_plan_whose_execution_would_form_a_cycle_is_rejected(
    client: httpx.AsyncClient, connection: AsyncConnection
) -> None:
    one, other = await make_users(client, connection, [None, None])
    content = "code,manager\nM-0,M-1\n"
    plan = (await client.post("/users/import?dry_run=true", content=content, headers=CSV)).json()
    assert (await client.patch(f"/users/{other}", json={"manager_id": one})).status_code == 200
    response = await client.post("/users/import", params={"plan_id": plan["plan_id"]})
    assert (response.status_code, response.json()["code"]) in {(409, "plan_outdated"), (409, "cycle")}
    assert await stored_managers(connection, [one, other]) == [None, 0]


# --- The limit of the search ---


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(NoCycleOfManagers, "max_ancestors", 5)
    monkeypatch.setattr(trees, "_ANCESTORS_PER_TARGET", 2)
    return 5


async def test_longest_chain_above_a_new_manager_is_limited(
    client: httpx.AsyncClient, connection: AsyncConnection, low_limit: int
) -> None:
    # The manager itself counts, too.
    longest = low_limit + 2
    ids = await make_users(client, connection, [None, *range(longest)])
    user = await make_user(client)
    path = f"/users/{user['id']}"
    assert (await client.patch(path, json={"manager_id": ids[longest - 1]})).status_code == 200
    response = await client.patch(path, json={"manager_id": ids[longest]})
    assert (response.status_code, response.json()["code"]) == (409, "too_deep")
    assert [error["pointer"] for error in response.json()["errors"]] == ["/manager_id"]
    # Creations form no cycle, and longer chains stay and can be changed in place.
    below = await make_user(client, manager_id=ids[longest])
    assert (await client.patch(f"/users/{below['id']}", json={"name": "Renamed"})).status_code == 200
    assert (await client.patch(f"/users/{below['id']}", json={"manager_id": None})).status_code == 200


async def test_batch_beyond_the_limit_rejects_its_moves_only(
    client: httpx.AsyncClient, connection: AsyncConnection, low_limit: int
) -> None:
    ids = await make_users(client, connection, [None, *range(low_limit + 4)])
    one, other = [(await make_user(client))["id"] for _ in range(2)]
    items = [
        {"op": "update", "id": one, "data": {"manager_id": ids[-1]}},
        {"op": "update", "id": other, "data": {"name": "Renamed"}},
        create(name="New", email="new@x.example", manager_id=ids[-1]),
    ]
    assert faults_of_items(await send(client, "users", items, atomic=False)) == {
        ("/items/0/data/manager_id", "too_deep")
    }
    assert await stored_managers(connection, [*ids[:1], other]) == [None, None]


async def test_batch_beyond_the_limit_makes_the_moves_whose_chain_was_read(
    client: httpx.AsyncClient, connection: AsyncConnection, low_limit: int
) -> None:
    # Two chains of managers, of which the search reads the same number of levels.
    deep = await make_users(client, connection, [None, *range(3 * low_limit)])
    near = [(await make_user(client))["id"]]
    near.append((await make_user(client, manager_id=near[0]))["id"])
    one, two, three = [(await make_user(client))["id"] for _ in range(3)]
    items = [
        create(name="New", email="new@x.example", code="NEW", manager_id=deep[-1]),
        {"op": "update", "id": one, "data": {"manager_id": {"code": "NEW"}}},
        {"op": "update", "id": two, "data": {"manager_id": near[-1]}},
        {"op": "update", "id": three, "data": {"manager_id": two}},
        {"op": "update", "id": near[0], "data": {"manager_id": three}},
    ]
    assert faults_of_items(await send(client, "users", items[:4], atomic=False)) == {
        ("/items/1/data/manager_id", "too_deep")
    }
    assert await stored_managers(connection, [*near, one, two, three]) == [None, 0, None, 1, 3]
    # An unread chain hides no cycle.
    items[0] = {"op": "update", "id": one, "data": {"manager_id": deep[-1]}}
    assert faults_of_items(await send(client, "users", [items[0], items[4]], atomic=False)) == {
        ("/items/0/data/manager_id", "too_deep"),
        ("/items/1/data/manager_id", "cycle"),
    }


async def test_search_reads_no_more_than_its_limit(connection: AsyncConnection) -> None:
    await connection.execute(
        text(
            "INSERT INTO users (id, name, email, manager_id) "
            "SELECT n, 'N', 'n' || n || '@x.example', CASE WHEN n > 1001 THEN n - 1 END "
            "FROM generate_series(1001, 3000) AS n"
        )
    )
    statement = trees._select_ancestors(User, "manager_id")
    compiled = statement.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    for limit in (10, 100):
        sql = str(compiled) % {"ids": "'{3000}'::bigint[]", "limit": limit}
        plan = (await connection.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}"))).scalar_one()
        assert "Index" in json.dumps(plan)
        assert rows_of(plan[0]["Plan"]) <= 2 * limit


def rows_of(node: dict[str, Any]) -> float:
    """Return the number of rows that the scans of users below a node of a plan have read."""
    own = node["Actual Rows"] * node["Actual Loops"] if node.get("Relation Name") == "users" else 0
    return float(own) + sum(rows_of(child) for child in node.get("Plans", ()))
