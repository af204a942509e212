"""Characters that are displayed as nothing make no difference between names, and are in no key."""

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.domains.shared.reading.cells import escape_formula, unescape_formula
from tests.builders import make, make_department, make_user
from tests.catalogue import COLLECTIONS, DECLARATIONS, PLAIN_TEXTS, every_collection, required
from tests.conftest import Committed, Statements

AROUND = " \u200b\u3164 {}\u2069\u00a0\ufeff \u00ad"
HIDDEN = ("\u200b", "\u200e", "\u202e", "\u2066", "\ufeff", "\u00ad", "\u034f", "\u3164", "\ufe0f", "\U000e0041")


def keys_of(collection: str) -> dict[str, str]:
    """Return a key of each kind with room for a character."""
    keys = {"code": "K-{}1", "external_id": "k{}1", "email": "k{}1@register.example"}
    return {name: key for name, key in keys.items() if name in DECLARATIONS[collection].body.model_fields}


def faults(response: httpx.Response) -> set[tuple[str, str]]:
    assert response.status_code == 422, response.text
    return {(fault["pointer"], fault["code"]) for fault in response.json()["errors"]}


@every_collection
async def test_text_is_trimmed_wherever_it_is_sent(client: httpx.AsyncClient, collection: str) -> None:
    texts = {name: AROUND.format("A\u200dda") for name in ("name", "description", *PLAIN_TEXTS[collection])}
    clean = dict.fromkeys(texts, "A\u200dda")
    made = await make(client, collection, **texts)
    assert {name: made[name] for name in texts} == clean
    path = f"/{collection}/{made['id']}"
    for method in ("PUT", "PATCH"):
        body = (required(collection) if method == "PUT" else {}) | texts
        changed = await client.request(method, path, json=body)
        assert {name: changed.json()[name] for name in texts} == clean
    item = {"op": "update", "id": made["id"], "data": texts}
    batch = await client.post(f"/{collection}/bulk", json={"items": [item]})
    # The object is the same, although the texts are not.
    assert [each["status"] for each in batch.json()["items"]] == ["unchanged"]
    for parameter in ("name", "description"):
        found = await client.get(f"/{collection}", params={parameter: texts[parameter]})
        assert made["id"] in [each["id"] for each in found.json()["items"]]


@every_collection
@pytest.mark.parametrize("form", ["text/csv", "application/x-ndjson"])
async def test_files_are_trimmed(client: httpx.AsyncClient, collection: str, form: str) -> None:
    members = required(collection, "file") | {"code": "FILE-1", "name": AROUND.format("From a file")}
    if form == "text/csv":
        header = ",".join(AROUND.format(name) for name in members)
        content = f"{header}\r\n{','.join(members.values())}\r\n"
    else:
        content = json.dumps(members)
    response = await client.post(f"/{collection}/import", content=content.encode(), headers={"Content-Type": form})
    assert response.status_code == 200, response.text
    made = (await client.get(f"/{collection}/code:FILE-1")).json()
    assert made["name"] == "From a file"


async def test_mapping_names_a_column_as_the_header_does(client: httpx.AsyncClient) -> None:
    title = AROUND.format("Title")
    response = await client.post(
        "/departments/import",
        params={"map": f"{title}:name"},
        content=f"{title}\r\nMapped\r\n".encode(),
        headers={"Content-Type": "text/csv"},
    )
    assert response.status_code == 200, response.text
    response = await client.post(
        "/departments/import", content="name,\u200bname\u200b\r\na,b\r\n".encode(), headers={"Content-Type": "text/csv"}
    )
    assert ("/1/name", "duplicate_column") in faults(response)


@every_collection
@pytest.mark.parametrize("hidden", HIDDEN, ids=ascii)
async def test_keys_have_no_invisible_character(client: httpx.AsyncClient, collection: str, hidden: str) -> None:
    made = await make(client, collection)
    for place in ("{}1", "1{}"):  # within the key, and at its end
        keys = {name: key.replace("{}1", place).format(hidden) for name, key in keys_of(collection).items()}
        codes = {f"/{name}": "invisible_text" for name in keys}
        assert faults(await client.post(f"/{collection}", json=required(collection) | keys)) == set(codes.items())
        path = f"/{collection}/{made['id']}"
        assert faults(await client.put(path, json=required(collection) | keys)) == set(codes.items())
        assert faults(await client.patch(path, json=keys)) == set(codes.items())
        for data, operation in ((required(collection), "create"), ({}, "update")):
            item = {"op": operation, "data": data | keys} | ({"id": made["id"]} if operation == "update" else {})
            response = await client.post(f"/{collection}/bulk", json={"items": [item]})
            assert faults(response) == {(f"/items/0/data{pointer}", code) for pointer, code in codes.items()}
        for name in ("code", "external_id"):
            item = {"op": "upsert", name: keys[name], "data": required(collection)}
            response = await client.post(f"/{collection}/bulk", json={"items": [item]})
            pointer = {"code": "/items/0/code", "external_id": "/items/0/data/external_id"}[name]
            assert faults(response) == {(pointer, codes[f"/{name}"])}
        table = required(collection) | keys
        content = f"{','.join(table)}\r\n{','.join(table.values())}\r\n".encode()
        response = await client.post(f"/{collection}/import", content=content, headers={"Content-Type": "text/csv"})
        assert faults(response) == {(f"/2/{name}", "invisible_text") for name in keys}


@every_collection
@pytest.mark.parametrize("empty", ["", " ", "\u200b", "\u00a0\ufeff \u3164"], ids=ascii)
@pytest.mark.parametrize("csv", [None, "raw"])
async def test_cell_without_a_visible_character_is_empty(
    client: httpx.AsyncClient, collection: str, empty: str, csv: str | None
) -> None:
    made = await make(client, collection, code="EMPTY-1", description="A", external_id="e")
    # A table has one form of each list of links.
    others = {"code", "name", "email", *(link.short for link in DECLARATIONS[collection].links)}
    fields = [name for name in DECLARATIONS[collection].body.model_fields if name not in others]
    rows = (["code", *fields], [empty] * (len(fields) + 1), ["EMPTY-1", *[empty] * len(fields)])
    content = "\r\n".join(map(",".join, rows))
    response = await client.post(
        f"/{collection}/import",
        content=content.encode(),
        headers={"Content-Type": "text/csv"},
        params={} if csv is None else {"csv": csv},
    )
    assert response.status_code == 200, response.text
    assert [row["row"] for row in response.json()["rows"]] == [3]  # the row of empty cells is skipped
    cleared = (await client.get(f"/{collection}/code:EMPTY-1")).json()
    assert (cleared["description"], cleared["external_id"]) == (None, None)
    unchanged = ("name", "email", "kind", "status", "access_level", "is_active")
    assert [cleared.get(name) for name in unchanged] == [made.get(name) for name in unchanged]


@pytest.mark.parametrize("text", ["", " ", "\u200b", "'", "'\u200b", "=1", "'=1", "''", "-\u200b", "\u200ba", "'a"])
def test_cells_are_read_as_they_were_written(text: str) -> None:
    assert unescape_formula(escape_formula(text)) == text


async def test_key_with_an_invisible_character_finds_no_other_object(client: httpx.AsyncClient) -> None:
    await make_department(client, external_id="above")
    data = {"name": "Below", "parent_id": {"external_id": "above\u200b"}}
    response = await client.post("/departments/bulk", json={"items": [{"op": "create", "data": data}]})
    assert faults(response) == {("/items/0/data/parent_id", "unknown_reference")}
    content = "name,parent\r\nBelow,~above\u200b\r\n".encode()
    response = await client.post("/departments/import", content=content, headers={"Content-Type": "text/csv"})
    assert faults(response) == {("/2/parent", "unknown_reference")}
    for filters in ({"external_id": "above\u200b"}, {"code": "A\u200b"}):
        assert (await client.get("/departments", params=filters)).json()["items"] == []


@every_collection
async def test_letters_of_different_scripts_are_different(client: httpx.AsyncClient, collection: str) -> None:
    latin, cyrillic = "Anna", "\u0410nna"
    made = [await make(client, collection, name=name, external_id=name) for name in (latin, cyrillic)]
    for name, object_ in zip((latin, cyrillic), made, strict=True):
        for filters in ({"name": name}, {"external_id": name}, {"name__sw": name}):
            found = (await client.get(f"/{collection}", params=filters)).json()["items"]
            assert [each["id"] for each in found] == [object_["id"]]


async def test_addresses_of_different_scripts_are_different(client: httpx.AsyncClient) -> None:
    latin = await make_user(client, email="ada@paypal.example")
    cyrillic = await make_user(client, email="ada@p\u0430ypal.example")
    assert latin["email"] != cyrillic["email"]


async def test_message_is_trimmed(client: httpx.AsyncClient) -> None:
    for message, expected in ((AROUND.format("Why"), "Why"), ("\u200b\u3164", None)):
        headers = [(b"X-Change-Message", message.encode())]
        made = (await client.post("/departments", json={"name": "A"}, headers=headers)).json()
        (change,) = (await client.get(f"/departments/{made['id']}/changes")).json()["items"]
        assert change["message"] == expected


async def make_old(register: Committed, collection: str) -> dict[str, Any]:
    """Create an object and give it texts that were accepted before the rules of this module."""
    made = await make(register.client, collection)
    old = {"name": "\u200bOld\u200b", "external_id": "old\u200b", "description": "\u200b"}
    if collection == "users":
        old["email"] = "o\u034fld@register.example"
    assignments = ", ".join(f"{name} = :{name}" for name in old)
    async with register.app.state.database.transaction() as session:
        await session.execute(text(f"UPDATE {collection} SET {assignments} WHERE id = {made['id']}"), old)
    return made | old


async def whole_body(client: httpx.AsyncClient, collection: str, path: str) -> dict[str, Any]:
    """Return the body of a PUT that changes nothing."""
    document = (await client.get(path)).json()
    return {name: document[name] for name in DECLARATIONS[collection].body.model_fields if name in document}


@every_collection
async def test_text_with_an_invisible_character_inside_is_written_by_one_statement(
    client: httpx.AsyncClient, statements: Statements, collection: str
) -> None:
    made = await make(client, collection)
    path, family = f"/{collection}/{made['id']}", "\U0001f469\u200d\U0001f467 \u2764\ufe0f"
    whole = await whole_body(client, collection, path) | {"description": "A"}
    counts = []
    for name in ("Plain", f"Jos\u00e9 {family}"):
        statements.clear()
        response = await client.put(path, json=whole | {"name": name})
        assert (response.status_code, response.json()["name"]) == (200, name)
        counts.append(len(statements))
    assert counts[0] == counts[1]


async def test_stored_texts_are_kept_until_they_are_changed(committed: Committed) -> None:
    client = committed.client
    for collection in COLLECTIONS:
        old = await make_old(committed, collection)
        path = f"/{collection}/{old['id']}"
        members = ("name", "external_id", "description", "email")
        texts: dict[str, Any] = {name: old[name] for name in members if name in old}

        async def stored(path: str = path, texts: dict[str, Any] = texts) -> dict[str, Any]:
            document = (await client.get(path)).json()
            return {name: document[name] for name in texts}

        assert (await client.patch(path, json={"code": "NEW-1"})).status_code == 200
        assert await stored() == texts
        # An item with the stored texts changes nothing, as do the rows of an export.
        for data in ({"code": "NEW-2"}, texts):
            item = {"op": "update", "id": old["id"], "data": data}
            response = await client.post(f"/{collection}/bulk", json={"items": [item]})
            assert response.status_code == 200, response.text
            assert await stored() == texts
        for form in ("text/csv", "application/x-ndjson"):
            exported = await client.get(f"/{collection}", headers={"Accept": form})
            response = await client.post(
                f"/{collection}/import",
                content=exported.content,
                headers={"Content-Type": form},
                # The first administrator has no other key than an `id`.
                params={"match_ids": "true"} if collection == "users" else {},
            )
            assert response.status_code == 200, response.text
            counts = response.json()["counts"]
            assert (counts["create"], counts["change"], counts["fault"]) == (0, 0, 0)
            assert await stored() == texts
        for filters in ({"external_id": "old\u200b"}, {"name__ic": "old"}, {"name__sw": "\u200bold"}):
            found = await client.get(f"/{collection}", params=filters)
            assert [each["id"] for each in found.json()["items"]] == [old["id"]]
        # As does a single write: what a client has read it can write.
        whole = await whole_body(client, collection, path)
        for method, body in (("PUT", whole), ("PATCH", whole), ("PATCH", texts)):
            version = (await client.get(path)).json()["version"]
            response = await client.request(method, path, json=body)
            assert (response.status_code, response.json()["version"]) == (200, version), response.text
            assert await stored() == texts
        # Texts of another object are new ones, and other faults are reported together with them.
        wrong = {"external_id": "\u200bold", "name": 5}
        for method, body in (("PUT", whole | wrong), ("PATCH", wrong)):
            codes = {("/external_id", "invisible_text"), ("/name", "string_type")}
            # The old e-mail address is not compared, because the rest of the body is invalid.
            old_address = {("/email", "invisible_text")} & {(f"/{name}", "invisible_text") for name in body}
            assert faults(await client.request(method, path, json=body)) == codes | old_address
            # A key that is not that of the object is rejected, although the other texts are.
            alone = {"external_id": "\u200bold"} if method == "PATCH" else whole | {"external_id": "\u200bold"}
            assert faults(await client.request(method, path, json=alone)) == {("/external_id", "invisible_text")}
        assert await stored() == texts
        changed = await client.put(path, json=whole | {"name": "\u200bOther\u200b"})
        assert (changed.json()["name"], changed.json()["external_id"]) == ("Other", old["external_id"])
        changed = await client.patch(path, json={"external_id": "new", "name": "New\u200b"})
        assert (changed.json()["external_id"], changed.json()["name"]) == ("new", "New")
