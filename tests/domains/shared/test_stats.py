"""Statistics: the number of objects in each group."""

from collections import Counter
from itertools import product
from typing import Any, Literal, get_origin

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domains.shared.reading import reader
from app.domains.shared.reading.stats import MAX_PAIRS, stats_query
from tests.builders import make, make_department, make_location, make_process, make_role, make_user
from tests.catalogue import COLLECTIONS, LINKS, LISTS, MODELS, REFERENCES, every_collection
from tests.conftest import Statements
from tests.domains.shared.test_declarations import bare
from tests.plans import nodes
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
    assert await stats(client, f"{address}&relation=owner") == (3, [(one, 1), (other, 1), (None, 1)])
    assert await stats(client, f"{address}&relation=participant") == (3, [(None, 2), (other, 1)])
    assert await stats(client, f"{address}&relation=participant&department_id={a['id']}") == (0, [])
    # Links of another kind, too.
    assert await stats(client, f"{address}&responsibility=accountable") == (0, [])
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


async def test_pairs_have_both_keys_the_largest_first(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    parent = await make_process(client, owner_id=user["id"], status="active")
    for status, owner in (("active", user["id"]), ("draft", user["id"]), ("draft", None), ("active", None)):
        await make_process(client, owner_id=owner, status=status, parent_id=parent["id"])
    response = (await client.get("/processes/stats?group_by=owner,status")).json()
    mine, nothing = {"key": str(user["id"]), "object": brief(user)}, {"key": None, "object": None}
    active, draft = ({"key": status, "object": None} for status in ("active", "draft"))
    assert response == {
        "group_by": "owner,status",
        "total": 5,
        "groups": [
            mine | {"count": 2, "second": active},
            mine | {"count": 1, "second": draft},
            nothing | {"count": 1, "second": active},
            nothing | {"count": 1, "second": draft},
        ],
        "truncated": False,
    }
    groups = (await client.get("/processes/stats?group_by=parent,owner")).json()["groups"]
    below = {"key": str(parent["id"]), "object": brief(parent)}
    assert groups == [
        below | {"count": 2, "second": mine},
        below | {"count": 2, "second": nothing},
        nothing | {"count": 1, "second": mine},
    ]


PAIRED = ("status", "owner", "department", "role", "location")


@pytest.mark.parametrize("first", PAIRED)
async def test_pairs_equal_a_count_of_the_documents(client: httpx.AsyncClient, first: str) -> None:
    made = {
        kind: [await make(client, kind) for _ in range(2)] for kind in ("departments", "locations", "roles", "users")
    }
    one = {kind: made[kind][0]["id"] for kind in made}
    other = {kind: made[kind][1]["id"] for kind in made}
    owner, informed = ({"role_id": one["roles"], "responsibility": each} for each in ("accountable", "informed"))
    for status in ("active", "draft"):
        await make_process(client, status=status, owner_id=one["users"])
        await make_process(
            client,
            status=status,
            departments=[
                {"department_id": one["departments"], "relation": "owner"},
                {"department_id": other["departments"]},
            ],
            roles=[owner, informed, {"role_id": other["roles"], "responsibility": "informed"}],
            location_ids=[one["locations"], other["locations"]],
        )
        await make_process(client, owner_id=other["users"], roles=[informed], location_ids=[other["locations"]])
    documents = (await client.get("/processes")).json()["items"]
    drafts = [document for document in documents if document["status"] == "draft"]
    for second in PAIRED:
        details = {name: DETAILS[name] for name in (first, second) if name in DETAILS}
        of_links = "&".join(f"{member}={value}" for member, value in details.values())
        for query, counted, chosen in (
            ("", documents, {}),
            ("status=draft", drafts, {}),
            (of_links, documents, details),
        ):
            if first == second:
                continue
            expected = Counter(
                pair
                for each in counted
                for pair in product(keys(each, first, chosen.get(first)), keys(each, second, chosen.get(second)))
            )
            document = (await client.get(f"/processes/stats?group_by={first},{second}&{query}")).json()
            groups = [(group["count"], group["key"], group["second"]["key"]) for group in document["groups"]]
            assert {(one, other): count for count, one, other in groups} == expected, (second, query)
            assert groups == sorted(groups, key=lambda group: (-group[0], sortable(group[1]), sortable(group[2])))
            assert document["total"] == len(counted)


DETAILS = {"department": ("relation", "owner"), "role": ("responsibility", "informed")}


def keys(document: dict[str, Any], name: str, detail: tuple[str, str] | None) -> set[str | None]:
    """Return the keys of the groups of a process."""
    if name in document:
        value = document[name]
        return {value if isinstance(value, str) or value is None else str(value["id"])}
    links = [link for link in document[f"{name}s"] if detail is None or link[detail[0]] == detail[1]]
    return {str(link["id"]) for link in links} or {None}


def sortable(key: str | None) -> tuple[bool, int, str]:
    return key is None, int(key) if key is not None and key.isdigit() else 0, key or ""


async def test_processes_without_such_a_link_form_a_group(client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    for responsibility in ("accountable", "informed"):
        await make_process(client, roles=[{"role_id": role["id"], "responsibility": responsibility}])
    await make_process(client, status="retired")
    key = str(role["id"])
    address = "/processes/stats?group_by=role&responsibility=accountable"
    assert await stats(client, address) == (3, [(None, 2), (key, 1)])
    assert await stats(client, f"{address}&status=retired") == (1, [(None, 1)])
    # With another filter of these links, both select the processes, as in the list.
    assert await stats(client, f"{address}&role_id={role['id']}") == (1, [(key, 1)])
    assert await stats(client, f"{address}&role_id={role['id']}&role_match=none") == (2, [(None, 2)])
    assert await stats(client, "/processes/stats?group_by=status&responsibility=accountable") == (1, [("draft", 1)])
    pairs = (await client.get(f"{address.replace('role&', 'status,role&')}")).json()
    assert pairs["total"] == 3
    assert [(group["key"], group["second"]["key"], group["count"]) for group in pairs["groups"]] == [
        ("draft", key, 1),
        ("draft", None, 1),
        ("retired", None, 1),
    ]


@pytest.mark.parametrize(
    ("match", "expected"),
    [("any", {"both": 1, "one": 2, None: 2}), ("all", {"both": 1, None: 3}), ("none", {"other": 1, None: 3})],
)
async def test_match_of_the_own_field_restricts_the_counted_links(
    client: httpx.AsyncClient, match: str, expected: dict[str | None, int]
) -> None:
    made = {name: (await make_role(client))["id"] for name in ("both", "one", "other")}
    for roles in ({"both": ("informed", "consulted"), "one": ("informed",)}, {"one": ("consulted",)}, {}):
        links = [{"role_id": made[name], "responsibility": each} for name, values in roles.items() for each in values]
        await make_process(client, roles=links)
    await make_process(client, roles=[{"role_id": made["other"], "responsibility": "accountable"}])
    department = await make_department(client)
    query = f"responsibility=informed&responsibility=consulted&responsibility_match={match}"
    total, groups = await stats(client, f"/processes/stats?group_by=role&{query}")
    names = {str(id_): name for name, id_ in made.items()}
    assert (total, {names.get(key or ""): count for key, count in groups}) == (4, expected)
    # The same in pairs, and in the list for each group.
    pairs = (await client.get(f"/processes/stats?group_by=department,role&{query}")).json()["groups"]
    assert {names.get(each["second"]["key"] or ""): each["count"] for each in pairs} == expected, department
    for key, count in groups:
        condition = f"role_id={key}" if key else "role_id__null=true"
        listed = (await client.get(f"/processes?{condition}&{query}&count=exact")).json()
        assert listed["total"] == count


async def link_all(connection: AsyncConnection, processes: int, targets: int) -> None:
    """Create processes that are all linked to the same departments, locations and roles."""
    new = "INSERT INTO {} SELECT {} FROM generate_series(1, {})"
    await connection.execute(text(new.format("processes (name, kind, status)", "'P', 'core', 'draft'", processes)))
    for table in ("departments", "roles"):
        await connection.execute(text(new.format(f"{table} (name)", "'T'", targets)))
    await connection.execute(text(new.format("locations (name, kind)", "'T', 'site'", targets)))
    for links, columns, values, target in (
        ("process_departments", "department_id, relation", "t.id, 'customer'", "departments"),
        ("process_locations", "location_id", "t.id", "locations"),
        ("process_roles", "role_id, responsibility", "t.id, 'informed'", "roles"),
        ("process_roles", "role_id, responsibility", "t.id, 'consulted'", "roles"),
    ):
        sql = f"INSERT INTO {links} (process_id, {columns}) SELECT p.id, {values} FROM processes p, {target} t"
        await connection.execute(text(sql))


PAIRS_OF_LINKS = ("department,role", "role,location", "location,department")


@pytest.mark.parametrize("group_by", PAIRS_OF_LINKS)
async def test_pairs_of_links_are_limited(
    client: httpx.AsyncClient, connection: AsyncConnection, monkeypatch: pytest.MonkeyPatch, group_by: str
) -> None:
    # Two processes with 49 pairs each, and one without links, which is a pair of nulls. Links to one role count once.
    await link_all(connection, 2, 7)
    alone = await make_process(client)
    monkeypatch.setattr(reader, "MAX_PAIRS", 99)
    document = (await client.get(f"/processes/stats?group_by={group_by}")).json()
    assert (document["total"], len(document["groups"])) == (3, 50)
    monkeypatch.setattr(reader, "MAX_PAIRS", 98)
    response = await client.get(f"/processes/stats?group_by={group_by}")
    assert response.status_code == 422
    (fault,) = response.json()["errors"]
    assert (fault["source"], fault["pointer"], fault["code"]) == ("query", "/group_by", "too_many_pairs")
    # Fewer objects or fewer links are possible, and so are other groupings.
    first, _ = group_by.split(",")
    for query, total in ((f"{group_by}&id__not={alone['id']}", 2), (f"{first},status", 3), (first, 3)):
        document = (await client.get(f"/processes/stats?group_by={query}")).json()
        assert document["total"] == total


@pytest.mark.parametrize("group_by", PAIRS_OF_LINKS)
async def test_pairs_beyond_the_limit_are_never_made(connection: AsyncConnection, group_by: str) -> None:
    targets = 1001
    await link_all(connection, 2, targets)
    assert 2 * targets * targets > MAX_PAIRS
    statement, values = stats_query(LISTS["processes"])(group_by=group_by).statement(MODELS["processes"])
    prepared = await statement.prepare()
    arguments = prepared.arguments(values | {"max_pairs": MAX_PAIRS, "readable": []})
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    (document,) = await driver.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {prepared.sql}", *arguments)
    made = max(node["Actual Rows"] * node["Actual Loops"] for node in nodes(document["Plan"]))
    # Two links to each role.
    assert targets <= made <= 4 * targets


async def test_only_the_largest_thousand_pairs_are_returned(
    client: httpx.AsyncClient, connection: AsyncConnection
) -> None:
    await connection.execute(
        text("INSERT INTO users (name, email) SELECT n, n || '@x.example' FROM generate_series(1, 40) n")
    )
    sql = "INSERT INTO departments (name, head_id) SELECT 'D', id FROM users ORDER BY id LIMIT 40"
    await connection.execute(text(sql))
    sql = "INSERT INTO departments (name, head_id, parent_id) SELECT 'D', u.id, d.id FROM users u, departments d"
    await connection.execute(text(sql))
    response = (await client.get("/departments/stats?group_by=parent,head")).json()
    assert (len(response["groups"]), response["truncated"]) == (1000, True)
    assert response["total"] == (await client.get("/departments?count=exact&limit=1")).json()["total"]


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


COMMAS = "Separate names by commas without blanks, and leave none empty."


@every_collection
async def test_impossible_grouping_is_rejected(client: httpx.AsyncClient, collection: str) -> None:
    one, other = QUERIES[collection][0], QUERIES[collection][-1]
    known = f"Known names: {', '.join(LISTS[collection].declaration.groups)}."
    for value, code, detail in (
        ("xyz", "unknown_group", f"Grouping 1 is unknown. {known}"),
        ("", "unknown_group", f"Grouping 1 is unknown. {COMMAS} {known}"),
        (f"{one},", "unknown_group", f"Grouping 2 is unknown. {COMMAS} {known}"),
        (f"{one}, {other}", "unknown_group", f"Grouping 2 is unknown. {COMMAS} Did you mean {other}?"),
        (f"{one},xyz", "unknown_group", f"Grouping 2 is unknown. {known}"),
        (f"{one}x", "unknown_group", f"Grouping 1 is unknown. Did you mean {one}?"),
        (f"-{one}", "unknown_group", f"Grouping 1 is unknown. Did you mean {one}?"),
        (f"{one}, {other}x", "unknown_group", f"Grouping 2 is unknown. {COMMAS} Did you mean {other}?"),
        (f"{one},{one}", "repeated_group", "Objects can be grouped by each name only once."),
        (f"{one},{other},{one}", "too_many_groups", "Objects can be grouped by at most 2 names."),
        ("," * 1000, "too_many_groups", "Objects can be grouped by at most 2 names."),
    ):
        response = await client.get(f"/{collection}/stats", params={"group_by": value})
        assert response.status_code == 422
        (fault,) = response.json()["errors"]
        assert (fault["source"], fault["pointer"]) == ("query", "/group_by")
        assert (fault["code"], fault["detail"]) == (code, detail), value
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
