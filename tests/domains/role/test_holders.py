"""The holders of roles: on request in responses, and whole sets of them in writes."""

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.builders import make_department, make_role, make_user, token_with
from tests.conftest import Committed, Statements
from tests.test_contract import CALLER

NDJSON, CSV = {"Accept": "application/x-ndjson"}, {"Accept": "text/csv"}


async def make_held_role(client: httpx.AsyncClient, *users: dict[str, Any], **fields: Any) -> dict[str, Any]:
    role = await make_role(client, **fields)
    for user in users:
        assert (await client.put(f"/roles/{role['id']}/holders/{user['id']}")).status_code == 204
    found: dict[str, Any] = (await client.get(f"/roles/{role['id']}")).json()
    return found


def brief(user: dict[str, Any]) -> dict[str, Any]:
    return {name: user[name] for name in ("id", "code", "name")}


async def test_holders_are_shown_only_on_request(client: httpx.AsyncClient) -> None:
    department = await make_department(client)
    users = [await make_user(client, code=f"U-{number}") for number in range(3)]
    role = await make_held_role(client, *reversed(users), department_id=department["id"])
    await make_held_role(client)
    holders = [brief(user) for user in users]
    plain = {name: value for name, value in role.items() if name not in {"department", "created_by", "updated_by"}}
    assert "holders" not in role
    for query, expected in (
        ("embed=holders", plain | {"holders": holders}),
        ("embed=department,holders", plain | {"department": brief(department), "holders": holders}),
        ("embed=created_by,updated_by,department,holders", role | {"holders": holders}),
        ("embed=created_by,updated_by,department", role),
        ("embed=none", plain),
        ("fields=id,holders", {"id": role["id"], "holders": holders}),
        ("fields=id&embed=holders", {"id": role["id"], "holders": holders}),
    ):
        one = await client.get(f"/roles/{role['id']}?{query}")
        assert (one.status_code, one.json()) == (200, expected), query
        listed = (await client.get(f"/roles?{query}")).json()["items"]
        assert listed[0] == expected
        assert listed[1].get("holders", []) == []


async def test_holders_are_exported_on_request(committed: Committed) -> None:
    client = committed.client
    users = [await make_user(client, code="U-1"), await make_user(client, external_id="hr/7"), await make_user(client)]
    role = await make_held_role(client, *users)
    (line,) = (await client.get("/roles?embed=holders", headers=NDJSON)).content.splitlines()
    assert json.loads(line)["holders"] == [brief(user) | {"external_id": user["external_id"]} for user in users]
    (row,) = csv.DictReader(io.StringIO((await client.get("/roles?fields=id,holders", headers=CSV)).text))
    assert row == {"id": str(role["id"]), "holders": f"U-1|~hr/7|#{users[2]['id']}"}
    for headers in (NDJSON, CSV):
        assert "holders" not in (await client.get("/roles", headers=headers)).text


async def test_tag_of_a_role_with_holders_follows_them(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    role = await make_held_role(client, user)
    path = f"/roles/{role['id']}?embed=holders"
    tag = (await client.get(path)).headers["etag"]
    assert tag != (await client.get(f"/roles/{role['id']}")).headers["etag"]
    assert (await client.get(path, headers={"If-None-Match": tag})).status_code == 304
    await client.patch(f"/users/{user['id']}", json={"name": "Renamed"})
    assert (await client.get(path, headers={"If-None-Match": tag})).status_code == 200


@pytest.mark.parametrize("query", ["embed=holders", "fields=id,holders", "embed=department,holders"])
async def test_holders_require_the_permission_to_read_users(client: httpx.AsyncClient, query: str) -> None:
    role = await make_held_role(client, await make_user(client))
    narrow, wide = await token_with(client, "roles:read"), await token_with(client, "roles:read", "users:read")
    for path in (f"/roles/{role['id']}?{query}", f"/roles?{query}", "/roles/9?embed=holders"):
        for format_ in ({}, NDJSON, CSV):
            response = await client.get(path, headers=narrow | format_)
            assert (response.status_code, response.json()["scope"]) == (403, "users:read")
    assert "holders" in (await client.get(f"/roles/{role['id']}?{query}", headers=wide)).json()
    assert (await client.get(f"/roles/{role['id']}?embed=department", headers=narrow)).status_code == 200


def changes_in(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the changes of a list, an export or the feed, without positions, and their members as JSON documents."""
    assert response.status_code == 200, response.text
    kind = response.headers["content-type"]
    if "csv" in kind:
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(response.text)))
        return [row | {name: json.loads(row[name] or "null") for name in ("before", "after")} for row in rows]
    found = list(map(json.loads, response.text.splitlines())) if "ndjson" in kind else response.json()["items"]
    return [{name: value for name, value in it.items() if name != "position"} for it in found if "id" in it]


@pytest.mark.parametrize("headers", [{}, NDJSON, CSV], ids=["json", "ndjson", "csv"])
@pytest.mark.parametrize("path", ["/roles/code:HELD/changes", "/changes?type=roles", "/changes", "/changes/feed"])
async def test_history_shows_holders_only_to_callers_that_may_read_users(
    committed: Committed, path: str, headers: dict[str, str]
) -> None:
    if path == "/changes/feed" and headers == CSV:
        pytest.skip("the feed has no tables")
    client = committed.client
    users = [await make_user(client) for _ in range(3)]
    role = await make_held_role(client, users[0], code="HELD", description="Old")
    await client.put(f"/roles/{role['id']}/holders", json={"user_ids": [user["id"] for user in users[1:]]})
    await client.delete(f"/roles/{role['id']}/holders/{users[1]['id']}")
    await client.patch(f"/roles/{role['id']}", json={"description": "New"})
    read = "changes:read", "roles:read"
    shown = changes_in(await client.get(path, headers=headers))
    may_read = changes_in(await client.get(path, headers=headers | await token_with(client, *read, "users:read")))
    narrow = changes_in(await client.get(path, headers=headers | await token_with(client, *read)))
    of_roles = [change for change in shown if change["type"] == "roles"]
    assert [change for change in may_read if change["type"] == "roles"] == of_roles
    assert len([change for change in of_roles if "holders" in (change["before"] or {}) | (change["after"] or {})]) == 3
    for change in of_roles:
        for state in ("before", "after"):
            (change[state] or {}).pop("holders", None)
    # Each version has its change, even if it has no other members.
    assert narrow == of_roles


@pytest.mark.parametrize("query", ["member=holders", "member=name&member=holders", "type=roles&member=holders"])
async def test_filter_by_the_member_requires_the_permission_to_read_users(
    client: httpx.AsyncClient, query: str
) -> None:
    role = await make_held_role(client, await make_user(client))
    scopes = "changes:read", "roles:read"
    narrow, wide = await token_with(client, *scopes), await token_with(client, *scopes, "users:read")
    paths = [f"/changes?{query}"]
    if "type" not in query:
        paths.append(f"/roles/{role['id']}/changes?{query}")
    for path in paths:
        for format_ in ({}, NDJSON, CSV):
            response = await client.get(path, headers=narrow | format_)
            assert (response.status_code, response.json()["scope"]) == (403, "users:read")
        assert "holders" in {
            name for change in changes_in(await client.get(path, headers=wide)) for name in change["after"]
        }


@pytest.mark.parametrize("member", ["holders", "user_ids"])
async def test_bodies_and_files_of_roles_take_no_holders(client: httpx.AsyncClient, member: str) -> None:
    user = await make_user(client)
    role, body = await make_held_role(client, user), {"name": "Role", member: []}
    for method, path in (("POST", "/roles"), ("PUT", f"/roles/{role['id']}"), ("PATCH", f"/roles/{role['id']}")):
        problem = (await client.request(method, path, json=body)).json()
        assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [(f"/{member}", "extra_forbidden")]
    items = {"items": [{"op": "update", "id": role["id"], "data": body}]}
    problem = (await client.post("/roles/bulk", json=items)).json()
    assert [fault["pointer"] for fault in problem["errors"]] == [f"/items/0/data/{member}"]
    assert (await client.get(f"/roles/{role['id']}?embed=holders")).json()["holders"] == [brief(user)]


async def test_file_with_holders_is_rejected_unless_they_are_ignored(client: httpx.AsyncClient) -> None:
    line = {"name": "Imported", "holders": []}
    for content, kind in (("name,Holders\nImported,U-1\n", "text/csv"), (json.dumps(line), "application/x-ndjson")):
        headers = {"Content-Type": kind}
        name = "Holders" if kind == "text/csv" else "holders"
        problem = (await client.post("/roles/import", content=content, headers=headers)).json()
        (fault,) = problem["errors"]
        text = f"Files cannot set this field. Ignore it (`map={name}:`) and use its own request."
        assert (fault["pointer"], fault["code"], fault["detail"]) == (f"/1/{name}", "unknown_column", text)
        response = await client.post(f"/roles/import?map={name}:", content=content, headers=headers)
        assert (response.status_code, response.json()["counts"]["create"]) == (200, 1)


async def holders_of(client: httpx.AsyncClient, role: dict[str, Any]) -> list[int]:
    found = (await client.get(f"/roles/{role['id']}?fields=holders")).json()["holders"]
    return [holder["id"] for holder in found]


async def history_of(client: httpx.AsyncClient, role: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the changes of a role, the newest first, without its creation."""
    items = (await client.get(f"/roles/{role['id']}/changes")).json()["items"]
    return [(item["action"], item["before"], item["after"]) for item in items[:-1]]


@pytest.mark.parametrize("by", ["id", "code"])
async def test_all_holders_are_replaced_at_once(client: httpx.AsyncClient, by: str) -> None:
    users = [await make_user(client) for _ in range(4)]
    ids = [user["id"] for user in users]
    role = await make_role(client, code="Buyer")
    path = f"/roles/{role['id'] if by == 'id' else 'code:BUYER'}/holders"
    changes: list[tuple[str, Any, Any]] = []
    for wanted, removed, added in (
        ([ids[1], ids[0], ids[1]], [], users[:2]),
        ([ids[0], ids[3]], users[1:2], users[3:]),
        ([], [users[0], users[3]], []),
    ):
        for _ in range(2):  # the second request changes nothing
            response = await client.put(path, json={"user_ids": wanted})
            assert (response.status_code, response.content) == (204, b"")
            assert response.headers["etag"] == (await client.get(f"/roles/{role['id']}")).headers["etag"]
        assert await holders_of(client, role) == sorted(set(wanted))
        before, after = ({"holders": list(map(brief, each))} if each else {} for each in (removed, added))
        changes.insert(0, ("updated", before, after))
        assert await history_of(client, role) == changes
        assert response.headers["etag"].startswith(f'"{1 + len(changes)}.')


async def test_unknown_holders_are_faults_of_their_entries(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    role = await make_held_role(client, user)
    path, absent = f"/roles/{role['id']}/holders", 2**40
    for wanted, places in (([absent], [0]), ([user["id"], absent, user["id"], absent + 1, absent], [1, 3, 4])):
        response = await client.put(path, json={"user_ids": wanted})
        assert (response.status_code, response.json()["code"]) == (422, "unknown_reference")
        assert [fault["pointer"] for fault in response.json()["errors"]] == [f"/user_ids/{place}" for place in places]
    for body, pointer, code in (
        ({}, "/user_ids", "missing"),
        ({"user_ids": None}, "/user_ids", "null_not_allowed"),
        ({"user_ids": [user["id"]] * 1001}, "/user_ids", "too_long"),
        ({"user_ids": [0]}, "/user_ids/0", "greater_than_equal"),
        ({"user_ids": [], "holders": []}, "/holders", "extra_forbidden"),
    ):
        response = await client.put(path, json=body)
        found = [(fault["pointer"], fault["code"]) for fault in response.json()["errors"]]
        assert (response.status_code, found) == (422, [(pointer, code)])
    assert (await client.put("/roles/999/holders", json={"user_ids": [absent]})).status_code == 404
    assert (await client.get(f"/roles/{role['id']}")).json() == role
    assert await holders_of(client, role) == [user["id"]]


async def test_conditions_hold_for_the_replacement_of_all_holders(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    role = await make_role(client)
    path, body = f"/roles/{role['id']}/holders", {"user_ids": [user["id"]]}
    stale = (await client.get(f"/roles/{role['id']}")).headers["etag"]
    written = await client.put(path, json=body, headers={"If-Match": stale})
    assert written.status_code == 204
    for headers in ({"If-Match": stale}, {"If-None-Match": "*"}, {"If-None-Match": written.headers["etag"]}):
        response = await client.put(path, json={"user_ids": []}, headers=headers)
        assert (response.status_code, response.headers["etag"]) == (412, written.headers["etag"])
    assert await holders_of(client, role) == [user["id"]]
    next_tag = {"If-None-Match": stale, "If-Match": written.headers["etag"]}
    assert (await client.put(path, json={"user_ids": []}, headers=next_tag)).status_code == 204


async def test_write_of_holders_needs_no_permission_to_read_users(client: httpx.AsyncClient) -> None:
    users = [await make_user(client) for _ in range(2)]
    role = await make_held_role(client, users[0])
    headers = await token_with(client, "roles:write")
    response = await client.put(f"/roles/{role['id']}/holders", json={"user_ids": [users[1]["id"]]}, headers=headers)
    assert (response.status_code, response.content) == (204, b"")
    assert await holders_of(client, role) == [users[1]["id"]]


async def test_work_of_replacing_holders_is_one_statement(client: httpx.AsyncClient, statements: Statements) -> None:
    role = await make_role(client)
    ids = [(await make_user(client))["id"] for _ in range(5)]
    for wanted, expected in ((ids, 1), (ids[:1], 1), (ids[:1], 2)):  # an unchanged role is read once more
        with statements.counted() as seen:
            response = await client.put(f"/roles/{role['id']}/holders", json={"user_ids": wanted})
        assert response.status_code == 204
        assert len(seen) == expected + CALLER, seen


@dataclass
class Staff:
    """Roles and users, and requests of whole sets of holders."""

    client: httpx.AsyncClient
    roles: list[dict[str, Any]]
    users: list[dict[str, Any]]

    async def send(self, *items: Any, headers: Any = None, **params: Any) -> httpx.Response:
        body = {"items": list(items)}
        return await self.client.post("/roles/holders/bulk", json=body, params=params, headers=headers)

    async def holders(self) -> list[list[int]]:
        return [await holders_of(self.client, role) for role in self.roles]

    def ids(self, *places: int) -> list[int]:
        return [self.users[place]["id"] for place in places]


@pytest.fixture
async def staff(client: httpx.AsyncClient) -> Staff:
    roles = [await make_role(client, code=f"R-{number}", external_id=f"r/{number}") for number in range(3)]
    users = [await make_user(client, code=f"U-{number}", external_id=f"u/{number}") for number in range(4)]
    return Staff(client, roles, users)


def faults_in(response: httpx.Response) -> list[tuple[str, str]]:
    return [(fault["pointer"], fault["code"]) for fault in response.json()["errors"]]


async def test_holders_are_named_by_id_and_by_key(staff: Staff) -> None:
    path = f"/roles/{staff.roles[0]['id']}/holders"
    wanted = [staff.users[0]["id"], {"code": "u-1"}, {"external_id": "u/2"}, {"code": "U-0"}]
    assert (await staff.client.put(path, json={"user_ids": wanted})).status_code == 204
    assert await holders_of(staff.client, staff.roles[0]) == staff.ids(0, 1, 2)
    for entry, pointer, code in (
        ({"code": "absent"}, "/user_ids/1", "unknown_reference"),
        ({"id": 1}, "/user_ids/1", "bad_reference"),
        ("code:U-1", "/user_ids/1", "bad_reference"),
        ({"code": "U-1", "external_id": "u/1"}, "/user_ids/1", "bad_reference"),
    ):
        response = await staff.client.put(path, json={"user_ids": [staff.users[0]["id"], entry]})
        assert (response.status_code, faults_in(response)) == (422, [(pointer, code)])
    assert len(await history_of(staff.client, staff.roles[0])) == 1


async def test_holders_of_many_roles_are_replaced_in_one_request(staff: Staff) -> None:
    await staff.send({"role_id": staff.roles[2]["id"], "user_ids": staff.ids(3)})
    first, second, third = staff.roles
    response = await staff.send(
        {"role_id": first["id"], "user_ids": [*staff.ids(1, 0, 1), {"code": "u-2"}]},
        {"role_id": {"code": "r-1"}, "user_ids": []},
        {"role_id": {"external_id": "r/2"}, "user_ids": [{"external_id": "u/0"}]},
    )
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["counts"] == {"created": 0, "updated": 2, "unchanged": 1, "deleted": 0, "failed": 0}
    assert body["items"] == [
        {"index": 0, "status": "updated", "id": first["id"], "version": 2},
        {"index": 1, "status": "unchanged", "id": second["id"], "version": 1},
        {"index": 2, "status": "updated", "id": third["id"], "version": 3},
    ]
    assert await staff.holders() == [staff.ids(0, 1, 2), [], staff.ids(0)]
    users = [brief(user) for user in staff.users]
    histories = [await history_of(staff.client, role) for role in staff.roles]
    assert histories == [
        [("updated", {}, {"holders": users[:3]})],
        [],
        [("updated", {"holders": users[3:]}, {"holders": users[:1]}), ("updated", {}, {"holders": users[3:]})],
    ]
    for role, version in zip(staff.roles, (2, 1, 3), strict=True):
        found = (await staff.client.get(f"/roles/{role['id']}")).json()
        assert found | {"updated_at": None} == role | {"version": version, "updated_at": None}


BAD_ITEMS: list[tuple[Any, list[tuple[str, str]]]] = [
    ("x", [("", "model_type")]),
    ({}, [("/role_id", "missing"), ("/user_ids", "missing")]),
    ({"role_id": 0, "user_ids": None}, [("/role_id", "greater_than_equal"), ("/user_ids", "null_not_allowed")]),
    ({"role_id": {"id": 1}, "user_ids": []}, [("/role_id", "bad_reference")]),
    ({"role_id": "code:R-0", "user_ids": []}, [("/role_id", "bad_reference")]),
    ({"role_id": {"code": " "}, "user_ids": []}, [("/role_id/code", "string_pattern_mismatch")]),
    ({"role_id": {"code": "absent"}, "user_ids": []}, [("/role_id", "not_found")]),
    ({"role_id": 2**40, "user_ids": [2**40]}, [("/role_id", "not_found"), ("/user_ids/0", "unknown_reference")]),
    ({"role_id": {"code": "R-0"}, "user_ids": [], "code": "X"}, [("/code", "extra_forbidden")]),
    ({"role_id": {"code": "R-0"}, "user_ids": [], "data": {}}, [("/data", "extra_forbidden")]),
    (
        {"role_id": {"code": "R-0"}, "user_ids": ["1", {"code": "absent"}, {}, {"external_id": "u/9"}]},
        [
            ("/user_ids/2", "bad_reference"),
            ("/user_ids/1", "unknown_reference"),
            ("/user_ids/3", "unknown_reference"),
            ("/user_ids/0", "bad_reference"),
        ],
    ),
    ({"role_id": {"code": "R-0"}, "user_ids": [1] * 1001}, [("/user_ids", "too_long")]),
]


@pytest.mark.parametrize(("item", "faults"), BAD_ITEMS, ids=range(len(BAD_ITEMS)))
async def test_faulty_item_is_rejected_with_pointers_into_it(
    staff: Staff, item: Any, faults: list[tuple[str, str]]
) -> None:
    good = {"role_id": {"code": "R-1"}, "user_ids": staff.ids(0)}
    response = await staff.send(good, item)
    assert response.status_code == 422
    assert faults_in(response) == [(f"/items/1{pointer}", code) for pointer, code in faults]
    assert await staff.holders() == [[], [], []]
    response = await staff.send(good, item, atomic="false")
    assert (response.status_code, response.json()["counts"]["failed"]) == (207, 1)
    assert [(fault["pointer"], fault["code"]) for fault in response.json()["items"][1]["errors"]] == [
        (f"/items/1{pointer}", code) for pointer, code in faults
    ]
    assert await staff.holders() == [[], staff.ids(0), []]


async def test_role_is_named_by_one_item_only(staff: Staff) -> None:
    items = [{"role_id": each, "user_ids": staff.ids(0)} for each in (staff.roles[0]["id"], {"code": "r-0"})]
    response = await staff.send(*items)
    assert (response.status_code, faults_in(response)) == (422, [("/items/1/role_id", "same_object")])
    assert await staff.holders() == [[], [], []]


async def test_dry_run_shows_the_changes_to_callers_that_may_read_users(staff: Staff) -> None:
    await staff.send({"role_id": staff.roles[0]["id"], "user_ids": staff.ids(0)})
    item = {"role_id": {"code": "R-0"}, "user_ids": staff.ids(1)}
    response = await staff.send(item, dry_run="true")
    (result,) = response.json()["items"]
    before, after = ({"holders": [brief(staff.users[place])]} for place in (0, 1))
    assert (result["before"], result["after"], result["version"]) == (before, after, 3)
    narrow = await token_with(staff.client, "roles:write")
    response = await staff.send(item, dry_run="true", headers=narrow)
    assert (response.status_code, response.json()["scope"]) == (403, "users:read")
    by_external_id = {"role_id": {"code": "R-0"}, "user_ids": [{"external_id": "u/1"}]}
    assert (await staff.send(by_external_id, headers=narrow)).status_code == 403
    assert await staff.holders() == [staff.ids(0), [], []]
    response = await staff.send(item, headers=narrow)
    assert (response.status_code, "before" in response.json()["items"][0]) == (200, False)
    assert await staff.holders() == [staff.ids(1), [], []]


async def test_repeated_batch_of_holders_is_executed_once(staff: Staff) -> None:
    item = {"role_id": {"code": "R-0"}, "user_ids": staff.ids(1)}
    headers = {"Idempotency-Key": "holders"}
    first = await staff.send(item, headers=headers)
    await staff.send({"role_id": {"code": "R-0"}, "user_ids": []})
    assert (await staff.send(item, headers=headers)).content == first.content
    assert await staff.holders() == [[], [], []]


async def test_number_of_roles_and_holders_in_a_batch_is_limited(staff: Staff) -> None:
    assert (await staff.send()).status_code == 422
    assert (await staff.send(*[{"role_id": 1, "user_ids": []}] * 1001)).status_code == 422
    response = await staff.send(*[{"role_id": 1, "user_ids": [1] * 1000}] * 200, {"role_id": 1, "user_ids": [1]})
    assert (response.status_code, response.json()["detail"]) == (413, "A batch may have at most 200,000 links.")


async def test_work_of_a_batch_of_holders_does_not_depend_on_its_size(staff: Staff, statements: Statements) -> None:
    counts = []
    for count in (1, 3):
        with statements.counted() as seen:
            items = [{"role_id": role["id"], "user_ids": staff.ids(*range(count))} for role in staff.roles[:count]]
            assert (await staff.send(*items)).status_code == 200
        counts.append(len(seen))
    assert counts == [10, 10], seen
