"""Matches of `q`, and their order."""

# ruff: noqa: RUF001 - letters of many scripts resemble each other on purpose

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.builders import make, make_department, make_process, make_role
from tests.catalogue import every_collection
from tests.conftest import Committed, Statements, connected


async def search(client: httpx.AsyncClient, q: str, collection: str = "departments", more: str = "") -> list[str]:
    """Return the names of the matches, in order."""
    response = await client.get(f"/{collection}?q={quote(q)}&count=exact{more}")
    assert response.status_code == 200, response.text
    page = response.json()
    if "limit" not in more:
        assert page["total"] == len(page["items"])
    return [item["name"] for item in page["items"]]


# A name, searches that match it, and searches that do not.
LANGUAGES = [
    ("Straße zum Großhandel", ["strasse", "STRASSE", "straße", "grosshandel", "großh"], ["gross zum wald"]),
    ("Übergabe an die Küche", ["ubergabe", "UBERGABE", "kuche", "u\u0308bergabe"], ["gabe"]),
    ("Café “Zoë” naïve", ["cafe", "CAFE\u0301", "zoe", "naive"], []),
    ("İstanbul ısıtma", ["istanbul", "ISTANBUL", "İSTANBUL", "isitma", "ISITMA"], []),
    ("Οδυσσεύς λόγος", ["οδυσσευσ", "ΟΔΥΣΣΕΥΣ", "ΛΟΓΟΣ", "λογος"], ["γος"]),
    ("Управление закупками", ["закупками", "УПРАВЛЕНИЕ", "закуп"], ["продажи"]),
    ("Ёлки и ели", ["елки", "ЁЛКИ"], []),
    ("Zażółć gęślą jaźń łódź", ["zazolc", "lodz", "GESLA"], []),
    ("Smørrebrød på ærø", ["smorrebrod", "SMØRREBRØD", "aero"], []),
    ("Œuvre de l’année", ["oeuvre", "annee", "l annee"], []),
    ("Quản lý chất lượng", ["quan ly", "chat luong", "CHẤT"], []),
    ("人力资源管理", ["人力", "资源", "管理", "人力资源管理", "资源管理"], ["源人", "财务"]),
    ("東京都の倉庫管理", ["東京", "京都", "倉庫", "の倉庫"], ["大阪"]),
    ("サプライヤー登録", ["サプライヤー", "ｻﾌﾟﾗｲﾔｰ", "登録"], ["発注"]),
    ("구매 관리 부서", ["구매", "관리", "부서"], ["판매"]),
    ("การจัดซื้อ", ["จัดซื้อ", "การ"], ["ขาย"]),
    ("إدارة المُشتريات", ["المشتريات", "إدارة", "المشتر"], ["مبيعات"]),
    ("ניהול רכש שָׁלוֹם", ["רכש", "שלום"], ["מכירות"]),
    ("खरीद प्रबंधन", ["खरीद", "प्रबंधन"], ["बिक्री"]),
    ("ＦＵＬＬ ｗｉｄｔｈ", ["full", "width"], []),
    ("ﬁnance oﬃce", ["finance", "office"], []),
    ("R&D / C++ (x64)", ["r&d", "c++", "x64", "R D"], ["y64"]),
    ("🚀 Launch", ["🚀", "launch"], ["🦊"]),
]


@pytest.mark.parametrize(("name", "finding", "missing"), LANGUAGES, ids=[name for name, _, _ in LANGUAGES])
async def test_words_are_found_in_any_language(
    client: httpx.AsyncClient, name: str, finding: list[str], missing: list[str]
) -> None:
    await make_department(client, name=name)
    for q in finding:
        assert await search(client, q) == [name], q
    for q in missing:
        assert await search(client, q) == [], q


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("procurment", True),  # a letter is missing
        ("procuurement", True),  # one too many
        ("procuremant", True),  # a wrong letter
        ("porcurement", True),  # two letters swapped
        ("Procurement suplier", True),
        ("zakupkami", False),
        ("закупкма", True),
        ("abcd", False),
    ],
)
async def test_misspelt_words_are_found(client: httpx.AsyncClient, q: str, found: bool) -> None:
    await make_department(client, name="Procurement", description="Looks after suppliers. Управление закупками.")
    assert await search(client, q) == (["Procurement"] if found else [])


@pytest.mark.parametrize(("q", "each"), [("barrelz", 6), ("barrelz store", 3), ("barrelz east store", 2)])
async def test_number_of_similar_words_falls_with_the_number_of_words(
    client: httpx.AsyncClient, q: str, each: int
) -> None:
    names = [f"Barrel{letter} east store" for letter in "abcdefgh"]
    for name in names:
        await make_department(client, name=name)
    assert await search(client, q) == names[:each]


async def test_words_of_changed_objects_are_in_the_vocabulary(client: httpx.AsyncClient) -> None:
    made = await make_department(client, name="Before")
    assert await search(client, "warehousng") == []
    await client.patch(f"/departments/{made['id']}", json={"name": "Warehousing"})
    assert await search(client, "warehousng") == ["Warehousing"]
    assert await search(client, "before") == []


async def test_better_matches_come_first(client: httpx.AsyncClient) -> None:
    for fields in (
        {"name": "Payments", "description": "For all invoices"},
        {"name": "Invoicce archive"},
        {"name": "Outgoing invoice"},
        {"name": "Invoicing", "description": "Invoice"},
        {"name": "Invoices"},
        {"name": "Other", "code": "INVOICE"},
        {"name": "Unrelated"},
    ):
        await make_department(client, **fields)
    found = ["Other", "Invoices", "Outgoing invoice", "Payments", "Invoicing", "Invoicce archive"]
    # Objects that match in the description only have one rank, and are in the order of their ids.
    assert await search(client, "invoice") == [
        *("Other", "Invoices", "Outgoing invoice"),
        *("Payments", "Invoicing", "Invoicce archive"),
    ]
    assert sorted(await search(client, "invoice", more="&sort=name")) == sorted(found)
    assert await search(client, "invoice", more="&sort=-name") == sorted(found, reverse=True)


async def test_all_words_must_be_found_in_any_order_and_any_field(client: httpx.AsyncClient) -> None:
    await make_department(client, name="Accounts payable", code="FIN-01", description="Pays suppliers")
    for q in ("payable accounts", "fin suppliers", "FIN-01", "fin-0", "acc pay sup", "  payable,  (accounts)! "):
        assert await search(client, q) == ["Accounts payable"], q
    assert await search(client, "accounts receivable") == []


@every_collection
async def test_every_collection_is_searched(client: httpx.AsyncClient, collection: str) -> None:
    await make(client, collection, name="Needle in the hay")
    await make(client, collection, description="With a needle")
    await make(client, collection)
    assert (await search(client, "needle", collection))[0] == "Needle in the hay"
    assert len(await search(client, "needle", collection)) == 2


NOTHING_OR_WORDS = [
    "& | ! ( ) <-> :* '",
    "a & b | !c:*",
    "'; DROP TABLE departments; --",
    "\\",
    "\\u0000 %00",
    "^",
    "^needle",
    "***",
    "…—¿¡",
    "%",
    "_",
    "''''",
    "needle:A <2> hay",
    "x " * 255,
    "a" * 512,
    "人" * 512,
    "\U0001f600" * 512,
    "\ufdfa" * 512,  # each of these becomes eighteen characters
]


@pytest.mark.parametrize("q", NOTHING_OR_WORDS, ids=range(len(NOTHING_OR_WORDS)))
async def test_query_syntax_is_ordinary_text(client: httpx.AsyncClient, q: str) -> None:
    await make_department(client, name="Needle in the hay")
    for more in ("", "&sort=name"):
        assert await search(client, q, more=more) == (["Needle in the hay"] if q == "^needle" else []), q


NO_TEXT = {
    "": "string_too_short",
    " ": "string_too_short",
    "\n": "string_too_short",
    "\u200b": "invisible_text",
    "\u0301": "invisible_text",
    "a\0b": "control_character",
    "a\nb": "control_character",
    "a" * 513: "string_too_long",
    "a" * 10_000: "string_too_long",
}


@pytest.mark.parametrize("q", NO_TEXT, ids=range(len(NO_TEXT)))
@pytest.mark.parametrize("address", ["/departments?", "/search?"])
async def test_invalid_text_is_rejected(client: httpx.AsyncClient, address: str, q: str) -> None:
    response = await client.get(f"{address}q={quote(q)}")
    assert response.status_code == 422
    assert [(error["pointer"], error["code"]) for error in response.json()["errors"]] == [("/q", NO_TEXT[q])]


async def walk(client: httpx.AsyncClient, address: str, back: bool = False) -> list[dict[str, Any]]:
    """Return the pages in the order of reading, by `next` from the first or by `prev` from the last one."""
    pages = [(await client.get(address)).json()]
    while pages[-1]["next"]:
        pages.append((await client.get(pages[-1]["next"].removeprefix("/api/v1"))).json())
    if back:
        pages = pages[-1:]
        while pages[-1]["prev"]:
            pages.append((await client.get(pages[-1]["prev"].removeprefix("/api/v1"))).json())
    return pages


async def make_many(client: httpx.AsyncClient) -> None:
    for number in range(6):
        await make_process(client, name=f"Review {number}", status="active")
        await make_process(client, name=f"Yearly review {number}")
        await make_process(client, name=f"Other {number}", description="Before the review", status="active")
        await make_process(client, name=f"Revieew {number}")
        await make_process(client, name=f"Else {number}")
    await make_process(client, name="Coded", code="REVIEW")


@pytest.mark.parametrize("sort", ["", "&sort=name", "&sort=-updated_at,name"])
@pytest.mark.parametrize("limit", [1, 4, 25])
async def test_pages_have_neither_gaps_nor_duplicates(client: httpx.AsyncClient, sort: str, limit: int) -> None:
    await make_many(client)
    whole = [item["id"] for item in (await client.get(f"/processes?q=review&limit=200{sort}")).json()["items"]]
    assert len(whole) == 25
    address = f"/processes?q=review&limit={limit}{sort}"
    for back in (False, True):
        pages = await walk(client, address, back)
        ids = [item["id"] for page in (reversed(pages) if back else pages) for item in page["items"]]
        assert ids == whole
    offset = (await client.get(f"{address}&offset=7")).json()
    assert [item["id"] for item in offset["items"]] == whole[7 : 7 + limit]


async def test_unchanged_object_is_listed_once_despite_inserts_and_deletes(client: httpx.AsyncClient) -> None:
    await make_many(client)
    whole = [item["id"] for item in (await client.get("/processes?q=review&limit=200")).json()["items"]]
    page = (await client.get("/processes?q=review&limit=5")).json()
    assert [item["id"] for item in page["items"]] == whole[:5]
    await client.delete(f"/processes/{whole[4]}")  # the object at the cursor
    await client.delete(f"/processes/{whole[7]}")
    await make_process(client, name="Coded too", code="REVIEW-2")
    rest = []
    while page["next"]:
        page = (await client.get(page["next"].removeprefix("/api/v1"))).json()
        rest += [item["id"] for item in page["items"]]
    assert [id_ for id_ in rest if id_ in whole] == [id_ for id_ in whole[5:] if id_ != whole[7]]


async def test_cursor_is_bound_to_the_query(client: httpx.AsyncClient) -> None:
    await make_many(client)
    page = (await client.get("/processes?q=review&limit=2")).json()
    cursor = page["next"].partition("cursor=")[2]
    assert (await client.get(f"/processes?q=review&limit=2&fields=id&cursor={cursor}")).status_code == 200
    for other in ("", "q=reviews&", "q=review&sort=name&", "q=review&status=active&", "sort=id&"):
        assert (await client.get(f"/processes?{other}cursor={cursor}")).status_code == 400, other


async def test_search_combines_with_filters_fields_and_sublists(client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    await make_many(client)
    await make_process(client, name="Review of roles", status="active", role_ids=[role["id"]])
    assert len(await search(client, "review", "processes", "&status=active")) == 13
    assert await search(client, "review", "processes", f"&role_id={role['id']}") == ["Review of roles"]
    assert await search(client, "review", f"roles/{role['id']}/processes") == ["Review of roles"]
    assert await search(client, "yearly", f"roles/{role['id']}/processes") == []
    page = (await client.get("/processes?q=code&fields=id,name&embed=roles")).json()
    assert [sorted(item) for item in page["items"]] == [["id", "name", "roles"]]


async def test_whole_list_is_streamed_in_the_same_order(committed: Committed) -> None:
    client = committed.client
    await make_many(client)
    whole = (await client.get("/processes?q=review&limit=200")).json()
    ids = [str(item["id"]) for item in whole["items"]]
    csv = await client.get("/processes?q=review&fields=id", headers={"Accept": "text/csv"})
    assert csv.text.split() == ["id", *ids]
    first = (await client.get("/processes?q=review&limit=5")).json()
    rest = await client.get(
        first["next"].removeprefix("/api/v1").replace("limit=5&", "") + "&fields=id",
        headers={"Accept": "application/x-ndjson"},
    )
    assert rest.text.split() == [f'{{"id":{id_}}}' for id_ in ids[5:]]


async def test_without_a_word_only_whole_names_are_found(client: httpx.AsyncClient) -> None:
    for name in ("!!", "!! !!", "a !!", "!!"):
        await make_process(client, name=name, description="!!")
    for order in ("", "&sort=-name"):
        for q, found in (("!!", ["!!", "!!"]), ("!", []), ("?", [])):
            page = (await client.get(f"/processes?q={quote(q)}{order}&count=exact")).json()
            assert [item["name"] for item in page["items"]] == found
            assert page["total"] == len(found)


@pytest.mark.parametrize("q", ["thing", "thnig", "!!"])
async def test_number_of_statements_is_fixed(client: httpx.AsyncClient, statements: Statements, q: str) -> None:
    for _ in range(3):
        await make_process(client, name="Thing")
    for expected, more in ((1, ""), (2, "&count=exact"), (1, "&sort=name"), (2, "&status=draft&count=exact&offset=1")):
        with statements.counted() as seen:
            response = await client.get(f"/processes?q={quote(q)}{more}")
        assert response.status_code == 200
        assert len(seen) == expected + 1, (more, seen)  # one more for the caller


async def test_writers_of_one_word_do_not_wait_for_each_other(committed: Committed) -> None:
    insert = "INSERT INTO roles (name) VALUES ('Simultaneously')"
    async with connected(committed.url) as first, connected(committed.url) as second:
        async with first.transaction():
            await first.execute(insert)
            await second.execute("SET lock_timeout = '1s'")
            await second.execute(insert)
        known = await second.fetchval("SELECT count(*) FROM search_vocabulary WHERE word = 'simultaneously'")
        assert known == 2
        await second.execute(insert)
        assert known == await second.fetchval("SELECT count(*) FROM search_vocabulary WHERE word = 'simultaneously'")
    assert await search(committed.client, "simultanously", "roles") == ["Simultaneously"] * 3


async def test_stats_count_matches(client: httpx.AsyncClient) -> None:
    await make_many(client)
    response = await client.get("/processes/stats?group_by=status&q=review")
    assert response.status_code == 200, response.text
    assert sum(group["count"] for group in response.json()["groups"]) == 25
