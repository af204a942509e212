"""References by key in the bodies of single writes, which mean the same as in items of batches."""

from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domains.shared.references import MAX_LINKS, reference_places
from app.domains.shared.writing import references
from app.domains.shared.writing.references import ReferenceLookup
from tests.builders import make, make_department, make_process, make_role, token_with
from tests.catalogue import (
    COLLECTIONS,
    DECLARATIONS,
    LINKS,
    REFERENCE_TARGETS,
    REFERENCES,
    body_of,
    details_of,
    every_collection,
    required,
)
from tests.conftest import Committed, Statements, connected
from tests.domains.shared.bulk import create
from tests.growth import GROWTH, assert_proportionate_async
from tests.test_contract import CALLER

WRITES = (("POST", ""), ("PUT", "/{reference}"), ("PATCH", "/{reference}"))


@pytest.mark.parametrize(("method", "path"), WRITES)
@every_collection
def test_every_reference_of_a_body_takes_keys(collection: str, method: str, path: str) -> None:
    places, links = reference_places(body_of(collection, method, path)), LINKS[collection]
    assert sorted(places.members) == sorted(REFERENCES[collection])
    assert sorted(places.lists) == sorted(each.short for each in links)
    assert places.links == {each.field: each.target for each in links}


async def make_targets(client: httpx.AsyncClient) -> dict[str, list[int]]:
    """Create three objects of each collection, and return their ids."""
    return {
        name: [(await make(client, name, code=f"T-{n}", external_id=f"hr/{n}"))["id"] for n in range(3)]
        for name in COLLECTIONS
    }


def spellings(ids: list[int]) -> list[Any]:
    """Return references to three objects, one of each kind."""
    return [ids[0], {"code": "t-1"}, {"external_id": "hr/2"}]


@every_collection
async def test_references_take_keys_in_every_write(client: httpx.AsyncClient, collection: str) -> None:
    targets = await make_targets(client)
    made = await make(client, collection)
    body = required(collection, "other")
    for index in range(3):
        singles = {name: spellings(targets[target])[index] for name, target in REFERENCE_TARGETS[collection].items()}
        expected = {name: targets[target][index] for name, target in REFERENCE_TARGETS[collection].items()}
        for short in (True, False):
            lists: dict[str, Any] = {}
            for each in LINKS[collection]:
                references_ = spellings(targets[each.target_model.__tablename__])
                lists |= {each.short: references_} if short else {each.field: [{each.target: r} for r in references_]}
            for method, path, content in (
                ("POST", "", required(collection, f"new{index}{short}")),
                ("PUT", f"/{made['id']}", body),
                ("PATCH", f"/{made['id']}", {}),
            ):
                response = await client.request(method, f"/{collection}{path}", json=content | singles | lists)
                assert response.is_success, response.text
                document = response.json()
                assert {name: document[name] for name in expected} == expected
                for each in LINKS[collection]:
                    linked = [entry["id"] for entry in document[each.field]]
                    assert linked == targets[each.target_model.__tablename__]


@every_collection
async def test_unknown_keys_are_reported_with_all_other_faults(client: httpx.AsyncClient, collection: str) -> None:
    taken = await make(client, collection, code="TAKEN")
    made = await make(client, collection)
    unknown: dict[str, Any] = {}
    pointers = ["/code"]
    for number, name in enumerate(REFERENCES[collection]):
        unknown[name] = [{"code": "NONE"}, {"external_id": "none"}, 9_000_000][number % 3]
        pointers.append(f"/{name}")
    for each in LINKS[collection]:
        unknown[each.short] = [{"code": "NONE"}, {"external_id": "none"}, 9_000_000]
        pointers += [f"/{each.short}/{index}" for index in range(3)]
    content = required(collection, "other") | {"code": taken["code"].lower()} | unknown
    for method, path in (("POST", ""), ("PUT", f"/{made['id']}"), ("PATCH", f"/{made['id']}")):
        response = await client.request(method, f"/{collection}{path}", json=content)
        problem = response.json()
        faults = {error["pointer"]: error["code"] for error in problem["errors"]}
        assert faults == dict.fromkeys(pointers, "unknown_reference") | {"/code": "duplicate"}
        assert problem["code"] == ("invalid_content" if unknown else "duplicate")
        del content["code"]
        response = await client.request(method, f"/{collection}{path}", json=content)
        assert unknown == {} or response.json()["code"] == "unknown_reference"
        content["code"] = "taken"


LONG = [{"code": "R"}] * (MAX_LINKS + 1)
BOTH = [{"code": "R"}, {"external_id": "r"}]
UNKNOWN = {"code": "NONE"}
# Bodies, and the codes of their faults by pointer.
INVALID: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"owner_id": {}}, {"/owner_id": "bad_reference"}),
    ({"owner_id": {"id": 1}}, {"/owner_id": "bad_reference"}),
    ({"owner_id": {"code": "R", "external_id": "r"}}, {"/owner_id": "bad_reference"}),
    ({"owner_id": {"email": "admin@register.example"}}, {"/owner_id": "bad_reference"}),
    ({"owner_id": {"code": 1}}, {"/owner_id/code": "string_type"}),
    ({"owner_id": {"code": None}}, {"/owner_id/code": "null_not_allowed"}),
    ({"owner_id": {"code": {"code": "R"}}}, {"/owner_id/code": "string_type"}),
    ({"owner_id": {"code": "no code"}}, {"/owner_id/code": "string_pattern_mismatch"}),
    ({"owner_id": {"external_id": ""}}, {"/owner_id/external_id": "string_too_short"}),
    *(({"owner_id": each}, {"/owner_id": "bad_reference"}) for each in ("code:R", "5", 5.0, True, [], [{"code": "R"}])),
    ({"owner_id": -1, "parent_id": "code:R"}, {"/owner_id": "greater_than_equal", "/parent_id": "bad_reference"}),
    ({"owner_id": 2**63}, {"/owner_id": "less_than_equal"}),
    ({"parent_id": {"code": "A"}, "owner_id": "R"}, {"/owner_id": "bad_reference"}),
    (
        {"roles": [{"role_id": "5"}, {"role_id": None}]},
        {"/roles/0/role_id": "bad_reference", "/roles/1/role_id": "null_not_allowed"},
    ),
    ({"role_ids": {"code": "R"}}, {"/role_ids": "list_type"}),
    ({"role_ids": [*BOTH, "R", 0]}, {"/role_ids/2": "bad_reference", "/role_ids/3": "greater_than_equal"}),
    ({"role_ids": LONG}, {"/role_ids": "too_long"}),
    ({"roles": [{"role_id": each} for each in LONG]}, {"/roles": "too_long"}),
    ({"roles": BOTH[:1]}, {"/roles/0/role_id": "missing", "/roles/0/code": "extra_forbidden"}),
    ({"roles": [{"role_id": BOTH[0], "responsibility": "boss"}]}, {"/roles/0/responsibility": "literal_error"}),
    ({"role_ids": BOTH, "roles": []}, {"/role_ids": "both_forms"}),
    ({"role_ids": [*BOTH, UNKNOWN], "kind": 1}, {"/kind": "literal_error", "/role_ids/2": "unknown_reference"}),
    (
        {"owner_id": {"id": 1}, "role_ids": [UNKNOWN]},
        {"/owner_id": "bad_reference", "/role_ids/0": "unknown_reference"},
    ),
    (
        {"departments": [{"department_id": BOTH[0]}, {"department_id": BOTH[1], "relation": "owner"}]},
        {"/departments": "contradicting_links"},
    ),
    (
        {"roles": [{"role_id": {"code": code}, "responsibility": "accountable"} for code in "RS"]},
        {"/roles": "several_accountable"},
    ),
    ({"parent_id": UNKNOWN, "nmae": 1}, {"/nmae": "extra_forbidden", "/parent_id": "unknown_reference"}),
]


async def test_faults_are_those_of_the_same_item_of_a_batch(client: httpx.AsyncClient) -> None:
    for code in ("R", "S"):
        await make_role(client, code=code, external_id=code.lower())
        await make_department(client, code=code, external_id=code.lower())
    made = await make_process(client)
    await make_process(client, code="A")
    for body, expected in INVALID:
        whole = {"name": "P"} | body
        batch = await client.post("/processes/bulk?dry_run=true", json={"items": [create(**whole)]})
        for method, path in (("POST", ""), ("PUT", f"/{made['id']}"), ("PATCH", f"/{made['id']}")):
            response = await client.request(method, f"/processes{path}", json=whole)
            assert response.status_code == 422, body
            faults = {(each["pointer"], each["code"], each["detail"]) for each in response.json()["errors"]}
            assert {fault[:2] for fault in faults} == set(expected.items())
            prefix = "/items/0/data"
            assert faults == {
                (each["pointer"].removeprefix(prefix), each["code"], each["detail"]) for each in batch.json()["errors"]
            }


@pytest.mark.parametrize("member", ["departments", "roles"])
async def test_two_spellings_of_an_object_are_the_same_object(client: httpx.AsyncClient, member: str) -> None:
    made = await make(client, member, code="R", external_id="r")
    (links,) = (each for each in LINKS["processes"] if each.field == member)
    spelt: list[Any] = [made["id"], {"code": "r"}, {"external_id": "r"}]
    detail = {"departments": "owner", "roles": "accountable"}[member]
    for body in (
        {links.short: spelt},
        {member: [{links.target: each, str(links.detail): detail} for each in spelt]},
    ):
        document = await make_process(client, **body)
        assert [entry["id"] for entry in document[member]] == [made["id"]]


async def test_patch_replaces_a_reference_as_a_whole(client: httpx.AsyncClient) -> None:
    for code in ("A", "B"):
        await make_department(client, code=code, external_id=f"x/{code}")
    role = await make_role(client, department_id={"code": "A"})
    response = await client.patch(f"/roles/{role['id']}", json={"department_id": {"external_id": "x/B"}})
    assert response.json()["department"]["code"] == "B"
    response = await client.patch(f"/roles/{role['id']}", json={"department_id": {"code": "a", "external_id": None}})
    assert [error["code"] for error in response.json()["errors"]] == ["bad_reference"]


async def test_texts_older_than_the_rules_stay_in_bodies_with_keys(
    client: httpx.AsyncClient, connection: AsyncConnection
) -> None:
    department = await make_department(client, code="A")
    role = await make_role(client)
    await connection.execute(text("UPDATE roles SET external_id = 'old\u200b'"))
    body = {"name": "R", "external_id": "old\u200b", "department_id": {"code": "A"}}
    for method in ("PUT", "PATCH"):
        response = await client.request(method, f"/roles/{role['id']}", json=body)
        assert response.json()["department_id"] == department["id"]
    response = await client.put(f"/roles/{role['id']}", json=body | {"external_id": "new\u200b"})
    assert [error["code"] for error in response.json()["errors"]] == ["invisible_text"]


# --- Statements and transactions ---


@every_collection
async def test_body_with_keys_takes_one_more_statement(
    client: httpx.AsyncClient, statements: Statements, collection: str
) -> None:
    targets = await make_targets(client)
    for n in range(3):
        await client.patch(f"/users/{targets['users'][n]}", json={"access_level": "editor"})
    made = await make(client, collection)
    # A reference to another collection: a move within one is pinned elsewhere.
    keyed: dict[str, Any] = {
        name: {"code": "T-0"} for name, target in REFERENCE_TARGETS[collection].items() if target != collection
    }
    keyed |= {each.short: [{"external_id": "hr/1"}, {"code": "T-2"}] for each in LINKS[collection]}
    if not keyed:
        return
    path = f"/{collection}/{made['id']}"
    whole = required(collection, "other")
    whole |= {name: made[name] for name in ("access_level", "is_active") if name in made}
    for expected, method, url, content in (
        (1 + 1, "POST", f"/{collection}", required(collection)),
        (1 + 1, "PUT", path, whole),
        (2 + 1, "PATCH", path, {"name": "Third"}),
    ):
        with statements.counted() as seen:
            response = await client.request(method, url, json=content | keyed)
        assert response.is_success, response.text
        assert len(seen) == expected + CALLER, (method, url, seen)


async def test_move_by_key_takes_one_more_statement_than_by_id(
    client: httpx.AsyncClient, statements: Statements
) -> None:
    parent = await make_department(client, code="A")
    for method in ("PATCH", "PUT", "POST"):
        counts = []
        for reference in (parent["id"], {"code": "A"}):
            child = await make_department(client)
            path = "/departments" if method == "POST" else f"/departments/{child['id']}"
            with statements.counted() as seen:
                response = await client.request(method, path, json={"name": "D", "parent_id": reference})
            assert response.is_success, response.text
            counts.append(len(seen))
        assert counts == [counts[0], counts[0] + 1], method


async def test_object_that_is_deleted_after_the_look_up_is_an_unknown_reference(
    committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, run = committed.client, ReferenceLookup.run
    await make_department(client, code="KEPT")

    async def run_and_delete(self: ReferenceLookup, **options: Any) -> None:
        await run(self, **options)
        assert self._session.in_transaction()
        async with connected(committed.url) as connection:
            await connection.execute("DELETE FROM departments WHERE code = 'GONE'")

    monkeypatch.setattr(references.ReferenceLookup, "run", run_and_delete)
    role = await make_role(client)
    for method, path in (("POST", ""), ("PUT", f"/{role['id']}"), ("PATCH", f"/{role['id']}")):
        await make_department(client, code="GONE")
        body = {"name": "R", "department_id": {"code": "GONE"}}
        response = await client.request(method, f"/roles{path}", json=body)
        problem = response.json()
        assert (problem["code"], problem["errors"][0]["pointer"]) == ("unknown_reference", "/department_id")
    assert (await client.get(f"/roles/{role['id']}")).json()["version"] == 1


async def test_conditions_and_idempotency_apply_to_bodies_with_keys(client: httpx.AsyncClient) -> None:
    department = await make_department(client, code="A")
    role = await make_role(client)
    body = {"name": "R", "department_id": {"code": "A"}}
    for method in ("PUT", "PATCH"):
        response = await client.request(method, f"/roles/{role['id']}", json=body, headers={"If-Match": '"7"'})
        assert response.status_code == 412
        response = await client.request(method, "/roles/9000000", json=body)
        assert response.status_code == 404
    headers = {"Idempotency-Key": "once"}
    first, again = [await client.post("/roles", json=body, headers=headers) for _ in range(2)]
    assert first.json() == again.json()
    assert first.json()["department_id"] == department["id"]
    # The key of the stored request does not stand for another spelling of the same body.
    body = {"name": "R", "department_id": department["id"]}
    assert (await client.post("/roles", json=body, headers=headers)).status_code == 422


async def test_work_is_in_proportion_to_the_references(client: httpx.AsyncClient) -> None:
    await make_role(client, code="R")

    async def send(size: int) -> None:
        roles = [{"role_id": {"code": "R"}, "responsibility": value} for value in details_of("processes", ROLES)]
        response = await client.post("/processes", json={"name": "P", "roles": (roles * size)[:size]})
        assert response.status_code == 201

    await assert_proportionate_async(send, MAX_LINKS // GROWTH)


(ROLES,) = (each for each in LINKS["processes"] if each.field == "roles")


# --- Permissions ---


async def test_external_id_requires_the_permission_to_read_its_collection(client: httpx.AsyncClient) -> None:
    user = await make(client, "users", code="U", external_id="hr/7")
    department = await make_department(client, code="D", external_id="d")
    narrow = await token_with(client, "departments:write", "roles:write")
    path = f"/departments/{department['id']}"
    # An external id that exists and one that does not have the same response.
    for external_id in ("hr/7", "hr/8"):
        head = {"head_id": {"external_id": external_id}}
        for method, url, body, pointer in (
            ("POST", "/departments", {"name": "N"} | head, "/head_id"),
            ("PUT", path, {"name": "N"} | head, "/head_id"),
            ("PATCH", path, head, "/head_id"),
            ("POST", "/departments/bulk", {"items": [create(name="N", **head)]}, "/items/0/data/head_id"),
        ):
            response = await client.request(method, url, json=body, headers=narrow)
            problem = response.json()
            assert (response.status_code, problem["code"], problem["scope"]) == (403, "forbidden", "users:read")
            assert [(each["pointer"], each["code"]) for each in problem["errors"]] == [(pointer, "forbidden")]
        file = f"name,head_external_id\nN,{external_id}\n"
        headers = narrow | {"Content-Type": "text/csv"}
        response = await client.post("/departments/import", content=file, headers=headers)
        assert (response.status_code, response.json()["scope"]) == (403, "users:read")
    # Codes are shown in documents, and the collection of the write may be read.
    by_key = {"name": "N", "head_id": {"code": "u"}, "parent_id": {"external_id": "d"}}
    response = await client.post("/departments", json=by_key, headers=narrow)
    assert response.status_code == 201, response.text
    assert response.json()["head_id"] == user["id"]


async def test_every_unreadable_external_id_is_named(client: httpx.AsyncClient) -> None:
    narrow = await token_with(client, "processes:write", "roles:read")
    declared = DECLARATIONS["processes"].links
    members = ["owner_id", *(each.short for each in declared)]
    body = {name: {"external_id": "x"} if name == "owner_id" else [{"external_id": "x"}] for name in members}
    response = await client.post("/processes", json={"name": "P"} | body, headers=narrow)
    assert response.json()["scope"] == "departments:read locations:read resources:read users:read"
    pointers = {error["pointer"] for error in response.json()["errors"]}
    assert pointers == {"/owner_id", "/department_ids/0", "/location_ids/0", "/resource_ids/0"}
