"""Routes of resources."""

import httpx
import pytest

from tests.builders import make_department, make_location, make_resource

KINDS = ("application", "data_store", "equipment", "facility", "document", "material", "supplier")


def faults(response: httpx.Response) -> list[tuple[str, str]]:
    return [(error["pointer"], error["code"]) for error in response.json()["errors"]]


async def test_fields_left_out_take_their_defaults(client: httpx.AsyncClient) -> None:
    made = await make_resource(client)
    names = ("kind", "owner_department_id", "owner_department", "location_id", "location", "criticality", "url")
    assert [made[name] for name in names] == ["application", *[None] * 6]


async def test_department_and_location_are_embedded_as_briefs(client: httpx.AsyncClient) -> None:
    department = await make_department(client, code="IT", name="IT")
    location = await make_location(client, code="DC-1", name="Data centre")
    made = await make_resource(client, owner_department_id=department["id"], location_id=location["id"])
    assert made["owner_department"] == {"id": department["id"], "code": "IT", "name": "IT"}
    assert made["location"] == {"id": location["id"], "code": "DC-1", "name": "Data centre"}
    patched = (await client.patch(f"/resources/{made['id']}", json={"location_id": None})).json()
    assert (patched["location"], patched["owner_department"]) == (None, made["owner_department"])


@pytest.mark.parametrize("field", ["owner_department_id", "location_id"])
async def test_unknown_reference_is_refused(client: httpx.AsyncClient, field: str) -> None:
    made = await make_resource(client)
    for response in (
        await client.post("/resources", json={"name": "Resource", field: 2**63 - 1}),
        await client.patch(f"/resources/{made['id']}", json={field: 2**63 - 1}),
    ):
        assert (response.status_code, faults(response)) == (422, [(f"/{field}", "unknown_reference")])


async def test_each_kind_is_kept_and_others_are_refused(client: httpx.AsyncClient) -> None:
    for kind in KINDS:
        assert (await make_resource(client, kind=kind))["kind"] == kind
    for wrong in ("Application", "data store", "", None, 1):
        response = await client.post("/resources", json={"name": "Resource", "kind": wrong})
        code = "null_not_allowed" if wrong is None else "literal_error"
        assert (response.status_code, faults(response)) == (422, [("/kind", code)])


async def test_each_criticality_is_kept_and_others_are_refused(client: httpx.AsyncClient) -> None:
    for criticality in ("low", "medium", "high", "critical", None):
        assert (await make_resource(client, criticality=criticality))["criticality"] == criticality
    for wrong in ("High", "none", "", 1):
        response = await client.post("/resources", json={"name": "Resource", "criticality": wrong})
        assert (response.status_code, faults(response)) == (422, [("/criticality", "literal_error")])


@pytest.mark.parametrize(
    "url",
    [
        "https://erp.register.example/",
        "http://10.0.0.1:8080/path?query=1#fragment",
        "https://user@register.example/a%20b",
        "HTTPS://Register.Example/Ü",
        "http://[::1]/",
        "https://register.example/" + "x" * (2048 - len("https://register.example/")),
    ],
)
async def test_url_is_kept_as_it_was_written(client: httpx.AsyncClient, url: str) -> None:
    assert (await make_resource(client, url=url))["url"] == url


async def test_url_is_trimmed(client: httpx.AsyncClient) -> None:
    assert (await make_resource(client, url=" https://register.example/\n"))["url"] == "https://register.example/"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("register.example", "url"),
        ("/relative", "url"),
        ("ftp://register.example/", "url"),
        ("javascript:alert(1)", "url"),
        ("data:text/html,x", "url"),
        ("file:///etc/passwd", "url"),
        ("https://", "url"),
        ("https://register.example:99999/", "url"),
        # URL parsers ignore these characters, but they would be stored.
        ("https://register.example/a b", "url"),
        ("https://register.example/a\u3000b", "url"),
        ("https://register.example/\0", "control_character"),
        ("https://register.example/\nx", "control_character"),
        ("https://register.example/\x07", "control_character"),
        ("", "invisible_text"),
        (" ", "invisible_text"),
    ],
)
async def test_invalid_url_is_rejected(client: httpx.AsyncClient, url: str, code: str) -> None:
    made = await make_resource(client)
    for response in (
        await client.post("/resources", json={"name": "Resource", "url": url}),
        await client.patch(f"/resources/{made['id']}", json={"url": url}),
    ):
        assert (response.status_code, faults(response)) == (422, [("/url", code)])
    assert (await client.get(f"/resources/{made['id']}")).json() == made


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ('"https://register.example/' + "x" * 2048 + '"', "string_too_long"),
        (r'"https://register.example/\ud800"', "string_unicode"),
        ("1", "string_type"),
    ],
)
async def test_invalid_text_of_a_url_is_rejected(client: httpx.AsyncClient, url: str, code: str) -> None:
    content = f'{{"name": "Resource", "url": {url}}}'
    response = await client.post("/resources", content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, faults(response)) == (422, [("/url", code)])
