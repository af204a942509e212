"""Cursors: every row once, in any order, despite concurrent writes."""

import random
import string
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.tokens import Tokens
from app.domains.shared.query.orders import OBJECT_SORTS
from app.domains.shared.query.pages import MAX_OFFSET
from app.utils.text.folding import fold
from tests.builders import make, make_department, make_process, make_role
from tests.catalogue import every_collection
from tests.conftest import Committed, settings_for

MIXED = ["-updated_at,name", "name,-created_at", "-code,name", "code,-id", "-name,code,-updated_at,id"]
ORDERS = [*OBJECT_SORTS, *(f"-{name}" for name in OBJECT_SORTS), *MIXED]


LETTERS = {*string.ascii_letters, *string.digits, "-", "_"}
CRITICALITIES = ["low", "medium", "high", "critical", None]
KEYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "id": lambda item: item["id"],
    "code": lambda item: (item["code"] is None, fold(item["code"] or "")),
    "name": lambda item: item["name"],
    "kind": lambda item: item["kind"],
    "status": lambda item: item["status"],
    "criticality": lambda item: CRITICALITIES.index(item["criticality"]),
    "created_at": lambda item: item["created_at"],
}


async def pages(client: httpx.AsyncClient, url: str, way: str) -> AsyncIterator[dict[str, Any]]:
    """Yield a page and those that follow it by `next` or by `prev`."""
    following: str | None = url
    while following:
        response = await client.get(following.removeprefix("/api/v1"))
        assert response.status_code == 200, response.text
        page = response.json()
        yield page
        following = page[way]


async def walk(client: httpx.AsyncClient, url: str, way: str = "next") -> list[list[int]]:
    return [[item["id"] for item in page["items"]] async for page in pages(client, url, way)]


@pytest.fixture
async def ties(client: httpx.AsyncClient) -> None:
    """Departments created at the same instant, some with equal names and some without codes."""
    for number in range(11):
        code = {"code": f"C{number % 5}{number}" if number % 2 else f"c{number}"} if number % 3 else {}
        await make_department(client, name=("same", "Same", "other")[number % 3], **code)


@pytest.mark.parametrize("sort", ORDERS)
@pytest.mark.usefixtures("ties")
async def test_every_row_is_seen_once_in_both_directions(client: httpx.AsyncClient, sort: str) -> None:
    whole = [item["id"] for item in (await client.get(f"/departments?sort={sort}&limit=200")).json()["items"]]
    assert len(whole) == 11
    for limit in (1, 4, 11, 12):
        there = await walk(client, f"/departments?sort={sort}&limit={limit}")
        assert [key for page in there for key in page] == whole
        assert [len(page) for page in there[:-1]] == [limit] * (len(there) - 1)
    last = [page async for page in pages(client, f"/departments?sort={sort}&limit=4", "next")][-1]
    back = await walk(client, last["prev"], "prev")
    assert [key for page in reversed(back) for key in page] == whole[:8]


FEW_FIRST = [
    *("status,name", "-status,name", "kind,-id", "code,name", "-code,-name,status", "code,status,name"),
    *("status,kind,name", "-kind,status,-created_at", "criticality,-name", "-criticality,status,name"),
    *("criticality,status,kind,name", "status,code,name", "kind,criticality,-id"),
]


@pytest.mark.parametrize("sort", FEW_FIRST)
async def test_order_by_few_values_first_is_that_of_all_keys(client: httpx.AsyncClient, sort: str) -> None:
    generator = random.Random(5)  # noqa: S311 - the same at every run
    for number in range(23):
        given = {
            "criticality": generator.choice((None, "low", "critical")),
            "status": generator.choice(("draft", "active")),
        }
        code = {"code": f"C{number % 5}-{number}"} if number % 3 == 0 else {}
        await make_process(client, name=f"n{number % 4}", kind=generator.choice(("core", "support")), **given, **code)
    objects = (await client.get("/processes?limit=200")).json()["items"]
    names = sort.split(",")
    names += ["-id" if names[-1].startswith("-") else "id"]
    for name in reversed(names):
        objects.sort(key=KEYS[name.removeprefix("-")], reverse=name.startswith("-"))
    whole = [item["id"] for item in objects]
    for limit in (1, 5, 23, 24):
        there = await walk(client, f"/processes?sort={sort}&limit={limit}")
        assert [key for page in there for key in page] == whole
        last = [page async for page in pages(client, f"/processes?sort={sort}&limit={limit}", "next")][-1]
        if last["prev"]:
            back = await walk(client, last["prev"], "prev")
            assert [key for page in reversed(back) for key in page] == whole[: limit * (len(there) - 1)]
    filtered = await walk(client, f"/processes?sort={sort}&limit=3&name=n1")
    assert [key for page in filtered for key in page] == [item["id"] for item in objects if item["name"] == "n1"]
    assert await walk(client, f"/processes?sort={sort}&limit=200&offset=7") == [whole[7:]]


@pytest.mark.usefixtures("ties")
async def test_pages_link_to_the_next_and_the_previous_page(client: httpx.AsyncClient) -> None:
    first = await client.get("/departments?limit=4&sort=-name&count=exact")
    page = first.json()
    assert (page["prev"], page["total"]) == (None, 11)
    assert first.headers["link"] == f'<{page["next"]}>; rel="next"'
    second = await client.get(page["next"].removeprefix("/api/v1"))
    assert second.json()["total"] == 11
    assert second.headers["link"] == f'<{second.json()["next"]}>; rel="next", <{second.json()["prev"]}>; rel="prev"'
    again = (await client.get(second.json()["prev"].removeprefix("/api/v1"))).json()
    assert (again["items"], again["prev"]) == (page["items"], None)
    assert again["next"] == page["next"]


@pytest.mark.usefixtures("ties")
@pytest.mark.parametrize(("number", "links"), [(1, ["next", "prev"]), (24, ["next"]), (60, [])])
async def test_link_header_is_limited_in_length(client: httpx.AsyncClient, number: int, links: list[str]) -> None:
    others = "&".join(f"external_id__not={letter * 200}" for letter in map(chr, range(0x41, 0x41 + number)))
    first = (await client.get(f"/departments?limit=4&sort=code&{others}")).json()
    second = await client.get(first["next"].removeprefix("/api/v1"))
    page = second.json()
    assert None not in (page["next"], page["prev"])
    assert second.headers.get("link", "") == ", ".join(f'<{page[name]}>; rel="{name}"' for name in links)


async def test_unchanged_row_is_listed_once_despite_inserts_and_deletes(client: httpx.AsyncClient) -> None:
    generator = random.Random(7)  # noqa: S311 - the same at every run
    staying = [(await make_department(client, name=f"N{number % 4}"))["id"] for number in range(12)]
    passing = [(await make_department(client, name=f"N{number % 4}"))["id"] for number in range(12)]
    for sort in ("name", "-name", "id", "-code"):
        seen: list[int] = []
        async for page in pages(client, f"/departments?limit=3&sort={sort}", "next"):
            seen += [item["id"] for item in page["items"]]
            gone = passing.pop(generator.randrange(len(passing)))
            assert (await client.delete(f"/departments/{gone}")).status_code == 204
            passing.append((await make_department(client, name=f"N{generator.randrange(4)}"))["id"])
        assert sorted(key for key in seen if key in staying) == staying
        assert len(seen) == len(set(seen))


@pytest.mark.parametrize("sort", ["id", "-id", "created_at", "-created_at"])
async def test_changed_row_is_listed_once_in_orders_that_do_not_change(client: httpx.AsyncClient, sort: str) -> None:
    ids = [(await make_department(client, name=f"N{number}"))["id"] for number in range(9)]
    seen: list[int] = []
    async for page in pages(client, f"/departments?limit=2&sort={sort}", "next"):
        seen += [item["id"] for item in page["items"]]
        for key in ids:
            assert (await client.patch(f"/departments/{key}", json={"name": f"M{len(seen)}-{key}"})).is_success
    assert seen == (ids[::-1] if sort.startswith("-") else ids)


async def test_page_whose_rows_are_deleted_is_empty(client: httpx.AsyncClient) -> None:
    ids = [(await make_role(client))["id"] for _ in range(6)]
    page = (await client.get("/roles?limit=2")).json()
    for key in ids[2:]:
        await client.delete(f"/roles/{key}")
    empty = (await client.get(page["next"].removeprefix("/api/v1"))).json()
    assert (empty["items"], empty["next"], empty["prev"]) == ([], None, None)


async def test_page_whose_rows_are_deleted_links_back_to_the_remaining_rows(client: httpx.AsyncClient) -> None:
    ids = [(await make_role(client))["id"] for _ in range(4)]
    second = (await client.get((await client.get("/roles?limit=2")).json()["next"].removeprefix("/api/v1"))).json()
    for key in ids[:2]:
        await client.delete(f"/roles/{key}")
    empty = (await client.get(second["prev"].removeprefix("/api/v1"))).json()
    assert (empty["items"], empty["prev"]) == ([], None)
    assert await walk(client, empty["next"]) == [ids[2:]]
    beyond = (await client.get("/roles?limit=2&offset=3")).json()
    assert (beyond["items"], beyond["next"]) == ([], None)
    back = (await client.get(beyond["prev"].removeprefix("/api/v1"))).json()
    assert [item["id"] for item in back["items"]] == ids[3:]


@pytest.mark.parametrize("letter", ["\U0001f600", "\u6f22", "\u0130", "'", '"', "\\"])
async def test_longest_names_have_cursors(client: httpx.AsyncClient, letter: str) -> None:
    ids = [(await make_process(client, name=letter * 500, code="C" * 62 + f"{n}"))["id"] for n in range(3)]
    for sort in ("name", "-name,-code", "status,name,code,created_at"):
        there = await walk(client, f"/processes?limit=1&sort={sort}")
        assert there == [[key] for key in (ids[::-1] if sort.startswith("-") else ids)]


async def test_cursor_continues_beyond_the_largest_offset(
    client: httpx.AsyncClient, connection: AsyncConnection
) -> None:
    await connection.execute(
        text("INSERT INTO roles (name) SELECT 'R' FROM generate_series(1, :number)"), {"number": MAX_OFFSET + 5}
    )
    assert (await client.get(f"/roles?offset={MAX_OFFSET + 1}")).status_code == 422
    ids = [row.id for row in await connection.execute(text("SELECT id FROM roles ORDER BY id"))]
    assert await walk(client, f"/roles?limit=2&offset={MAX_OFFSET}") == [
        ids[MAX_OFFSET : MAX_OFFSET + 2],
        ids[MAX_OFFSET + 2 : MAX_OFFSET + 4],
        ids[MAX_OFFSET + 4 :],
    ]


async def test_list_of_linked_objects_has_its_own_cursors(client: httpx.AsyncClient) -> None:
    first, second = await make_department(client, code="ONE"), await make_department(client)
    processes = [await make_process(client, department_ids=[first["id"], second["id"]]) for _ in range(3)]
    path = f"/departments/{first['id']}/processes?limit=2"
    assert await walk(client, path) == [[one["id"] for one in processes[:2]], [processes[2]["id"]]]
    cursor = (await client.get(path)).json()["next"].partition("cursor=")[2]
    for other in (f"/departments/{second['id']}/processes", "/processes", "/departments"):
        assert (await client.get(f"{other}?cursor={cursor}")).status_code == 400


@pytest.mark.parametrize(
    ("sort", "code", "words"),
    [
        ("foo", "unknown_sort", "Sort field 1 is unknown. Known fields: id, code, name, created_at, updated_at."),
        ("-nmae", "unknown_sort", "Sort field 1 is unknown. Did you mean name?"),
        ("name,-updatedAt", "unknown_sort", "Sort field 2 is unknown. Did you mean updated_at?"),
        ("--name", "unknown_sort", "Did you mean name?"),
        (
            "",
            "unknown_sort",
            "Sort field 1 is unknown. Separate names by commas without blanks, and leave none empty. Known",
        ),
        (
            "name,",
            "unknown_sort",
            "Sort field 2 is unknown. Separate names by commas without blanks, and leave none empty. Known",
        ),
        ("name, -code", "unknown_sort", "by commas without blanks, and leave none empty. Did you mean code?"),
        ("-", "unknown_sort", "Sort field 1 is unknown. Separate names by commas"),
        ("rank", "unknown_sort", "Sort field 1 is unknown. "),
        ("id,code,name,created_at,updated_at", "too_many_sorts", "at most 4 fields"),
        ("name,name,name,name,name", "too_many_sorts", "at most 4 fields"),
        ("name,-name", "repeated_sort", "each field only once"),
    ],
)
async def test_unknown_order_is_rejected_with_a_message(
    client: httpx.AsyncClient, sort: str, code: str, words: str
) -> None:
    response = await client.get("/departments", params={"sort": sort, "q": "a"})
    assert response.status_code == 422
    (fault,) = response.json()["errors"]
    assert (fault["pointer"], fault["source"], fault["code"]) == ("/sort", "query", code)
    assert words in fault["detail"]


async def test_letters_with_accents_come_after_all_others(client: httpx.AsyncClient) -> None:
    for name in ("Österreich", "zz", "äpfel", "Zebra"):
        await make_department(client, name=name)
    names = [item["name"] for item in (await client.get("/departments?sort=name")).json()["items"]]
    assert names == ["Zebra", "zz", "äpfel", "Österreich"]


async def test_every_order_by_four_names_is_valid(client: httpx.AsyncClient) -> None:
    assert (await client.get("/departments?sort=-updated_at,code,-name,id")).status_code == 200
    assert (await client.get("/processes?sort=criticality,-kind,status,name")).status_code == 200


@every_collection
async def test_cursor_of_another_list_is_rejected(client: httpx.AsyncClient, collection: str) -> None:
    for _ in range(3):
        await make(client, collection)
    cursor = (await client.get(f"/{collection}?sort=name&limit=1")).json()["next"].partition("cursor=")[2]
    assert (await client.get(f"/{collection}?sort=name&cursor={cursor}")).status_code == 200
    # The page may have another size, and may be counted.
    assert (await client.get(f"/{collection}?sort=name&limit=7&count=exact&cursor={cursor}")).status_code == 200
    flipped = cursor[:-2] + ("A" if cursor[-2] != "A" else "B") + cursor[-1]
    own = Tokens(settings_for(None, secret_key="of another installation " * 2))
    for faulty in (
        f"sort=-name&cursor={cursor}",
        f"cursor={cursor}",
        f"sort=name,code&cursor={cursor}",
        f"sort=name&cursor={flipped}",
        f"sort=name&cursor={cursor}A",
        f"sort=name&cursor={cursor}=",
        f"sort=name&cursor={'A' * 20_000}",
        *(f"sort=name&cursor={cursor[:-1]}{letter}" for letter in LETTERS - {cursor[-1]}),
        f"sort=name&cursor=A{cursor}",
        f"sort=name&cursor={cursor[:-3]}",
        "sort=name&cursor=",
        "sort=name&cursor=%00",
        "sort=name&cursor=%F0%9F%90%98",
        "sort=name&cursor=" + own.seal('["after","a","1"]', f"/api/v1/{collection}?sort=name"),
    ):
        response = await client.get(f"/{collection}?{faulty}")
        assert response.status_code == 400, faulty
        assert [(error["pointer"], error["source"]) for error in response.json()["errors"]] == [("/cursor", "query")]


async def test_cursor_and_offset_exclude_each_other(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await make_role(client)
    cursor = (await client.get("/roles?limit=1")).json()["next"].partition("cursor=")[2]
    response = await client.get(f"/roles?offset=1&cursor={cursor}")
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == ["/offset"]
    assert (await client.get(f"/roles?cursor={'a' * 5000}")).status_code == 400


async def test_cursor_survives_the_replacement_of_the_key(committed: Committed) -> None:
    old = Tokens(settings_for(committed.url))
    secret = committed.app.state.settings.secret_key
    new = Tokens(settings_for(committed.url, secret_key="n" * 40, previous_secret_key=secret))
    sealed = old.seal("text", "context")
    assert new.unseal(sealed, "context") == "text"
    assert new.unseal(sealed, "other context") is None
    assert old.unseal(new.seal("text", "context"), "context") is None


async def test_urls_of_pages_spell_booleans_as_clients_do(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await make(client, "locations")
    for name, value in (("has_children", "false"), ("country__null", "true"), ("process_id__null", "true")):
        page = (await client.get(f"/locations?limit=1&{name}={value}")).json()
        assert f"{name}={value}" in page["next"].partition("?")[2].split("&")
        following = await client.get(page["next"].removeprefix("/api/v1"))
        assert len(following.json()["items"]) == 1


async def test_id_in_a_path_has_one_spelling(client: httpx.AsyncClient) -> None:
    made = await make(client, "roles")
    for reference in (f"0{made['id']}", f"+{made['id']}", f"{made['id']}.0", f"%20{made['id']}"):
        assert (await client.get(f"/roles/{reference}")).status_code == 404
