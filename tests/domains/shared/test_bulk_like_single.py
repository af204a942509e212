"""Bulk writes have the same results as the same single writes."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import asyncpg
import httpx
import pytest
from hypothesis import strategies as st
from sqlalchemy import URL

from app.main import create_app
from tests.builders import make_department, make_location, make_process, make_resource, make_role, make_user
from tests.catalogue import COLLECTIONS, TABLES
from tests.conftest import client_of, connected, new_database, settings_for
from tests.domains.shared.bulk import Item, changing, create
from tests.domains.shared.properties import draw_examples


async def prepare_world(client: httpx.AsyncClient) -> None:
    """Create the objects that the operations below refer to; ids are the same in every new database."""
    for number in range(1, 5):
        await make_department(client, name=f"Department {number}", code=f"D-{number}")
        await make_location(client, name=f"Location {number}", code=f"L-{number}")
        await make_resource(client, name=f"Resource {number}", code=f"S-{number}")
        await make_role(client, name=f"Role {number}", code=f"R-{number}")
        await make_user(client, name=f"User {number}", email=f"u{number}@x.example", code=f"U-{number}")
    for number in range(1, 8):
        await make_process(
            client,
            name=f"Process {number}",
            code=f"P-{number}",
            parent_id=1 if number > 2 else None,
            departments=[{"department_id": 1, "relation": "owner"}, {"department_id": 2}],
            location_ids=[1],
            resource_ids=[1, 2],
            roles=[{"role_id": 1, "responsibility": "accountable"}, {"role_id": 1, "responsibility": "informed"}],
        )


OPERATIONS: dict[str, list[Item]] = {
    "departments": [
        # First, because the history records objects under the names that they have after the batch.
        changing("D-1", name="Renamed", head_id=3),
        create(name="Made", code="D-9", parent_id=1, head_id=2, description="A\nB"),
        changing("D-3", parent_id=1, name="Moved"),
        {"op": "upsert", "code": "D-2", "data": {"name": "Department 2", "head_id": None}},
        {"op": "delete", "code": "D-4"},
    ],
    "locations": [
        create(name="Made", kind="room", parent_id=2, latitude=1.5, longitude=-2, timezone="Europe/Berlin"),
        changing("L-1", name="Renamed", kind="city", country="DE"),
        {"op": "delete", "code": "L-4"},
    ],
    "resources": [
        create(name="Made", owner_department_id=1, location_id=1, url="https://x.example/a?b=c"),
        changing("S-1", criticality="high", location_id=2, description="Größe"),
        changing("S-2", criticality=None, kind="application"),
        {"op": "delete", "code": "S-4"},
    ],
    "roles": [
        create(name="Made", department_id=1),
        changing("R-2", department_id=2, external_id="r/2"),
        {"op": "delete", "code": "R-4"},
    ],
    "users": [
        create(name="Made", email="Made@X.example", department_id=1, manager_id=3, access_level="editor"),
        changing("U-1", email="other@x.example", is_active=False),
        changing("U-2", access_level="admin", manager_id=1),
        {"op": "delete", "code": "U-4"},
    ],
    "processes": [
        create(name="Made", code="P-9", parent_id=4, owner_id=1, department_ids=[3, 1], role_ids=[2]),
        create(name="Bare"),
        changing("P-1", departments=[{"department_id": 3, "relation": "owner"}], role_ids=[1]),
        changing("P-2", name="Renamed", parent_id=3, resources=[{"resource_id": 1, "usage": "reads"}]),
        changing("P-3", location_ids=[2, 3], description="New"),
        changing("P-4", department_ids=[], criticality="low"),
        changing("P-5", departments=[{"department_id": 2}, {"department_id": 1, "relation": "owner"}]),
        changing("P-6", departments=None, roles=[]),
        {"op": "delete", "code": "P-7"},
    ],
}
MESSAGE = {"X-Change-Message": "As decided"}


def test_every_collection_is_compared() -> None:
    assert OPERATIONS.keys() == set(COLLECTIONS)


@pytest.fixture
async def twins(server_url: URL, template: URL) -> AsyncIterator[list[tuple[httpx.AsyncClient, asyncpg.Connection]]]:
    """Two identical databases, each with a client of its application."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            url = await stack.enter_async_context(new_database(server_url, template.database))
            app = create_app(settings_for(url))
            stack.push_async_callback(app.state.database.dispose)
            client = await stack.enter_async_context(client_of(app))
            connection = await stack.enter_async_context(connected(url))
            await prepare_world(client)
            made.append((client, connection))
        yield made


async def request_of(client: httpx.AsyncClient, collection: str, item: Item) -> httpx.Response:
    """Send the single request that is equivalent to an item of a batch."""
    path = f"/{collection}/code:{item.get('code')}"
    if item["op"] == "create":
        return await client.post(f"/{collection}", json=item["data"], headers=MESSAGE)
    if item["op"] == "delete":
        return await client.delete(path, headers=MESSAGE)
    return await client.patch(path, json=item["data"], headers=MESSAGE)


async def everything(connection: asyncpg.Connection) -> dict[str, list[Any]]:
    """Return the stored rows, without instants and request ids."""
    leave_out = "'{created_at,updated_at,request_id,transaction_id,at}'::text[]"
    return {
        table: [
            json.loads(row[0])
            for row in await connection.fetch(f"SELECT to_jsonb(t) - {leave_out} AS j FROM {table} t ORDER BY j")
        ]
        for table in (*TABLES, "changes")
    }


async def test_single_and_bulk_writes_have_the_same_results(
    twins: list[tuple[httpx.AsyncClient, asyncpg.Connection]],
) -> None:
    (singly, one), (bulk, other) = twins
    for collection, items in OPERATIONS.items():
        for item in items:
            response = await request_of(singly, collection, item)
            assert response.is_success, response.text
        response = await bulk.post(f"/{collection}/bulk", json={"items": items}, headers=MESSAGE)
        assert response.status_code == 200, response.text
    expected, stored = await everything(one), await everything(other)
    assert len([change for change in expected["changes"] if change["message"] == "As decided"]) == 25
    for table, rows in expected.items():
        assert stored[table] == rows, table
    for collection in COLLECTIONS:
        lists = [(await client.get(f"/{collection}", params={"limit": 200})).json()["items"] for client, _ in twins]
        for document in (*lists[0], *lists[1]):
            del document["created_at"], document["updated_at"]
        assert lists[0] == lists[1]


# --- Arbitrary batches ---


class Named(NamedTuple):
    """A reference: the number of an object of a collection, modulo their count."""

    collection: str
    number: int


def named(collection: str) -> st.SearchStrategy[Named | None]:
    return st.none() | st.integers(0, 7).map(lambda number: Named(collection, number))


def links_to(collection: str, target: str, detail: str | None, values: list[str]) -> st.SearchStrategy[Any]:
    """Return lists of links; only the first of each may have the detail that is unique."""
    numbers = st.lists(st.integers(0, 3), unique=True, max_size=3)

    def build_list(drawn_numbers: list[int], first: str) -> list[dict[str, Any]]:
        details = [first, *values[1:]]
        return [
            {target: Named(collection, number)} | ({detail: details[min(place, 1)]} if detail else {})
            for place, number in enumerate(drawn_numbers)
        ]

    return st.builds(build_list, numbers, st.sampled_from(values))


TEXTS = st.sampled_from(["A", "B", "Größe", "C\nD"])
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "departments": {
        "name": st.sampled_from(["One", "Two"]),
        "description": st.none() | TEXTS,
        "parent_id": named("departments"),
        "head_id": named("users"),
    },
    "locations": {
        "name": st.sampled_from(["One", "Two"]),
        "kind": st.sampled_from(["city", "room"]),
        "parent_id": named("locations"),
    },
    "resources": {
        "description": st.none() | TEXTS,
        "criticality": st.none() | st.sampled_from(["low", "high"]),
        "owner_department_id": named("departments"),
        "location_id": named("locations"),
    },
    "roles": {"name": st.sampled_from(["One", "Two"]), "department_id": named("departments")},
    "users": {
        "name": st.sampled_from(["One", "Two"]),
        "access_level": st.sampled_from(["viewer", "admin"]),
        "is_active": st.booleans(),
        "department_id": named("departments"),
        "manager_id": named("users"),
    },
    "processes": {
        "name": st.sampled_from(["One", "Two"]),
        "criticality": st.none() | st.sampled_from(["low", "high"]),
        "parent_id": named("processes"),
        "owner_id": named("users"),
        "departments": links_to("departments", "department_id", "relation", ["owner", "participant"]),
        "locations": links_to("locations", "location_id", None, [""]),
        "resources": links_to("resources", "resource_id", "usage", ["uses", "reads"]),
        "roles": links_to("roles", "role_id", "responsibility", ["accountable", "informed"]),
    },
}


def batches(collection: str) -> st.SearchStrategy[tuple[str, list[dict[str, Any]], list[tuple[int, Any]]]]:
    """Return new objects, and the changes of others by their numbers, None for a delete."""
    fields = st.fixed_dictionaries({}, optional=FIELDS[collection])
    others = st.lists(st.tuples(st.integers(0, 9), st.one_of(fields, fields, st.none())), unique_by=lambda it: it[0])
    return st.tuples(st.just(collection), st.lists(fields, max_size=2), others)


Codes = dict[str, list[str]]


async def ids_of(connection: asyncpg.Connection) -> dict[str, dict[str, int]]:
    return {
        collection: {
            row["code"]: row["id"]
            for row in await connection.fetch(f"SELECT code, id FROM {collection} WHERE code IS NOT NULL ORDER BY id")
        }
        for collection in COLLECTIONS
    }


def spelt(value: Any, codes: Codes, ids: dict[str, dict[str, int]] | None) -> Any:
    """Return data with references by code; with `ids`, only every second one.

    Raises `KeyError` if an object was deleted.
    """
    if isinstance(value, Named):
        code = codes[value.collection][value.number % len(codes[value.collection])]
        by_code = {"code": code.lower() if ids else code}
        return (
            by_code
            if ids is None or (value.number % 2 and ids[value.collection][code])
            else ids[value.collection][code]
        )
    if isinstance(value, dict):
        return {name: spelt(member, codes, ids) for name, member in value.items()}
    return [spelt(entry, codes, ids) for entry in value] if isinstance(value, list) else value


async def history(connection: asyncpg.Connection) -> list[Any]:
    """Return the newest history, without the names of other objects: a batch records their names after the batch."""

    def facts(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: facts(member) for name, member in value.items() if name != "name" or "id" not in value}
        return [facts(entry) for entry in value] if isinstance(value, list) else value

    leave_out = "'{id,request_id,transaction_id,at}'::text[]"
    newest = f"SELECT to_jsonb(t) - {leave_out} FROM changes t ORDER BY id DESC LIMIT 20"
    rows = await connection.fetch(newest)
    return [facts(json.loads(row[0])) for row in rows]


def refusals(response: httpx.Response) -> set[str]:
    """Return the codes of the faults of a request."""
    problem = response.json()
    return {error["code"] for error in problem["errors"]} or {problem["code"]}


async def test_batches_have_the_results_of_the_same_single_writes(
    twins: list[tuple[httpx.AsyncClient, asyncpg.Connection]],
) -> None:
    (singly, one), (bulk, other) = twins
    written = 0
    refused: set[str] = set()
    for number, (collection, new, others) in enumerate(
        draw_examples(st.sampled_from(list(FIELDS)).flatmap(batches), 60)
    ):
        ids = await ids_of(one)
        codes: Codes = {name: list(found) for name, found in ids.items()}
        known = codes[collection]
        items = []
        for n, data in enumerate(new):
            email = {"email": f"x{number}.{n}@x.example"} if collection == "users" else {}
            items.append(create(**{"name": "New"} | data | email | {"code": f"X-{number}-{n}"}))
        for place, data in {place % len(known): data for place, data in others}.items():
            code = known[place]
            items.append({"op": "delete", "code": code} if data is None else changing(code, **data))
        good = []
        for item in items:
            # The batch must not write an item whose single request fails, either.
            try:
                response = await request_of(singly, collection, spelt(item, codes, ids))
            except KeyError:
                continue
            if response.is_success:
                good.append(spelt(item, codes, None))
                if item["op"] == "delete":
                    del ids[collection][item["code"]]
            else:
                body = {"items": [spelt(item, codes, None)]}
                batch = await singly.post(f"/{collection}/bulk?dry_run=true", json=body)
                assert refusals(batch) == refusals(response), item
                refused |= refusals(response)
        if good:
            response = await bulk.post(f"/{collection}/bulk", json={"items": good}, headers=MESSAGE)
            assert response.status_code == 200, (good, response.text)
        written += len(good)
        expected, stored = await everything(one), await everything(other)
        del expected["changes"], stored["changes"]
        assert stored == expected, good
        assert await history(other) == await history(one), good
    assert written > 40
    assert refused >= {"cycle", "still_referenced"}
