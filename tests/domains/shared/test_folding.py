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
