"""Names, codes and other texts are found and sorted by their folded form, in every collection."""

import httpx
import pytest

from tests.builders import make
from tests.catalogue import every_collection

# Each with a text that equals it without case.
SAME = {
    "ΟΔΟΣ": "οδος",
    "Äpfel": "äPFEL",
    "ﬁn \uff21": "FIN a",
    "100 % a_b": "100 \uff05 A\uff3fB",
    "\u212a": "k",
    "\u13a0": "\uab70",
}


async def ids(client: httpx.AsyncClient, collection: str, **query: str | int | list[str]) -> list[int]:
    response = await client.get(f"/{collection}", params=query)
    assert response.status_code == 200, response.text
    return [each["id"] for each in response.json()["items"]]


@every_collection
@pytest.mark.parametrize("field", ["name", "description"])
async def test_texts_are_found_ignoring_case(client: httpx.AsyncClient, collection: str, field: str) -> None:
    made = {text: (await make(client, collection, **{field: f"x {text} y"}))["id"] for text in SAME}
    for text, same in SAME.items():
        for suffix, part in (("ic", same), ("sw", f"X {same} ")):
            assert await ids(client, collection, **{f"{field}__{suffix}": part}) == [made[text]]
        # Equality of names does not ignore case.
        assert await ids(client, collection, **{field: f"x {text} y"}) == [made[text]]
        assert await ids(client, collection, **{field: f"x {same} y"}) == []


@every_collection
async def test_names_are_sorted_ignoring_case(client: httpx.AsyncClient, collection: str) -> None:
    first = (await make(client, collection, name="ΟΔΟΣ Γ"))["id"]
    third = (await make(client, collection, name="οδος Λ"))["id"]
    second = (await make(client, collection, name="οδοσ Δ"))["id"]
    for q in ("οδος", "ΟΔΟΣ"):
        assert await ids(client, collection, sort="name", name__ic=q) == [first, second, third]
    exact = (await make(client, collection, name="οδος"))["id"]
    assert (await ids(client, collection, q="ΟΔΟΣ"))[0] == exact


@every_collection
async def test_name_that_is_much_longer_when_folded_is_served(client: httpx.AsyncClient, collection: str) -> None:
    """Each character has a compatibility form of 18 letters, too long for the key of a B-tree."""
    names = ["\ufdfa" * 500, "\ufdfa" * 499 + "x", "\ufdfa" * 27]
    made = [(await make(client, collection, name=name))["id"] for name in names]
    for key, name in zip(made, names, strict=True):
        assert await ids(client, collection, name=name) == [key]
    assert set(await ids(client, collection, name=names)) == set(made)
    assert await ids(client, collection, name__sw="\ufdfa" * 100) == made[:2]
    query: str | None = f"/{collection}?sort=name&limit=1&name__sw=%EF%B7%BA"
    seen = []
    while query is not None:
        page = (await client.get(query)).json()
        seen += [each["id"] for each in page["items"]]
        query = page["next"] and str(page["next"]).removeprefix("/api/v1")
    # Names are sorted by the first 500 characters, and then by `id`.
    assert seen == [made[2], *made[:2]]


@every_collection
async def test_search_compares_whole_names(client: httpx.AsyncClient, collection: str) -> None:
    """The index has only the first 500 characters of a folded name."""
    made = await make(client, collection, name="-" * 500)
    # Without a word, only whole names are found.
    assert await ids(client, collection, q="-" * 500) == [made["id"]]
    assert await ids(client, collection, q="-" * 503) == []
    one, other = [(await make(client, collection, name="\ufdfa" * 30 + end))["id"] for end in "ab"]
    assert (await ids(client, collection, q="\ufdfa" * 30 + "A"))[0] == one
    assert (await ids(client, collection, q="\ufdfa" * 30 + "B"))[0] == other


@every_collection
async def test_text_that_is_not_ascii_matches_no_code(client: httpx.AsyncClient, collection: str) -> None:
    made = (await make(client, collection, code="FIN"))["id"]
    for same in ("FIN", "fin", " fin "):
        assert await ids(client, collection, code=same) == [made]
    for part in ("FI", "in"):
        assert await ids(client, collection, code__ic=part) == [made]
    for value in ("\uff26\uff29\uff2e", "\ufb01n", "\u24bbin", "\ufffd", "\uff26", "\ufb01", "fin\uff0c"):
        for name in ("code", "code__ic", "code__sw"):
            assert await ids(client, collection, **{name: value}) == [], (name, value)
        assert await ids(client, collection, code=[value, "fin"]) == [made]
        assert made in await ids(client, collection, code__not=value)
        assert (await client.get(f"/{collection}/code:{value}")).status_code == 404


async def test_pages_of_codes_and_other_values_are_complete(client: httpx.AsyncClient) -> None:
    made = [(await make(client, "roles", code=f"R-{number}"))["id"] for number in range(3)]
    query: str | None = "/roles?code=\uff32-0&code=R-0&code=R-1&code=R-2&limit=1"
    seen = []
    while query is not None:
        page = (await client.get(query)).json()
        seen += [each["id"] for each in page["items"]]
        query = page["next"] and str(page["next"]).removeprefix("/api/v1")
    assert seen == made
