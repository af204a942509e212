"""The feed of changes: its order, its positions, its filters and the bounds of its work."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import pytest
from sqlalchemy import URL

from app.domains.change.service import READ_SCOPES
from app.domains.shared.reading.change_feed import MAX_ROWS_READ, feed_page, feed_stream
from app.domains.shared.reading.history_rows import ExcludedMembers
from tests.api.conftest import assert_problem
from tests.builders import make_department, make_role, make_user, token_with
from tests.conftest import Committed, Statements, connected
from tests.domains.change.feed import NDJSON, held_change, lines, lines_and_end, names, position_now, read, read_all
from tests.plans import filled, nodes


@pytest.fixture
async def start(committed: Committed) -> str:
    """The position before the changes of the test."""
    return await position_now(committed.client)


async def test_every_position_continues_with_the_next_change(committed: Committed, start: str) -> None:
    client = committed.client
    made = [(await make_role(client, name=f"Role {number}"))["name"] for number in range(5)]
    page = await read(client, after=start)
    assert (names(page["items"]), page["has_more"]) == (made, False)
    for number, item in enumerate(page["items"], 1):
        assert names((await read(client, after=item["position"]))["items"]) == made[number:]
    assert (await read(client, after=page["position"]))["items"] == []
    # Each change has the fields that it has in the list of changes.
    listed = (await client.get("/changes?limit=5")).json()["items"]
    assert [{**item, "position": None} for item in page["items"]] == [
        {**item, "position": None} for item in reversed(listed)
    ]


async def test_next_repeats_the_parameters(committed: Committed, start: str) -> None:
    for number in range(3):
        await make_role(committed.client, name=f"Role {number}")
        await make_department(committed.client)
    seen, url = [], f"/changes/feed?after={start}&limit=1&type=roles&type=users&action=created"
    for _ in range(3):
        page = (await committed.client.get(url)).json()
        parameters = parse_qs(urlsplit(page["next"]).query)
        given = {"limit": ["1"], "type": ["roles", "users"], "action": ["created"], "after": [page["position"]]}
        assert parameters == given
        seen += names(page["items"])
        url = page["next"].removeprefix("/api/v1")
    assert seen == ["Role 0", "Role 1", "Role 2"]


async def test_feed_begins_with_the_oldest_change(committed: Committed) -> None:
    await make_role(committed.client, name="Role")
    # Changes from before the first read are ordered by `id`, and later ones follow.
    first = await read_all(committed.client)
    assert names(first) == ["First administrator", "First administrator", "Role"]
    await make_role(committed.client, name="Later")
    assert names(await read_all(committed.client, limit=1)) == [*names(first), "Later"]
    assert names(await read_all(committed.client, after=first[-1]["position"])) == ["Later"]


async def test_change_of_an_open_transaction_is_delivered_after_its_end(committed: Committed, start: str) -> None:
    client = committed.client
    async with held_change(committed, "Early"):
        await make_role(client, name="Later")
        # The horizon is at the open transaction, so nothing that began later is delivered.
        waiting = await read(client, after=start)
        assert (waiting["items"], waiting["has_more"]) == ([], False)
        now = await position_now(client)
    for position in (start, waiting["position"], now):
        assert names(await read_all(client, after=position)) == ["Early", "Later"]


async def test_stream_has_the_changes_of_the_pages_and_ends_with_a_position(committed: Committed) -> None:
    client = committed.client
    await read(client)  # the changes so far are settled
    for number in range(3):
        await make_role(client, name=f"Role {number}")
    streamed, last = lines(await client.get("/changes/feed", headers=NDJSON))
    assert streamed == await read_all(client)
    assert lines(await client.get("/changes/feed", params={"after": last}, headers=NDJSON))[0] == []
    # With a limit, the lines are those of a page.
    page = await read(client, after=streamed[1]["position"], limit=2)
    limited, end = lines_and_end(
        await client.get("/changes/feed", params={"after": streamed[1]["position"], "limit": 2}, headers=NDJSON)
    )
    assert limited == page["items"] == streamed[2:4]
    assert end == {"position": streamed[3]["position"], "has_more": True} == {name: page[name] for name in end}
    last = end["position"]
    rest, _ = lines(await client.get(f"/changes/feed?type=roles&action=created&after={last}", headers=NDJSON))
    assert rest == streamed[4:]
    middle = streamed[1]["position"]
    assert lines(await client.get("/changes/feed", params={"after": middle}, headers=NDJSON))[0] == streamed[2:]


async def test_only_the_formats_of_the_feed_are_acceptable(committed: Committed) -> None:
    response = await committed.client.get("/changes/feed", headers={"Accept": "text/csv"})
    assert "application/x-ndjson" in assert_problem(response, "not_acceptable")["detail"]
    for headers in ({}, NDJSON):
        head = await committed.client.head("/changes/feed", headers=headers)
        get = await committed.client.get("/changes/feed", headers=headers)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]


async def test_reader_sees_only_the_types_that_the_token_may_read(committed: Committed, start: str) -> None:
    client = committed.client
    await make_role(client, name="Role")
    await make_department(client, name="Department")
    await make_user(client, name="User")
    narrow = await token_with(client, "changes:read", "roles:read", "users:read")
    page = (await client.get("/changes/feed", params={"after": start}, headers=narrow)).json()
    assert names(page["items"]) == ["Role"]
    # A position belongs to the feed, not to a caller or to filters.
    assert names(await read_all(client, after=start, type=["departments", "users"])) == ["Department", "User"]
    streamed, _ = lines(await client.get("/changes/feed", params={"after": start}, headers=narrow | NDJSON))
    assert streamed == page["items"]
    for headers in (narrow, narrow | NDJSON):
        denied = await client.get("/changes/feed?type=roles&type=departments&type=users", headers=headers)
        assert assert_problem(denied, "forbidden")["scope"] == "admin departments:read"
    for scopes in (["roles:read"], ["admin"]):
        denied = await client.get("/changes/feed", headers=await token_with(client, *scopes))
        assert assert_problem(denied, "forbidden")["scope"] == "changes:read"


async def test_position_that_was_not_returned_is_rejected(client: httpx.AsyncClient) -> None:
    position = await position_now(client)
    other = (await client.get("/roles?limit=1")).json()
    await make_role(client)
    await make_role(client)
    cursor = parse_qs(urlsplit((await client.get("/roles?limit=1")).json()["next"]).query)["cursor"][0]
    assert other["next"] is None
    for bad in ("", "NOW", "now ", "0", "-1", "x" * 5_000, "é", position[:-1], position + "=", position[::-1], cursor):
        for headers in ({}, NDJSON):
            problem = assert_problem(
                await client.get("/changes/feed", params={"after": bad}, headers=headers), "bad_request", "/after"
            )
            assert problem["errors"][0]["code"] == "bad_cursor"
    assert (await client.get("/roles", params={"cursor": position})).status_code == 400


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        *(("limit=0", "/limit"), ("limit=1001", "/limit"), ("limit=1.0", "/limit")),
        *(("wait=31", "/wait"), ("wait=-1", "/wait"), ("action=read", "/action/0")),
        *(("type=role", "/type/0"), ("type=roles&type=", "/type/1"), ("type=roles" + "&type=roles" * 100, "/type")),
    ],
)
async def test_parameters_outside_their_limits_are_rejected(
    client: httpx.AsyncClient, query: str, pointer: str
) -> None:
    assert_problem(await client.get(f"/changes/feed?{query}"), "invalid_content", pointer)


async def test_page_takes_one_statement(client: httpx.AsyncClient, statements: Statements) -> None:
    position = await position_now(client)
    # Without a settled change to return, the first page is read once more from the others.
    for number, parameters in ((1, {}), (1, {"after": position}), (1, {"after": "now"}), (2, {"type": "roles"})):
        with statements.counted() as seen:
            await read(client, **parameters)
        assert len(seen) == 1 + number, seen  # the first one looks up the caller


# Users in many transactions, and between them a few roles.
MANY = """
    INSERT INTO changes (transaction_id, type, object_id, object_name, action)
    SELECT 3 + n / 200, CASE WHEN n % 15000 = 0 THEN 'roles' ELSE 'users' END, n, n, 'updated'
      FROM generate_series(1, 100000) AS n;
    INSERT INTO feed_state VALUES (1, gen_random_uuid(), '', 0, {settled}, 3, 0, '{{0,0}}');
"""


async def test_narrow_filter_reads_the_history_in_pages(committed: Committed) -> None:
    async with connected(committed.url) as connection:
        await connection.execute("DELETE FROM changes")
        # Committed after the state of the feed, these changes are not settled.
        await position_now(committed.client)
        await connection.execute(
            "INSERT INTO changes (type, object_id, object_name, action) "
            "SELECT CASE WHEN n % 15000 = 0 THEN 'roles' ELSE 'users' END, n, n, 'updated' "
            "FROM generate_series(1, 35000) AS n"
        )
    parameters: dict[str, Any] = {"type": "roles"}
    pages: list[dict[str, Any]] = []
    while not pages or pages[-1]["has_more"]:
        pages.append(await read(committed.client, **parameters))
        parameters["after"] = pages[-1]["position"]
    assert [names(page["items"]) for page in pages] == [[], ["15000"], ["30000"], []]
    # So is the history for NDJSON with a limit; without one, the response is an export.
    end = {"position": (await read(committed.client))["position"], "has_more": True}
    found = []
    while end["has_more"]:
        parameters = {"type": "roles", "limit": 1, "after": end["position"]}
        items, end = lines_and_end(await committed.client.get("/changes/feed", params=parameters, headers=NDJSON))
        found.append(names(items))
    assert found == [[], ["15000"], ["30000"], []]
    streamed, _ = lines(await committed.client.get("/changes/feed?type=roles", headers=NDJSON))
    assert streamed == [item for page in pages for item in page["items"]]


@pytest.fixture(scope="module", params=[0, 1_000_000], ids=["live", "settled"])
async def large(
    request: pytest.FixtureRequest, server_url: URL, template: URL
) -> AsyncIterator[tuple[asyncpg.Connection, bool]]:
    """A connection to 100,000 changes, and whether they are settled."""
    async with filled(server_url, template, MANY.format(settled=request.param), "changes") as connection:
        await connection.execute("VACUUM changes")
        yield connection, bool(request.param)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("types", [tuple(READ_SCOPES), ("roles",), ("api_tokens",)], ids="-".join)
async def test_page_reads_a_bounded_number_of_rows_from_an_index(
    large: tuple[asyncpg.Connection, bool], types: tuple[str, ...], place: str, mode: str
) -> None:
    connection, settled = large
    positions = {"first": (0, 0), "middle": (3 + 250, 50_000), "last": (3 + 500, 99_990)}
    transaction_id, last_id = positions[place]
    values = {
        "transaction_id": transaction_id,
        "id": last_id,
        "types": list(types),
        "actions": ["updated"],
        "limit": 100,
    }
    statement = await feed_page(ExcludedMembers(), is_settled=settled).prepare()
    literals = ", ".join(
        str(it) if isinstance(it, int) else f"'{{{','.join(it)}}}'" for it in statement.arguments(values)
    )
    await connection.execute(f"SET plan_cache_mode = {mode}")
    await connection.execute(f"PREPARE page AS {statement.sql}")
    try:
        options = "ANALYZE, TIMING OFF, FORMAT JSON"
        explained = json.loads(await connection.fetchval(f"EXPLAIN ({options}) EXECUTE page ({literals})"))
    finally:
        await connection.execute("DEALLOCATE page")
    plan = list(nodes(explained[0]["Plan"]))
    reads = [node for node in plan if node.get("Relation Name") == "changes"]
    assert {node["Node Type"] for node in reads} <= {"Index Scan", "Index Only Scan"}
    looked_at = [(node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in reads]
    # A full page does not look for its end.
    is_full = len(types) > 1 and place != "last"
    assert sum(looked_at) <= (102 if is_full else 2 * MAX_ROWS_READ)
    assert max(node["Actual Rows"] for node in plan if node["Node Type"] == "Sort") <= 101


async def test_stream_is_read_from_an_index(large: tuple[asyncpg.Connection, bool]) -> None:
    connection, settled = large
    statement = await feed_stream(ExcludedMembers(), is_settled=settled).prepare()
    literals = {"transaction_id": "0::bigint", "id": "0::bigint", "types": "'{roles}'", "actions": "'{updated}'"}
    arguments = ", ".join(literals[name] for name in statement.names)
    await connection.execute(f"PREPARE stream AS {statement.sql}")
    (explained,) = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE stream ({arguments})"))
    plan = list(nodes(explained["Plan"]))
    assert [node["Node Type"] for node in plan if node.get("Relation Name") == "changes"] == ["Index Scan"]
    assert "Sort" not in {node["Node Type"] for node in plan}
    # No row is transferred for a change of another type.
    assert (
        await connection.fetchval(
            f"SELECT count(*) FROM ({statement.sql}) AS stream",
            *statement.arguments({"transaction_id": 0, "id": 0, "types": ["roles"], "actions": ["updated"]}),
        )
        == 6
    )
