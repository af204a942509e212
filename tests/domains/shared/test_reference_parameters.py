"""Query parameters refer to objects by id, by code and by external id."""

import json
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from app.domains.process.lists import ProcessListQuery
from app.domains.shared.query.orders import Order
from app.domains.shared.query.reference_parameters import parse_reference
from app.domains.shared.references import MAX_ID
from app.utils.fault_codes import text_of
from tests.builders import make, make_department, make_process, make_role, make_user, token_with
from tests.catalogue import COLLECTIONS, DOCUMENTS, LINKS, LISTS, REFERENCE_TARGETS, every_collection
from tests.conftest import Committed, Statements

Object = dict[str, Any]
CODE, EXTERNAL_ID = "Key-1", "HR/7 Ä&=?:\U0001d11e"
SPELLINGS = (f"code:{CODE}", "code:kEY-1", f"external_id:{EXTERNAL_ID}")
UNKNOWN = ("code:none", "external_id:none", str(MAX_ID))
REFERENCES = {
    collection: {name: each for name, each in query.declaration.parameters.items() if each.target}
    for collection, query in LISTS.items()
}


async def get(client: httpx.AsyncClient, path: str, *parameters: tuple[str, str], **headers: str) -> Object:
    response = await client.get(f"{path}?{urlencode(parameters)}", headers=headers)
    assert response.status_code == 200, response.text
    body: Object = response.json()
    return body


async def ids(client: httpx.AsyncClient, collection: str, *parameters: tuple[str, str]) -> list[int]:
    page = await get(client, f"/{collection}", *parameters, ("count", "exact"), ("limit", "200"))
    found = [item["id"] for item in page["items"]]
    assert page["total"] == len(found)
    return found


async def plant(client: httpx.AsyncClient, collection: str) -> tuple[dict[str, Object], int]:
    """Return an object of each collection with `CODE` and `EXTERNAL_ID`, and the id of one that refers to them all."""
    keys = {"code": CODE, "external_id": EXTERNAL_ID}
    caller = (await make(client, "roles"))["created_by"]["id"]
    named = {"users": (await client.patch(f"/users/{caller}", json=keys)).json()}
    for name in COLLECTIONS:
        if name not in {"users", "processes"} or name == collection == "processes":
            named[name] = await make(client, name, **keys)
    references = {member: named[target]["id"] for member, target in REFERENCE_TARGETS[collection].items()}
    links = {each.short: [named[each.target_model.__tablename__]["id"]] for each in LINKS[collection]}
    subject = (await make(client, collection, **references, **links))["id"]
    if "processes" not in named:
        back = {each.short: [subject] for each in LINKS["processes"] if each.target_model.__tablename__ == collection}
        named["processes"] = await make_process(client, **keys, **back)
    role = subject if collection == "roles" else named["roles"]["id"]
    user = subject if collection == "users" else named["users"]["id"]
    assert (await client.put(f"/roles/{role}/holders/{user}")).is_success
    return named, subject


@every_collection
async def test_every_reference_is_an_id_a_code_or_an_external_id(client: httpx.AsyncClient, collection: str) -> None:
    named, subject = await plant(client, collection)
    other = (await make(client, collection))["id"]
    everything = await ids(client, collection)
    group = next(iter(LISTS[collection].declaration.groups))
    assert {"id", "id__not", "created_by_id", "updated_by_id"} < REFERENCES[collection].keys()
    for name, parameter in REFERENCES[collection].items():
        target = named[str(parameter.target)]["id"]
        selected = await ids(client, collection, (name, str(target)))
        member = target if name.startswith("id") else subject
        assert (member in selected) is not name.endswith("__not"), name
        if not name.startswith(("created_by_id", "updated_by_id")):
            assert (other in selected) is name.endswith("__not"), name
        for reference in SPELLINGS:
            assert await ids(client, collection, (name, reference)) == selected, (name, reference)
            assert await ids(client, collection, (name, reference), ("sort", "-name"), ("q", collection)) == (
                await ids(client, collection, (name, str(target)), ("sort", "-name"), ("q", collection))
            )
            stats = await get(client, f"/{collection}/stats", (name, reference), ("group_by", group))
            assert stats["total"] == len(selected), (name, reference)
        for reference in UNKNOWN:
            expected = everything if name.endswith("__not") else []
            assert await ids(client, collection, (name, reference)) == expected, (name, reference)
        if parameter.is_list:
            mixed = [(name, reference) for reference in (*SPELLINGS, *UNKNOWN, str(target))]
            assert await ids(client, collection, *mixed) == selected, name


@every_collection
async def test_external_ids_are_referred_to_with_the_scope_to_read_them(
    client: httpx.AsyncClient, collection: str
) -> None:
    headers = await token_with(client, f"{collection}:read")
    group = next(iter(LISTS[collection].declaration.groups))
    for name, parameter in REFERENCES[collection].items():
        permitted = await token_with(client, f"{collection}:read", f"{parameter.target}:read")
        for path in (f"{collection}?", f"{collection}/stats?group_by={group}&"):
            response = await client.get(f"/{path}{name}=external_id:x", headers=headers)
            expected = (200, None) if parameter.target == collection else (403, f"{parameter.target}:read")
            assert (response.status_code, response.json().get("scope")) == expected, name
            # Codes are part of each reference, as ids are.
            by_id = await client.get(f"/{path}{name}=1", headers=headers)
            by_code = await client.get(f"/{path}{name}=code:x", headers=headers)
            assert by_code.status_code == by_id.status_code, name
            assert (await client.get(f"/{path}{name}=external_id:x", headers=permitted)).status_code == 200, name


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("3", 3),
        (3, 3),
        (str(MAX_ID), MAX_ID),
        ("code:FIN-01", "code:FIN-01"),
        ("code:7", "code:7"),
        ("external_id:HR-7", "external_id:HR-7"),
        ("external_id:code:x", "external_id:code:x"),
        ("external_id: x"[:12] + "a b", "external_id:a b"),
        ("external_id:" + "x" * 512, "external_id:" + "x" * 512),
        # Unicode NFC, as in bodies; a stored key may have invisible characters.
        ("external_id:A\u0308", "external_id:Ä"),
        ("external_id:a\u200b", "external_id:a\u200b"),
    ],
)
def test_reference_is_parsed(given: object, value: object) -> None:
    assert parse_reference(given) == value


CODE_RULE = (
    "A code has 1 to 64 letters A to Z, digits, dots, underscores and hyphens, and begins with a letter or digit."
)
# Values that are no references, by the text of their fault.
INVALID = {
    text_of("bad_reference:digits"): (
        *("0", "007", "+7", "-7", " 7", "7 ", "1_0", "1.0", "1e0", "0x1", "\u0661", "\uff17", "7\n", "7,8"),
        *(str(MAX_ID + 1), "9" * 5_000),
    ),
    text_of("bad_reference:parameter"): ("", "FIN", "id:7", "name:FIN", "code=FIN", "external-id:x"),
    text_of("bad_reference:prefix"): (
        *("Code:FIN", "CODE:FIN", " code:FIN", "code :FIN", "code", "External_id:x", "EXTERNAL_ID:", "external_id"),
    ),
    text_of("bad_reference:code", reason=CODE_RULE): (
        *("code:", "code: FIN", "code:FIN ", "code:-FIN", "code:FIN\n", "code:\uff26IN", "code:" + "x" * 65),
    ),
    text_of("bad_reference:blanks"): ("external_id: x", "external_id:x ", "external_id:\u3000x"),
} | {
    text_of("bad_reference:external_id", reason=reason): values
    for reason, values in {
        "Must have at least 1 character.": ("external_id:",),
        "Must have at most 512 characters.": ("external_id:" + "x" * 513,),
        text_of("control_character"): ("external_id:a\nb", "external_id:\0"),
        text_of("invisible_text"): ("external_id:\u200b",),
        text_of("too_many_combining_marks", marks=30): ("external_id:a" + "\u0315" * 40,),
    }.items()
}


@pytest.mark.parametrize(("text", "given"), [(text, each) for text, values in INVALID.items() for each in values])
def test_fault_of_a_reference_is_named(text: str, given: str) -> None:
    with pytest.raises(PydanticCustomError) as error:
        parse_reference(given)
    assert (error.value.type, error.value.message()) == ("bad_reference", text)


@pytest.mark.parametrize("given", [True, 0, 1.0, None, ["1"]])
def test_value_of_another_type_is_no_reference(given: object) -> None:
    with pytest.raises(PydanticCustomError):
        parse_reference(given)


@pytest.mark.parametrize(
    "address",
    [
        *("locations?id", "locations?parent_id__not", "locations?within", "processes?department_id", "roles?user_id"),
        *("processes/stats?group_by=status&owner_id", "changes?actor_id", "changes?type=roles&object_id"),
    ],
)
async def test_malformed_reference_is_rejected(client: httpx.AsyncClient, address: str) -> None:
    for text, value in ((text, each) for text, values in INVALID.items() for each in values):
        response = await client.get(f"/{address}={quote(value[:2_000])}")
        assert response.status_code == 422, value
        (fault,) = response.json()["errors"]
        assert (fault["code"], fault["detail"]) == ("bad_reference", text)
        assert fault["pointer"].split("/")[1] == address.rpartition("&")[2].rpartition("?")[2], value


async def test_at_most_a_hundred_references_are_given(client: httpx.AsyncClient) -> None:
    user = await make_user(client, code="LAST", external_id="last")
    process = await make_process(client, owner_id=user["id"])
    for last in ("code:last", "external_id:last", str(user["id"])):
        references = [("owner_id", f"code:c{n}") for n in range(50)] + [
            ("owner_id", f"external_id:c{n}") for n in range(49)
        ]
        assert await ids(client, "processes", *references, ("owner_id", last)) == [process["id"]]
        references.append(("owner_id", "code:more"))
        response = await client.get(f"/processes?{urlencode([*references, ('owner_id', last)])}")
        assert (response.status_code, response.json()["errors"][0]["code"]) == (422, "too_long")


async def test_pages_go_on_with_the_references_of_the_first(client: httpx.AsyncClient) -> None:
    users = [await make_user(client, code=f"U-{n}", external_id=f"hr/{n}") for n in range(3)]
    made = [await make_process(client, owner_id=users[n % 3]["id"]) for n in range(7)]
    url: str | None = (
        f"/processes?owner_id=code:u-2&owner_id={users[0]['id']}&owner_id=external_id:{quote('hr/1', safe='')}&limit=2"
    )
    seen, cursor = [], ""
    while url:
        page = (await client.get(url.removeprefix("/api/v1"))).json()
        seen += [item["id"] for item in page["items"]]
        url = page["next"]
        cursor = url.partition("cursor=")[2] if url and not cursor else cursor
    assert seen == [process["id"] for process in made]
    # The order of the references does not matter; another spelling of a filter is another filter.
    rest = f"owner_id=code:u-2&owner_id={users[0]['id']}&cursor={cursor}"
    assert (await client.get(f"/processes?owner_id=external_id:hr/1&{rest}")).status_code == 200
    assert (await client.get(f"/processes?owner_id={users[1]['id']}&{rest}")).status_code == 400


async def test_unknown_key_is_an_object_without_links(client: httpx.AsyncClient) -> None:
    role, other = await make_role(client, code="R-1"), await make_role(client, external_id="r/2")
    one = await make_process(client, role_ids=[role["id"]])
    both = await make_process(client, role_ids=[role["id"], other["id"]])
    for query, expected in {
        "role_id=code:r-1&role_id=external_id:r/2&role_match=all": [both["id"]],
        f"role_id=code:r-1&role_id={other['id']}&role_match=all": [both["id"]],
        "role_id=code:r-1&role_id=code:none&role_match=all": [],
        "role_id=code:r-1&role_id=external_id:none&role_match=all": [],
        "role_id=external_id:r/2&role_id=code:none&role_match=none": [one["id"]],
        "role_id=code:none&role_match=none": [one["id"], both["id"]],
    }.items():
        page = (await client.get(f"/processes?{query}")).json()
        assert [item["id"] for item in page["items"]] == expected, query


async def test_lists_below_an_object_take_references_by_key(client: httpx.AsyncClient) -> None:
    top = await make_department(client, code="TOP", external_id="org/top")
    low = await make_department(client, code="LOW", external_id="org/low", parent_id=top["id"])
    owner = await make_user(client, code="ADA")
    for department in (top, low):
        await make_process(client, department_ids=[department["id"]], owner_id=owner["id"])
    await make_process(client, department_ids=[top["id"], low["id"]])
    for query, number in {
        "department_id=code:top": 1,
        "department_within=external_id:org/low": 2,
        "department_within=code:top&owner_id=code:ada": 1,
        "owner_id__not=code:ada": 1,
        "id=code:none": 0,
    }.items():
        for path in ("code:LOW", str(low["id"])):
            page = (await client.get(f"/departments/{path}/processes?{query}&count=exact")).json()
            assert page["total"] == len(page["items"]) == number, query
    assert (await client.get("/departments/code:none/processes?owner_id=code:ada")).status_code == 404


async def test_exports_take_references_by_key(committed: Committed) -> None:
    client = committed.client
    top = await make_department(client, code="TOP", external_id="org/top")
    user = await make_user(client, code="ADA", department_id=top["id"])
    await make_process(client)
    process = await make_process(client, owner_id=user["id"], department_ids=[top["id"]])
    for path, expected in {
        "/processes?owner_id=code:ada": process["id"],
        "/processes?owner_id=code:ada&department_within=external_id:org/top": process["id"],
        "/departments/code:top/processes?owner_id=code:ada": process["id"],
        "/users?department_id=external_id:org/top": user["id"],
    }.items():
        table = await client.get(f"{path}&fields=id", headers={"Accept": "text/csv"})
        assert table.text.split() == ["id", str(expected)], path
        (line,) = (await client.get(path, headers={"Accept": "application/x-ndjson"})).text.splitlines()
        assert json.loads(line)["id"] == expected, path
        assert (await client.head(path, headers={"Accept": "text/csv"})).status_code == 200


async def test_keys_are_looked_up_by_one_statement(client: httpx.AsyncClient, statements: Statements) -> None:
    await make_role(client)
    caller = 1  # the look-up of the caller
    for expected, path in (
        (1, "/processes?owner_id=1&department_within=2&id__not=3"),
        (2, "/processes?owner_id=code:a"),
        (2, "/processes?owner_id=code:a&owner_id=external_id:b&owner_id=3&created_by_id=code:c"),
        (2, "/processes?owner_id=code:a&department_within=code:b&role_id=external_id:c&within=code:d&q=invoice"),
        (3, "/processes?owner_id=code:a&count=exact"),
        (2, "/processes/stats?group_by=status&owner_id=code:a&location_id=code:b"),
        (1, "/changes?actor_id=1"),
        (2, "/changes?actor_id=code:a&type=roles&object_id=external_id:b"),
    ):
        with statements.counted() as seen:
            assert (await client.get(path)).status_code == 200
        assert len(seen) == expected + caller, (path, seen)


def test_statements_of_lists_are_the_same_for_ids_and_keys() -> None:
    def statement(**parameters: Any) -> object:
        query = ProcessListQuery.model_validate(parameters)
        selection, _ = query.selection()
        return DOCUMENTS["processes"].page(Order("id", query.declaration), selection)

    by_id = statement(owner_id=["3"], department_within="4")
    assert statement(owner_id=["code:a", "7", "external_id:b"], department_within="code:b") is by_id
    assert statement(owner_id=["3"]) is not by_id


def test_number_in_a_query_of_python_is_an_id() -> None:
    given = {"owner_id": [3], "within": 4}
    assert ProcessListQuery.model_validate(given).model_dump(exclude_unset=True) == given
    with pytest.raises(ValidationError):
        ProcessListQuery.model_validate({"owner_id": [0]})


async def test_changes_are_of_objects_and_actors_by_key(client: httpx.AsyncClient) -> None:
    role = await make_role(client, code="R-1", external_id="hr/7")
    await client.patch(f"/roles/{role['id']}", json={"name": "Renamed"})
    await make_department(client, code="R-1")
    actor = role["created_by"]["id"]
    await client.patch(f"/users/{actor}", json={"code": "ADA", "external_id": "u/1"})
    expected = (await client.get(f"/changes?type=roles&object_id={role['id']}")).json()["items"]
    assert [change["action"] for change in expected] == ["updated", "created"]
    for reference in ("code:r-1", "external_id:hr/7"):
        found = (await client.get(f"/changes?type=roles&object_id={reference}&count=exact")).json()
        assert (found["items"], found["total"]) == (expected, 2)
    everything = (await client.get(f"/changes?actor_id={actor}&limit=200")).json()["items"]
    assert len(everything) >= 4
    for reference in ("code:ada", "external_id:u/1"):
        for query in ("", "&type=roles", "&type=departments", "&since=2000-01-01T00:00:00Z"):
            path = f"/changes?limit=200{query}&actor_id="
            found = (await client.get(f"{path}{reference}")).json()["items"]
            assert found == (await client.get(f"{path}{actor}")).json()["items"] != [], query
    for query in ("actor_id=code:none", "type=roles&object_id=external_id:none", "type=users&object_id=code:r-1"):
        assert (await client.get(f"/changes?{query}")).json()["items"] == [], query
    # The keys of a deleted object are gone.
    await client.delete(f"/roles/{role['id']}")
    assert (await client.get("/changes?type=roles&object_id=code:r-1")).json()["items"] == []
    page = (await client.get("/changes?actor_id=code:ada&limit=1")).json()
    assert (await client.get(page["next"].removeprefix("/api/v1"))).json()["items"] != page["items"]


async def test_changes_of_api_tokens_are_found_by_id(client: httpx.AsyncClient) -> None:
    for reference in ("code:x", "external_id:x"):
        response = await client.get(f"/changes?type=api_tokens&object_id={reference}")
        (fault,) = response.json()["errors"]
        assert (response.status_code, fault["pointer"], fault["code"]) == (422, "/object_id", "bad_reference")
        assert fault["detail"] == text_of("bad_reference:id")
    assert (await client.get("/changes?type=api_tokens&object_id=1")).status_code == 200


async def test_changes_require_the_scopes_of_external_ids(client: httpx.AsyncClient) -> None:
    headers = await token_with(client, "changes:read", "roles:read")
    admin = await token_with(client, "changes:read", "admin")
    for query, scope, caller in (
        ("actor_id=code:x", None, headers),
        ("actor_id=external_id:x", "users:read", headers),
        ("type=roles&object_id=external_id:x", None, headers),
        ("type=users&object_id=code:x", None, admin),
        ("type=users&object_id=external_id:x", "users:read", admin),
    ):
        response = await client.get(f"/changes?{query}", headers=caller)
        assert (response.status_code, response.json().get("scope")) == (403 if scope else 200, scope), query
