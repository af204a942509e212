"""Routes of users."""

import json
from typing import Any

import httpx
import pytest

from app.core.permissions import AccessLevel, scopes_of
from app.utils.exceptions import FirstAdministrator
from app.utils.wording import named
from tests.builders import (
    make_department,
    make_location,
    make_process,
    make_resource,
    make_role,
    make_user,
    token_with,
)


def faults(response: httpx.Response) -> list[tuple[str, str]]:
    return [(error["pointer"], error["code"]) for error in response.json()["errors"]]


async def first_administrator(client: httpx.AsyncClient) -> dict[str, Any]:
    """Return the only user without a creator."""
    users: list[dict[str, Any]] = (await client.get("/users")).json()["items"]
    (found,) = (user for user in users if user["created_by"] is None)
    return found


async def test_fields_left_out_take_their_defaults(client: httpx.AsyncClient) -> None:
    made = await make_user(client)
    names = ("department_id", "department", "manager_id", "manager", "access_level", "is_active")
    assert [made[name] for name in names] == [None, None, None, None, "viewer", True]


async def test_department_and_manager_are_embedded_as_briefs(client: httpx.AsyncClient) -> None:
    department = await make_department(client, code="IT", name="IT")
    manager = await make_user(client, code="grace", name="Grace")
    made = await make_user(client, department_id=department["id"], manager_id=manager["id"])
    assert made["department"] == {"id": department["id"], "code": "IT", "name": "IT"}
    assert made["manager"] == {"id": manager["id"], "code": "grace", "name": "Grace"}
    patched = (await client.patch(f"/users/{made['id']}", json={"manager_id": None})).json()
    assert (patched["manager"], patched["department"]) == (None, made["department"])


@pytest.mark.parametrize("field", ["department_id", "manager_id"])
async def test_unknown_reference_is_refused(client: httpx.AsyncClient, field: str) -> None:
    made = await make_user(client)
    body = {"name": "User", "email": "user@register.example", field: 2**63 - 1}
    for response in (
        await client.post("/users", json=body),
        await client.patch(f"/users/{made['id']}", json={field: 2**63 - 1}),
    ):
        assert (response.status_code, faults(response)) == (422, [(f"/{field}", "unknown_reference")])


async def test_email_is_required_and_cannot_be_cleared(client: httpx.AsyncClient) -> None:
    made = await make_user(client)
    response = await client.post("/users", json={"name": "User"})
    assert (response.status_code, faults(response)) == (422, [("/email", "missing")])
    response = await client.put(f"/users/{made['id']}", json={"name": "User"})
    assert (response.status_code, faults(response)) == (422, [("/email", "missing")])
    response = await client.patch(f"/users/{made['id']}", json={"email": None})
    assert (response.status_code, faults(response)) == (422, [("/email", "null_not_allowed")])


@pytest.mark.parametrize(
    ("email", "stored"),
    [
        ("ada@register.example", "ada@register.example"),
        ("Ada.Byron+tag@register.example", "Ada.Byron+tag@register.example"),
        # The domain ignores case, the mailbox may not.
        ("Ada@REGISTER.Example", "Ada@register.example"),
        ("jose\u0301@register.example", "jos\u00e9@register.example"),
        ("ada@xn--bcher-kva.example", "ada@b\u00fccher.example"),
        ("ada@B\u00dcCHER.example", "ada@b\u00fccher.example"),
        ("x" * 64 + "@register.example", "x" * 64 + "@register.example"),
        # Names in a private network may have no dot.
        ("ada@register", "ada@register"),
        *((email, email) for email in ("ada@corp.local", "ada@printer.home.arpa", "ada@register.test")),
    ],
)
async def test_email_is_normalised(client: httpx.AsyncClient, email: str, stored: str) -> None:
    made = await make_user(client, email=email)
    assert made["email"] == stored
    # Normalisation is idempotent.
    patched = await client.patch(f"/users/{made['id']}", json={"email": stored})
    assert (patched.status_code, patched.json()) == (200, made)


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "ada@",
        "@register.example",
        "ada@localhost",
        "ada@@register.example",
        "ada @register.example",
        "ada@register.example\n",
        " ada@register.example",
        "ada@register.example ",
        "Ada <ada@register.example>",
        "ada@[127.0.0.1]",
        "a..b@register.example",
        "ada\0@register.example",
        "x" * 238 + "@register.example",
        "x@" + "a" * 64 + ".example",
        "x@" + ".".join(["a" * 60] * 5),
    ],
)
async def test_invalid_email_is_rejected(client: httpx.AsyncClient, email: str) -> None:
    made = await make_user(client)
    for response in (
        await client.post("/users", json={"name": "User", "email": email}),
        await client.patch(f"/users/{made['id']}", json={"email": email}),
    ):
        assert response.status_code == 422
        assert [pointer for pointer, _ in faults(response)] == ["/email"]
        assert email == "" or email not in response.json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ada@register.example", "ada@register.example"),
        ("ada@register.example", "ADA@Register.EXAMPLE"),
        ("\u00c9mile@register.example", "\u00e9mile@register.example"),
        ("jos\u00e9@register.example", "jose\u0301@register.example"),
        ("ada@b\u00fccher.example", "ada@xn--bcher-kva.example"),
        ("ΝΊΚΟΣ@register.example", "νίκος@register.example"),
        ("ОЛЬГА@register.example", "ольга@register.example"),
    ],
)
async def test_duplicate_email_is_a_conflict_ignoring_case(client: httpx.AsyncClient, first: str, second: str) -> None:
    await make_user(client, email=first)
    other = await make_user(client)
    for response in (
        await client.post("/users", json={"name": "User", "email": second}),
        await client.put(f"/users/{other['id']}", json={"name": "User", "email": second}),
        await client.patch(f"/users/{other['id']}", json={"email": second}),
    ):
        assert (response.status_code, response.json()["code"]) == (409, "duplicate")
        assert response.json()["detail"] == "A user with this email already exists."
        assert faults(response) == [("/email", "duplicate")]
    assert (await client.get(f"/users/{other['id']}")).json() == other


async def test_different_letters_make_different_addresses(client: httpx.AsyncClient) -> None:
    """The Latin letter a and the Cyrillic one are different, and so are ß and ss."""
    for email in ("strasse@register.example", "straße@register.example", "\u0430da@x.example", "ada@x.example"):
        made = await make_user(client, email=email)
        found = (await client.get("/users", params={"email": email.capitalize()})).json()["items"]
        assert [user["id"] for user in found] == [made["id"]]


@pytest.mark.parametrize("email", ["νίκος@register.example", "νίκοσ@register.example", "ΝΊΚΟΣ@REGISTER.EXAMPLE"])
async def test_users_are_found_by_email_ignoring_case(client: httpx.AsyncClient, email: str) -> None:
    made = await make_user(client, email="Νίκος@register.example")
    await make_user(client, email="ada@register.example")
    for query in ({"email": email}, {"email__ic": email[:5]}, {"email__sw": email}):
        found = (await client.get("/users", params=query)).json()["items"]
        assert [user["id"] for user in found] == [made["id"]]
    others = (await client.get("/users", params={"email__not": email})).json()["items"]
    assert made["id"] not in [user["id"] for user in others]


async def test_user_may_change_the_case_of_their_own_email(client: httpx.AsyncClient) -> None:
    made = await make_user(client, email="ada@register.example")
    response = await client.patch(f"/users/{made['id']}", json={"email": "Ada@register.example"})
    assert (response.status_code, response.json()["email"]) == (200, "Ada@register.example")


async def test_each_access_level_is_kept_and_others_are_refused(client: httpx.AsyncClient) -> None:
    for level in ("viewer", "editor", "admin"):
        assert (await make_user(client, access_level=level))["access_level"] == level
    made = await make_user(client, access_level="admin")
    for wrong in ("Admin", "root", "", 1):
        response = await client.patch(f"/users/{made['id']}", json={"access_level": wrong})
        assert (response.status_code, faults(response)) == (422, [("/access_level", "literal_error")])


async def test_user_is_deactivated_and_activated(client: httpx.AsyncClient) -> None:
    made = await make_user(client, is_active=False)
    assert made["is_active"] is False
    path = f"/users/{made['id']}"
    assert (await client.patch(path, json={"is_active": True})).json()["is_active"] is True
    assert (await client.patch(path, json={"is_active": False})).json()["is_active"] is False
    for value in (0, 1, "true", "false"):
        response = await client.patch(path, json={"is_active": value})
        assert (response.status_code, faults(response)) == (422, [("/is_active", "bool_type")])


async def test_referenced_user_cannot_be_deleted(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    department = await make_department(client, head_id=user["id"])
    process = await make_process(client, owner_id=user["id"])
    roles = [await make_role(client) for _ in range(2)]
    for role in roles:
        await client.put(f"/roles/{role['id']}/holders/{user['id']}")
    subordinate = await make_user(client, manager_id=user["id"])
    response = await client.delete(f"/users/{user['id']}")
    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "still_referenced")
    assert problem["detail"] == "The user is still referenced by 1 department, 1 process, 2 roles and 1 user."
    assert problem["dependants"]["total"] == 5
    assert problem["dependants"]["counts"] == {"departments": 1, "processes": 1, "roles": 2, "users": 1}
    expected = [("departments", department), ("processes", process)]
    expected += [("roles", role) for role in roles] + [("users", subordinate)]
    assert problem["dependants"]["first"] == [
        {"type": kind, "id": made["id"], "code": None, "name": made["name"]} for kind, made in expected
    ]

    await client.patch(f"/departments/{department['id']}", json={"head_id": None})
    await client.patch(f"/processes/{process['id']}", json={"owner_id": None})
    await client.patch(f"/users/{subordinate['id']}", json={"manager_id": None})
    for role in roles:
        await client.delete(f"/roles/{role['id']}/holders/{user['id']}")
    assert (await client.delete(f"/users/{user['id']}")).status_code == 204


async def test_first_administrator_cannot_be_deleted(client: httpx.AsyncClient) -> None:
    administrator = await first_administrator(client)
    path = f"/users/{administrator['id']}"
    # With and without references to the administrator.
    for make_something in (None, make_location, make_resource):
        if make_something is not None:
            await make_something(client)
        response = await client.delete(path)
        problem = response.json()
        assert (response.status_code, problem["code"]) == (409, "first_administrator")
        assert problem["type"] == "/problems/conflict"
        assert problem["detail"] == FirstAdministrator.text
        assert "dependants" not in problem
    assert (await client.get(path)).json() == administrator


async def test_stale_tag_precedes_the_rule_of_the_first_administrator(client: httpx.AsyncClient) -> None:
    administrator = await first_administrator(client)
    response = await client.delete(f"/users/{administrator['id']}", headers={"If-Match": '"99.x"'})
    assert response.status_code == 412


async def test_first_administrator_has_no_creator(client: httpx.AsyncClient) -> None:
    administrator = await first_administrator(client)
    assert administrator["name"] == "First administrator"
    assert administrator["email"] == "admin@register.example"
    assert administrator["access_level"] == "admin"
    assert (administrator["created_by"], administrator["updated_by"]) == (None, None)
    patched = (await client.patch(f"/users/{administrator['id']}", json={"name": "Root"})).json()
    assert patched["created_by"] is None
    assert patched["updated_by"] == {"id": administrator["id"], "code": None, "name": "Root"}


@pytest.mark.parametrize("level", ["editor", "admin"])
async def test_user_above_the_lowest_level_is_created_with_all_scopes_of_the_level(
    client: httpx.AsyncClient, level: AccessLevel
) -> None:
    whole = scopes_of(level) | {"users:write"}
    data = {"name": "Made", "email": "made@register.example", "code": "MADE", "external_id": "made"}
    raised = data | {"access_level": level}
    row = json.dumps(raised)
    for scopes in ({"users:write"}, whole - {"departments:write"}):
        narrow = await token_with(client, *scopes)
        missing = sorted(scopes_of(level) - scopes - {"users:read"})
        ndjson = narrow | {"Content-Type": "application/x-ndjson"}
        items = [{"op": "create", "data": raised}, {"op": "upsert", "external_id": "made", "data": raised}]
        for response in (
            await client.post("/users", json=raised, headers=narrow),
            *[await client.post("/users/bulk", json={"items": [item]}, headers=narrow) for item in items],
            await client.post("/users/import", content=row, headers=ndjson),
        ):
            assert (response.status_code, response.json()["scope"]) == (403, " ".join(missing))
            (error,) = response.json()["errors"]
            assert (error["pointer"].endswith("/access_level"), error["code"]) == (True, "forbidden")
            assert all(scope in error["detail"] for scope in missing)
        for response in (
            await client.post("/users/bulk?dry_run=true", json={"items": items[:1]}, headers=narrow),
            await client.post("/users/import?dry_run=true", content=row, headers=ndjson),
        ):
            assert f"the {named('scope', missing)}." in response.text
        assert response.json()["plan_id"] is None
        assert (await client.get("/users?code=MADE&count=exact")).json()["total"] == 0
        # A viewer requires only the scope to write users.
        made = await client.post("/users", json=data, headers=narrow)
        assert made.status_code == 201, made.text
        assert (await client.delete(f"/users/{made.json()['id']}", headers=narrow)).status_code == 204
    wide = await token_with(client, *whole)
    assert (await client.post("/users", json=raised, headers=wide)).status_code == 201


async def test_plan_that_creates_an_editor_is_executed_with_all_scopes_of_the_level(client: httpx.AsyncClient) -> None:
    row = json.dumps({"name": "Made", "email": "made@register.example", "access_level": "editor"})
    ndjson = {"Content-Type": "application/x-ndjson"}
    plan = (await client.post("/users/import?dry_run=true", content=row, headers=ndjson)).json()["plan_id"]
    narrow = await token_with(client, "users:write", "admin")
    refused = await client.post("/users/import", params={"plan_id": plan}, headers=narrow)
    missing = sorted(scopes_of("editor") - {"users:read"})
    assert (refused.status_code, refused.json()["scope"]) == (403, " ".join(missing)), refused.text
    assert faults(refused) == [("/1/access_level", "forbidden")]
    assert (await client.post("/users/import", params={"plan_id": plan})).status_code == 200


@pytest.mark.parametrize("level", ["viewer", "editor", "admin"])
async def test_user_is_reactivated_with_all_scopes_of_the_level(client: httpx.AsyncClient, level: AccessLevel) -> None:
    fields = {"name": "Ada", "email": "ada@register.example", "external_id": "ada"}
    user = await make_user(client, access_level=level, is_active=False, **fields)
    path, data, active = f"/users/{user['id']}", fields | {"is_active": True}, {"is_active": True}
    ndjson = {"Content-Type": "application/x-ndjson"}
    row = {"content": json.dumps(data), "headers": ndjson}
    upsert = {"op": "upsert", "external_id": "ada", "data": data}
    writes: list[tuple[str, str, dict[str, Any]]] = [
        ("PATCH", path, {"json": active}),
        ("PATCH", path, {"json": active | {"name": "Ada Byron"}}),
        ("PUT", path, {"json": data}),
        ("PUT", path, {"json": data | {"access_level": level}}),
        ("POST", "/users/bulk", {"json": {"items": [{"op": "update", "id": user["id"], "data": active}]}}),
        ("POST", "/users/bulk", {"json": {"items": [upsert]}}),
        ("POST", "/users/import", row),
    ]
    narrow = await token_with(client, "users:write")
    for method, url, request in writes:
        headers = request.get("headers", {}) | narrow
        response = await client.request(method, url, **request | {"headers": headers})
        if level == "viewer":
            assert response.status_code == 200, response.text
            await client.patch(path, json={"is_active": False, "name": "Ada"})
            continue
        assert (response.status_code, response.json()["scope"].split()) == (
            403,
            sorted(scopes_of(level) - {"users:read", "users:write"}),
        )
        (error,) = response.json()["errors"]
        assert (error["pointer"].endswith("/is_active"), error["code"]) == (True, "forbidden")
        assert (await client.get(path)).json()["is_active"] is False
    plan = await client.post("/users/import?dry_run=true", content=json.dumps(data), headers=narrow | ndjson)
    assert (plan.json()["plan_id"] is None) == (level != "viewer")
    dry = await client.post("/users/bulk?dry_run=true", json={"items": [upsert]}, headers=narrow)
    assert dry.status_code == (200 if level == "viewer" else 403)
    whole = await token_with(client, *scopes_of(level) | {"users:write"})
    assert (await client.patch(path, json=active, headers=whole)).status_code == 200


async def test_plan_that_reactivates_an_editor_is_executed_with_all_scopes(client: httpx.AsyncClient) -> None:
    await make_user(client, code="E", access_level="editor", is_active=False)
    csv = {"Content-Type": "text/csv"}
    content = "code,is_active\r\nE,true\r\n"
    plan = (await client.post("/users/import?dry_run=true", content=content, headers=csv)).json()["plan_id"]
    narrow = await token_with(client, "users:write")
    refused = await client.post("/users/import", params={"plan_id": plan}, headers=narrow)
    assert (refused.status_code, faults(refused)) == (403, [("/2/is_active", "forbidden")])
    assert (await client.post("/users/import", params={"plan_id": plan})).status_code == 200


async def test_scopes_are_required_by_the_level_after_the_write(client: httpx.AsyncClient) -> None:
    narrow = await token_with(client, "users:write")
    editor = await make_user(client, access_level="editor", is_active=False)
    path, viewer = f"/users/{editor['id']}", {"access_level": "viewer", "is_active": True}
    raised = {"access_level": "admin", "is_active": True}
    refused = await client.patch(path, json=raised, headers=narrow)
    assert (refused.status_code, faults(refused)) == (
        403,
        [("/access_level", "forbidden"), ("/is_active", "forbidden")],
    )
    # Other changes need no more than the scope to write users.
    for body in ({"name": "Renamed"}, {"is_active": False}, viewer):
        assert (await client.patch(path, json=body, headers=narrow)).status_code == 200, body


async def test_missing_scopes_of_several_items_are_listed_together(client: httpx.AsyncClient) -> None:
    narrow = await token_with(client, "users:write", *(scopes_of("editor") - {"changes:read"}))
    items = [
        {"op": "create", "data": {"name": level, "email": f"new-{level}@register.example", "access_level": level}}
        for level in ("viewer", "editor", "admin")
    ]
    refused = await client.post("/users/bulk", json={"items": items}, headers=narrow)
    missing = ["admin", "changes:read", "operations:read"]
    assert (refused.status_code, refused.json()["scope"]) == (403, " ".join(missing))
    assert f'scope="{" ".join(missing)}"' in refused.headers["www-authenticate"]
    assert refused.json()["detail"] == f"The request has 2 errors. Missing: {named('scope', missing)}."
    assert [(error["pointer"], error["detail"]) for error in refused.json()["errors"]] == [
        ("/items/1/data/access_level", "This token does not have the scope changes:read."),
        ("/items/2/data/access_level", f"This token does not have the {named('scope', missing)}."),
    ]
