"""Hostile input gets the right problem document, never a 5xx, and no response repeats a value of the input."""

import gzip
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI

from app.core.http.bodies import MAX_ANONYMOUS_BYTES
from app.core.http.routing import MAX_PARAMETERS
from app.utils.validation import MAX_FAULTS, MAX_POINTER_PART
from tests.api.conftest import CANARY, CODES, Server, assert_problem, openapi
from tests.builders import make, make_department, make_process, make_resource, make_user
from tests.catalogue import COLLECTIONS, LINKS, PLAIN_TEXTS, REFERENCES, every_collection, required
from tests.conftest import ADMIN_PASSWORD, ADMIN_TOKEN, client_of
from tests.domains.auth.conftest import ADMIN_EMAIL, sign_in
from tests.utils.conftest import configured_log
from tests.waiting import wait_until

JSON = {"Content-Type": "application/json"}
MAX_INT64 = 2**63 - 1

# Every member of every body and the kind of its values; `!` excludes null.
COMMON = {"code": "text", "external_id": "text", "name": "text!", "description": "text"}
# The members of a single collection, except nullable columns of plain text.
OWN: dict[str, dict[str, str]] = {
    "locations": {"kind": "choice!", "country": "choice", "timezone": "choice"}
    | {"latitude": "degrees", "longitude": "degrees"},
    "processes": {"kind": "choice!", "status": "choice!", "criticality": "choice"},
    "resources": {"url": "choice", "kind": "choice!", "criticality": "choice"},
    "users": {"email": "choice!", "access_level": "choice!", "is_active": "flag!"},
}
MEMBERS: dict[str, dict[str, str]] = {
    collection: COMMON
    | dict.fromkeys(REFERENCES[collection], "reference")
    | {member: "links!" for links in LINKS[collection] for member in (links.field, links.short)}
    | dict.fromkeys(PLAIN_TEXTS[collection], "text")
    | OWN.get(collection, {})
    for collection in COLLECTIONS
}
# A value of each JSON type, and the kinds of members that accept it. A choice accepts some texts, but not this one.
VALUES: dict[str, tuple[Any, set[str]]] = {
    "boolean": (True, {"flag"}),
    "integer": (1, {"reference", "degrees"}),
    "fraction": (1.5, {"degrees"}),
    "string": (CANARY, {"text"}),
    "number in a string": ("1", {"text"}),
    "empty string": ("", set()),
    "list": ([CANARY], set()),
    "nested list": ([[CANARY]], set()),
    "object": ({CANARY.lower(): CANARY}, set()),
    "null": (None, {"text", "choice", "reference", "degrees"}),
}


def first_parts(problem: dict[str, Any]) -> set[str]:
    return {error["pointer"].split("/")[1] for error in problem["errors"]}


def pointers(response: httpx.Response) -> list[str]:
    return [error["pointer"] for error in response.json()["errors"]]


async def post(client: httpx.AsyncClient, body: str | bytes, collection: str = "departments") -> httpx.Response:
    content = body.encode() if isinstance(body, str) else body
    return await client.post(f"/{collection}", content=content, headers=JSON)


def test_table_has_every_member() -> None:
    document = openapi()
    for collection in COLLECTIONS:
        body = document["paths"][f"/api/v1/{collection}"]["post"]["requestBody"]["content"]["application/json"]
        schema = document["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
        assert MEMBERS[collection].keys() == schema["properties"].keys()


@every_collection
@pytest.mark.parametrize("value", VALUES)
async def test_value_of_another_type_is_refused_in_every_member(
    client: httpx.AsyncClient, collection: str, value: str
) -> None:
    made = await make(client, collection)
    given, kinds = VALUES[value]
    wrong = {
        name
        for name, kind in MEMBERS[collection].items()
        if kind.removesuffix("!") not in kinds or (given is None and kind.endswith("!"))
    }
    if value == "empty string":
        wrong.remove("description")
    body = json.dumps(dict.fromkeys(MEMBERS[collection], given))
    for method, path in (("POST", f"/{collection}"), ("PUT", f"/{collection}/{made['id']}")):
        response = await client.request(method, path, content=body, headers=JSON)
        problem = assert_problem(response, "invalid_content", *pointers(response))
        assert first_parts(problem) == wrong
    if given is not None:  # a patch clears with null
        response = await client.patch(f"/{collection}/{made['id']}", content=body, headers=JSON)
        assert first_parts(assert_problem(response, "invalid_content", *pointers(response))) == wrong


@every_collection
@pytest.mark.parametrize("number", ["0", "-1", "-2147483649", "9223372036854775808", f"-{2**64}", "1" + "0" * 400])
async def test_reference_beyond_64_bits_is_invalid(client: httpx.AsyncClient, collection: str, number: str) -> None:
    references = [name for name, kind in MEMBERS[collection].items() if kind == "reference"]
    body = required(collection) | dict.fromkeys(references, "@")
    response = await post(client, json.dumps(body).replace('"@"', number), collection)
    assert_problem(response, "invalid_content", *(f"/{name}" for name in references))


async def test_reference_beyond_64_bits_is_invalid_in_links(client: httpx.AsyncClient) -> None:
    for number in (0, -1, 2**63, 10**400):
        long = {links.field: [{links.target: number}] for links in LINKS["processes"]}
        response = await client.post("/processes", json={"name": "P"} | long)
        assert_problem(
            response, "invalid_content", *(f"/{name}/0/{next(iter(links[0]))}" for name, links in long.items())
        )
        short = {links.short: [number] for links in LINKS["processes"]}
        response = await client.post("/processes", json={"name": "P"} | short)
        assert_problem(response, "invalid_content", *(f"/{name}/0" for name in short))


@every_collection
@pytest.mark.parametrize("number", [2**31, 2**32, MAX_INT64])
async def test_reference_within_64_bits_is_unknown(client: httpx.AsyncClient, collection: str, number: int) -> None:
    references = [name for name, kind in MEMBERS[collection].items() if kind == "reference"]
    response = await client.post(f"/{collection}", json=required(collection) | dict.fromkeys(references, number))
    assert_problem(response, "unknown_reference", *(f"/{name}" for name in references))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "9" * 5000, "-" + "9" * 5000])
@pytest.mark.parametrize("body", ['{"name":"N","latitude":%s,"longitude":0}', '{"name":"N","parent_id":%s}', "%s"])
async def test_non_json_or_very_long_number_is_a_bad_request(client: httpx.AsyncClient, number: str, body: str) -> None:
    assert_problem(await post(client, body % number, "locations"), "bad_request")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400, "90.0000000001", "-91"])
async def test_latitude_out_of_range_is_invalid(client: httpx.AsyncClient, number: str) -> None:
    response = await post(client, f'{{"name":"N","latitude":{number},"longitude":0}}', "locations")
    assert_problem(response, "invalid_content", "/latitude")


@pytest.mark.parametrize("number", ["90", "-90.0", "-0.0", "1e-400", "4.9e-324"])
async def test_latitude_at_the_limit_is_accepted(client: httpx.AsyncClient, number: str) -> None:
    response = await post(client, f'{{"name":"N","latitude":{number},"longitude":0}}', "locations")
    assert (response.status_code, response.json()["latitude"]) == (201, float(number))


@every_collection
@pytest.mark.parametrize("character", ["\\u0000", "\\ud800", "\\udfff", "\\udc00\\ud800"])
async def test_nul_and_lone_surrogates_are_invalid_in_every_text(
    client: httpx.AsyncClient, collection: str, character: str
) -> None:
    made = await make(client, collection)
    members = {
        name: f"{CANARY}@{CANARY}" for name, kind in MEMBERS[collection].items() if kind.startswith(("text", "choice"))
    }
    body = json.dumps(members).replace("@", character)
    for method, path in (
        ("POST", f"/{collection}"),
        ("PUT", f"/{collection}/{made['id']}"),
        ("PATCH", f"/{collection}/{made['id']}"),
    ):
        response = await client.request(method, path, content=body.encode(), headers=JSON)
        assert_problem(response, "invalid_content", *(f"/{name}" for name in members))
    assert (await client.get(f"/{collection}/{made['id']}")).json() == made


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/\0",
        "http://a.exa\nmple/",
        "http://a.example/\tb",
        "http://a.example/\x7f",
        "javascript:alert(1)",
        "http://",
        "//a.example",
        "http://[::1",
        "http://a:99999/",
        "ftp://a.example",
        "file:///etc/passwd",
    ],
)
async def test_non_web_url_is_invalid(client: httpx.AsyncClient, url: str) -> None:
    response = await client.post("/resources", json={"name": "R", "url": url})
    assert_problem(response, "invalid_content", "/url")


@pytest.mark.parametrize(
    ("name", "pointer"),
    [
        (CANARY.lower(), f"/{CANARY.lower()}"),
        ("__proto__", "/__proto__"),
        ("a/b~c", "/a~1b~0c"),
        ("", "/"),
        ("\0", "/\0"),
        ("'; DROP TABLE users; --", "/'; DROP TABLE users; --"),
        ("n" * 10_000, "/" + "n" * (MAX_POINTER_PART - 1) + "…"),
        ("id", "/id"),
        ("\ud800", ""),
    ],
)
async def test_unknown_member_is_refused_at_every_depth(client: httpx.AsyncClient, name: str, pointer: str) -> None:
    # Serialised by hand, because httpx does not send a surrogate.
    member = f"{json.dumps(name)}: {json.dumps(CANARY)}"
    response = await post(client, f'{{"name": "D", {member}}}')
    assert_problem(response, "invalid_content", pointer)
    response = await post(client, f'{{"name": "P", "roles": [{{"role_id": 1, {member}}}]}}', "processes")
    assert_problem(response, "invalid_content", f"/roles/0{pointer}")
    process, department = await make_process(client), await make_department(client)
    path = f"/processes/{process['id']}/departments/{department['id']}"
    response = await client.put(path, content=f"{{{member}}}", headers=JSON)
    assert_problem(response, "invalid_content", pointer)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[",
        b" ",
        b'{"name":"N",}',
        b'{"name":"N"} x',
        b"{'name':'N'}",
        b'{"name":"N\n"}',
        b'{"name":"\\x"}',
        b'{"name":"N","name":"M"}',
        b'{"name":"N","roles":[{"role_id":1,"role_id":2}]}',
        b'{"name":"N","x":{"a":1,"a":1}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"name":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'\xef\xbb\xbf{"name":"N"}',
        b'{"name":"\xff"}',
        b'{"name":"\xc0\x80"}',
        b'{"name":"\xed\xa0\x80"}',
        b'{"name":"\xf5\x80\x80\x80"}',
        '{"name":"N"}'.encode("utf-16"),
        '{"name":"N"}'.encode("utf-16-le"),
        '{"name":"N"}'.encode("utf-32"),
        b"\0",
        b"%PDF-1.7",
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_body_that_is_not_strict_json_is_a_bad_request(client: httpx.AsyncClient, body: bytes) -> None:
    process, department = await make_process(client), await make_department(client)
    for method, path in (
        ("POST", "/departments"),
        ("PUT", f"/departments/{department['id']}"),
        ("PATCH", f"/departments/{department['id']}"),
        ("PUT", f"/processes/{process['id']}/departments/{department['id']}"),
    ):
        response = await client.request(method, path, content=body, headers=JSON)
        assert_problem(response, "bad_request")
        assert len(response.content) < 500


@pytest.mark.parametrize("body", ["null", "[]", '["name"]', f'"{CANARY}"', "1", "true", "1e999"])
async def test_non_object_body_is_invalid(client: httpx.AsyncClient, body: str) -> None:
    department = await make_department(client)
    for method, path in (
        ("POST", "/departments"),
        ("PUT", f"/departments/{department['id']}"),
        ("PATCH", f"/departments/{department['id']}"),
    ):
        response = await client.request(method, path, content=body.encode(), headers=JSON)
        assert_problem(response, "invalid_content", "")


@pytest.mark.parametrize("headers", [JSON, {}, {"Content-Type": "text/plain"}])
async def test_missing_body_is_invalid(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    department = await make_department(client)
    for method, path in (
        ("POST", "/departments"),
        ("PUT", f"/departments/{department['id']}"),
        ("PATCH", f"/departments/{department['id']}"),
    ):
        assert_problem(await client.request(method, path, headers=headers), "invalid_content", "")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "json",
        "text/plain",
        "text/json",
        "application/jsonx",
        "application/json-patch+json",
        "application/vnd.api+json",
        "application/json, text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/json; charset=",
        "application/json; charset*=utf-8''utf-8",
        "application/json; charset=\xe9",
        f"application/{CANARY}",
    ],
)
async def test_body_of_another_media_type_is_unsupported(client: httpx.AsyncClient, content_type: str | None) -> None:
    department = await make_department(client)
    headers = {} if content_type is None else {b"Content-Type": content_type.encode("latin-1")}
    for method, path in (
        ("POST", "/departments"),
        ("PUT", f"/departments/{department['id']}"),
        ("PATCH", f"/departments/{department['id']}"),
    ):
        response = await client.request(method, path, content=b'{"name":"N"}', headers=headers)
        assert_problem(response, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "APPLICATION/JSON",
        'application/json; charset="UTF-8"',
        "application/json;charset=utf8",
        "application/json;;;;",
    ],
)
async def test_every_spelling_of_the_json_media_type_is_accepted(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post("/departments", content=b'{"name":"N"}', headers={"Content-Type": content_type})
    assert response.status_code == 201


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
async def test_too_large_body_is_refused_with_or_without_content_length(
    client: httpx.AsyncClient, content_type: str
) -> None:
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 100_000
            yield b" " * 100_000

    department = await make_department(client)
    path = f"/departments/{department['id']}"
    for method, url in (("POST", "/departments"), ("PUT", path), ("PATCH", path)):
        headers = {"Content-Type": content_type}
        response = await client.request(method, url, content=b" " * 10_000_000, headers=headers)
        assert_problem(response, "content_too_large")
        assert_problem(await client.request(method, url, content=chunks(), headers=headers), "content_too_large")
    assert (await client.get(path)).json() == department
    assert read >= 3 * 2**20


async def test_limit_of_a_body_is_exact(client: httpx.AsyncClient) -> None:
    body = b'{"name":"N"}'
    assert (await post(client, (body + b" " * (2**20 - len(body))).decode())).status_code == 201
    assert_problem(await post(client, (body + b" " * (2**20 - len(body) + 1)).decode()), "content_too_large")


@pytest.mark.parametrize(
    ("path", "body", "media_type"),
    [
        ("/auth/refresh", b'{"refresh_token":"x"}', "application/json"),
        ("/auth/set-password", b'{"token":"x","password":"violet anvil"}', "application/json"),
        ("/auth/token", b"username=a&password=b&more=", "application/x-www-form-urlencoded"),
    ],
)
async def test_anonymous_body_has_a_lower_limit(
    client: httpx.AsyncClient, path: str, body: bytes, media_type: str
) -> None:
    headers = {"Content-Type": media_type, "Authorization": ""}
    largest = body + b" " * (MAX_ANONYMOUS_BYTES - len(body))
    assert (await client.post(path, content=largest, headers=headers)).status_code in {401, 422}
    assert_problem(await client.post(path, content=largest + b" ", headers=headers), "content_too_large")


async def test_longest_sign_in_form_is_accepted(client: httpx.AsyncClient) -> None:
    # Every field has its maximum length, in characters with the longest URL encoding.
    user = await make_user(client, email=f"{'e' * 60}@{'x' * 60}.{'y' * 60}.{'z' * 59}.example")
    form = {"username": user["email"], "password": "\U0001f511" * 256, "scope": "users:read " * 90}
    response = await client.post("/auth/token", data=form)
    assert_problem(response, "wrong_credentials")
    assert 4_000 < len(response.request.content) < MAX_ANONYMOUS_BYTES


async def test_body_of_get_and_delete_is_ignored(client: httpx.AsyncClient) -> None:
    department = await make_department(client)
    for method in ("GET", "DELETE"):
        path = f"/departments/{department['id']}"
        response = await client.request(method, path, content=b"{" * 100, headers=JSON)
        assert response.is_success


LENGTHS = [
    ("departments", "name", 500, "n"),
    ("departments", "name", 500, "😀"),
    ("departments", "description", 20_000, "d"),
    ("departments", "description", 20_000, "\U0010fffd"),
    ("departments", "external_id", 512, "ü"),
    ("departments", "code", 64, "C"),
    ("locations", "address", 1000, "a"),
    ("users", "name", 500, "n"),
]


@pytest.mark.parametrize(("collection", "field", "length", "character"), LENGTHS)
async def test_limit_of_a_text_is_exact(
    client: httpx.AsyncClient, collection: str, field: str, length: int, character: str
) -> None:
    body = required(collection) | {field: character * length}
    response = await client.post(f"/{collection}", json=body)
    assert (response.status_code, response.json()[field]) == (201, character * length)
    for method, path in (("POST", f"/{collection}"), ("PATCH", f"/{collection}/{response.json()['id']}")):
        response = await client.request(method, path, json=body | {field: character * (length + 1)})
        assert_problem(response, "invalid_content", f"/{field}")


async def test_limits_of_url_and_email_are_exact(client: httpx.AsyncClient) -> None:
    start = "https://a.example/"
    url = start + "u" * (2048 - len(start))
    response = await client.post("/resources", json={"name": "R", "url": url})
    assert (response.status_code, response.json()["url"]) == (201, url)
    response = await client.post("/resources", json={"name": "R", "url": url + "u"})
    assert_problem(response, "invalid_content", "/url")
    domain = f"{'d' * 61}.{'d' * 61}.{'d' * 57}.example"
    email = f"{'l' * 64}@{domain}"
    for longer in (f"l{email}", f"{'l' * 64}@d{domain}", f"l@{'d' * 64}.example"):
        response = await client.post("/users", json={"name": "U", "email": longer})
        assert_problem(response, "invalid_content", "/email")
    assert (await make_user(client, email=email))["email"] == email


@every_collection
@pytest.mark.parametrize("external_id", ["x (created_by_id)=1", "fk_users_updated_by_id (updated_by_id)=(7)"])
async def test_duplicate_that_looks_like_a_missing_author_is_a_duplicate(
    client: httpx.AsyncClient, collection: str, external_id: str
) -> None:
    await make(client, collection, external_id=external_id)
    other = await make(client, collection)
    hostile = {"external_id": external_id}
    for response in (
        await client.post(f"/{collection}", json=required(collection) | hostile),
        await client.patch(f"/{collection}/{other['id']}", json=hostile),
    ):
        assert_problem(response, "duplicate", "/external_id")
    items = [{"op": "update", "id": other["id"], "data": hostile}]
    response = await client.post(f"/{collection}/bulk", json={"items": items})
    assert_problem(response, "duplicate", "/items/0/data/external_id")


@every_collection
async def test_text_is_composed_before_its_length_is_checked(client: httpx.AsyncClient, collection: str) -> None:
    decomposed = {"name": "e\u0301" * 500, "description": "e\u0301" * 20_000, "external_id": "e\u0301" * 512}
    made = await make(client, collection, **decomposed)
    assert {name: made[name] for name in decomposed} == {
        "name": "\xe9" * 500,
        "description": "\xe9" * 20_000,
        "external_id": "\xe9" * 512,
    }
    response = await client.post(f"/{collection}", json=required(collection) | {"external_id": "\xe9" * 512})
    assert_problem(response, "duplicate", "/external_id")
    # Composition (NFC) makes some characters longer.
    response = await client.post(f"/{collection}", json=required(collection) | {"name": "\u0958" * 251})
    assert_problem(response, "invalid_content", "/name")


@every_collection
@pytest.mark.parametrize(
    "name",
    ["", " ", "\t\n", "\xa0", "\u3000", "\u200b", "\u2060\ufeff\u200d", "\u0301", "\u202e", "\u2003\u200b\u2003"],
)
async def test_invisible_name_is_invalid(client: httpx.AsyncClient, collection: str, name: str) -> None:
    for field in ("name", "external_id"):
        response = await client.post(f"/{collection}", json=required(collection) | {field: name})
        assert_problem(response, "invalid_content", f"/{field}")


@every_collection
async def test_surrounding_white_space_is_removed(client: httpx.AsyncClient, collection: str) -> None:
    around = "\t\n\xa0\u3000 {} \u2003\r\n"
    made = await make(
        client, collection, name=around.format("N  n"), description=around.format("D\n"), external_id=around.format("X")
    )
    assert (made["name"], made["description"], made["external_id"]) == ("N  n", "D", "X")


CONTROL_CHARACTERS = "\0\a\b\v\f\x1b\x7f\x80\x85\x9f"


@pytest.mark.parametrize("character", CONTROL_CHARACTERS + "\t\n\r\u2028\u2029", ids=repr)
async def test_control_character_in_a_single_line_text_is_invalid(client: httpx.AsyncClient, character: str) -> None:
    for field in ("name", "external_id"):
        response = await client.post("/departments", json={"name": "N"} | {field: f"{CANARY}{character}{CANARY}"})
        assert_problem(response, "invalid_content", f"/{field}")


@pytest.mark.parametrize("character", CONTROL_CHARACTERS, ids=repr)
async def test_control_character_in_a_multi_line_text_is_invalid(client: httpx.AsyncClient, character: str) -> None:
    text = f"{CANARY}{character}{CANARY}"
    response = await client.post("/locations", json={"name": "N", "description": text, "address": text})
    assert_problem(response, "invalid_content", "/description", "/address")


async def test_multi_line_text_may_have_line_breaks_and_tabs(client: httpx.AsyncClient) -> None:
    text = "One\n\tTwo\r\nThree"
    made = await make(client, "locations", description=text, address=text)
    assert (made["description"], made["address"]) == (text, text)


@pytest.mark.parametrize("code", ["", "-A", ".A", "A B", "A\n", " A", "Ä", "A/B", "A\0", "\u0410", "A" * 65, "\uff11"])
async def test_code_with_other_characters_is_invalid(client: httpx.AsyncClient, code: str) -> None:
    assert_problem(await client.post("/departments", json={"name": "N", "code": code}), "invalid_content", "/code")


@pytest.mark.parametrize(
    "email",
    [
        "",
        "a",
        "@a.example",
        "a@",
        "a@b@c.example",
        "a b@c.example",
        "a@c.example\n",
        "a@[127.0.0.1]",
        '"a b"@c.example',
        "a@localhost",
        "a..b@c.example",
        "a\u202e@c.example",
        "a@-c.example",
        f"{CANARY} <a@c.example>",
    ],
)
async def test_malformed_email_is_invalid(client: httpx.AsyncClient, email: str) -> None:
    assert_problem(await client.post("/users", json={"name": "N", "email": email}), "invalid_content", "/email")


async def test_keys_that_differ_only_in_case_are_duplicates(client: httpx.AsyncClient) -> None:
    first = await make_user(client, code="Ada", email="Ada.Byron@Register.example")
    second = await make_user(client)
    for field, value in (("code", "aDA"), ("email", "ada.BYRON@register.EXAMPLE")):
        body = {"name": "N", "email": "other@register.example"} | {field: value}
        assert_problem(await client.post("/users", json=body), "duplicate", f"/{field}")
        path = f"/users/{second['id']}"
        assert_problem(await client.patch(path, json={field: value}), "duplicate", f"/{field}")
        assert_problem(await client.put(path, json=body), "duplicate", f"/{field}")
        # An object may change the case of its own key.
        changed = await client.patch(f"/users/{first['id']}", json={field: value})
        assert (changed.status_code, changed.json()[field].lower()) == (200, value.lower())


FAULTY_REFERENCES = [
    "0",
    "-1",
    "01x",
    "1.0",
    "1e0",
    "+1",
    "%201",
    "0x1",
    "9223372036854775808",
    "9" * 5000,
    "%D9%A1",  # an Arabic digit
    "%00",
    "1%00",
    "%FF",
    "%ED%A0%80",
    "%ZZ",
    "1%0A",
    "code:",
    "code:%00",
    "code:%25",
    "code:A%0A",
    "code:" + "A" * 65,
    "code:%ED%A0%80",
    "CODE:A",
    "..%2F1",
    "1;DROP",
    "null",
]


@pytest.mark.parametrize("reference", FAULTY_REFERENCES, ids=lambda reference: reference[:24])
@pytest.mark.usefixtures("connection")
async def test_malformed_reference_is_not_found_by_any_operation(app: FastAPI, reference: str) -> None:
    # In a session, because some operations refuse API tokens.
    token = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
    tried = 0
    async with client_of(app, token) as client:
        for path, operations in openapi()["paths"].items():
            url = re.sub(r"\{\w+\}", lambda _: reference, path)
            for method in operations if url != path else ():
                body: dict[str, Any] = {"name": "N"} if "/{reference}/" not in path else {}
                if "users/{reference}" in path and method == "put":
                    body = required("users")
                elif path.endswith("/holders"):
                    body = {"user_ids": []}
                json_body = body if "requestBody" in operations[method] else None
                response = await client.request(method, f"http://register.test{url}", json=json_body)
                assert_problem(response, "not_found")
                tried += 1
    assert tried > 55


LISTS = [
    "/departments",
    "/processes",
    "/users",
    "/departments/{}/processes",
    "/roles/{}/holders",
]


@pytest.mark.parametrize("path", LISTS)
async def test_every_faulty_parameter_of_a_list_has_its_pointer(client: httpx.AsyncClient, path: str) -> None:
    one = await make(client, path.split("/")[1])
    for faulty in (
        CANARY,
        "%00",
        "%ZZ",
        "NaN",
        "1e3",
        "-",
        "",
        "9" * 5000,
        "-" + "9" * 5000,
        "1.5",
    ):
        names = ("limit", "offset", "sort", "count")
        query = "&".join(f"{name}={faulty}" for name in names)
        response = await client.get(f"{path.format(one['id'])}?{query}")
        problem = assert_problem(response, "invalid_content", *(f"/{name}" for name in names))
        assert {error["source"] for error in problem["errors"]} == {"query"}


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    "query",
    [
        "limit=-1&offset=-1",
        "limit=201&offset=10001",
        f"limit={2**31}&offset={2**31}",
        f"limit={2**63}&offset={2**63}",
        f"limit={2**64}&offset=-{2**64}",
    ],
)
async def test_limit_and_offset_out_of_range_are_invalid(client: httpx.AsyncClient, path: str, query: str) -> None:
    one = await make(client, path.split("/")[1])
    assert_problem(await client.get(f"{path.format(one['id'])}?{query}"), "invalid_content", "/limit", "/offset")


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("name", ["limt", "", "%00", "__proto__", "limit%00", "LIMIT", "limit[]", "n" * 10_000])
async def test_unknown_parameter_of_a_list_is_a_bad_request(client: httpx.AsyncClient, path: str, name: str) -> None:
    one = await make(client, path.split("/")[1])
    response = await client.get(f"{path.format(one['id'])}?{name}={CANARY}")
    problem = assert_problem(response, "bad_request", *pointers(response))
    assert [error["code"] for error in problem["errors"]] == ["unknown_parameter"]
    assert "There is no parameter" in problem["detail"]


@pytest.mark.parametrize("path", LISTS)
async def test_repeated_parameter_of_a_list_is_a_bad_request(client: httpx.AsyncClient, path: str) -> None:
    one = await make(client, path.split("/")[1])
    response = await client.get(f"{path.format(one['id'])}?limit=1&limit={CANARY}&offset=0&offset=-1&count=exact")
    problem = assert_problem(response, "bad_request", "/limit", "/offset")
    assert {error["code"] for error in problem["errors"]} == {"repeated_parameter"}


async def test_only_reported_unknown_parameters_get_a_hint(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare(word: str, *_: object, **__: object) -> list[str]:
        compared.append(word)
        return []

    monkeypatch.setattr("app.core.http.hints.difflib.get_close_matches", compare)
    names = [f"k{number}" for number in range(MAX_PARAMETERS)]
    response = await client.post(f"/auth/token?{'=&'.join(names)}", headers={"Authorization": ""})
    listed = pointers(response)
    assert_problem(response, "bad_request", *listed)
    assert listed == [f"/{name}" for name in names[: len(listed)]]
    assert 10 < len(listed) < MAX_FAULTS
    assert compared == names[:10]


@pytest.mark.parametrize("depth", ["-1", "101", CANARY, "", "%00", "1.5", "1.0", "1_0", "%201", "%2B1", "9" * 5000])
async def test_depth_out_of_range_is_invalid(client: httpx.AsyncClient, depth: str) -> None:
    made = await make_department(client)
    response = await client.get(f"/departments/{made['id']}/tree?depth={depth}")
    assert_problem(response, "invalid_content", "/depth")


@pytest.mark.parametrize("responsibility", [CANARY, "", "%00", "Responsible"])
async def test_unknown_responsibility_is_invalid(client: httpx.AsyncClient, responsibility: str) -> None:
    process, role = await make_process(client), await make(client, "roles")
    response = await client.delete(f"/processes/{process['id']}/roles/{role['id']}?responsibility={responsibility}")
    assert_problem(response, "invalid_content", "/responsibility")


# Entity tags that no version has.
FOREIGN = [
    b'""',
    b'"2.x"',
    b'"-1.x"',
    b'"01.x"',
    b'"1_.x"',
    b'"9223372036854775808.x"',
    b'"\xe9"',
    b'"\xd9\xa1.x"',
    b'W/"1.x"',
    b',"2.x",, W/"1",',
    b'"' + b"1" * 10_000 + b'"',
]


@every_collection
@pytest.mark.parametrize("tag", FOREIGN, ids=lambda tag: repr(tag[:12]))
async def test_foreign_if_match_refuses_every_write(client: httpx.AsyncClient, collection: str, tag: bytes) -> None:
    made = await make(client, collection)
    path = f"/{collection}/{made['id']}"
    current = await client.get(path)
    for method, body in (("PUT", required(collection)), ("PATCH", {"name": "Lost"}), ("DELETE", None), ("GET", None)):
        response = await client.request(method, path, json=body, headers={b"If-Match": tag})
        assert_problem(response, "precondition_failed")
        assert response.headers["etag"] == current.headers["etag"]
    response = await client.get(path, headers={b"If-None-Match": tag})
    assert (response.status_code, response.content) == (200, current.content)


# Values that are neither `*` nor a list of entity tags.
GARBAGE = [
    b"",
    b" , ",
    b"1",
    b'"',
    b'"1',
    b'1"',
    b"W/",
    b'w/"1"',
    b'W/ "1"',
    b'"1 .x"',
    b'"1\t"',
    b'"1" "2"',
    b'"1";"2"',
    b'*, "1"',
    b'"1", *',
    b"**",
    b"'1'",
    b"x" * 10_000,
    b'"1",' * 2_000 + b"x",
]


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
async def test_value_that_is_no_list_of_entity_tags_is_rejected_everywhere(
    client: httpx.AsyncClient, header: str
) -> None:
    made = {name: await make(client, name) for name in COLLECTIONS}
    calls = [
        (method, path.removeprefix("/api/v1").replace("{reference}", str(made[path.split("/")[3]]["id"])))
        for path, operations in openapi()["paths"].items()
        for method, operation in operations.items()
        if header in {parameter["name"] for parameter in operation.get("parameters", ())}
    ]
    assert {method for method, _ in calls} == {"get", "put", "patch", "delete"}
    assert any("holders" in path for _, path in calls)
    for value in GARBAGE:
        for method, path in calls:
            response = await client.request(method, re.sub("{.*}", "1", path), headers={header.encode(): value})
            if method == "get" and header == "If-None-Match":
                assert response.status_code == 200
            else:
                assert_problem(response, "bad_request", f"/{header}")
    for name, before in made.items():
        assert (await client.get(f"/{name}/{before['id']}")).json() == before


@pytest.mark.parametrize("request_id", ["a", "A.b_c-1", "0" * 128])
async def test_request_id_of_the_client_is_kept(client: httpx.AsyncClient, request_id: str) -> None:
    response = await client.get("/departments/0", headers={"X-Request-ID": request_id})
    assert assert_problem(response, "not_found")["request_id"] == request_id


@pytest.mark.parametrize(
    "request_id",
    [
        b"",
        b"0" * 129,
        b"a b",
        b"a/b",
        b"a\tb",
        b"a\nb",
        b"a\r\nSet-Cookie: a=b",
        b"a\x0b",
        b"a\x85",
        b"\xe2\x80\xa8",
        b"\xe9",
        b"<script>",
        b"a\0",
        CANARY.encode() + b"!",
        b"x" * 30_000,
    ],
    ids=lambda request_id: repr(request_id[:16]),
)
async def test_request_id_that_could_forge_a_log_is_replaced(client: httpx.AsyncClient, request_id: bytes) -> None:
    response = await client.get("/departments/0", headers={b"X-Request-ID": request_id})
    problem = assert_problem(response, "not_found")
    assert len(problem["request_id"]) == 32
    assert problem["request_id"].isalnum()


async def test_line_break_at_the_end_of_a_path_does_not_reach_a_header(client: httpx.AsyncClient) -> None:
    response = await client.post("/departments%0A", json={"name": "N"})
    assert "\n" not in str(response.headers)
    assert (await client.get(response.headers["location"].removeprefix("/api/v1"))).status_code == 200


async def test_text_that_looks_like_code_is_stored_unchanged(client: httpx.AsyncClient) -> None:
    for text in ("'; DROP TABLE users; --", "%s%(x)s{0}$1:key", "<script>alert(1)</script>", "\\u0000", "${jndi:x}"):
        made = await make_resource(client, name=text, description=text, external_id=text)
        assert (made["name"], made["description"], made["external_id"]) == (text, text, text)


# Raw bytes to a real server.

HOST = b"Host: register.test\r\n"
AUTHORIZATION = b"Authorization: Bearer " + ADMIN_TOKEN.encode() + b"\r\n"
HEAD = HOST + AUTHORIZATION
POST = b"POST /api/v1/departments HTTP/1.1\r\n" + HEAD + b"Content-Type: application/json\r\n"


def get(path: bytes, *headers: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HEAD + b"".join(header + b"\r\n" for header in headers) + b"\r\n"


@pytest.mark.parametrize(
    "path",
    [
        b"/api/v1/departments/%",
        b"/api/v1/departments/%e",
        b"/api/v1/departments/%ZZ",
        b"/api/v1/departments/%ff",
        b"/api/v1/departments/%0d%0aSet-Cookie:a",
        b"/api/v1/departments/a\\b",
        b"//api/v1",
        b"*",
        b"/%2e%2e/x",
    ],
)
def test_path_with_bad_encoding_is_not_found(server: Server, path: bytes) -> None:
    assert_problem(server.send(get(path)), "not_found")
    # Anonymous callers learn which paths exist, but not which objects.
    anonymous = server.send(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert_problem(anonymous, "unauthorized" if path.startswith(b"/api/v1/departments/") else "not_found")


@pytest.mark.parametrize("value", [b"%", b"%ZZ", b"%e"])
def test_query_with_bad_encoding_is_invalid(server: Server, value: bytes) -> None:
    assert_problem(server.send(get(b"/api/v1/departments?limit=" + value)), "invalid_content", "/limit")


@pytest.mark.parametrize("value", [b"%ff", b"%ed%a0%80"])
def test_query_that_is_not_utf_8_is_a_bad_request(server: Server, value: bytes) -> None:
    assert_problem(server.send(get(b"/api/v1/departments?name=" + value)), "bad_request")


def test_header_with_any_bytes_is_accepted(server: Server) -> None:
    response = server.send(
        get(b"/api/v1/departments/0", b"X-Request-ID: \xff\x85", b"If-None-Match: \xff", b"Accept: \xff")
    )
    assert_problem(response, "not_found")
    response = server.send(get(b"/api/v1/departments", *[b"X-Many: \xff"] * 1000))
    assert response.status_code == 200


@pytest.mark.parametrize(
    "request_",
    [
        get(b"/\0"),
        get(b"/\xff"),
        get(b"/a b"),
        get(b"/api/v1/departments?\x01"),
        get(b"/" + b"a" * 200_000),
        get(b"/api/v1/departments", b"X-Request-ID: a\0b"),
        get(b"/api/v1/departments", b"X-Request-ID: a\rb"),
        get(b"/api/v1/departments", b"X-Request-ID: a\x0bb"),
        get(b"/api/v1/departments", b"X-Request-ID: a\r\n folded"),
        get(b"/api/v1/departments", b"no colon"),
        get(b"/api/v1/departments", b": no name"),
        b"FOO /api/v1/departments HTTP/1.1\r\n" + HEAD + b"\r\n",
        b"GET /api/v1/departments HTTP/9.9\r\n" + HEAD + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\xff" * 100,
        POST + b"Content-Length: -1\r\n\r\n{}",
        POST + b"Content-Length: +2\r\n\r\n{}",
        POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\n{}",
    ],
    ids=lambda request_: repr(request_.replace(AUTHORIZATION, b"")[-40:]),
)
def test_invalid_http_is_refused_by_the_server(server: Server, request_: bytes) -> None:
    assert server.send(request_).status_code == 400


def test_too_large_content_length_is_refused_before_the_body_arrives(server: Server) -> None:
    assert_problem(server.send(POST + b"Content-Length: 10000000\r\n\r\n"), "content_too_large")
    expecting = POST + b"Expect: 100-continue\r\nContent-Length: 10000000\r\n\r\n"
    assert_problem(server.send(expecting), "content_too_large")


def test_anonymous_request_is_refused_before_the_body_arrives(server: Server) -> None:
    head = b"POST /api/v1/departments HTTP/1.1\r\n" + HOST
    for headers in (
        b"Content-Length: 10000000\r\n",
        b"Content-Type: application/json\r\nContent-Length: 10\r\n",
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\nContent-Length: 10\r\n",
    ):
        assert_problem(server.send(head + headers + b"\r\n"), "unauthorized")


def test_endless_body_is_refused_at_the_limit(server: Server) -> None:
    chunk = b"186a0\r\n" + b" " * 100_000 + b"\r\n"
    response = server.send(POST + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 100)
    assert_problem(response, "content_too_large")


def test_chunked_body_is_read(server: Server) -> None:
    chunks = b'8\r\n{"name":\r\n4\r\n"N"}\r\n0\r\n\r\n'
    response = server.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert (response.status_code, response.json()["name"]) == (201, "N")


def test_disconnect_inside_a_body_is_no_internal_error(server: Server) -> None:
    metrics = server.app.state.metrics.registry
    before = metrics.get_sample_value("register_errors_total", {"error": "BadRequest"}) or 0
    for content_type in (b"application/json", b"text/plain"):
        with server.connect() as connection:
            head = b"POST /api/v1/departments HTTP/1.1\r\n" + HEAD + b"Content-Type: " + content_type + b"\r\n"
            connection.sendall(head + b'Content-Length: 100\r\n\r\n{"name":')
    wait_until(lambda: metrics.get_sample_value("register_errors_total", {"error": "BadRequest"}) == before + 2)
    assert metrics.get_sample_value("register_errors_total", {"error": "ClientDisconnect"}) is None


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"\0\r\n\r\n", "bad_request"),
        (b"GET / HTTP/1.1\r\na b: c\r\n\r\n", "bad_request"),
        (b"GET /" + b"a" * 66_000, "bad_request"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 66_000, "headers_too_large"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", "bad_request"),
    ],
)
def test_rejection_by_the_protocol_is_a_response_like_others(server: Server, request_: bytes, code: str) -> None:
    labels = {"method": "(other)", "route": "(unmatched)", "status": str(CODES[code].status)}
    registry = server.app.state.metrics.registry
    before = registry.get_sample_value("http_requests_total", labels) or 0
    with configured_log() as log:
        response = server.send(request_)
        problem = assert_problem(response, code)
        wait_until(lambda: log.entries)  # the line follows the response
    assert len(response.content) <= 4096
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert response.headers["connection"] == "close"
    fields = {"event": "request", "method": "(other)", "route": "(unmatched)", "path": "", "client": "127.0.0.1"}
    (line,) = [line for line in log.entries if line.get("request_id") == problem["request_id"]]
    assert line.items() >= (fields | {"status": response.status_code}).items()
    assert registry.get_sample_value("http_requests_total", labels) == before + 1


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "OPTIONS"])
def test_unknown_method_is_not_allowed(server: Server, method: str) -> None:
    for head in (HOST, HEAD):
        response = server.send(f"{method} /api/v1/departments HTTP/1.1\r\n".encode() + head + b"\r\n")
        assert_problem(response, "method_not_allowed")
        assert response.headers["allow"] == "GET, HEAD, POST"


def test_quoted_path_is_returned_unchanged(server: Server) -> None:
    path = f"/api/v1/departments/{quote('Grüße €')}"
    assert assert_problem(server.send(get(path.encode())), "not_found")["instance"] == path


@pytest.mark.parametrize("query", ["name=caf%E9", "name__not=%FF", "name=%ED%A0%80", "%FF=1", "q=%C3", "cursor=%80"])
async def test_address_that_is_not_utf_8_is_a_bad_request(client: httpx.AsyncClient, query: str) -> None:
    problem = assert_problem(await client.get(f"/departments?{query}"), "bad_request")
    assert "UTF-8" in problem["detail"]
    assert (await client.get("/departments?name=caf%C3%A9&code=%25")).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("POST", "/departments"), ("POST", "/departments/bulk")])
async def test_compressed_body_is_refused(client: httpx.AsyncClient, method: str, path: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = await client.request(method, path, content=gzip.compress(b'{"name": "D"}'), headers=headers)
    assert_problem(response, "unsupported_media_type")
    assert response.headers["Accept-Encoding"] == "identity"
    plain = headers | {"Content-Encoding": "identity"}
    assert (await client.post("/departments", content=b'{"name": "D"}', headers=plain)).status_code == 201
