"""`fields` and `embed`: members that are not selected are neither shown nor queried."""

import re
from typing import Any

import httpx
import pytest

from app.domains.shared.query.orders import Order
from app.domains.shared.query.representations import embedded_members
from app.domains.shared.reading.documents import by_code, by_id
from tests.builders import make, make_department, make_process, make_role, make_user
from tests.catalogue import DECLARATIONS, DOCUMENTS, LINKED, LISTS, REFERENCES, every_collection
from tests.conftest import Statements

BRIEFS = {"created_by", "updated_by", *(name.removesuffix("_id") for name in REFERENCES["processes"])}


async def linked_process(client: httpx.AsyncClient) -> dict[str, Any]:
    department, role, owner = await make_department(client), await make_role(client), await make_user(client)
    parent = await make_process(client)
    return await make_process(
        client,
        parent_id=parent["id"],
        owner_id=owner["id"],
        department_ids=[department["id"]],
        role_ids=[role["id"]],
    )


@pytest.mark.parametrize(
    ("query", "members"),
    [
        ("fields=name,id", ["id", "name"]),
        ("fields=id,name,id", ["id", "name"]),
        ("fields=version", ["version"]),
        ("fields=id,roles", ["id", "roles"]),
        ("fields=id,roles&embed=none", ["id", "roles"]),
        ("fields=id&embed=parent,departments", ["id", "parent", "departments"]),
        ("fields=parent_id,parent", ["parent_id", "parent"]),
    ],
)
async def test_only_the_named_members_are_shown_in_the_order_of_the_schema(
    client: httpx.AsyncClient, query: str, members: list[str]
) -> None:
    process = await linked_process(client)
    one = (await client.get(f"/processes/{process['id']}?{query}")).json()
    (listed,) = (await client.get(f"/processes?id={process['id']}&{query}")).json()["items"]
    assert list(one.items()) == list(listed.items()) == [(name, process[name]) for name in members]


@pytest.mark.parametrize(
    ("embed", "shown"), [("none", set()), ("roles", {"roles"}), ("owner,departments", {"owner", "departments"})]
)
async def test_only_the_named_references_and_links_are_embedded(
    client: httpx.AsyncClient, embed: str, shown: set[str]
) -> None:
    process = await linked_process(client)
    expected = {name: value for name, value in process.items() if name not in ({*LINKED} | BRIEFS) - shown}
    assert expected["owner_id"] == process["owner"]["id"]
    assert (await client.get(f"/processes/{process['id']}?embed={embed}")).json() == expected
    (listed,) = (await client.get(f"/processes?id={process['id']}&embed={embed}")).json()["items"]
    assert listed == expected


async def test_lists_of_linked_objects_and_holders_accept_fields_and_embed(client: httpx.AsyncClient) -> None:
    process = await linked_process(client)
    role = process["roles"][0]
    for collection, entry in (("departments", process["departments"][0]), ("roles", role)):
        page = (await client.get(f"/{collection}/{entry['id']}/processes?fields=id&embed=owner")).json()
        assert page["items"] == [{"id": process["id"], "owner": process["owner"]}]
    await client.put(f"/roles/{role['id']}/holders/{process['owner_id']}")
    page = (await client.get(f"/roles/{role['id']}/holders?fields=id")).json()
    assert page["items"] == [{"id": process["owner_id"]}]


@every_collection
@pytest.mark.parametrize(
    ("query", "member", "hint"),
    [
        ("fields=id,nmae", "/fields", "Did you mean name?"),
        ("fields=", "/fields", "Known fields: id, code"),
        ("fields=id, name", "/fields", "Did you mean name?"),
        ("fields=zzzzzz", "/fields", "Known fields: id, code"),
        ("embed=created_bi", "/embed", "Did you mean created_by?"),
        ("embed=name", "/embed", "There is no such field."),
        ("embed=none,created_by", "/embed", "`none` cannot be combined with other names"),
        ("embed=nnoe", "/embed", "Did you mean none?"),
        (
            "fields=id,",
            "/fields",
            "There is no such field. Separate names by commas without blanks, and leave none empty.",
        ),
        ("fields=id,%20name", "/fields", "leave none empty. Did you mean name?"),
        ("embed=created_by,%20updated_by", "/embed", "leave none empty. Did you mean updated_by?"),
        ("embed=", "/embed", "leave none empty. Known fields: "),
        ("fields=none", "/fields", "There is no such field."),
    ],
)
async def test_unknown_member_is_rejected_with_a_suggestion(
    client: httpx.AsyncClient, collection: str, query: str, member: str, hint: str
) -> None:
    made = await make(client, collection)
    for path in (f"/{collection}", f"/{collection}/{made['id']}"):
        response = await client.get(f"{path}?{query}")
        assert response.status_code == 422
        (fault,) = response.json()["errors"]
        assert (fault["pointer"], fault["source"], fault["code"]) == (member, "query", "unknown_member")
        assert hint in fault["detail"]


async def test_entity_tag_is_that_of_the_representation_and_has_the_version(client: httpx.AsyncClient) -> None:
    process = await linked_process(client)
    path = f"/processes/{process['id']}"
    whole, part = await client.get(path), await client.get(f"{path}?fields=name")
    assert part.json() == {"name": process["name"]}
    assert part.headers["etag"] != whole.headers["etag"]
    assert part.headers["etag"].startswith(f'"{process["version"]}.')
    for url, tag, status in (
        (f"{path}?fields=name", part.headers["etag"], 304),
        (f"{path}?fields=name", whole.headers["etag"], 200),
        (path, part.headers["etag"], 200),
    ):
        assert (await client.get(url, headers={"If-None-Match": tag})).status_code == status
    written = await client.patch(path, json={"name": "Other"}, headers={"If-Match": part.headers["etag"]})
    assert written.status_code == 200


async def test_pages_keep_fields_and_embed_but_cursors_are_not_bound_to_them(client: httpx.AsyncClient) -> None:
    made = [await make_department(client) for _ in range(3)]
    page = (await client.get("/departments?limit=1&fields=id&embed=parent")).json()
    assert "fields=id" in page["next"]
    second = (await client.get(page["next"].removeprefix("/api/v1"))).json()
    assert second["items"] == [{"id": made[1]["id"], "parent": None}]
    assert "fields=id" in second["prev"]
    assert "embed=parent" in second["prev"]
    cursor = page["next"].partition("cursor=")[2]
    third = (await client.get(f"/departments?limit=1&cursor={cursor}&embed=none&fields=name")).json()
    assert third["items"] == [{"name": made[1]["name"]}]


@pytest.mark.parametrize("rows", [1, 20])
async def test_number_of_statements_equals_that_of_whole_objects(
    client: httpx.AsyncClient, statements: Statements, rows: int
) -> None:
    for _ in range(rows):
        process = await linked_process(client)
    for path in (f"/processes?limit={rows}", f"/processes/{process['id']}?"):
        for query in ("", "&fields=id,roles", "&embed=none", "&embed=departments,owner"):
            with statements.counted() as seen:
                assert (await client.get(path + query)).status_code == 200
            assert len(seen) == 2, seen  # one for the caller and one for the objects


def tables(sql: str) -> set[str]:
    return set(re.findall(r"(?:FROM|JOIN) ([a-z_]+) AS [a-z]\b", sql))


@every_collection
async def test_members_that_are_not_embedded_are_not_queried(collection: str) -> None:
    documents = DOCUMENTS[collection]
    plain = frozenset(DECLARATIONS[collection].body.model_fields) & {"name", "description"}
    order = Order("id", LISTS[collection].declaration)
    for members in (frozenset({"id"}), plain):
        for statement in (
            documents.single_object(by_id, members),
            documents.single_object(by_code, members),
            documents.page(order, None, "first", members),
        ):
            prepared = await statement.prepare()
            assert tables(prepared.sql) == set(prepared.tables) == {collection}


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("owner", {"processes", "users"}),
        ("departments", {"processes", "process_departments", "departments"}),
        ("locations", {"processes", "process_locations", "locations"}),
        ("resources", {"processes", "process_resources", "resources"}),
        ("roles", {"processes", "process_roles", "roles"}),
    ],
)
async def test_only_embedded_members_are_queried(member: str, expected: set[str]) -> None:
    assert member in embedded_members(DOCUMENTS["processes"]._schema)
    order = Order("id", LISTS["processes"].declaration)
    members = frozenset({"id", member})
    for statement in (
        DOCUMENTS["processes"].single_object(by_id, members),
        DOCUMENTS["processes"].page(order, None, "first", members),
    ):
        prepared = await statement.prepare()
        assert tables(prepared.sql) == set(prepared.tables) == expected
