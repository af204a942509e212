"""Routes of locations."""

from typing import Any

import httpx
import pytest

from tests.builders import make_location

KINDS = ("region", "country", "city", "site", "building", "floor", "room", "virtual")


def faults(response: httpx.Response) -> list[tuple[str, str]]:
    return [(error["pointer"], error["code"]) for error in response.json()["errors"]]


async def test_fields_left_out_take_their_defaults(client: httpx.AsyncClient) -> None:
    made = await make_location(client)
    names = ("kind", "parent_id", "parent", "address", "country", "timezone", "latitude", "longitude")
    assert [made[name] for name in names] == ["site", *[None] * 7]


async def test_every_field_is_kept(client: httpx.AsyncClient) -> None:
    body = {
        "kind": "building",
        "address": "Bahnhofstrasse 1\n8001 Zürich",
        "country": "CH",
        "timezone": "Europe/Zurich",
        "latitude": 47.376888,
        "longitude": 8.541694,
    }
    parent = await make_location(client, code="ZRH", name="Zürich")
    made = await make_location(client, parent_id=parent["id"], **body)
    assert {name: made[name] for name in body} == body
    assert made["parent"] == {"id": parent["id"], "code": "ZRH", "name": "Zürich"}
    # A location always has a kind.
    empty = dict.fromkeys(body.keys() - {"kind"})
    cleared = (await client.patch(f"/locations/{made['id']}", json=empty)).json()
    assert {name: cleared[name] for name in body} == empty | {"kind": "building"}


async def test_each_kind_is_kept_and_others_are_refused(client: httpx.AsyncClient) -> None:
    for kind in KINDS:
        assert (await make_location(client, kind=kind))["kind"] == kind
    for wrong in ("Site", "planet", "", None, 1):
        response = await client.post("/locations", json={"name": "Location", "kind": wrong})
        code = "null_not_allowed" if wrong is None else "literal_error"
        assert (response.status_code, faults(response)) == (422, [("/kind", code)])


@pytest.mark.parametrize("country", ["CH", "GB", "TL", "SS", "AX"])
async def test_country_is_a_code_of_iso_3166(client: httpx.AsyncClient, country: str) -> None:
    assert (await make_location(client, country=country))["country"] == country


@pytest.mark.parametrize("country", ["ch", "CHE", "C", "", "UK", "EU", "XX", "ZZ", " CH", "CH ", "ÇH"])
async def test_invalid_country_is_rejected(client: httpx.AsyncClient, country: str) -> None:
    response = await client.post("/locations", json={"name": "Location", "country": country})
    assert (response.status_code, faults(response)) == (422, [("/country", "country")])


@pytest.mark.parametrize("timezone", ["Europe/Zurich", "America/Argentina/Ushuaia", "UTC", "Etc/GMT+12"])
async def test_time_zone_is_a_name_of_the_iana_database(client: httpx.AsyncClient, timezone: str) -> None:
    assert (await make_location(client, timezone=timezone))["timezone"] == timezone


@pytest.mark.parametrize(
    "timezone", ["europe/zurich", "Europe", "Europe/Atlantis", "", "+02:00", "../etc/passwd", "zone.tab", "tzdata.zi"]
)
async def test_invalid_time_zone_is_rejected(client: httpx.AsyncClient, timezone: str) -> None:
    response = await client.post("/locations", json={"name": "Location", "timezone": timezone})
    assert (response.status_code, faults(response)) == (422, [("/timezone", "timezone")])


@pytest.mark.parametrize(
    ("address", "stored"),
    [
        ("One line", "One line"),
        ("First\nSecond\tthird\r\nlast", "First\nSecond\tthird\r\nlast"),
        ("  trimmed \n", "trimmed"),
        ("Zu\u0308rich", "Z\u00fcrich"),
        ("x" * 1000, "x" * 1000),
    ],
)
async def test_address_is_text_of_several_lines(client: httpx.AsyncClient, address: str, stored: str) -> None:
    assert (await make_location(client, address=address))["address"] == stored


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("", "string_too_short"),
        ("  \n ", "string_too_short"),
        ("x" * 1001, "string_too_long"),
        ("nul\0", "control_character"),
        ("bell\x07", "control_character"),
        (1, "string_type"),
    ],
)
async def test_invalid_address_is_rejected(client: httpx.AsyncClient, address: Any, code: str) -> None:
    response = await client.post("/locations", json={"name": "Location", "address": address})
    assert (response.status_code, faults(response)) == (422, [("/address", code)])


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [(0, 0), (90, 180), (-90, -180), (47.376888, 8.541694), (-0.0, 1e-300), (89.99999999999999, 0.1 + 0.2)],
)
async def test_coordinates_are_kept_exactly(client: httpx.AsyncClient, latitude: float, longitude: float) -> None:
    made = await make_location(client, latitude=latitude, longitude=longitude)
    assert (made["latitude"], made["longitude"]) == (latitude, longitude)
    patched = (await client.patch(f"/locations/{made['id']}", json={"latitude": latitude})).json()
    assert patched == made


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        (90.1, 0, [("/latitude", "less_than_equal")]),
        (-90.1, 0, [("/latitude", "greater_than_equal")]),
        (0, 180.1, [("/longitude", "less_than_equal")]),
        (0, -180.1, [("/longitude", "greater_than_equal")]),
        ("47", "8", [("/latitude", "float_type"), ("/longitude", "float_type")]),
        (True, 0, [("/latitude", "float_type")]),
        (1, None, [("/longitude", "coordinates")]),
        (None, 1, [("/latitude", "coordinates")]),
    ],
)
async def test_impossible_coordinates_are_refused(
    client: httpx.AsyncClient, latitude: Any, longitude: Any, expected: list[tuple[str, str]]
) -> None:
    body = {"name": "Location", "latitude": latitude, "longitude": longitude}
    made = await make_location(client)
    for response in (
        await client.post("/locations", json=body),
        await client.put(f"/locations/{made['id']}", json=body),
        await client.patch(f"/locations/{made['id']}", json=body),
    ):
        assert (response.status_code, faults(response)) == (422, expected)
    assert (await client.get(f"/locations/{made['id']}")).json() == made


async def test_infinite_coordinates_are_not_json(client: httpx.AsyncClient) -> None:
    for value in ("NaN", "Infinity", "-Infinity"):
        content = f'{{"name": "Location", "latitude": {value}, "longitude": 0}}'
        response = await client.post("/locations", content=content, headers={"Content-Type": "application/json"})
        assert response.status_code == 400
    response = await client.post(
        "/locations",
        content='{"name": "Location", "latitude": 1e999, "longitude": 0}',
        headers={"Content-Type": "application/json"},
    )
    assert (response.status_code, faults(response)) == (422, [("/latitude", "finite_number")])


@pytest.mark.parametrize(("field", "other"), [("latitude", "longitude"), ("longitude", "latitude")])
async def test_one_coordinate_alone_is_refused(client: httpx.AsyncClient, field: str, other: str) -> None:
    response = await client.post("/locations", json={"name": "Location", field: 1})
    assert (response.status_code, faults(response)) == (422, [(f"/{other}", "coordinates")])


@pytest.mark.parametrize(("field", "other"), [("latitude", "longitude"), ("longitude", "latitude")])
async def test_patch_may_not_leave_one_coordinate_alone(client: httpx.AsyncClient, field: str, other: str) -> None:
    location = await make_location(client)
    with_both = await make_location(client, latitude=1, longitude=2)
    for made, patch, missing in (
        (location, {field: 1}, other),
        (with_both, {field: None}, field),
        (location, {field: 1, other: None}, other),
    ):
        response = await client.patch(f"/locations/{made['id']}", json=patch)
        assert (response.status_code, faults(response)) == (422, [(f"/{missing}", "coordinates")])
        assert (await client.get(f"/locations/{made['id']}")).json() == made


async def test_patch_may_change_one_coordinate_or_set_and_clear_both(client: httpx.AsyncClient) -> None:
    made = await make_location(client)
    path = f"/locations/{made['id']}"
    for patch, expected in (
        ({"latitude": 1.5, "longitude": 2.5}, (1.5, 2.5)),
        ({"latitude": -3}, (-3.0, 2.5)),
        ({"longitude": 4}, (-3.0, 4.0)),
        ({"latitude": None, "longitude": None}, (None, None)),
        ({"latitude": None}, (None, None)),
    ):
        response = await client.patch(path, json=patch)
        assert response.status_code == 200
        assert (response.json()["latitude"], response.json()["longitude"]) == expected
