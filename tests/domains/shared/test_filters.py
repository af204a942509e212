"""Filters of lists."""

from urllib.parse import quote

import httpx
import pytest

from tests.builders import make, make_department, make_location, make_process, make_resource, make_role, make_user


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("code=a-1", ["A-1"]),
        ("code=a-1&code=B-2", ["A-1", "B-2"]),
        ("code__not=a-1&name__ic=%25", ["C"]),
        ("name__ic=ALPHA", ["A-1", "B-2"]),
        ("name__sw=alpha", ["A-1"]),
        ("name=Alpha%20one", ["A-1"]),
        ("name=alpha%20one", []),
        ("description__null=true&code__sw=b", ["B-2"]),
        ("description__null=false", ["A-1"]),
        ("version__gt=1", []),
        ("id__gt=0&id__lte=9223372036854775807", ["A-1", "B-2", "C"]),
        ("id__lt=1", []),
        ("created_at__gte=2020-01-01T00:00:00Z&name__sw=the", ["B-2"]),
        ("created_at__lt=2020-01-01T00:00:00%2B02:00", []),
    ],
)
async def test_list_is_filtered(client: httpx.AsyncClient, query: str, found: list[str]) -> None:
    await make_department(client, code="A-1", name="Alpha one", description="Long")
    await make_department(client, code="B-2", name="The alpha 2")
    await make_department(client, code="C", name="100 % other")
    page = (await client.get(f"/departments?{query}&count=exact")).json()
    assert [item["code"] for item in page["items"]] == found
    assert page["total"] == len(found)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("name__sw=ab", ["ab c", "abcd"]),
        ("name__sw=ab%20", ["ab c"]),
        ("name__sw=%20ab", []),
        ("name__ic=b%20", ["ab c"]),
        ("name__ic=%20C", ["ab c"]),
        ("name__ic=%20", ["ab c"]),
        ("name=%20ab%20c%20", ["ab c"]),
        ("name__not=%20ab%20c%20", ["abcd"]),
    ],
)
async def test_blanks_at_the_ends_count_for_parts_of_texts(
    client: httpx.AsyncClient, query: str, found: list[str]
) -> None:
    await make_department(client, name="ab c")
    await make_department(client, name="abcd")
    assert [item["name"] for item in (await client.get(f"/departments?{query}")).json()["items"]] == found


@pytest.mark.parametrize(
    ("collection", "field", "value"),
    [
        ("departments", "name", "ä" * 500),
        ("departments", "external_id", "x" * 512),
        ("departments", "description", "ä b\r\n\tc\n" * 500 + "x" * 16_000),
        ("locations", "address", "Street 1\nTown\n" * 66),
        ("resources", "url", "https://register.example/" + "x" * 2023),
    ],
)
async def test_every_valid_text_is_a_valid_filter_value(
    client: httpx.AsyncClient, collection: str, field: str, value: str
) -> None:
    value = value.strip()
    made = await make(client, collection, **{field: value})
    await make(client, collection, **{field: value[:-1] + "y"})
    assert made[field] == value
    for name, given in {
        field: value,
        f"{field}__ic": value.upper(),
        f"{field}__sw": value[: len(value) * 99 // 100].upper(),
        f"{field}__not": value[:-1] + "y",
    }.items():
        response = await client.get(f"/{collection}", params={name: given})
        assert response.status_code == 200, response.text
        found = [item["id"] for item in response.json()["items"]]
        assert found == [made["id"], made["id"] + 1][: 2 if name.endswith("__sw") else 1], name


@pytest.mark.parametrize(
    ("parameter", "value", "code"),
    [
        ("description", "a\0", "control_character"),
        ("description__ic", "a\0", "control_character"),
        ("description__sw", "\x1f", "control_character"),
        ("description", "a" * 20_001, "string_too_long"),
        ("description__ic", "a" * 20_001, "string_too_long"),
        ("description__ic", "", "string_too_short"),
        ("name", "a\nb", "control_character"),
        ("name__ic", "a\n", "control_character"),
        ("name__sw", "\u2028", "control_character"),
        ("name__ic", "a" * 513, "string_too_long"),
    ],
)
async def test_impossible_text_is_invalid(client: httpx.AsyncClient, parameter: str, value: str, code: str) -> None:
    response = await client.get("/departments", params={parameter: value})
    assert response.status_code == 422
    (fault,) = response.json()["errors"]
    assert (fault["pointer"].split("/")[1], fault["code"]) == (parameter, code)


@pytest.mark.parametrize(
    "address",
    [
        *("locations?id__gt", "locations?version__lt", "locations?limit", "locations?offset"),
        *("locations/1/changes?offset", "search?q=a&limit", "changes?limit", "changes?before_id"),
        *(
            "changes/feed?limit",
            "changes/feed?wait",
            "locations?level",
            "locations?level__not",
            "locations/1/tree?depth",
        ),
    ],
)
async def test_integer_is_written_in_digits(client: httpx.AsyncClient, address: str) -> None:
    for value in (
        "1_0",
        "1.0",
        "+1",
        "01",
        "00",
        "-0",
        "-01",
        "0000000000000000000001",
        " 1",
        "1 ",
        "1e0",
        "",
        "0x1",
        "\u0661",
        "--1",
        "-",
    ):
        response = await client.get(f"/{address}={quote(value)}")
        assert response.status_code == 422, value
        assert [fault["code"] for fault in response.json()["errors"]] == ["int_parsing"], value


@pytest.mark.parametrize(
    ("value", "is_number"),
    [("1", True), ("-1.50", True), ("1e2", True), ("-1.5E-2", True), ("1e+2", True), ("0", True)]
    + [(value, False) for value in ("1_0.0", "+1", " 1", ".5", "1.", "1e", "nan", "inf", "-Infinity", "\u0661", "")],
)
async def test_number_is_written_as_a_decimal(client: httpx.AsyncClient, value: str, is_number: bool) -> None:
    response = await client.get(f"/locations?latitude__gte={quote(value)}")
    codes = [fault["code"] for fault in response.json().get("errors", ())]
    assert codes == ([] if is_number else ["float_parsing"])
    assert response.status_code == (200 if is_number else 422)


@pytest.mark.parametrize("address", ["roles?created_at__gt", "processes?updated_at__lte", "changes?since"])
async def test_instant_is_written_as_in_rfc_3339(client: httpx.AsyncClient, address: str) -> None:
    for value in ("2026-01-31T23:59:59Z", "2026-01-31t00:00:00.1234567z", "2024-02-29T12:00:00 02:00"):
        assert (await client.get(f"/{address}={quote(value)}")).status_code == 200, value
    offset, existence = "with its offset from UTC", "This instant does not exist"
    for value, words in {
        "2026-01-31": offset,
        "2026-01-31T23:59:59": offset,
        "2026-01-31T24:00:00Z": offset,
        "2026-01-31T23:59:59+01:75": offset,
        "2026-01-31T23:59:59+25:00": existence,
        "2026-02-29T00:00:00Z": existence,
        "2016-12-31T23:59:60Z": "or is a leap second",
        "0001-01-01T00:00:00+01:00": "in the years 1 to 9999",
    }.items():
        response = await client.get(f"/{address}={quote(value)}")
        assert response.status_code == 422, value
        (fault,) = response.json()["errors"]
        assert fault["code"] == "datetime"
        assert words in fault["detail"], value


async def test_cursor_is_bound_to_the_filters(client: httpx.AsyncClient) -> None:
    for status in ("draft", "active", "draft", "active", "retired"):
        await make_process(client, status=status)
    page = (await client.get("/processes?status=draft&status=active&limit=3")).json()
    second = (await client.get(page["next"].removeprefix("/api/v1"))).json()
    assert [item["status"] for item in page["items"] + second["items"]] == ["draft", "active", "draft", "active"]
    cursor = page["next"].partition("cursor=")[2]
    for query in ("status=active&status=draft", "limit=3&status=active&status=draft"):
        turned = (await client.get(f"/processes?{query}&cursor={cursor}")).json()
        assert turned["items"] == second["items"], query
    assert (await client.get(f"/processes?status=draft&cursor={cursor}")).status_code == 400
    assert (await client.get(f"/processes?status=draft&status=retired&cursor={cursor}")).status_code == 400
    assert (await client.get(f"/processes?cursor={cursor}")).status_code == 400


async def ids(client: httpx.AsyncClient, address: str) -> list[int]:
    response = await client.get(address, params=None)
    assert response.status_code == 200, response.text
    page = response.json()
    found = [item["id"] for item in page["items"]]
    assert len(found) == len(set(found))
    return found


async def test_processes_are_filtered_by_their_links(client: httpx.AsyncClient) -> None:
    top = await make_department(client)
    low = await make_department(client, parent_id=top["id"])
    first, second = await make_role(client), await make_role(client)
    site = await make_location(client)
    room = await make_location(client, parent_id=site["id"])
    tool = await make_resource(client)
    a = await make_process(
        client,
        departments=[{"department_id": top["id"], "relation": "owner"}, {"department_id": low["id"]}],
        roles=[{"role_id": first["id"], "responsibility": "accountable"}, {"role_id": second["id"]}],
        resources=[{"resource_id": tool["id"], "usage": "writes"}],
    )
    b = await make_process(
        client,
        departments=[{"department_id": low["id"], "relation": "owner"}],
        role_ids=[first["id"]],
        location_ids=[room["id"]],
        parent_id=a["id"],
    )
    c = await make_process(client, parent_id=b["id"])
    everything = {"a": a["id"], "b": b["id"], "c": c["id"]}
    d, e, r, s = top["id"], low["id"], first["id"], second["id"]
    for query, expected in {
        f"department_id={d}": "a",
        f"department_id={d}&department_id={e}": "ab",
        f"department_id={e}&relation=owner": "b",
        f"department_id={e}&relation=owner&relation=participant": "ab",
        "relation=owner": "ab",
        f"department_within={d}": "ab",
        f"department_within={e}&relation=participant": "a",
        f"role_id={r}&role_id={s}": "ab",
        f"role_id={r}&role_id={s}&role_match=any": "ab",
        f"role_id={r}&role_id={s}&role_match=all": "a",
        f"role_id={s}&role_id={s}&role_match=all": "a",
        f"role_id={s}&role_match=none": "bc",
        f"role_id={r}&responsibility=accountable": "a",
        f"role_id={r}&responsibility=accountable&role_match=none": "bc",
        f"role_id={r}&role_id={s}&responsibility=responsible&role_match=all": "",
        f"location_id={room['id']}": "b",
        f"location_id={site['id']}": "",
        f"location_within={site['id']}": "b",
        f"resource_id={tool['id']}": "a",
        f"resource_id={tool['id']}&usage=reads": "",
        "usage=writes": "a",
        f"within={b['id']}": "bc",
        f"within={a['id']}&parent_id__null=false": "bc",
        "parent_id__null=true": "a",
        f"parent_id={a['id']}": "b",
        "department_id=9223372036854775807": "",
        "within=9223372036854775807": "",
        f"department_id={e}&role_id={r}&within={a['id']}&sort=-name": "ba",
    }.items():
        assert await ids(client, f"/processes?{query}") == [everything[name] for name in expected], query
        total = (await client.get(f"/processes?{query}&limit=1&count=exact")).json()["total"]
        assert total == len(expected), query


async def test_list_of_linked_objects_equals_the_filtered_collection(client: httpx.AsyncClient) -> None:
    top = await make_department(client, code="TOP")
    low = await make_department(client, code="LOW", parent_id=top["id"])
    roles = [await make_role(client, code=f"R-{number}") for number in range(2)]
    tools = [await make_resource(client, code=f"T-{number}") for number in range(2)]
    site = await make_location(client, code="SITE")
    for one, other in ((0, 1), (1, 0)):
        departments = (top, low) if one else (low, top)
        await make_process(
            client,
            name=f"Invoice {one}",
            departments=[
                {"department_id": departments[0]["id"], "relation": "owner"},
                {"department_id": departments[1]["id"], "relation": "supplier"},
            ],
            roles=[
                {"role_id": roles[one]["id"], "responsibility": "accountable"},
                {"role_id": roles[other]["id"], "responsibility": "informed"},
            ],
            resources=[
                {"resource_id": tools[one]["id"], "usage": "writes"},
                {"resource_id": tools[other]["id"], "usage": "reads"},
            ],
            location_ids=[site["id"]],
        )
    links = {
        "departments": ("department", [top, low]),
        "roles": ("role", roles),
        "resources": ("resource", tools),
        "locations": ("location", [site]),
    }
    for path, query, number in (
        ("departments", "", 2),
        ("departments", "relation=owner", 1),
        ("departments", "relation=owner&relation=supplier", 2),
        ("departments", "relation=owner&q=invoice", 1),
        ("departments", "relation=owner&q=invoice&sort=-name", 1),
        ("departments", "relation=participant", 0),
        ("departments", "relation=owner&responsibility=accountable", 1),
        ("roles", "responsibility=accountable", 1),
        ("roles", "responsibility=accountable&relation=owner", 1),
        ("resources", "usage=reads", 1),
        ("resources", "usage=reads&usage=uses", 1),
        ("locations", "relation=owner", 2),
    ):
        name, targets = links[path]
        for target in targets:
            flat = f"/processes?{name}_id={target['id']}&{query}&count=exact"
            expected = (await client.get(flat)).json()
            for reference in (target["id"], f"code:{target['code']}"):
                page = (await client.get(f"/{path}/{reference}/processes?{query}&count=exact")).json()
                assert (page["items"], page["total"]) == (expected["items"], expected["total"]), (path, query)
            assert page["total"] == number, (path, query, target["code"])
    path = f"/departments/{low['id']}/processes"
    # Only one of the two departments is in the lower subtree, and no link has both.
    assert len(await ids(client, f"{path}?department_within={low['id']}")) == 2
    assert len(await ids(client, f"{path}?department_within={low['id']}&relation=owner")) == 1
    assert await ids(client, f"/departments/{top['id']}/processes?department_within={low['id']}") == []
    # A filter that names another object applies to another link.
    assert len(await ids(client, f"{path}?department_id={top['id']}")) == 2
    assert len(await ids(client, f"{path}?department_id={top['id']}&relation=owner")) == 1
    roles_path = f"/roles/{roles[0]['id']}/processes?role_id={roles[1]['id']}"
    assert len(await ids(client, f"{roles_path}&role_match=all")) == 2
    assert await ids(client, f"{roles_path}&role_match=none") == []


async def test_other_collections_are_filtered_by_trees_and_links(client: httpx.AsyncClient) -> None:
    top = await make_department(client)
    low = await make_department(client, parent_id=top["id"])
    site = await make_location(client)
    room = await make_location(client, parent_id=site["id"])
    user = await make_user(client, department_id=low["id"])
    role = await make_role(client, department_id=low["id"])
    await make_role(client)
    await client.put(f"/roles/{role['id']}/holders/{user['id']}")
    tool = await make_resource(client, owner_department_id=low["id"], location_id=room["id"])
    assert await ids(client, f"/departments?within={top['id']}") == [top["id"], low["id"]]
    assert await ids(client, f"/locations?within={site['id']}&sort=-id") == [room["id"], site["id"]]
    assert await ids(client, f"/users?department_within={top['id']}") == [user["id"]]
    assert await ids(client, f"/roles?department_within={top['id']}") == [role["id"]]
    assert await ids(client, f"/roles?user_id={user['id']}") == [role["id"]]
    assert await ids(client, f"/resources?owner_department_within={top['id']}") == [tool["id"]]
    assert await ids(client, f"/resources?location_within={site['id']}") == [tool["id"]]
    assert await ids(client, f"/departments/{top['id']}/processes?within=1") == []


@pytest.mark.parametrize(
    ("query", "missing"),
    [
        ("processes?role_match=all", "role_match"),
        ("processes?location_match=any", "location_match"),
        ("roles?process_match=all&process_within=1", "process_match"),
        ("processes?responsibility_match=none&role_id=1", "responsibility_match"),
        ("roles?responsibility_match=all", "responsibility_match"),
    ],
)
async def test_parameter_without_its_required_parameter_is_rejected(
    client: httpx.AsyncClient, query: str, missing: str
) -> None:
    response = await client.get(f"/{query}")
    assert response.status_code == 422
    faults = [(fault["source"], fault["pointer"], fault["code"]) for fault in response.json()["errors"]]
    assert faults == [("query", f"/{missing}", "parameter_missing")]


async def test_list_of_linked_objects_combines_with_absence(client: httpx.AsyncClient) -> None:
    top = await make_department(client)
    low = await make_department(client, parent_id=top["id"])
    first, second = await make_role(client), await make_role(client)
    a = await make_process(
        client,
        departments=[{"department_id": top["id"], "relation": "owner"}, {"department_id": low["id"]}],
        roles=[{"role_id": first["id"], "responsibility": "accountable"}, {"role_id": second["id"]}],
    )
    b = await make_process(client, department_ids=[top["id"]], role_ids=[first["id"]])
    every = {"a": a["id"], "b": b["id"]}
    d, e, r, s = top["id"], low["id"], first["id"], second["id"]
    for address, expected in {
        f"departments/{d}/processes?department_id__not={e}": "b",
        f"departments/{d}/processes?department_id__not={d}": "",
        f"departments/{d}/processes?department_id__null=true": "",
        f"departments/{d}/processes?department_id__null=true&relation=owner": "b",
        f"departments/{d}/processes?department_id__null=false&relation=owner": "a",
        f"departments/{d}/processes?department_within__not={e}": "b",
        f"departments/{d}/processes?department_within={e}": "",
        # A parameter for the department itself makes the others refer to any department.
        f"departments/{d}/processes?department_within={e}&department_id__null=true": "a",
        f"departments/{d}/processes?department_within={d}&department_id__not={e}": "b",
        f"departments/{d}/processes?relation=owner&department_within__not={e}": "a",
        f"departments/{d}/processes?department_within={d}&department_within__not={e}": "b",
        f"departments/{d}/processes?department_id={e}&department_id__null=true": "a",
        f"departments/{e}/processes?department_match=none": "",
        f"departments/{d}/processes?department_match=none&relation=owner": "b",
        f"roles/{r}/processes?role_id__null=true&responsibility=accountable": "b",
        f"roles/{r}/processes?responsibility=accountable&responsibility_match=none": "b",
        f"roles/{s}/processes?responsibility=accountable&responsibility_match=none": "a",
        f"roles/{r}/processes?role_id__not={s}": "b",
        f"roles/{r}/processes?role_id={s}&responsibility=accountable&responsibility_match=none": "a",
    }.items():
        page = (await client.get(f"/{address}&count=exact")).json()
        found = [every[name] for name in expected]
        assert ([item["id"] for item in page["items"]], page["total"]) == (found, len(found)), address


async def test_holders_are_filtered_from_both_ends(client: httpx.AsyncClient) -> None:
    first, second, unused = [await make_role(client) for _ in range(3)]
    both, one, none = [await make_user(client) for _ in range(3)]
    for role, user in ((first, both), (second, both), (first, one)):
        await client.put(f"/roles/{role['id']}/holders/{user['id']}")
    a, b, c = first["id"], second["id"], unused["id"]
    x, y, z = both["id"], one["id"], none["id"]
    within = f"id={x}&id={y}&id={z}"
    for address, expected in {
        f"users?{within}&role_id={a}": [x, y],
        f"users?{within}&role_id={a}&role_id={b}&role_match=all": [x],
        f"users?{within}&role_id__not={b}": [y, z],
        f"users?{within}&role_id__null=true": [z],
        f"users?{within}&role_id={b}&role_id__null=true": [x, z],
        f"users?{within}&role_match=none": [z],
        f"users?{within}&role_id={2**62}": [],
        f"users?{within}&role_id__not={2**62}": [x, y, z],
        f"users?{within}&role_id={a}&role_id={2**62}&role_match=all": [],
        f"roles/{a}/holders?role_id__not={b}": [y],
        f"roles?user_id__null=true&id={a}&id={c}": [c],
        f"roles?user_id={x}&user_id={y}&user_match=all": [a],
        f"roles?user_id__not={y}": [b, c],
    }.items():
        assert await ids(client, f"/{address}") == expected, address


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("criticality=low&criticality__null=true", ["low", None]),
        ("criticality=low&criticality__null=false", ["low"]),
        ("criticality__not=low&criticality__null=true", [None]),
        ("criticality=low&criticality=high&criticality__not=high&criticality__null=true", ["low", None]),
        ("external_id=x-low&external_id__null=true", [None]),
        ("external_id__ic=LOW&external_id__null=true", ["low", None]),
        ("external_id__sw=x-&external_id__ic=h&external_id__null=true", ["high", None]),
        ("external_id__sw=x-&external_id__null=true&criticality=low", ["low"]),
    ],
)
async def test_missing_value_is_an_alternative_to_conditions_of_the_field(
    client: httpx.AsyncClient, query: str, found: list[str | None]
) -> None:
    for value in ("low", "high", None):
        await make_process(client, criticality=value, external_id=value and f"X-{value}")
    page = (await client.get(f"/processes?{query}&count=exact")).json()
    assert [item["criticality"] for item in page["items"]] == found
    assert page["total"] == len(found)


async def test_missing_value_is_an_alternative_to_numbers_and_subtrees(client: httpx.AsyncClient) -> None:
    north = await make_location(client, latitude=60.0, longitude=10.0)
    south = await make_location(client, latitude=-60.0, longitude=10.0)
    nowhere = await make_location(client)
    top = await make_department(client)
    low = await make_department(client, parent_id=top["id"])
    inside = await make_role(client, department_id=low["id"])
    outside = await make_role(client, department_id=top["id"])
    nothing = await make_role(client)
    for address, expected in {
        "locations?latitude__gt=0&latitude__null=true": [north, nowhere],
        "locations?latitude__gt=-70&latitude__lt=0&latitude__null=true": [south, nowhere],
        f"roles?department_within={low['id']}&department_id__null=true": [inside, nothing],
        f"roles?department_within__not={low['id']}": [outside, nothing],
        f"roles?department_within={top['id']}&department_within__not={low['id']}": [outside],
        f"departments?within={top['id']}&within__not={low['id']}": [top],
    }.items():
        assert await ids(client, f"/{address}") == [each["id"] for each in expected], address
