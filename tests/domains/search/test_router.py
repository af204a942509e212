"""Search in all collections."""

from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI

from app.domains.search.snippets import snippet
from tests.builders import make
from tests.catalogue import COLLECTIONS
from tests.conftest import Statements, client_of
from tests.domains.auth.conftest import call, make_account, sign_in
from tests.domains.shared.test_search import NOTHING_OR_WORDS


async def search(client: httpx.AsyncClient, q: str, more: str = "") -> dict[str, Any]:
    response = await client.get(f"/search?q={quote(q)}&count=exact{more}")
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


def marked(parts: list[Any]) -> str:
    return "".join(f"[{part['text']}]" if part["match"] else part["text"] for part in parts)


async def test_all_collections_are_searched_and_the_best_comes_first(client: httpx.AsyncClient) -> None:
    role = await make(client, "roles", name="Payer", description="Checks <b>invoices</b> & pays.")
    process = await make(client, "processes", name="Pay the invoice")
    resource = await make(client, "resources", name="Invoicing")
    user = await make(client, "users", name="Ivo Invoices")
    location = await make(client, "locations", name="Nowhere", code="Invoice")
    department = await make(client, "departments", name="Invoices")
    page = await search(client, "invoice")
    found = [(item["rank"], item["type"], item["object"], marked(item["snippet"])) for item in page["items"]]
    brief = {made["id"]: {name: made[name] for name in ("id", "code", "name")} for made in (location,)}
    assert found == [
        (1, "locations", brief[location["id"]], "[Invoice]"),
        (2, "departments", {"id": department["id"], "code": None, "name": "Invoices"}, "[Invoice]s"),
        (3, "processes", {"id": process["id"], "code": None, "name": "Pay the invoice"}, "Pay the [invoice]"),
        (3, "users", {"id": user["id"], "code": None, "name": "Ivo Invoices"}, "Ivo [Invoice]s"),
        (4, "roles", {"id": role["id"], "code": None, "name": "Payer"}, "Checks <b>[invoice]s</b> & pays."),
        (5, "resources", {"id": resource["id"], "code": None, "name": "Invoicing"}, "[Invoicing]"),
    ]
    assert page["total"] == 6
    assert (page["next"], page["prev"]) == (None, None)
    some = await search(client, "invoice", "&type=roles&type=users")
    assert [item["type"] for item in some["items"]] == ["users", "roles"]
    assert some["total"] == 2


@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_pages_have_neither_gaps_nor_duplicates(client: httpx.AsyncClient, limit: int) -> None:
    for number in range(2):
        for collection in COLLECTIONS:
            await make(client, collection, name=f"Ledger {number}")
            await make(client, collection, name=f"Other {number}", description="A ledger")
    whole = (await search(client, "ledger", "&limit=50"))["items"]
    assert len(whole) == 4 * len(COLLECTIONS)
    page = await search(client, "ledger", f"&limit={limit}")
    seen = page["items"]
    while page["next"]:
        page = (await client.get(page["next"].removeprefix("/api/v1"))).json()
        seen = seen + page["items"]
    assert seen == whole
    seen = page["items"]
    while page["prev"]:
        page = (await client.get(page["prev"].removeprefix("/api/v1"))).json()
        seen = page["items"] + seen
    assert seen == whole
    assert (await search(client, "ledger", f"&limit={limit}&offset=5"))["items"] == whole[5 : 5 + limit]


async def test_cursor_is_bound_to_the_query(client: httpx.AsyncClient) -> None:
    for collection in COLLECTIONS:
        await make(client, collection, name="Ledger")
    page = await search(client, "ledger", "&limit=2")
    cursor = page["next"].partition("cursor=")[2]
    assert (await client.get(f"/search?q=ledger&cursor={cursor}")).status_code == 200
    for other in ("q=ledge", "q=ledger&type=roles"):
        assert (await client.get(f"/search?{other}&cursor={cursor}")).status_code == 400
    assert (await client.get(f"/departments?q=ledger&cursor={cursor}")).status_code == 400
    assert (await client.get(f"/search?q=ledger&offset=1&cursor={cursor}")).status_code == 422


async def test_search_returns_only_readable_collections(app: FastAPI, client: httpx.AsyncClient) -> None:
    for collection in COLLECTIONS:
        await make(client, collection, name="Ledger")
    user = await make_account(app, "admin")
    for scope, types in (
        ("roles:read users:read", ["roles", "users"]),
        ("processes:read", ["processes"]),
        ("processes:read resources:write", ["processes", "resources"]),
        ("changes:read", []),
    ):
        signed_in = (await sign_in(app, user["email"], scope=scope))["access_token"]
        page = (await call(app, signed_in, "GET", "/search?q=ledger&count=exact")).json()
        assert [item["type"] for item in page["items"]] == types
        assert page["total"] == len(types)
        refused = await call(app, signed_in, "GET", "/search?q=ledger&type=departments")
        assert (refused.status_code, refused.json()["scope"]) == (403, "departments:read")
    async with client_of(app, None) as anonymous:
        assert (await anonymous.get("/search?q=ledger")).status_code == 401


@pytest.mark.parametrize(
    ("query", "status", "pointer", "code"),
    [
        ("", 422, "/q", "missing"),
        ("q=a&type=things", 422, "/type/0", "literal_error"),
        ("q=a&limit=51", 422, "/limit", "less_than_equal"),
        ("q=a&sort=name", 400, "/sort", "unknown_parameter"),
    ],
)
async def test_invalid_parameters_are_rejected(
    client: httpx.AsyncClient, query: str, status: int, pointer: str, code: str
) -> None:
    response = await client.get(f"/search?{query}")
    assert response.status_code == status
    assert [(error["pointer"], error["code"]) for error in response.json()["errors"]] == [(pointer, code)]


@pytest.mark.parametrize("q", NOTHING_OR_WORDS, ids=range(len(NOTHING_OR_WORDS)))
async def test_query_syntax_is_ordinary_text(client: httpx.AsyncClient, q: str) -> None:
    await make(client, "roles", name="Needle in the hay")
    response = await client.get(f"/search?q={quote(q)}")
    assert response.status_code == 200, response.text
    assert len(response.json()["items"]) == (q == "^needle")


async def test_number_of_statements_is_fixed(client: httpx.AsyncClient, statements: Statements) -> None:
    for collection in COLLECTIONS:
        await make(client, collection, name="Ledger")
    for expected, more in ((1, ""), (2, "&count=exact"), (1, "&type=roles")):
        with statements.counted() as seen:
            response = await client.get(f"/search?q=ledger{more}")
        assert response.status_code == 200
        assert len(seen) == expected + 1, seen  # one more for the caller


@pytest.mark.parametrize(
    ("text", "words", "shown"),
    [
        ("Pay the invoice", "invo", "Pay the [invo]ice"),
        ("Reinvoice", "invo", "Reinvoice"),
        ("Straße zum Großhandel", "strasse gross", "[Straße] zum [Groß]handel"),
        ("Zum Cafe\u0301!", "cafe", "Zum [Cafe\u0301]!"),
        ("人力资源管理", "资源", "人力[资源]管理"),
        ("İstanbul", "ist", "[İst]anbul"),
        ("a.b*c", "b c", "a.[b]*[c]"),
        ("Anything", "", "Anything"),
        ("", "word", ""),
        ("x" * 500, "x", "[x]" + "x" * 199 + "…"),
        ("word " * 30 + "needle" + " word" * 60, "needle", "…" + "word " * 11 + "[needle]" + " word" * 27 + "…"),
        ("word " * 100, "needle", ("word " * 40).rstrip() + "…"),
    ],
)
def test_snippet_marks_the_matches(text: str, words: str, shown: str) -> None:
    assert marked(snippet(text, words)) == shown
