"""Null and absence in every body and file: a field that is never stored as NULL takes no null."""

import csv
import io
import json
from pathlib import Path
from typing import Annotated, Any, get_args

import httpx
import pytest
from fastapi import FastAPI
from pydantic import Field, ValidationError

from app.domains.shared.collection import writable_columns
from app.domains.shared.schemas import Schema, keep_omitted, kept_fields, merge_patch
from app.utils.validation import invalid_content
from tests.builders import make, make_process, make_role, make_user
from tests.catalogue import DECLARATIONS, LINKS, MODELS, body_of, every_collection, required
from tests.domains.auth.conftest import call, make_account, sign_in, status_of

NDJSON, CSV = {"Content-Type": "application/x-ndjson"}, {"Content-Type": "text/csv"}
CODE = "NULL-1"
# The fields of bodies whose column is NOT NULL, and the other fields of bodies: nullable columns and lists of links.
NEVER_NULL = {
    name: tuple(column for column in writable_columns(model) if not model.__table__.c[column].nullable)
    for name, model in MODELS.items()
}
CLEARED = {
    name: tuple(field for field in each.body.model_fields if field not in NEVER_NULL[name])
    for name, each in DECLARATIONS.items()
}
# The fields that are never null and have a default.
WITH_DEFAULT = {
    name: {field: info for field in names if not (info := DECLARATIONS[name].body.model_fields[field]).is_required()}
    for name, names in NEVER_NULL.items()
}


def test_some_fields_are_never_null_in_every_collection() -> None:
    assert all("name" in names for names in NEVER_NULL.values())
    assert set(WITH_DEFAULT["users"]) == {"access_level", "is_active"}
    assert set(WITH_DEFAULT["processes"]) == {"kind", "status"}


def faults(response: httpx.Response) -> list[tuple[str, str]]:
    return [(error["pointer"], error["code"]) for error in response.json()["errors"]]


def other_values(collection: str) -> dict[str, Any]:
    """Return a value other than the default for each field that is never null and has a default."""
    return {
        name: next(value for value in (get_args(info.annotation) or (True, False)) if value != info.default)
        for name, info in WITH_DEFAULT[collection].items()
    }


async def requests_with(client: httpx.AsyncClient, collection: str, body: dict[str, Any]) -> dict[str, httpx.Response]:
    """Return the responses to all requests that write these fields, by the beginning of their pointers.

    The object with the code `CODE` exists; `body` completes the bodies of new objects.
    """
    path, new = f"/{collection}/code:{CODE}", required(collection, "new") | body

    async def bulk(**item: Any) -> httpx.Response:
        return await client.post(f"/{collection}/bulk", json={"items": [item]})

    async def imported(row: dict[str, Any]) -> httpx.Response:
        return await client.post(f"/{collection}/import", content=json.dumps(row), headers=NDJSON)

    return {
        "POST": await client.post(f"/{collection}", json=new),
        "PUT": await client.put(path, json=required(collection, "old") | {"code": CODE} | body),
        "PATCH": await client.patch(path, json=body),
        "create /items/0/data": await bulk(op="create", data=new),
        "update /items/0/data": await bulk(op="update", code=CODE, data=body),
        "upsert /items/0/data": await bulk(op="upsert", code=CODE, data=body),
        "upsert of a new object /items/0/data": await bulk(op="upsert", external_id="new", data=new),
        "new line /1": await imported(new),
        "known line /1": await imported({"code": CODE} | body),
    }


@every_collection
async def test_null_is_rejected_where_it_cannot_be_stored(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection, **required(collection, "old"), code=CODE, **other_values(collection))
    for name in NEVER_NULL[collection]:
        for request, response in (await requests_with(client, collection, {name: None})).items():
            place = request.partition("/")
            expected = [(f"{''.join(place[1:])}/{name}", "null_not_allowed")]
            assert (response.status_code, faults(response)) == (422, expected), request
    assert (await client.get(f"/{collection}/{made['id']}")).json() == made


@every_collection
async def test_null_clears_every_other_field(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection, **required(collection, "old"), external_id="x/1", **other_values(collection))
    shown = {field: field for field in CLEARED[collection] if field in made}
    shown |= {link.short: link.field for link in LINKS[collection]}
    path, item = f"/{collection}/{made['id']}", {"op": "update", "id": made["id"]}
    for name in CLEARED[collection]:
        responses = [
            await client.patch(path, json={name: None}),
            await client.post(f"/{collection}/bulk", json={"items": [item | {"data": {name: None}}]}),
            await client.post(
                f"/{collection}/import?match_ids=true",
                content=json.dumps({"id": made["id"], name: None}),
                headers=NDJSON,
            ),
        ]
        assert [response.status_code for response in responses] == [200] * 3, (name, responses)
        assert not (now := (await client.get(path)).json())[shown[name]], name
        kept = {field: made[field] for field in (*NEVER_NULL[collection], "created_at")}
        assert {field: now[field] for field in kept} == kept


@every_collection
@pytest.mark.parametrize("prefix", ["", "Bulk"])
def test_schema_of_a_patch_says_where_null_is_accepted(root: Path, collection: str, prefix: str) -> None:
    document = json.loads((root / "docs" / "openapi.json").read_text("utf-8"))
    patch = document["components"]["schemas"][prefix + body_of(collection, "PATCH").__name__]
    nullable = {field for field, schema in patch["properties"].items() if {"type": "null"} in schema.get("anyOf", ())}
    assert nullable == set(CLEARED[collection])
    assert "required" not in patch


# Cells


def table_of(*rows: dict[str, Any]) -> str:
    content = io.StringIO()
    writer = csv.DictWriter(content, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue()


async def import_table(client: httpx.AsyncClient, collection: str, *rows: dict[str, Any]) -> dict[str, Any]:
    """Plan the import of a table, then execute the plan; both have the same outcome. Return it."""
    path = f"/{collection}/import"
    response = await client.post(path, params={"dry_run": True}, content=table_of(*rows), headers=CSV)
    plan: dict[str, Any] = response.json()
    done = (await client.post(path, params={"plan_id": plan["plan_id"]})).json()
    assert [row["action"] for row in plan["rows"]] == [row["action"] for row in done["rows"]]
    return plan


@every_collection
async def test_empty_cell_keeps_a_value_that_is_never_null(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection, **required(collection, "old"), code=CODE, **other_values(collection))
    empty = dict.fromkeys(WITH_DEFAULT[collection], "")
    known, new = required(collection, "old"), required(collection, "new")
    plan = await import_table(
        client, collection, {"code": CODE} | known | empty, {"code": "NEW"} | new | empty, {"code": ""} | other_row(new)
    )
    assert [row["action"] for row in plan["rows"]] == ["unchanged", "create", "create"]
    assert (await client.get(f"/{collection}/{made['id']}")).json() == made
    created = (await client.get(f"/{collection}/code:NEW")).json()
    defaults = {name: info.default for name, info in WITH_DEFAULT[collection].items()}
    assert {name: created[name] for name in defaults} == defaults
    assert {name: plan["rows"][1]["after"][name] for name in defaults} == defaults


def other_row(body: dict[str, Any]) -> dict[str, Any]:
    return body | ({"email": "third@register.example"} if "email" in body else {})


@every_collection
async def test_empty_cell_of_a_required_field_is_a_missing_value(client: httpx.AsyncClient, collection: str) -> None:
    await make(client, collection, **required(collection, "old"), code=CODE)
    for name in NEVER_NULL[collection]:
        if name in WITH_DEFAULT[collection]:
            continue
        for code in (CODE, "NEW", ""):
            content = table_of({"code": code, "description": "d"} | required(collection, "new") | {name: ""})
            response = await client.post(f"/{collection}/import", content=content, headers=CSV)
            assert (response.status_code, faults(response)) == (422, [(f"/2/{name}", "missing")]), code


@every_collection
async def test_empty_cell_clears_every_other_field(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection, **required(collection, "old"), code=CODE, external_id="x", description="d")
    for name in (field for field in CLEARED[collection] if field not in {"code", "external_id"}):
        content = table_of({"code": CODE, name: "", "name": made["name"]})
        assert (await client.post(f"/{collection}/import", content=content, headers=CSV)).status_code == 200
    now = (await client.get(f"/{collection}/{made['id']}")).json()
    assert (now["description"], now["external_id"]) == (None, "x")


async def test_columns_of_other_names_keep_values_too(client: httpx.AsyncClient) -> None:
    user = await make_user(client, code="U", access_level="editor", is_active=False)
    content = "code,name,email,Active?,Level\r\nU,Renamed,renamed@register.example,,\r\n"
    mapping = {"map": ["Active?:is_active", "Level:access_level"]}
    response = await client.post("/users/import", params=mapping, content=content, headers=CSV)
    assert response.status_code == 200, response.text
    now = (await client.get(f"/users/{user['id']}")).json()
    assert (now["name"], now["access_level"], now["is_active"]) == ("Renamed", "editor", False)


@every_collection
async def test_exported_rows_are_imported_without_a_change(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection, **required(collection, "old"), code=CODE, **other_values(collection))
    path = f"/{collection}/{made['id']}"
    for row in (made, {name: value for name, value in made.items() if value is not None}):
        response = await client.post(f"/{collection}/import", content=json.dumps(row), headers=NDJSON)
        assert response.json()["counts"]["unchanged"] == 1, response.text
    assert (await client.get(path)).json() == made


# Null elsewhere


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"roles": [{"role_id": None}]}, [("/roles/0/role_id", "null_not_allowed")]),
        ({"roles": [{"role_id": 1, "responsibility": None}]}, [("/roles/0/responsibility", "null_not_allowed")]),
        ({"location_ids": [1, None], "role_ids": [1]}, [("/location_ids/1", "null_not_allowed")]),
        ({"departments": [None]}, [("/departments/0", "null_not_allowed")]),
        ({"nonsense": None}, [("/nonsense", "extra_forbidden")]),
        ({"kind": None, "status": 1}, [("/kind", "null_not_allowed"), ("/status", "literal_error")]),
    ],
)
async def test_null_has_one_code(
    client: httpx.AsyncClient, body: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    made = await make_process(client)
    path = f"/processes/{made['id']}"
    for response in (await client.patch(path, json=body), await client.put(path, json={"name": "Process"} | body)):
        assert (response.status_code, faults(response)) == (422, expected)


async def test_null_is_no_detail_of_a_link(client: httpx.AsyncClient) -> None:
    process, role = await make_process(client), await make_role(client)
    path = f"/processes/{process['id']}/roles/{role['id']}"
    response = await client.put(path, json={"responsibility": None})
    assert (response.status_code, faults(response)) == (422, [("/responsibility", "null_not_allowed")])


@pytest.mark.parametrize("collection", [name for name, links in LINKS.items() if links])
async def test_null_is_no_entry_of_a_list_of_links(client: httpx.AsyncClient, collection: str) -> None:
    await make(client, collection, **required(collection, "old"), code=CODE)
    for link in LINKS[collection]:
        for name in (link.field, link.short):
            for request, response in (await requests_with(client, collection, {name: [None]})).items():
                place = request.partition("/")
                expected = [(f"{''.join(place[1:])}/{name}/0", "null_not_allowed")]
                assert (response.status_code, faults(response)) == (422, expected), request


@pytest.mark.parametrize("collection", [name for name, links in LINKS.items() if links])
async def test_null_for_a_list_of_links_clears_only_in_changes(client: httpx.AsyncClient, collection: str) -> None:
    await make(client, collection, **required(collection, "old"), code=CODE)
    for link in LINKS[collection]:
        for name in (link.field, link.short):
            responses = await requests_with(client, collection, {name: None})
            rejected = {request for request, response in responses.items() if response.status_code == 422}
            assert rejected == {"POST", "PUT", "create /items/0/data"}
            assert {code for request in rejected for _, code in faults(responses[request])} == {"null_not_allowed"}


async def test_null_is_no_required_value_of_other_bodies(client: httpx.AsyncClient) -> None:
    response = await client.post("/auth/refresh", json={"refresh_token": None})
    assert (response.status_code, faults(response)) == (422, [("/refresh_token", "null_not_allowed")])
    response = await client.post("/departments/bulk", json={"items": [None, {"op": None}]})
    assert faults(response) == [("/items/0", "null_not_allowed"), ("/items/1/op", "null_not_allowed")]
    assert faults(await client.post("/departments", json={})) == [("/name", "missing")]


# Absence: a collection whose fields are declared here.


class Fields(Schema):
    name: str
    level: Annotated[int, Field(ge=1)] = 1
    weight: int | None = 5
    tags: list[int] = []


@keep_omitted("level")
class Replace(Fields):
    """All fields."""


@merge_patch
class Patch(Fields):
    """Some fields."""


def test_fields_kept_by_put_are_optional_and_have_no_default() -> None:
    assert kept_fields(Replace) == {"level"}
    assert kept_fields(Fields) == frozenset()
    assert Replace(name="a").model_dump() == {"name": "a", "weight": 5, "tags": []}
    schema = Replace.model_json_schema()["properties"]
    assert (schema["level"], schema["weight"]["default"]) == ({"minimum": 1, "title": "Level", "type": "integer"}, 5)
    assert Fields(name="a").level == 1


@pytest.mark.parametrize("name", ["name", "level"])
@pytest.mark.parametrize("schema", [Fields, Replace, Patch])
def test_null_is_rejected_in_every_schema(schema: type[Schema], name: str) -> None:
    with pytest.raises(ValidationError) as raised:
        schema.model_validate({"name": "a", name: None})
    assert [(each.pointer, each.code) for each in invalid_content(raised.value).errors] == [
        (f"/{name}", "null_not_allowed")
    ]


def test_null_clears_in_a_patch() -> None:
    assert Patch.model_validate({"weight": None, "tags": None}).model_dump() == {"weight": None, "tags": None}


# PUT of a user


@every_collection
async def test_put_resets_every_field_that_it_does_not_keep(client: httpx.AsyncClient, collection: str) -> None:
    others = other_values(collection)
    made = await make(client, collection, **required(collection, "old"), code=CODE, description="d", **others)
    now = (await client.put(f"/{collection}/{made['id']}", json=required(collection, "old"))).json()
    kept = kept_fields(body_of(collection, "PUT"))
    assert kept == ({"access_level", "is_active"} if collection == "users" else set())
    expected = {name: others[name] if name in kept else info.default for name, info in WITH_DEFAULT[collection].items()}
    assert {name: now[name] for name in expected} == expected
    assert (now["code"], now["description"], now["version"]) == (None, None, 2)
    (change, _) = (await client.get(f"/{collection}/{made['id']}/changes")).json()["items"]
    assert not kept & change["after"].keys()


async def test_put_of_a_user_sets_the_fields_that_it_has(client: httpx.AsyncClient) -> None:
    made = await make_user(client, access_level="editor", is_active=False)
    path, body = f"/users/{made['id']}", {"name": "Ada", "email": made["email"]}
    for given in ({"is_active": True}, {"access_level": "admin"}, {"is_active": False, "access_level": "viewer"}, {}):
        before = (await client.get(path)).json()
        now = (await client.put(path, json=body | given)).json()
        expected = {name: before[name] for name in ("access_level", "is_active")} | given
        assert {name: now[name] for name in expected} == expected


async def test_put_that_keeps_fields_honours_the_version(client: httpx.AsyncClient) -> None:
    made = await make_user(client, is_active=False)
    path, body = f"/users/{made['id']}", {"name": "Ada", "email": made["email"]}
    stale = (await client.get(path)).headers["etag"]
    fresh = (await client.patch(path, json={"description": "Changed"})).headers["etag"]
    assert (await client.put(path, json=body, headers={"If-Match": stale})).status_code == 412
    assert (await client.put(path, json=body, headers={"If-Match": fresh})).json()["is_active"] is False
    assert (await client.put("/users/code:ABSENT", json=body)).status_code == 404


@pytest.mark.usefixtures("connection")
async def test_deactivated_user_stays_so_whatever_a_client_omits(app: FastAPI) -> None:
    user = await make_account(app, "editor")
    session = (await sign_in(app, user["email"]))["access_token"]
    token = (
        await call(app, session, "POST", "/users/me/tokens", json={"name": "T", "scopes": ["processes:read"]})
    ).json()["token"]
    path, administrator = f"/users/{user['id']}", await make_account(app, "admin")
    admin = (await sign_in(app, administrator["email"]))["access_token"]
    assert (await call(app, admin, "PATCH", path, json={"is_active": False})).status_code == 200
    row = f"id,name,email,is_active,access_level\r\n{user['id']},Ada,{user['email']},,\r\n"
    item = {"op": "update", "id": user["id"], "data": {"is_active": None}}
    requests: list[tuple[str, str, dict[str, Any], int]] = [
        ("PATCH", path, {"json": {"is_active": None}}, 422),
        ("PATCH", path, {"json": {"name": "Ada"}}, 200),
        ("PUT", path, {"json": {"name": "Ada", "email": user["email"], "is_active": None}}, 422),
        ("PUT", path, {"json": {"name": "Ada", "email": user["email"]}}, 200),
        ("POST", "/users/bulk", {"json": {"items": [item]}}, 422),
        ("POST", "/users/import?match_ids=true", {"content": row, "headers": CSV}, 200),
    ]
    for method, url, content, status in requests:
        assert (await call(app, admin, method, url, **content)).status_code == status, (method, url)
        now = (await call(app, admin, "GET", path)).json()
        assert (now["is_active"], now["access_level"]) == (False, "editor"), (method, url)
        assert [await status_of(app, each) for each in (session, token)] == [401, 401]
