"""Faults of a batch are reported by item, and bulk writes need the same permissions as single writes."""

import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domains.process.service import ProcessService
from app.domains.shared.bulk import batch as bulk
from app.domains.shared.bulk.batch import write_batch
from app.domains.user.administrators import first_administrator
from tests.builders import make, make_department, make_process, make_role, make_user, token_with
from tests.catalogue import COLLECTIONS, TABLES, every_collection, every_hierarchy, required, unique_members
from tests.conftest import ADMIN_TOKEN
from tests.domains.shared.bulk import Item, create, faults, faults_of_items, send, statuses, write
from tests.domains.shared.properties import draw_examples


async def stored(connection: AsyncConnection) -> dict[str, str]:
    """Return all objects."""
    return {
        table: str((await connection.execute(text(f"SELECT jsonb_agg(t ORDER BY t) FROM {table} t"))).scalar_one())
        for table in (*TABLES, "changes")
    }


def update(reference: object, **data: Any) -> Item:
    return {"op": "update", "id": reference, "data": data}


def delete(reference: object) -> Item:
    return {"op": "delete", "id": reference}


async def test_faults_of_query_and_body_are_reported_together(client: httpx.AsyncClient) -> None:
    response = await client.post("/roles/bulk?atomic=maybe&dry_run=x", json={})
    pointers = {(error["source"], error["pointer"]) for error in response.json()["errors"]}
    assert (response.status_code, pointers) == (422, {("query", "/atomic"), ("query", "/dry_run"), ("body", "/items")})


# --- Trees ---


@every_hierarchy
@pytest.mark.parametrize("op", ["create", "upsert"])
async def test_items_that_form_a_cycle_are_rejected(
    client: httpx.AsyncClient, collection: str, reference: str, op: str
) -> None:
    above = {"A": "C", "B": "A", "C": "b", "D": "C", "S": "S"}
    items = [
        {
            "op": op,
            **({"code": code} if op == "upsert" else {}),
            "data": required(collection)
            | unique_members(collection, code)
            | {"code": code, reference: {"code": target}},
        }
        for code, target in above.items()
    ]
    response = await send(client, collection, items)
    assert (response.status_code, response.json()["code"]) == (409, "cycle")
    assert faults(response) == {
        *((f"/items/{n}/data/{reference}", "cycle") for n in (0, 1, 2, 4)),
        (f"/items/3/data/{reference}", "failed_reference"),
    }


@every_hierarchy
async def test_move_below_a_descendant_is_rejected(client: httpx.AsyncClient, collection: str, reference: str) -> None:
    top = await make(client, collection)
    middle = await make(client, collection, **{reference: top["id"]})
    leaf = await make(client, collection, **{reference: middle["id"]})
    other = await make(client, collection)
    response = await send(client, collection, [update(top["id"], **{reference: leaf["id"]})])
    assert (response.status_code, response.json()["code"]) == (409, "cycle")
    # Each is valid without the other.
    items = [update(top["id"], **{reference: other["id"]}), update(other["id"], **{reference: leaf["id"]})]
    response = await send(client, collection, items)
    assert faults(response) == {(f"/items/{n}/data/{reference}", "cycle") for n in (0, 1)}
    assert statuses(await write(client, collection, items[0])) == ["updated"]


@every_hierarchy
async def test_move_below_a_child_that_fails_to_leave_is_rejected(
    client: httpx.AsyncClient, collection: str, reference: str
) -> None:
    await make(client, collection, code="TAKEN")
    top = await make(client, collection)
    child = await make(client, collection, **{reference: top["id"]})
    items = [update(child["id"], code="taken", **{reference: None}), update(top["id"], **{reference: child["id"]})]
    response = await send(client, collection, items)
    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    assert faults(response) == {("/items/0/data/code", "duplicate"), (f"/items/1/data/{reference}", "cycle")}
    items[0] = update(child["id"], code="FREE", **{reference: None})
    assert statuses(await write(client, collection, *items)) == ["updated", "updated"]


# --- Items about the same object ---


@every_collection
async def test_two_items_about_one_object_are_rejected(client: httpx.AsyncClient, collection: str) -> None:
    made, new = await make(client, collection, code="ONE", external_id="one"), required(collection, "new")
    response = await send(
        client,
        collection,
        [
            update(made["id"], description="First"),
            {"op": "update", "code": "one", "data": {"name": "Second"}},
            {"op": "delete", "external_id": "one"},
            {"op": "upsert", "code": "NEW", "data": new | {"name": "First"}},
            {"op": "upsert", "code": "new", "data": new | {"name": "Second"}},
        ],
    )
    assert (response.status_code, response.json()["code"]) == (422, "invalid_content")
    assert faults(response) >= {("/items/1/code", "same_object"), ("/items/2/external_id", "same_object")}
    assert ("/items/4/code", "same_object") in faults(response)
    assert not any(pointer.startswith(("/items/0", "/items/3")) for pointer, _ in faults(response))


async def test_upsert_cannot_change_its_key(client: httpx.AsyncClient) -> None:
    await make_department(client, code="KEPT", external_id="x/1")
    response = await send(
        client,
        "departments",
        [
            {"op": "upsert", "code": "KEPT", "data": {"name": "N", "code": "OTHER"}},
            {"op": "upsert", "external_id": "x/2", "data": {"name": "N", "external_id": None}},
            {"op": "upsert", "code": "bad code", "data": {"name": "N"}},
            {"op": "upsert", "code": "A", "external_id": "a", "data": {"name": "N"}},
            {"op": "upsert", "data": {"name": "N"}},
            {"op": "create", "code": "A", "data": {"name": "N"}},
            {"op": "upsert", "code": "A2", "version": 1, "data": {"name": "N"}},
            {"op": "delete", "code": "KEPT", "data": {}},
            {"op": "update", "code": "KEPT"},
            {"op": "upsert", "code": "NEW", "data": {"description": "Without a name"}},
        ],
    )
    assert response.status_code == 422
    assert faults(response) >= {
        ("/items/0/data/code", "other_key"),
        ("/items/1/data/external_id", "other_key"),
        ("/items/2/code", "string_pattern_mismatch"),
        ("/items/3", "several_keys"),
        ("/items/4", "missing_key"),
        ("/items/5/code", "unexpected_key"),
        ("/items/6/version", "unexpected_version"),
        ("/items/7/data", "unexpected_data"),
        ("/items/8/data", "missing"),
        ("/items/9/data/name", "missing"),
    }


@every_collection
async def test_item_with_another_version_fails(client: httpx.AsyncClient, collection: str) -> None:
    first, second = await make(client, collection), await make(client, collection)
    items = [update(first["id"], name="New") | {"version": 1}, delete(second["id"]) | {"version": 2}]
    response = await send(client, collection, items)
    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    assert faults(response) == {("/items/1/version", "precondition_failed")}
    items[1]["version"] = 1
    assert statuses(await write(client, collection, *items)) == ["updated", "deleted"]


# --- References and links ---


async def test_faults_in_references_have_their_pointers(client: httpx.AsyncClient) -> None:
    role = await make_role(client, code="R")
    accountable = [{"role_id": {"code": "R"}, "responsibility": "accountable"}]
    items = [
        create(name="A", departments=[{"department_id": 10**15}, {"department_id": {"code": "NONE"}}]),
        create(name="B", location_ids=[10**15, {"external_id": "none"}, {"code": 5}, {"name": "R"}, {}, "R", None]),
        create(name="C", roles=[*accountable, {"role_id": {"code": "R", "external_id": "r"}}]),
        create(name="D", owner_id={"code": "R"}, parent_id=2**63),
        create(name="E", roles=accountable, role_ids=[role["id"]]),
        create(name="F", roles=[*accountable, {"role_id": {"code": "r"}, "responsibility": "boss"}]),
    ]
    response = await send(client, "processes", items)
    assert response.status_code == 422
    assert faults(response) == {
        ("/items/0/data/departments/0/department_id", "unknown_reference"),
        ("/items/0/data/departments/1/department_id", "unknown_reference"),
        ("/items/1/data/location_ids/0", "unknown_reference"),
        ("/items/1/data/location_ids/1", "unknown_reference"),
        ("/items/1/data/location_ids/2/code", "string_type"),
        ("/items/1/data/location_ids/3", "bad_reference"),
        ("/items/1/data/location_ids/4", "bad_reference"),
        ("/items/1/data/location_ids/5", "bad_reference"),
        ("/items/1/data/location_ids/6", "null_not_allowed"),
        ("/items/2/data/roles/1/role_id", "bad_reference"),
        ("/items/3/data/owner_id", "unknown_reference"),
        ("/items/3/data/parent_id", "less_than_equal"),
        ("/items/4/data/role_ids", "both_forms"),
        ("/items/5/data/roles/1/responsibility", "literal_error"),
    }


async def test_unknown_references_alone_are_an_unknown_reference(client: httpx.AsyncClient) -> None:
    response = await send(client, "processes", [create(name="A", role_ids=[10**15]), create(name="B")])
    assert (response.status_code, response.json()["code"]) == (422, "unknown_reference")
    assert faults(response) == {("/items/0/data/role_ids/0", "unknown_reference")}


async def test_two_owners_or_accountable_roles_in_one_item_are_rejected(client: httpx.AsyncClient) -> None:
    departments = [(await make_department(client))["id"] for _ in range(2)]
    roles = [(await make_role(client, code=f"R{n}"))["id"] for n in range(2)]
    process = await make_process(client)
    owners = [{"department_id": key, "relation": "owner"} for key in departments]
    accountable = [{"role_id": key, "responsibility": "accountable"} for key in (roles[0], {"code": "r1"})]
    items = [create(name="A", departments=owners), update(process["id"], roles=accountable)]
    response = await send(client, "processes", items)
    assert response.status_code == 422
    assert faults(response) == {
        ("/items/0/data/departments", "several_owners"),
        ("/items/1/data/roles", "several_accountable"),
    }


async def test_referenced_objects_are_not_deleted(client: httpx.AsyncClient) -> None:
    department, role = await make_department(client), await make_role(client)
    await make_process(client, department_ids=[department["id"]])
    await make_role(client, department_id=department["id"])
    response = await send(client, "departments", [delete(department["id"])])
    assert (response.status_code, response.json()["code"]) == (409, "still_referenced")
    (fault,) = response.json()["errors"]
    assert fault["pointer"] == "/items/0"
    assert fault["detail"] == "The department is still referenced by processes and roles."
    user = await make_user(client)
    assert (await client.put(f"/roles/{role['id']}/holders/{user['id']}")).status_code == 204
    assert faults(await send(client, "users", [delete(user["id"])])) == {("/items/0", "still_referenced")}


# --- Partial writes ---


async def test_valid_items_are_written_without_the_others(client: httpx.AsyncClient) -> None:
    kept = await make_department(client, code="KEPT")
    child = await make_department(client, parent_id=kept["id"])
    items = [
        create(name="Good", code="GOOD"),
        create(name="", code="BAD"),
        create(name="Waits", code="WAITS", parent_id={"code": "BAD"}),
        create(name="Waits, too", parent_id={"code": "WAITS"}),
        update(child["id"], name="Changed"),
        delete(kept["id"]),
        create(name="Wants its code", code="kept"),
        create(name="Below the good one", parent_id={"code": "good"}),
        {"op": "upsert", "code": "GOOD-2", "data": {"name": "New"}},
        {"op": "upsert", "code": "BAD-2", "data": {"name": ""}},
    ]
    response = await send(client, "departments", items, atomic="false")
    assert faults_of_items(response) == {
        ("/items/1/data/name", "string_too_short"),
        ("/items/2/data/parent_id", "failed_reference"),
        ("/items/3/data/parent_id", "failed_reference"),
        ("/items/5", "still_referenced"),
        ("/items/6/data/code", "duplicate"),
        ("/items/9/data/name", "string_too_short"),
    }
    document = response.json()
    assert document["counts"] == {"created": 3, "updated": 1, "unchanged": 0, "deleted": 0, "failed": 6}
    assert statuses(document["items"]) == [
        *("created", "failed", "failed", "failed", "updated", "failed", "failed", "created", "created", "failed"),
    ]
    listed = (await client.get("/departments", params={"sort": "id"})).json()["items"]
    # A failed create has no object, and so no id.
    (_, _, good, below, new) = (each["id"] for each in listed)
    ids = [good, None, None, None, child["id"], kept["id"], None, below, new, None]
    assert [item["id"] for item in document["items"]] == ids
    tried = (await send(client, "departments", items[1:4], atomic="false", dry_run="true")).json()
    assert [item["id"] for item in tried["items"]] == [None, None, None]
    assert [each["name"] for each in listed] == [kept["name"], "Changed", "Good", "Below the good one", "New"]
    assert listed[3]["parent_id"] == listed[2]["id"]


async def test_reference_to_an_existing_key_is_valid_even_if_its_item_fails(client: httpx.AsyncClient) -> None:
    kept = await make_department(client, code="KEPT", external_id="kept")
    items = [
        {"op": "upsert", "code": "KEPT", "data": {"name": "", "external_id": "new"}},
        create(name="Below", parent_id={"code": "kept"}),
        create(name="Below, too", parent_id={"external_id": "kept"}),
        create(name="Waits", parent_id={"external_id": "new"}),
    ]
    response = await send(client, "departments", items, atomic="false")
    assert faults_of_items(response) == {
        ("/items/0/data/name", "string_too_short"),
        ("/items/3/data/parent_id", "failed_reference"),
    }
    listed = (await client.get("/departments", params={"sort": "id"})).json()["items"]
    assert [each["parent_id"] for each in listed] == [None, kept["id"], kept["id"]]


@every_collection
async def test_batch_without_a_valid_item_writes_nothing(
    client: httpx.AsyncClient, connection: AsyncConnection, collection: str
) -> None:
    before = await stored(connection)
    response = await send(client, collection, [create(name=5), delete(10**15)], atomic="false")
    assert faults_of_items(response) >= {("/items/0/data/name", "string_type"), ("/items/1/id", "not_found")}
    assert response.json()["counts"]["failed"] == 2
    assert await stored(connection) == before


# --- Dry runs ---


async def mixed_batch(client: httpx.AsyncClient, collection: str) -> list[Item]:
    changed, same, gone = [await make(client, collection, code=f"M-{n}") for n in range(3)]
    return [
        create(**required(collection, "made") | {"name": "Made", "code": "MADE"}),
        update(changed["id"], name="Changed", code="M-9"),
        {"op": "upsert", "code": "M-1", "data": {"name": same["name"]}},
        delete(gone["id"]),
    ]


@every_collection
async def test_dry_run_reports_everything_and_changes_nothing(
    client: httpx.AsyncClient, connection: AsyncConnection, collection: str
) -> None:
    items = await mixed_batch(client, collection)
    before = await stored(connection)
    response = await send(client, collection, items, dry_run="true")
    assert await stored(connection) == before
    tried = response.json()
    assert (response.status_code, tried["dry_run"]) == (200, True)
    assert (tried["items"][0]["id"], tried["items"][3]["version"]) == (None, None)
    done = (await send(client, collection, items)).json()
    assert done["counts"] == tried["counts"] == {"created": 1, "updated": 1, "unchanged": 1, "deleted": 1, "failed": 0}
    for one, other in zip(tried["items"], done["items"], strict=True):
        assert (one["status"], one["version"]) == (other["status"], other["version"])
    changes = (await client.get("/changes", params={"type": collection, "limit": 3})).json()["items"]
    recorded = [(each["before"], each["after"]) for each in reversed(changes)]
    assert [(each["before"], each["after"]) for each in tried["items"] if each["status"] != "unchanged"] == recorded
    assert recorded[0][1]["name"] == "Made"
    assert (tried["items"][2]["before"], tried["items"][2]["after"]) == (None, None)


@pytest.mark.parametrize("atomic", ["true", "false"])
async def test_dry_run_reports_the_faults_of_a_real_run(
    client: httpx.AsyncClient, connection: AsyncConnection, atomic: str
) -> None:
    await make_department(client, code="TAKEN")
    items = [create(name="Good"), create(name="A", code="taken"), create(name="B", nme="typo")]
    before = await stored(connection)
    tried = await send(client, "departments", items, dry_run="true", atomic=atomic)
    assert await stored(connection) == before
    done = await send(client, "departments", items, atomic=atomic)
    assert tried.status_code == done.status_code == (422 if atomic == "true" else 207)
    find = faults if atomic == "true" else faults_of_items
    assert find(tried) == find(done) == {("/items/1/data/code", "duplicate"), ("/items/2/data/nme", "extra_forbidden")}


# --- Permissions ---


@every_collection
async def test_scope_of_the_collection_is_required(client: httpx.AsyncClient, collection: str) -> None:
    others = [f"{each}:write" for each in COLLECTIONS if each != collection]
    response = await client.post(
        f"/{collection}/bulk",
        json={"items": "no list"},
        headers=await token_with(client, f"{collection}:read", *others),
    )
    assert (response.status_code, response.json()["scope"]) == (403, f"{collection}:write")


async def test_access_levels_are_raised_with_the_scope_admin_only(client: httpx.AsyncClient) -> None:
    editor, admin = await make_user(client, access_level="editor"), await make_user(client, access_level="admin")
    before = [(await client.get(f"/users/{each['id']}")).json() for each in (editor, admin)]
    items = [
        create(name="A", email="a@register.example", access_level="admin"),
        update(editor["id"], access_level="admin"),
        update(admin["id"], name="Renamed"),
        delete(admin["id"]),
        create(name="B", email="b@register.example"),
    ]
    narrow = await token_with(client, "users:read", "users:write")
    for item, pointer in zip(items, ("/data/access_level", "/data/access_level", "", ""), strict=False):
        response = await client.post("/users/bulk", json={"items": [items[4], item]}, headers=narrow)
        scope = response.json()["scope"]
        assert (response.status_code, scope.split()[0]) == (403, "admin")
        assert (f"/items/1{pointer}", "forbidden") in faults(response)
        assert f'scope="{scope}"' in response.headers["www-authenticate"]
    response = await client.post("/users/bulk?atomic=false", json={"items": items[2:]}, headers=narrow)
    # Two items about one object: the second one is also rejected for that.
    assert faults_of_items(response) >= {("/items/0", "forbidden"), ("/items/1", "forbidden")}
    assert response.json()["counts"]["created"] == 1
    assert [(await client.get(f"/users/{each['id']}")).json() for each in (editor, admin)] == before


async def test_last_administrator_and_the_first_one_stay(client: httpx.AsyncClient) -> None:
    first = (await client.get("/users", params={"sort": "id", "limit": 1})).json()["items"][0]
    second = await make_user(client, access_level="admin")
    assert faults(await send(client, "users", [delete(first["id"])])) == {
        ("/items/0", "first_administrator"),
        ("/items/0", "still_referenced"),
    }
    leave = [update(each["id"], is_active=False) for each in (first, second)]
    response = await send(client, "users", leave)
    assert (response.status_code, response.json()["code"]) == (409, "last_administrator")
    assert faults(response) == {("/items/1/data/is_active", "last_administrator")}
    assert statuses(await write(client, "users", leave[0])) == ["updated"]
    # The next request is rejected: its token belonged to the administrator who was just removed.
    assert (await client.get("/users")).status_code == 401


async def test_last_administrator_named_twice_stays(client: httpx.AsyncClient) -> None:
    (only,) = (await client.get("/users", params={"access_level": "admin"})).json()["items"]
    items = [update(only["id"], is_active=False), update(only["id"], name="Renamed")]
    response = await client.post("/users/bulk?atomic=false", json={"items": items})
    assert faults_of_items(response) == {
        ("/items/0/data/is_active", "last_administrator"),
        ("/items/1/id", "same_object"),
    }
    assert (await client.get(f"/users/{only['id']}")).json() == only


async def test_token_without_admin_learns_nothing_of_administrators(client: httpx.AsyncClient) -> None:
    (only,) = (await client.get("/users", params={"access_level": "admin"})).json()["items"]
    narrow = await token_with(client, "users:read", "users:write")
    response = await client.patch(f"/users/{only['id']}", json={"is_active": False}, headers=narrow)
    assert (response.status_code, response.json()["scope"], response.json()["errors"]) == (403, "admin", [])


# --- Limits ---


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"items": []}, "/items", "too_short"),
        ({"items": [create(name="N")] * 1001}, "/items", "too_long"),
        ({"items": {}}, "/items", "list_type"),
        ({}, "/items", "missing"),
        ({"items": [create(name="N")], "item": 1}, "/item", "extra_forbidden"),
        ([], "", "model_attributes_type"),
    ],
)
async def test_malformed_batch_is_rejected(client: httpx.AsyncClient, body: Any, pointer: str, code: str) -> None:
    response = await client.post("/departments/bulk", json=body)
    assert (response.status_code, faults(response)) == (422, {(pointer, code)})


@pytest.mark.parametrize("value", [1, "x", [], True])
async def test_fault_of_a_non_object_names_no_class(client: httpx.AsyncClient, value: Any) -> None:
    link = create(name="N", departments=[value])
    for collection, items, pointer in (
        ("departments", [value], "/items/0"),
        ("processes", [link], "/items/0/data/departments/0"),
    ):
        errors = (await send(client, collection, items)).json()["errors"]
        assert [(each["pointer"], each["code"]) for each in errors] == [(pointer, "model_type")]
        assert [each["detail"] for each in errors] == ["Must be an object."]
    single = await client.post("/processes", json=link["data"])
    assert [each["detail"] for each in single.json()["errors"]] == ["Must be an object."]
    body = await client.post("/departments/bulk", json=value)
    assert [each["detail"] for each in body.json()["errors"]] == ["Must be an object."]


async def test_one_and_a_thousand_items_are_a_batch(client: httpx.AsyncClient) -> None:
    for number in (1, 1000):
        assert len(await write(client, "roles", *(create(name=f"R {n}") for n in range(number)))) == number


async def test_parameters_are_checked(client: httpx.AsyncClient) -> None:
    for parameters, status in (({"dryrun": "true"}, 400), ({"dry_run": "perhaps"}, 422), ({"atomic": ""}, 422)):
        response = await client.post("/roles/bulk", json={"items": [create(name="N")]}, params=parameters)
        assert response.status_code == status
    assert (await client.get("/roles")).json()["items"] == []


@pytest.mark.parametrize("unknown", [30, 99, 140])
async def test_item_reports_as_many_faults_as_a_single_request(client: httpx.AsyncClient, unknown: int) -> None:
    body = {"name": "N", "departments": [{"department_id": 9_000_000 + number} for number in range(unknown)]}
    alone = (await client.post("/processes", json=body)).json()
    assert len(alone["errors"]) == min(unknown, 100)
    assert alone["detail"].endswith("The first 100 are listed.") == (unknown > 100)
    batch = (await send(client, "processes", [create(**body)])).json()
    assert [error["pointer"] for error in batch["errors"]] == [
        f"/items/0/data{error['pointer']}" for error in alone["errors"]
    ]
    assert batch["detail"].startswith("The request has more than 100 errors") == (unknown > 100)


async def test_fault_of_two_items_about_one_object_is_reported_once(client: httpx.AsyncClient) -> None:
    made = await make_department(client, code="A-1", external_id="x")
    items = [
        {"op": "update", "code": "a-1", "data": {"description": "1"}},
        {"op": "update", "id": made["id"], "data": {"description": "2"}},
        {"op": "update", "external_id": "x", "data": {"code": "A-2"}},
        *({"op": "upsert", "code": code, "data": {"name": "N"}} for code in ("new", "NEW", "a-2")),
    ]
    errors = (await send(client, "departments", items)).json()["errors"]
    assert sorted((error["pointer"], error["code"]) for error in errors) == [
        ("/items/1/id", "same_object"),
        ("/items/2/external_id", "same_object"),
        ("/items/4/code", "same_object"),
        ("/items/5/data/code", "duplicate"),
    ]


async def test_faults_beyond_a_thousand_are_left_out(client: httpx.AsyncClient) -> None:
    items = [create(name="", kind=1, latitude="x") for _ in range(600)]
    response = await send(client, "locations", items)
    assert (response.status_code, len(response.json()["errors"])) == (422, 1000)
    assert response.json()["detail"] == "The request has more than 1,000 errors. The first ones are listed."
    links = [{"department_id": 9_000_000 + number} for number in range(101)]
    for number, detail in (
        (100, "The request has 1,000 errors."),
        (101, "The request has more than 1,000 errors. The"),
    ):
        items = [create(name="N", departments=links[:number]) for _ in range(10)]
        problem = (await send(client, "processes", items)).json()
        assert len(problem["errors"]) == 1000
        assert problem["detail"].startswith(detail)


async def test_body_has_its_own_limit(app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"items": [create(name="N", description="x" * 19_000) for _ in range(60)]})
    headers = {"Content-Type": "application/json"}
    assert len(body) > app.state.settings.max_body_bytes
    assert (await client.post("/roles/bulk", content=body, headers=headers)).status_code == 200
    lower = app.state.settings.model_copy(update={"max_bulk_bytes": len(body) - 1})
    monkeypatch.setitem(app.state._state, "settings", lower)
    for sent in (body, _in_pieces(body)):
        response = await client.post("/roles/bulk", content=sent, headers=headers)
        assert (response.status_code, response.json()["code"]) == (413, "content_too_large")
    assert len((await client.get("/roles", params={"limit": 200})).json()["items"]) == 60


@pytest.mark.parametrize("piece", [b"{},", b"[],", b"0,", b"[" * 500 + b"]" * 500 + b","])
async def test_values_of_a_large_body_have_their_limit(client: httpx.AsyncClient, piece: bytes) -> None:
    signs = sum(map(piece.count, (b"{", b"[", b",")))
    body = b'{"items": [' + piece * (1_000_000 // signs + 1) + b"0" * 1024 * 1024 + b"]}"
    detail = "A JSON body may have at most 1,000,000 opening brackets and commas, strings included."
    for path, media_type in (("/roles/bulk", "application/json"), ("/roles/import", "application/x-ndjson")):
        for sent_type in (media_type, media_type.upper()):  # media types ignore case (RFC 9110, section 8.3.1)
            response = await client.post(path, content=body, headers={"Content-Type": sent_type})
            assert (response.status_code, response.json()["code"]) == (413, "content_too_large")
            assert response.json()["detail"] == detail


@pytest.mark.parametrize("member", ["locations", "location_ids"])
async def test_more_links_than_an_object_may_have_are_not_looked_up(client: httpx.AsyncClient, member: str) -> None:
    named = {"location_id": {"code": "A"}} if member == "locations" else {"code": "A"}
    plain = {"location_id": 1} if member == "locations" else 1
    response = await send(client, "processes", [create(name="P", **{member: [named] * 1001}), create(name="")])
    assert response.status_code == 422
    expected = await client.post("/processes", json={"name": "P", member: [plain] * 1001})
    fault = {each["pointer"]: each for each in expected.json()["errors"]}[f"/{member}"]
    found = [each for each in response.json()["errors"] if each["pointer"].startswith("/items/0/data/loc")]
    assert found == [fault | {"pointer": f"/items/0/data/{member}"}]


async def test_event_loop_runs_between_long_lists(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    async def sleep(_seconds: float) -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr(bulk, "asyncio", SimpleNamespace(sleep=sleep))
    await send(client, "processes", [create(name="P", location_ids=list(range(1, 1001))) for _ in range(20)])
    # The items are processed in four passes.
    assert turns >= 4 * 20 * 1000 // 2000


async def test_links_of_a_batch_have_their_limit(client: httpx.AsyncClient) -> None:
    items = [create(name="P", kind="core", status="draft", role_ids=list(range(1, 1001))) for _ in range(201)]
    response = await send(client, "processes", items)
    assert (response.status_code, response.json()["code"]) == (413, "content_too_large")
    assert response.json()["detail"] == "A batch may have at most 200,000 links."
    assert (await client.get("/processes")).json()["items"] == []


async def test_imports_have_no_rate_limit(app: FastAPI, client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    data = {"name": "P", "kind": "core", "status": "draft", "role_ids": [role["id"]] * 1000}
    async with app.state.database.transaction() as session:
        caller = await first_administrator(session)
        assert caller is not None
        service = ProcessService(session, caller)
        outcome = await write_batch(service, [create(**data) for _ in range(201)], atomic=True, dry_run=True)
    assert {item.status for item in outcome.items} == {"created"}


async def _in_pieces(body: str) -> Any:
    for start in range(0, len(body), 100_000):
        yield body[start : start + 100_000].encode()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
async def test_only_post_is_allowed(client: httpx.AsyncClient, method: str) -> None:
    response = await client.request(method, "/departments/bulk", json={})
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


# --- Idempotency keys ---


async def test_batch_is_written_once_for_its_key(client: httpx.AsyncClient) -> None:
    items = [create(name="Made", code="ONCE"), {"op": "upsert", "code": "TOO", "data": {"name": "Made"}}]
    headers = {"Idempotency-Key": "batch-1"}
    first = await client.post("/roles/bulk", json={"items": items}, headers=headers)
    again = await client.post("/roles/bulk", json={"items": items}, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert (again.headers["idempotency-replayed"], again.content) == ("true", first.content)
    refused = await client.post("/roles/bulk", json={"items": items[:1]}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    # The same holds for an error.
    headers = {"Idempotency-Key": "batch-2"}
    first, again = [
        await client.post("/roles/bulk", json={"items": [items[0], create(name="Good")]}, headers=headers)
        for _ in range(2)
    ]
    assert (first.status_code, first.content, again.headers["idempotency-replayed"]) == (409, again.content, "true")
    assert len((await client.get("/roles")).json()["items"]) == 2


# --- Arbitrary bodies ---

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["A", "a\x00", "\ud800", "", "é" * 600, "code:A", "2001-01-01"]),
    st.just({"code": "A"}),
    st.just({"external_id": "\ud800"}),
    st.just([{"code": "A"}, 1, None]),
    st.just([{"department_id": {"code": "A"}, "relation": "owner"}, {"role_id": []}, 7]),
)
MEMBERS = (
    *(
        "name",
        "code",
        "external_id",
        "parent_id",
        "manager_id",
        "owner_id",
        "kind",
        "email",
        "access_level",
        "is_active",
    ),
    *("departments", "role_ids", "latitude", "odd"),
)
odd_items = st.fixed_dictionaries(
    {"op": st.sampled_from(["create", "update", "upsert", "delete"])},
    optional={
        "id": st.one_of(st.integers(1, 3), odd),
        "code": st.one_of(st.sampled_from(["A", "a", "B"]), odd),
        "external_id": odd,
        "version": odd,
        "data": st.one_of(st.dictionaries(st.sampled_from(MEMBERS), odd, max_size=5), odd),
    },
)


@every_collection
async def test_no_batch_is_a_server_error(client: httpx.AsyncClient, collection: str) -> None:
    await make(client, collection, code="A")
    batches = draw_examples(
        st.lists(st.one_of(odd_items, odd, st.just(create(**required(collection)))), max_size=6), 60
    )
    for batch in batches:
        body = json.dumps({"items": batch}).encode()
        response = await client.post(
            f"/{collection}/bulk?atomic=false",
            content=body,
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN_TOKEN}"},
        )
        assert response.status_code in {200, 207, 422}, response.text
        assert response.json()  # and it is JSON in UTF-8
