"""Whole lists as NDJSON and CSV."""

import csv
import io
import json
import re
from datetime import UTC, datetime
from itertools import product
from typing import Any

import httpx
import pytest

from app.core.http.streaming import FIRST_BATCH_ROWS, MAX_BATCH_ROWS
from app.domains.shared.query.representations import default_members
from tests.api.conftest import openapi
from tests.builders import make, make_department, make_location, make_process, make_role, make_user
from tests.catalogue import COLLECTIONS, DECLARATIONS, LINKED, LINKS, every_collection
from tests.conftest import Committed, connected

NDJSON = {"Accept": "application/x-ndjson"}
CSV = {"Accept": "text/csv"}


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.content.splitlines()]


def shown_in_pages(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the documents of a whole list in the form of pages: without the external ids of briefs."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(each) for each in value]
        if isinstance(value, dict):
            return {name: each for name, each in value.items() if name != "external_id"}
        return value

    return [{name: plain(value) for name, value in document.items()} for document in documents]


def table(response: httpx.Response) -> list[dict[str, str]]:
    assert response.status_code == 200, response.text
    return list(csv.DictReader(io.StringIO(response.content.decode(), newline=""), strict=True))


async def fill(committed: Committed, number: int) -> None:
    async with connected(committed.url) as connection:
        await connection.execute(
            "INSERT INTO departments (name, description) "
            "SELECT 'D ' || n, repeat('x', 2000) FROM generate_series(1, $1) n",
            number,
        )


async def fill_all(client: httpx.AsyncClient) -> None:
    """Register three objects in each collection, which refer to each other."""
    for number in range(3):
        fields: dict[str, dict[str, Any]] = {
            "departments": {"code": f"D-{number}", "name": "Finance" if number else "Sales"},
            "locations": {"latitude": -1.5, "longitude": number},
            "resources": {"name": f"Finance {3 - number}"},
            "roles": {"code": f"R-{number}"},
        }
        others = [name for name in COLLECTIONS if name != "processes"]
        one = {name: await make(client, name, **fields.get(name, {})) for name in others}
        links = {each.short: [one[each.field]["id"]] for each in LINKS["processes"]}
        await make_process(client, owner_id=one["users"]["id"], **links)


async def test_export_of_every_collection_equals_its_list(committed: Committed) -> None:
    await fill_all(committed.client)
    for collection, (query, number) in product(
        COLLECTIONS,
        (
            ("", 3),
            ("?sort=name,-id&fields=version,created_by,name,id", 3),
            ("?embed=none", 3),
            ("?id__not=2&sort=-id&limit=1", 1),
            ("?name__ic=FINANC&sort=-updated_at&embed=none", None),
            ("?id=99", 0),
        ),
    ):
        items = (await committed.client.get(f"/{collection}{query}")).json()["items"]
        if number is not None:
            # The users include the first administrator.
            assert len(items) == number + (collection == "users" and number == 3)
        streamed = lines(await committed.client.get(f"/{collection}{query}", headers=NDJSON))
        assert shown_in_pages(streamed) == items
        exported = await committed.client.get(f"/{collection}{query}", headers=CSV)
        columns = exported.text.partition("\r\n")[0].split(",")
        assert [list(item) for item in items] == [columns] * len(items)
        for row, item in zip(table(exported), items, strict=True):
            plain = [name for name, value in item.items() if not isinstance(value, dict | list)]
            assert [row[name] for name in plain] == [cell(item[name]) for name in plain]
    names = [
        row["name"] for row in table(await committed.client.get("/resources?name__ic=FINANC&sort=name", headers=CSV))
    ]
    assert names == ["Finance 1", "Finance 2", "Finance 3"]


def cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    text = "" if value is None else json.dumps(value)
    return f"'{text}" if text.startswith("-") else text


@every_collection
async def test_columns_are_in_the_order_of_the_schema(client: httpx.AsyncClient, collection: str) -> None:
    columns = (await client.get(f"/{collection}?id=99", headers=CSV)).text.strip().split(",")
    read = DECLARATIONS[collection].read
    schema = openapi()["components"]["schemas"][read.__name__]
    assert columns == [name for name in schema["properties"] if name in default_members(read)]
    turned = ",".join(reversed(columns[::2]))
    chosen = await client.get(f"/{collection}?id=99&fields={turned}", headers=CSV)
    assert chosen.text.strip().split(",") == columns[::2]


@every_collection
async def test_single_column_equals_that_of_the_whole_table(committed: Committed, collection: str) -> None:
    await fill_all(committed.client)
    whole = table(await committed.client.get(f"/{collection}", headers=CSV))
    assert len(whole) >= 3
    for column in whole[0]:
        alone = table(await committed.client.get(f"/{collection}?fields={column}", headers=CSV))
        assert alone == [{column: row[column]} for row in whole], column
        nothing = await committed.client.get(f"/{collection}?fields={column}&id=99", headers=CSV)
        assert nothing.text == f"{column}\r\n"


async def test_briefs_of_a_whole_list_have_external_ids(committed: Committed) -> None:
    client = committed.client
    key = 'a"b\\ é'
    keyed, bare = await make_department(client, external_id=key, name="Keyed"), await make_department(client)
    ids = [keyed["id"], bare["id"]]
    process = await make_process(client, department_ids=ids)
    role = await make_role(client, department_id=keyed["id"])
    (streamed,) = lines(await client.get("/processes", headers=NDJSON))
    assert [(link["id"], link["external_id"], link["relation"]) for link in streamed["departments"]] == [
        (keyed["id"], key, "participant"),
        (bare["id"], None, "participant"),
    ]
    (streamed,) = lines(await client.get("/roles", headers=NDJSON))
    assert streamed["department"] == {"id": keyed["id"], "code": None, "name": "Keyed", "external_id": key}
    assert streamed["created_by"]["external_id"] is None
    assert set((await client.get(f"/roles/{role['id']}")).json()["department"]) == {"id", "code", "name"}
    assert "external_id" not in (await client.get(f"/processes/{process['id']}")).json()["departments"][0]


async def test_files_are_named_after_their_content(committed: Committed) -> None:
    await fill_all(committed.client)
    lists = {name: name for name in COLLECTIONS}
    lists |= {"roles/1/holders": "users"} | {f"{name}/1/processes": "processes" for name in LINKED}
    for path, collection in lists.items():
        for headers, ending in ((NDJSON, "ndjson"), (CSV, "csv")):
            begun = datetime.now(UTC)
            response = await committed.client.get(f"/{path}?fields=id", headers=headers)
            days = {f"{instant:%Y-%m-%d}" for instant in (begun, datetime.now(UTC))}  # midnight may pass
            found = {f'attachment; filename="{collection}-{day}.{ending}"' for day in days}
            assert response.headers["content-disposition"] in found
            assert response.headers["content-type"].partition(";")[0] == headers["Accept"]
            assert response.headers["vary"] == "Accept"
        listed = await committed.client.get(f"/{path}?fields=id")
        assert (listed.headers["vary"], "content-disposition" in listed.headers) == ("Accept", False)


async def test_object_with_several_links_is_one_line(committed: Committed) -> None:
    ids = [(await make_department(committed.client))["id"] for _ in range(3)]
    process = await make_process(committed.client, department_ids=ids, description="One\nTwo")
    response = await committed.client.get("/processes", headers=NDJSON)
    assert response.content.count(b"\n") == 1
    assert shown_in_pages(lines(response)) == [process]


async def test_links_and_references_are_cells_that_can_be_read_back(committed: Committed) -> None:
    client = committed.client
    coded = await make_department(client, code="FIN-01", external_id="other")
    external = await make_department(client, external_id="a|b:c\\d ~#é")
    bare = await make_department(client)
    process = await make_process(
        client,
        parent_id=(await make_process(client, external_id="FIN-01"))["id"],
        departments=[
            {"department_id": coded["id"], "relation": "owner"},
            {"department_id": external["id"]},
            {"department_id": bare["id"], "relation": "customer"},
        ],
        location_ids=[(await make_location(client, code="L.1"))["id"]],
    )
    (row,) = table(await client.get(f"/processes?id={process['id']}", headers=CSV))
    assert row["departments"] == rf"FIN-01:owner|~a\|b\:c\\d ~#é:participant|#{bare['id']}:customer"
    assert (row["parent"], row["locations"], row["roles"], row["owner"]) == ("~FIN-01", "L.1", "", "")
    assert row["created_at"] == process["created_at"]
    assert (row["version"], row["created_by"]) == ("1", f"#{process['created_by']['id']}")
    entries = re.findall(r"((?:\\.|[^|])+)", row["departments"])
    reference = re.split(r"(?<!\\):", entries[1])[0]
    assert re.sub(r"\\(.)", r"\1", reference.removeprefix("~")) == external["external_id"]


async def test_cells_are_safe_and_can_be_read_back(committed: Committed) -> None:
    for start in ("=1+1", "+1", "-1", "@a", "'a", "''", "\u00e9", ' a"b,c'):
        made = await make_department(committed.client, name=start, description=start + "\nx\r\ny")
        (safe,) = table(await committed.client.get(f"/departments?id={made['id']}", headers=CSV))
        (raw,) = table(await committed.client.get(f"/departments?id={made['id']}&csv=raw", headers=CSV))
        for name in ("name", "description"):
            assert raw[name] == made[name]
            assert safe[name][0] not in "=+-@\t\r"
            assert safe[name].removeprefix("'") == made[name]
            assert (safe[name] == raw[name]) == (start[0] not in "=+-@'")


async def test_empty_text_differs_from_null(committed: Committed) -> None:
    made = [(await make_department(committed.client, description=text))["id"] for text in ("", None)]
    rows = table(await committed.client.get("/departments", headers=CSV))
    assert [(int(row["id"]), row["description"]) for row in rows] == [(made[0], "'"), (made[1], "")]


async def test_table_conforms_to_rfc_4180(committed: Committed) -> None:
    empty = await committed.client.get("/departments?fields=name,id", headers=CSV)
    assert empty.content == b"id,name\r\n"
    assert empty.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    made = await make_department(committed.client, name='a,"b"')
    response = await committed.client.get("/departments?fields=name,id", headers=CSV)
    assert response.content == f'id,name\r\n{made["id"]},"a,""b"""\r\n'.encode()


async def test_exports_have_no_size_limit(committed: Committed) -> None:
    there = 0
    two = FIRST_BATCH_ROWS + MAX_BATCH_ROWS
    for number in (0, 1, FIRST_BATCH_ROWS - 1, FIRST_BATCH_ROWS, FIRST_BATCH_ROWS + 1, two - 1, two, two + 1):
        await fill(committed, number - there)
        there = number
        assert len(lines(await committed.client.get("/departments?fields=id", headers=NDJSON))) == number
        assert len(table(await committed.client.get("/departments?fields=id", headers=CSV))) == number


async def test_export_starts_at_a_cursor_but_not_backwards(committed: Committed) -> None:
    made = [(await make_department(committed.client))["id"] for _ in range(4)]
    page = (await committed.client.get("/departments?limit=1")).json()
    follows = page["next"].removeprefix("/api/v1").replace("limit=1&", "")
    assert [row["id"] for row in lines(await committed.client.get(follows, headers=NDJSON))] == made[1:]
    assert [row["id"] for row in lines(await committed.client.get("/departments?offset=2", headers=NDJSON))] == made[2:]
    second = (await committed.client.get(page["next"].removeprefix("/api/v1"))).json()
    backwards = await committed.client.get(second["prev"].removeprefix("/api/v1"), headers=NDJSON)
    assert (backwards.status_code, backwards.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("text/*", "text/csv"),
        ("text/csv;q=0.5, application/json;q=0.4", "text/csv"),
        ("text/csv, */*;q=0.1", "text/csv"),
        ("text/html, */*;q=0.1", "application/json"),
        ("*/*, application/json;q=0", "application/x-ndjson"),
        ("APPLICATION/X-NDJSON", "application/x-ndjson"),
        ("text/csv;q=nan, */*", "application/json"),
        ("text/html", "application/problem+json"),
        ("text/csv;q=0", "application/problem+json"),
    ],
)
async def test_format_is_negotiated(client: httpx.AsyncClient, accept: str | None, content_type: str) -> None:
    headers = {"Accept": accept} if accept is not None else {"Accept": ""}
    response = await client.get("/departments", headers=headers)
    assert response.headers["content-type"].partition(";")[0] == content_type
    assert response.status_code == (406 if "problem" in content_type else 200)


async def test_linked_objects_are_exported_and_missing_ones_not_found(committed: Committed) -> None:
    role, user = await make_role(committed.client), await make_user(committed.client)
    other = await make_role(committed.client)
    accountable = [{"role_id": other["id"], "responsibility": "accountable"}]
    process = await make_process(committed.client, roles=[{"role_id": role["id"]}, *accountable])
    await committed.client.put(f"/roles/{role['id']}/holders/{user['id']}")
    for of, found in ((role, []), (other, [process])):
        path = f"/roles/{of['id']}/processes?responsibility=accountable"
        assert shown_in_pages(lines(await committed.client.get(path, headers=NDJSON))) == found
        assert len(table(await committed.client.get(path, headers=CSV))) == len(found)
    streamed = lines(await committed.client.get(f"/roles/{role['id']}/processes", headers=NDJSON))
    assert shown_in_pages(streamed) == [process]
    assert lines(await committed.client.get(f"/roles/{role['id']}/holders?embed=none&fields=id", headers=NDJSON)) == [
        {"id": user["id"]}
    ]
    for path in ("/roles/99/processes", "/roles/99/holders", "/departments/99/processes"):
        assert (await committed.client.get(path, headers=NDJSON)).status_code == 404


async def test_head_has_the_headers_and_sends_nothing(committed: Committed) -> None:
    await make(committed.client, "departments")
    for headers in (NDJSON, CSV):
        got = await committed.client.get("/departments", headers=headers)
        head = await committed.client.head("/departments", headers=headers)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-disposition"):
            assert head.headers[name] == got.headers[name]
    assert committed.app.state.streams.places.free == 2
