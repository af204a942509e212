"""Bulk writes do what single writes do, or report every fault."""

from typing import Any

import httpx
import pytest

from tests.builders import (
    make,
    make_department,
    make_location,
    make_process,
    make_resource,
    make_role,
    make_user,
)
from tests.catalogue import LINKS, REFERENCE_TARGETS, every_collection, every_tree, required
from tests.conftest import Statements
from tests.domains.shared.bulk import Item, changing, create, faults, send, statuses, write

ABSENT = 9_000_000_000
# The member that refers to an object of the same collection.
OWN_REFERENCES = {
    collection: member
    for collection, targets in REFERENCE_TARGETS.items()
    for member, target in targets.items()
    if target == collection
}


def thing(collection: str, code: str, **data: Any) -> Item:
    return create(**required(collection, code) | {"name": f"Thing {code}", "code": code} | data)


async def get(client: httpx.AsyncClient, collection: str, reference: object) -> dict[str, Any]:
    response = await client.get(f"/{collection}/{reference}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def count(client: httpx.AsyncClient, collection: str) -> int:
    total: int = (await client.get(f"/{collection}", params={"count": "exact"})).json()["total"]
    return total


# --- Written objects ---


@every_collection
async def test_all_operations_in_one_batch(client: httpx.AsyncClient, collection: str) -> None:
    changed = await make(client, collection, description="Goes")
    await make(client, collection, external_id="old/1")
    gone = await make(client, collection, code="GONE")
    results = await write(
        client,
        collection,
        thing(collection, "N-1"),
        {"op": "update", "id": changed["id"], "data": {"name": "Changed", "description": None}},
        {"op": "upsert", "external_id": "old/1", "data": {"name": "Found"}},
        {"op": "upsert", "code": "N-2", "data": thing(collection, "n-2")["data"] | {"name": "Made"}},
        {"op": "delete", "code": "gone"},
    )
    assert statuses(results) == ["created", "updated", "updated", "created", "deleted"]
    assert [result["version"] for result in results] == [1, 2, 2, 1, None]
    documents = [await get(client, collection, result["id"]) for result in results[:4]]
    assert [document["name"] for document in documents] == ["Thing N-1", "Changed", "Found", "Made"]
    assert [document["version"] for document in documents] == [1, 2, 2, 1]
    assert documents[1] == changed | {
        "name": "Changed",
        "description": None,
        "version": 2,
        "updated_at": documents[1]["updated_at"],
    }
    assert documents[3]["code"] == "n-2"
    assert results[4]["id"] == gone["id"]
    assert (await client.get(f"/{collection}/{gone['id']}")).status_code == 404


@every_collection
async def test_items_without_a_difference_change_nothing(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection, code="SAME-1", description="Stays")
    results = await write(
        client, collection, {"op": "update", "code": "same-1", "data": {"name": made["name"], "description": "Stays"}}
    )
    assert results == [{"index": 0, "status": "unchanged", "id": made["id"], "version": 1}]
    assert await get(client, collection, made["id"]) == made
    assert len((await client.get(f"/{collection}/{made['id']}/changes")).json()["items"]) == 1


@pytest.mark.parametrize("collection", OWN_REFERENCES)
async def test_references_to_objects_of_the_batch_may_precede_them(client: httpx.AsyncClient, collection: str) -> None:
    member = OWN_REFERENCES[collection]
    chain = [thing(collection, f"C-{n}", **{member: {"code": f"c-{n - 1}"}}) for n in range(50, 0, -1)]
    top = thing(collection, "C-0", external_id="top")
    other = thing(collection, "B-1", **{member: {"external_id": "top"}})
    results = await write(client, collection, other, *chain, top)
    documents = {result["id"]: await get(client, collection, result["id"]) for result in results}
    codes = {document["code"]: documents.get(document[member], {}).get("code") for document in documents.values()}
    assert codes == {"C-0": None, "B-1": "C-0"} | {f"C-{n}": f"C-{n - 1}" for n in range(1, 51)}


async def test_every_kind_of_reference_may_be_a_key(client: httpx.AsyncClient) -> None:
    user = await make_user(client, code="U-1")
    department = await make_department(client, external_id="d/1")
    location = await make_location(client, code="L-1")
    resource = await make_resource(client, code="S-1")
    role = await make_role(client, external_id="r/1")
    key, external = {"code": "u-1"}, {"external_id": "d/1"}
    await write(client, "departments", create(name="Headed", code="D-2", head_id=key))
    await write(
        client, "users", create(name="N", email="n@x.example", code="N", department_id=external, manager_id=key)
    )
    await write(client, "roles", create(name="Role", code="R-2", department_id=external))
    await write(
        client,
        "resources",
        create(name="Resource", code="S-2", owner_department_id=external, location_id={"code": "L-1"}),
    )
    await write(
        client,
        "processes",
        create(
            name="Long",
            code="P-1",
            owner_id=key,
            departments=[{"department_id": external, "relation": "owner"}, {"department_id": {"code": "D-2"}}],
            locations=[{"location_id": {"code": "l-1"}}],
            resources=[{"resource_id": {"code": "s-1"}, "usage": "writes"}, {"resource_id": {"code": "S-2"}}],
            roles=[
                {"role_id": {"external_id": "r/1"}, "responsibility": "accountable"},
                {"role_id": role["id"], "responsibility": "informed"},
            ],
        ),
        create(
            name="Short",
            code="P-2",
            department_ids=[external, {"code": "D-2"}],
            location_ids=[{"code": "L-1"}],
            resource_ids=[resource["id"], {"code": "s-2"}],
            role_ids=[{"external_id": "r/1"}],
        ),
    )
    assert (await get(client, "departments", "code:D-2"))["head_id"] == user["id"]
    made = await get(client, "users", "code:N")
    assert (made["department_id"], made["manager_id"]) == (department["id"], user["id"])
    long, short = await get(client, "processes", "code:P-1"), await get(client, "processes", "code:P-2")
    assert long["owner_id"] == user["id"]
    assert next((link["id"], link["relation"]) for link in long["departments"]) == (department["id"], "owner")
    assert [link["id"] for link in long["locations"]] == [location["id"]]
    assert {(link["id"], link["responsibility"]) for link in long["roles"]} == {
        (role["id"], "accountable"),
        (role["id"], "informed"),
    }
    assert {link["usage"] for link in short["resources"]} == {"uses"}
    for name in ("departments", "resources"):
        assert {link["id"] for link in short[name]} == {link["id"] for link in long[name]}


async def test_codes_are_exchanged_and_passed_on(client: httpx.AsyncClient) -> None:
    ids = [(await make_department(client, code=code))["id"] for code in ("A", "B", "C")]
    await write(
        client,
        "departments",
        {"op": "update", "id": ids[0], "data": {"code": "b"}},
        {"op": "update", "id": ids[1], "data": {"code": "A"}},
        create(name="Successor", code="C"),
        {"op": "delete", "id": ids[2]},
    )
    assert [(await get(client, "departments", key))["code"] for key in ids[:2]] == ["b", "A"]
    assert (await get(client, "departments", "code:C"))["name"] == "Successor"


async def test_addresses_are_exchanged(client: httpx.AsyncClient) -> None:
    one, two = await make_user(client), await make_user(client)
    await write(
        client,
        "users",
        {"op": "update", "id": one["id"], "data": {"email": two["email"]}},
        {"op": "update", "id": two["id"], "data": {"email": one["email"]}},
    )
    assert (await get(client, "users", one["id"]))["email"] == two["email"]


@every_tree
async def test_tree_is_deleted_as_a_whole_in_any_order(client: httpx.AsyncClient, collection: str) -> None:
    top = await make(client, collection)
    child = await make(client, collection, parent_id=top["id"])
    leaf = await make(client, collection, parent_id=child["id"])
    items = [{"op": "delete", "id": each["id"]} for each in (top, leaf, child)]
    assert statuses(await write(client, collection, *items)) == ["deleted"] * 3
    assert await count(client, collection) == 0


@every_tree
async def test_parent_is_deleted_when_its_child_moves_away(client: httpx.AsyncClient, collection: str) -> None:
    top = await make(client, collection)
    child = await make(client, collection, parent_id=top["id"])
    await write(
        client,
        collection,
        {"op": "delete", "id": top["id"]},
        {"op": "update", "id": child["id"], "data": {"parent_id": None}},
    )
    assert (await get(client, collection, child["id"]))["parent_id"] is None


@every_tree
async def test_parent_and_child_are_swapped(client: httpx.AsyncClient, collection: str) -> None:
    top = await make(client, collection)
    child = await make(client, collection, parent_id=top["id"])
    await write(
        client,
        collection,
        {"op": "update", "id": top["id"], "data": {"parent_id": child["id"]}},
        {"op": "update", "id": child["id"], "data": {"parent_id": None}},
    )
    assert (await get(client, collection, top["id"]))["parent_id"] == child["id"]


async def test_owner_and_accountable_role_are_replaced(client: httpx.AsyncClient) -> None:
    departments = [(await make_department(client))["id"] for _ in range(2)]
    roles = [(await make_role(client))["id"] for _ in range(2)]
    process = await make_process(
        client,
        departments=[{"department_id": departments[0], "relation": "owner"}],
        roles=[{"role_id": roles[0], "responsibility": "accountable"}],
    )
    data = {
        "departments": [{"department_id": departments[1], "relation": "owner"}],
        "roles": [{"role_id": roles[1], "responsibility": "accountable"}],
    }
    assert statuses(await write(client, "processes", {"op": "update", "id": process["id"], "data": data})) == [
        "updated"
    ]
    after = await get(client, "processes", process["id"])
    assert [link["id"] for link in (*after["departments"], *after["roles"])] == [departments[1], roles[1]]


# --- History ---


async def test_all_changes_are_recorded_under_one_request(client: httpx.AsyncClient) -> None:
    gone = await make_role(client)
    items = [create(name="Made"), {"op": "delete", "id": gone["id"]}]
    headers = {"X-Change-Message": "Quarterly", "X-Request-ID": "bulk-1"}
    assert (await client.post("/roles/bulk", json={"items": items}, headers=headers)).status_code == 200
    changes = (await client.get("/changes", params={"type": "roles"})).json()["items"]
    recorded = [(change["action"], change["message"], change["request_id"]) for change in changes]
    assert recorded[:2] == [("deleted", "Quarterly", "bulk-1"), ("created", "Quarterly", "bulk-1")]


# --- Number of statements ---


async def link_targets(client: httpx.AsyncClient, collection: str) -> dict[str, list[int]]:
    """Create five objects for each kind of links, and return their ids as bodies list them."""
    made: dict[str, list[int]] = {}
    for links in LINKS[collection]:
        target = links.target_model.__tablename__
        items = [thing(target, f"{links.field}-{n}") for n in range(5)]
        made[links.short] = [result["id"] for result in await write(client, target, *items)]
    return made


# For creates, updates, updates without a difference, and deletes, each including one for the caller.
STATEMENTS = [6, 7, 4, 7]
STATEMENTS_WITH_LINKS = [7, 10, 8, 7]


@every_collection
async def test_statements_do_not_grow_with_the_items(
    client: httpx.AsyncClient, statements: Statements, collection: str
) -> None:
    links = await link_targets(client, collection)
    # The first kind of links, of which one link stays.
    fewer = {name: ids[:1] for name, ids in list(links.items())[:1]}
    expected = STATEMENTS_WITH_LINKS if links else STATEMENTS
    member = OWN_REFERENCES.get(collection)
    for number in (1, 10, 1000):
        codes = [f"T{number}-{n}" for n in range(number)]
        above = [{member: {"code": code}} if member and n % 10 != 9 else {} for n, code in enumerate(codes[1:])] + [{}]
        made = [thing(collection, code, **links, **above[n]) for n, code in enumerate(codes)]
        changed = [changing(code, name="M", **({member: None} if member else {}), **fewer) for code in codes]
        gone = [{"op": "delete", "code": code} for code in codes]
        counts = []
        for items in (made, changed, changed, gone):
            with statements.counted() as seen:
                await write(client, collection, *items)
            counts.append(len(seen))
        # The driver looks up each type once.
        assert number == 1 or counts == expected, seen


async def test_moves_take_three_more_statements(client: httpx.AsyncClient, statements: Statements) -> None:
    tops = [(await make_department(client))["id"] for _ in range(2)]
    for number in (10, 200):
        made = await write(client, "departments", *(create(name="N", parent_id=tops[0]) for _ in range(number)))
        moves = [{"op": "update", "id": each["id"], "data": {"parent_id": tops[1]}} for each in made]
        with statements.counted() as seen:
            await write(client, "departments", *moves)
        assert len(seen) == 10


async def test_statements_do_not_grow_with_the_users(client: httpx.AsyncClient, statements: Statements) -> None:
    counts = set()
    for number in (10, 200):
        items = [thing("users", f"u{number}.{n}", access_level="admin") for n in range(number)]
        made = await write(client, "users", *items)
        leave = [{"op": "update", "id": each["id"], "data": {"is_active": False}} for each in made]
        with statements.counted() as seen:
            await write(client, "users", *leave)
        counts.add(len(seen))
    assert len(counts) == 1


# --- All or nothing ---


async def test_every_fault_is_reported_and_nothing_is_written(client: httpx.AsyncClient) -> None:
    await make_department(client, code="TAKEN", external_id="taken/1")
    parent = await make_department(client)
    await make_department(client, parent_id=parent["id"])
    before = await count(client, "departments")
    response = await send(
        client,
        "departments",
        [
            create(name="Good"),
            create(name="", description=5, nme="typo"),
            create(name="A", code="taken", external_id="taken/1"),
            create(name="B", code="twice"),
            create(name="C", code="TWICE"),
            create(name="D", head_id=ABSENT, parent_id={"code": "absent"}),
            {"op": "delete", "id": parent["id"]},
            {"op": "update", "id": ABSENT, "data": {}},
            {"op": "delete", "code": "absent"},
            {"op": "upsert", "id": parent["id"], "data": {}},
            {"op": "merge", "data": {}},
            "nothing",
            create(name="E", code="Waits", parent_id={"code": "twice"}),
        ],
    )
    assert (response.status_code, response.json()["code"]) == (422, "invalid_content")
    assert faults(response) == {
        ("/items/1/data/name", "string_too_short"),
        ("/items/1/data/description", "string_type"),
        ("/items/1/data/nme", "extra_forbidden"),
        ("/items/2/data/code", "duplicate"),
        ("/items/2/data/external_id", "duplicate"),
        ("/items/4/data/code", "duplicate"),
        ("/items/5/data/head_id", "unknown_reference"),
        ("/items/5/data/parent_id", "unknown_reference"),
        ("/items/6", "still_referenced"),
        ("/items/7/id", "not_found"),
        ("/items/8/code", "not_found"),
        ("/items/9/id", "unexpected_key"),
        ("/items/10/op", "literal_error"),
        ("/items/11", "model_type"),
    }
    assert await count(client, "departments") == before
