"""The filters and formats of the lists of changes."""

import csv
import io
import json
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.domains.change.schemas import MEMBERS
from app.domains.shared.reading.history_rows import CELLS
from app.domains.shared.reading.history_selection import ACTIONS
from tests.builders import make_role, make_user
from tests.catalogue import COLLECTIONS
from tests.conftest import ADMIN_PASSWORD, Committed, client_of, connected
from tests.domains.auth.conftest import ADMIN_EMAIL, call, sign_in
from tests.domains.shared.test_cursors import walk

NDJSON, CSV = {"Accept": "application/x-ndjson"}, {"Accept": "text/csv"}
TYPES = ["roles", "departments", "users"]
NAMES = ["name", "description", "code"]
CODES = ["FIN", "fin", "Fin-1", None]


async def lines(client: httpx.AsyncClient, path: str, **parameters: Any) -> list[dict[str, Any]]:
    response = await client.get(path, params=parameters, headers=NDJSON)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.content.splitlines()]


async def table(client: httpx.AsyncClient, path: str, **parameters: Any) -> list[dict[str, str]]:
    response = await client.get(path, params=parameters, headers=CSV)
    assert response.status_code == 200, response.text
    return list(csv.DictReader(io.StringIO(response.content.decode(), newline=""), strict=True))


@pytest.fixture
def app(committed: Committed) -> FastAPI:
    return committed.app


@pytest.fixture
def client(committed: Committed) -> httpx.AsyncClient:
    """The client of a service that commits, because streams have their own connection."""
    return committed.client


@pytest.fixture
async def mixed(committed: Committed) -> None:
    """Changes with many combinations of a few values of each field that filters select."""
    generator = random.Random(11)  # noqa: S311 - the same at every run
    rows = []
    for _ in range(400):
        members = json.dumps({name: "a" for name in NAMES if generator.random() < 0.3})
        sides = (members, "{}") if generator.random() < 0.5 else (None, members)
        key = generator.choice(TYPES), generator.randrange(1, 4), generator.choice(CODES)
        rows.append((*key, generator.choice(ACTIONS), generator.choice([1, 2, None]), *sides))
    statement = """
        INSERT INTO changes (type, object_id, object_code, object_name, action, actor_id, actor_name, before, after)
        VALUES ($1, $2, $3, 'Name', $4, $5, 'Actor', $6, $7)
    """
    async with connected(committed.url) as connection:
        await connection.executemany(statement, rows)


def matches(change: dict[str, Any], filters: dict[str, Any]) -> bool:
    tests: dict[str, Callable[[Any], bool]] = {
        "type": lambda value: change["type"] == value,
        "action": lambda values: change["action"] in values,
        "member": lambda values: not {*values}.isdisjoint({**(change["before"] or {}), **(change["after"] or {})}),
        "code": lambda value: (change["object"]["code"] or "").lower() == value.lower(),
        "object_id": lambda value: change["object"]["id"] == value,
        "actor_id": lambda value: (change["actor"] or {}).get("id") == value,
        "before_id": lambda value: change["id"] < value,
    }
    return all(tests[name](value) for name, value in filters.items())


@pytest.mark.usefixtures("mixed")
async def test_combined_filters_select_as_a_naive_computation(client: httpx.AsyncClient) -> None:
    everything = await lines(client, "/changes")
    assert len(everything) >= 400
    generator = random.Random(12)  # noqa: S311 - the same at every run
    middle = everything[200]["id"]
    for _ in range(60):
        values = {
            "type": generator.choice(TYPES),
            "action": generator.choices(ACTIONS, k=generator.randrange(1, 4)),
            "member": generator.choices(NAMES, k=generator.randrange(1, 3)),
            "code": generator.choice(["fin", "FIN-1", "other"]),
            "object_id": generator.randrange(1, 5),
            "actor_id": generator.randrange(1, 4),
            "before_id": middle,
        }
        chosen = {name: value for name, value in values.items() if generator.random() < 0.35}
        if "object_id" in chosen:
            chosen["type"] = values["type"]
        expected = [change for change in everything if matches(change, chosen)]
        response = await client.get("/changes", params=chosen | {"limit": 7, "count": "exact"})
        page = response.json()
        assert (page["items"], page["total"]) == (expected[:7], len(expected)), chosen
        if page["next"]:
            following = (await client.get(page["next"].removeprefix("/api/v1"))).json()
            assert following["items"] == expected[7:14], chosen
            back = (await client.get(following["prev"].removeprefix("/api/v1"))).json()
            assert back["items"] == page["items"], chosen
        assert await lines(client, "/changes", **chosen) == expected
        assert [row["id"] for row in await table(client, "/changes", **chosen)] == [
            str(each["id"]) for each in expected
        ]


async def test_history_of_an_object_has_the_filters_action_and_member(client: httpx.AsyncClient) -> None:
    made = await make_role(client)
    for name in ("Second", "Third"):
        assert (await client.patch(f"/roles/{made['id']}", json={"name": name})).is_success
    assert (await client.patch(f"/roles/{made['id']}", json={"description": "Text"})).is_success
    path = f"/roles/{made['id']}/changes"
    whole = (await client.get(path)).json()["items"]
    assert [item["action"] for item in whole] == ["updated", "updated", "updated", "created"]
    for query, places in (
        ("action=updated", [0, 1, 2]),
        ("action=created&action=updated", [0, 1, 2, 3]),
        ("member=description", [0]),
        ("member=name", [1, 2, 3]),
        ("member=name&action=updated", [1, 2]),
        ("member=holders&member=description", [0]),
        ("action=deleted", []),
    ):
        page = (await client.get(f"{path}?count=exact&{query}")).json()
        assert (page["items"], page["total"]) == ([whole[place] for place in places], len(places)), query
        found = [key for keys in await walk(client, f"{path}?limit=1&{query}") for key in keys]
        assert found == [whole[place]["id"] for place in places]
    assert (await client.delete(f"/roles/{made['id']}")).status_code == 204
    assert (await client.get(f"{path}?member=holders")).json()["items"] == []
    assert [item["action"] for item in (await client.get(f"{path}?action=deleted")).json()["items"]] == ["deleted"]
    # The code of a deleted object names its changes, and those of an object that has the code later.
    first = await make_role(client, code="GONE")
    assert (await client.delete(f"/roles/{first['id']}")).status_code == 204
    found = (await client.get("/changes?code=gone&type=roles")).json()["items"]
    assert [(item["object"]["id"], item["action"]) for item in found] == [
        (first["id"], "deleted"),
        (first["id"], "created"),
    ]


@pytest.mark.parametrize(
    ("query", "pointer", "code", "words"),
    [
        ("member=nmae", "/member/0", "unknown_member", "Did you mean name?"),
        ("member=name&member=departmet", "/member/1", "unknown_member", "Did you mean department?"),
        ("type=roles&member=status", "/member/0", "unknown_member", "There is no such field."),
        ("type=roles&member=id", "/member/0", "unknown_member", "There is no such field."),
        ("type=api_tokens&member=token", "/member/0", "unknown_member", "There is no such field."),
        ("member=", "/member/0", "unknown_member", "There is no such field."),
        ("action=removed", "/action/0", "literal_error", ""),
        ("action=Created", "/action/0", "literal_error", ""),
        ("code=%00", "/code", "text_character", ""),
    ],
)
async def test_unknown_value_is_rejected(
    client: httpx.AsyncClient, query: str, pointer: str, code: str, words: str
) -> None:
    response = await client.get(f"/changes?{query}")
    assert response.status_code == 422, response.text
    (fault,) = response.json()["errors"]
    assert (fault["pointer"], fault["source"]) == (pointer, "query")
    assert words in fault["detail"]
    assert code in {fault["code"], "text_character"}


async def test_unknown_field_of_the_collection_of_the_path_is_rejected(client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    response = await client.get(f"/roles/{role['id']}/changes?member=holder")
    assert response.status_code == 422
    (fault,) = response.json()["errors"]
    assert (fault["pointer"], fault["code"]) == ("/member/0", "unknown_member")
    assert "Did you mean holders?" in fault["detail"]
    assert (await client.get("/users/1/changes?member=password")).status_code in {200, 404}


@pytest.mark.parametrize("type_", [*COLLECTIONS, "api_tokens"])
async def test_every_field_is_valid_with_its_type(client: httpx.AsyncClient, type_: str) -> None:
    names = MEMBERS[type_]
    assert {"name"} <= {*names}
    response = await client.get("/changes", params={"type": type_, "member": names})
    assert response.status_code == 200, response.text
    assert (await client.get("/changes", params={"member": names})).status_code == 200


async def test_formats_of_changes(client: httpx.AsyncClient) -> None:
    role = await make_role(client, name="=1+1", code="X-1")
    assert (await client.patch(f"/roles/{role['id']}", json={"name": "@ref"})).is_success
    for path in ("/changes", f"/roles/{role['id']}/changes"):
        items = (await client.get(path, params={"limit": 2})).json()["items"]
        assert await lines(client, path, limit=2) == items
        response = await client.get(path, headers=CSV)
        assert response.headers["content-type"] == "text/csv; charset=utf-8; header=present"
        assert response.headers["vary"] == "Accept"
        assert 'filename="changes-' in response.headers["content-disposition"]
        assert response.text.partition("\r\n")[0] == ",".join(CELLS)
        first, second = await table(client, path, limit=2)
        assert (first["object_name"], second["object_name"]) == ("'@ref", "'=1+1")
        assert (first["object_code"], first["object_id"], first["type"]) == ("X-1", str(role["id"]), "roles")
        assert json.loads(first["before"]) == {"name": "=1+1"}
        assert (json.loads(first["after"]), second["before"]) == ({"name": "@ref"}, "")
        (raw, _) = await table(client, path, limit=2, csv="raw")
        assert raw["object_name"] == "@ref"
        head = await client.head(path, headers=CSV)
        assert (head.status_code, head.content) == (200, b"")
        rejected = await client.get(path, headers={"Accept": "text/html"})
        assert (rejected.status_code, rejected.json()["code"]) == (406, "not_acceptable")


@pytest.mark.usefixtures("mixed")
async def test_export_of_changes_is_resumed_by_a_cursor(client: httpx.AsyncClient) -> None:
    whole = await lines(client, "/changes", type="roles")
    page = (await client.get("/changes?type=roles&limit=5")).json()
    cursor = page["next"].partition("cursor=")[2]
    assert await lines(client, "/changes", type="roles", cursor=cursor) == whole[5:]
    assert await lines(client, "/changes", type="roles", cursor=cursor, limit=3) == whole[5:8]
    assert await lines(client, "/changes", type="roles", offset=2, limit=3) == whole[2:5]
    following = (await client.get(page["next"].removeprefix("/api/v1"))).json()
    back = following["prev"].partition("cursor=")[2]
    response = await client.get(f"/changes?type=roles&cursor={back}", headers=NDJSON)
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


async def test_export_of_the_history_of_a_deleted_object(client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    path = f"/roles/{role['id']}/changes"
    assert (await client.delete(f"/roles/{role['id']}")).status_code == 204
    assert [line["action"] for line in await lines(client, path)] == ["deleted", "created"]
    assert await lines(client, path, action="updated") == []
    for accept in (NDJSON, CSV):
        assert (await client.get(f"/roles/{2**62}/changes", headers=accept)).status_code == 404


async def test_exports_have_only_what_the_caller_may_read(app: FastAPI, client: httpx.AsyncClient) -> None:
    role = await make_role(client, code="SHARED")
    await make_user(client, code="SHARED")
    session = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
    body = {"name": "Narrow", "scopes": ["changes:read", "roles:read"]}
    token = (await call(app, session, "POST", "/users/me/tokens", json=body)).json()["token"]
    async with client_of(app, token) as narrow:
        for query in (
            {},
            {"code": "shared"},
            {"member": "name"},
            {"action": "created"},
            {"code": "shared", "member": "name"},
        ):
            expected = [line for line in await lines(client, "/changes", **query) if line["type"] == "roles"]
            assert role["id"] in [line["object"]["id"] for line in expected]
            assert await lines(narrow, "/changes", **query) == expected
            assert (await narrow.get("/changes", params=query)).json()["items"] == expected[:50]
            total = (await narrow.get("/changes", params={"count": "exact", **query})).json()["total"]
            assert total == len(expected) == len(await table(narrow, "/changes", **query))
