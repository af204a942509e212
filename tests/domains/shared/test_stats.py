"""Statistics: the number of objects in each group."""

from typing import Any, Literal, get_origin

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.builders import make, make_department, make_location, make_process, make_role, make_user
from tests.catalogue import COLLECTIONS, LINKS, LISTS, REFERENCES, every_collection
from tests.conftest import Statements
from tests.domains.shared.test_declarations import bare
from tests.test_contract import CALLER

# Groupings by text with few values.
OF_TEXTS = {"locations": ("country",)}


def groups_of(collection: str) -> tuple[str, ...]:
    """Return the expected groupings of a collection: its references, links, enumerations and flags."""
    members = LISTS[collection].read_schema.model_fields
    references = [name.removesuffix("_id") for name in REFERENCES[collection]]
    links = [each.target.removesuffix("_id") for each in LINKS[collection]]
    few = [
        name
        for name, member in members.items()
        if bare(member.annotation) is bool or get_origin(bare(member.annotation)) is Literal
    ]
    return (*references, *links, *few, *OF_TEXTS.get(collection, ()))


QUERIES = {collection: groups_of(collection) for collection in COLLECTIONS}
EVERY_GROUP = [(collection, name) for collection, names in QUERIES.items() for name in names]


async def stats(client: httpx.AsyncClient, address: str) -> tuple[int, list[tuple[str | None, int]]]:
    """Return the total, and the key and count of each group."""
    response = await client.get(address)
    assert response.status_code == 200, response.text
    document = response.json()
    assert document["truncated"] is False
    return document["total"], [(group["key"], group["count"]) for group in document["groups"]]


def brief(made: dict[str, Any]) -> dict[str, Any]:
    return {name: made[name] for name in ("id", "code", "name")}


async def test_objects_are_counted_by_a_field_the_largest_group_first(client: httpx.AsyncClient) -> None:
    for status, criticality in (("retired", "high"), ("draft", None), ("active", "high"), ("active", None)):
        await make_process(client, status=status, criticality=criticality)
    response = await client.get("/processes/stats?group_by=status")
    assert response.json() == {
        "group_by": "status",
        "total": 4,
        "groups": [
            {"key": "active", "object": None, "count": 2},
            {"key": "draft", "object": None, "count": 1},
            {"key": "retired", "object": None, "count": 1},
        ],
        "truncated": False,
    }
    # Of groups of equal size the one without a value is last.
    assert await stats(client, "/processes/stats?group_by=criticality") == (4, [("high", 2), (None, 2)])
    assert await stats(client, "/processes/stats?group_by=status&criticality=high") == (
        2,
        [("active", 1), ("retired", 1)],
    )
    assert await stats(client, "/processes/stats?group_by=status&criticality=low") == (0, [])


async def test_groups_of_references_have_briefs(client: httpx.AsyncClient) -> None:
    first, second = [await make_user(client, code=code) for code in ("U-1", "U-2")]
    for owner in (second["id"], None, first["id"], second["id"]):
        await make_process(client, owner_id=owner)
    assert (await client.get("/processes/stats?group_by=owner")).json()["groups"] == [
        {"key": str(second["id"]), "object": brief(second), "count": 2},
        {"key": str(first["id"]), "object": brief(first), "count": 1},
        {"key": None, "object": None, "count": 1},
    ]


async def test_keys_are_ordered_by_their_type(client: httpx.AsyncClient) -> None:
    parents = [await make_department(client) for _ in range(12)]
    for parent in parents:
        await make_department(client, parent_id=parent["id"])
    _, groups = await stats(client, "/departments/stats?group_by=parent")
    assert groups == [(None, 12), *((str(parent["id"]), 1) for parent in parents)]


async def test_process_counts_in_each_group_it_is_linked_to_and_once_in_the_total(client: httpx.AsyncClient) -> None:
    a, b = await make_department(client), await make_department(client)
    await make_process(
        client, departments=[{"department_id": a["id"], "relation": "owner"}, {"department_id": b["id"]}]
    )
    await make_process(client, departments=[{"department_id": b["id"], "relation": "owner"}], status="active")
    await make_process(client)
    one, other = str(a["id"]), str(b["id"])
    address = "/processes/stats?group_by=department"
    assert await stats(client, address) == (3, [(other, 2), (one, 1), (None, 1)])
    # The filter by the link's own field selects links, all others select processes.
    assert await stats(client, f"{address}&relation=owner") == (2, [(one, 1), (other, 1)])
    assert await stats(client, f"{address}&relation=participant") == (1, [(other, 1)])
    assert await stats(client, f"{address}&department_id={a['id']}") == (1, [(one, 1), (other, 1)])
    assert await stats(client, f"{address}&status=active&relation=owner&relation=customer") == (1, [(other, 1)])


async def test_process_counts_once_for_a_role_with_several_responsibilities(client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    roles = [{"role_id": role["id"], "responsibility": each} for each in ("accountable", "informed")]
    await make_process(client, roles=roles)
    await make_process(client)
    key = str(role["id"])
    assert await stats(client, "/processes/stats?group_by=role") == (2, [(key, 1), (None, 1)])
    # Processes without such a link are in the group without a value.
    query = f"group_by=role&role_id={role['id']}&responsibility=consulted&role_match=none"
    assert await stats(client, f"/processes/stats?{query}") == (2, [(None, 2)])


async def test_filters_include_subtrees(client: httpx.AsyncClient) -> None:
    site = await make_location(client, country="CH", kind="site")
    await make_location(client, country="CH", kind="room", parent_id=site["id"])
    await make_location(client, country="AT", kind="site")
    assert await stats(client, f"/locations/stats?group_by=kind&within={site['id']}") == (2, [("room", 1), ("site", 1)])
    assert await stats(client, "/locations/stats?group_by=country&kind=site") == (2, [("AT", 1), ("CH", 1)])


async def test_matches_of_a_search_are_counted(client: httpx.AsyncClient) -> None:
    for name, status in (("Purchasing of tools", "draft"), ("Purchasing", "active"), ("Sales", "active")):
        await make_process(client, name=name, status=status)
    assert await stats(client, "/processes/stats?group_by=status&q=purchas") == (2, [("active", 1), ("draft", 1)])
    assert await stats(client, "/processes/stats?group_by=department&q=purchas") == (2, [(None, 2)])


async def test_keys_are_valid_filter_values(client: httpx.AsyncClient) -> None:
    await make_user(client, is_active=False, access_level="editor")
    await make_user(client)
    for name in ("is_active", "access_level"):
        total, groups = await stats(client, f"/users/stats?group_by={name}")
        assert total == sum(count for _, count in groups) == 3
        for key, count in groups:
            page = (await client.get(f"/users?{name}={key}&count=exact")).json()
            assert page["total"] == count


async def test_only_the_largest_thousand_groups_are_returned(
    client: httpx.AsyncClient, connection: AsyncConnection
) -> None:
    for name, parent_id in (("P", "NULL FROM generate_series(1, 1000)"), ("C", "id FROM departments")):
        await connection.execute(text(f"INSERT INTO departments (name, parent_id) SELECT '{name}', {parent_id}"))
    response = (await client.get("/departments/stats?group_by=parent")).json()
    assert (response["total"], len(response["groups"]), response["truncated"]) == (2000, 1000, True)
    assert response["groups"][0] == {"key": None, "object": None, "count": 1000}
    assert all(group["count"] == 1 for group in response["groups"][1:])


@pytest.mark.parametrize(("collection", "name"), EVERY_GROUP)
async def test_each_group_takes_one_statement(
    client: httpx.AsyncClient, statements: Statements, collection: str, name: str
) -> None:
    await make(client, collection)
    for query in ("", "&name__ic=a&created_by_id__null=false", "&q=process", "&id=9223372036854775807"):
        with statements.counted() as seen:
            total, groups = await stats(client, f"/{collection}/stats?group_by={name}{query}")
        assert len(seen) == 1 + CALLER, seen
        counted = (await client.get(f"/{collection}?count=exact{query}")).json()["total"]
        assert total == counted
        assert sum(count for _, count in groups) == total


@every_collection
async def test_unknown_group_is_rejected_with_the_known_ones(client: httpx.AsyncClient, collection: str) -> None:
    for query in ("group_by=nothing", "group_by=", "group_by=name", "group_by=status,kind"):
        response = await client.get(f"/{collection}/stats?{query}")
        assert response.status_code == 422
        (fault,) = response.json()["errors"]
        assert (fault["source"], fault["pointer"]) == ("query", "/group_by")
        assert all(f"'{name}'" in fault["detail"] for name in QUERIES[collection])
    (fault,) = (await client.get(f"/{collection}/stats")).json()["errors"]
    assert (fault["pointer"], fault["code"]) == ("/group_by", "missing")


@every_collection
async def test_stats_have_the_filters_but_no_page_parameters(client: httpx.AsyncClient, collection: str) -> None:
    address = f"/{collection}/stats?group_by={QUERIES[collection][0]}"
    for name in ("limit", "offset", "sort", "cursor", "count", "fields", "embed"):
        assert (await client.get(f"{address}&{name}=1")).status_code == 400, name
    assert (await client.get(f"{address}&version__gt=x")).status_code == 422
    got, head = await client.get(address), await client.head(address)
    assert (head.status_code, head.content) == (200, b"")
    assert [head.headers[name] for name in ("content-length", "content-type")] == [
        got.headers[name] for name in ("content-length", "content-type")
    ]
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        response = await client.request(method, f"/{collection}/stats", json={})
        assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD"), method


async def test_filter_without_its_required_filter_is_rejected(client: httpx.AsyncClient) -> None:
    response = await client.get("/processes/stats?group_by=role&role_match=all")
    assert response.status_code == 422
    assert [fault["pointer"] for fault in response.json()["errors"]] == ["/role_match"]


@every_collection
def test_lists_declare_these_groups_and_no_others(collection: str) -> None:
    assert sorted(LISTS[collection].declaration.groups) == sorted(QUERIES[collection])
