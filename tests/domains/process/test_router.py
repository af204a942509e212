"""Routes of processes: their fields and their kinds of links."""

from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.builders import make, make_department, make_location, make_process, make_resource, make_role, make_user
from tests.catalogue import LINKED, LINKS, details_of

# The link's own field and its values, the default first.
DETAILS = {links.field: (links.detail, details_of("processes", links)) for links in LINKS["processes"] if links.detail}
# The values that clients rely on; the declarations may have more.
RELIED_ON = {
    "departments": ("relation", ("participant", "owner", "supplier", "customer")),
    "resources": ("usage", ("uses", "reads", "writes", "produces")),
    "roles": ("responsibility", ("responsible", "accountable", "consulted", "informed")),
}

every_kind = pytest.mark.parametrize("kind", LINKED)
every_detailed_kind = pytest.mark.parametrize("kind", DETAILS)


def key(kind: str) -> str:
    return f"{kind.removesuffix('s')}_id"


def short(kind: str) -> str:
    return f"{key(kind)}s"


def entry(kind: str, target: dict[str, Any], detail: str | None = None) -> dict[str, Any]:
    """Return a link in the format of requests."""
    link: dict[str, Any] = {key(kind): target["id"]}
    return link if detail is None else link | {DETAILS[kind][0]: detail}


def shown(kind: str, target: dict[str, Any], detail: str | None = None) -> dict[str, Any]:
    """Return a link in the format of responses; without a `detail`, with the default of the short form."""
    brief = {name: target[name] for name in ("id", "code", "name")}
    if kind not in DETAILS:
        return brief
    field, values = DETAILS[kind]
    return brief | {field: detail or values[0]}


async def read(client: httpx.AsyncClient, process: dict[str, Any]) -> dict[str, Any]:
    response = await client.get(f"/processes/{process['id']}")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


def faults(response: httpx.Response) -> list[tuple[str, str]]:
    return [(error["pointer"], error["code"]) for error in response.json()["errors"]]


@dataclass
class Linked:
    """A process with two links of each kind, and a third object of each kind that it is not linked to."""

    process: dict[str, Any]
    targets: dict[str, list[dict[str, Any]]]

    def path(self, kind: str, index: int) -> str:
        return f"/processes/{self.process['id']}/{kind}/{self.targets[kind][index]['id']}"


@pytest.fixture
async def linked(client: httpx.AsyncClient) -> Linked:
    targets = {kind: [await make(client, kind, code=f"{kind}-{number}") for number in range(3)] for kind in LINKED}
    body = {short(kind): [target["id"] for target in targets[kind][:2]] for kind in LINKED}
    return Linked(await make_process(client, **body), targets)


def test_details_of_links_are_those_that_clients_rely_on() -> None:
    assert {kind: DETAILS[kind] for kind in RELIED_ON} == RELIED_ON
    assert "locations" in set(LINKED) - DETAILS.keys()


async def test_fields_left_out_take_their_defaults(client: httpx.AsyncClient) -> None:
    made = await make_process(client)
    names = ("parent_id", "parent", "kind", "status", "criticality", "owner_id", "owner", *LINKED)
    assert [made[name] for name in names] == [None, None, "core", "draft", None, None, None, *([] for _ in LINKED)]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("kind", ("core", "management", "support")),
        ("status", ("draft", "in_review", "active", "retired")),
        ("criticality", ("low", "medium", "high", "critical")),
    ],
)
async def test_each_value_of_an_enumeration_is_kept_and_others_are_refused(
    client: httpx.AsyncClient, field: str, values: tuple[str, ...]
) -> None:
    made = await make_process(client)
    path = f"/processes/{made['id']}"
    for value in values:
        assert (await make_process(client, **{field: value}))[field] == value
        assert (await client.patch(path, json={field: value})).json()[field] == value
    for wrong in ("", values[0].upper(), "nonsense", 1, True, [values[0]]):
        for response in (
            await client.post("/processes", json={"name": "Process", field: wrong}),
            await client.patch(path, json={field: wrong}),
        ):
            assert (response.status_code, faults(response)) == (422, [(f"/{field}", "literal_error")])


@pytest.mark.parametrize("field", ["kind", "status", *LINKED, "department_ids", "role_ids"])
async def test_null_is_invalid_in_a_whole_body(client: httpx.AsyncClient, field: str) -> None:
    made = await make_process(client)
    body = {"name": "Process", field: None}
    for response in (
        await client.post("/processes", json=body),
        await client.put(f"/processes/{made['id']}", json=body),
    ):
        assert response.status_code == 422
        assert [error["pointer"] for error in response.json()["errors"]] == [f"/{field}"]


async def test_parent_and_owner_are_embedded_as_briefs(client: httpx.AsyncClient) -> None:
    owner = await make_user(client, code="ada", name="Ada")
    parent = await make_process(client, code="P-1", name="Sell")
    made = await make_process(client, owner_id=owner["id"], parent_id=parent["id"])
    assert (made["owner_id"], made["owner"]) == (owner["id"], {"id": owner["id"], "code": "ada", "name": "Ada"})
    assert (made["parent_id"], made["parent"]) == (parent["id"], {"id": parent["id"], "code": "P-1", "name": "Sell"})
    cleared = (await client.patch(f"/processes/{made['id']}", json={"owner_id": None, "parent_id": None})).json()
    assert [cleared[name] for name in ("owner_id", "owner", "parent_id", "parent")] == [None] * 4


async def test_every_unknown_reference_of_a_body_is_named(client: httpx.AsyncClient, linked: Linked) -> None:
    absent = 2**63 - 1
    known = {kind: linked.targets[kind][0] for kind in LINKED}
    body = {
        "name": "Process",
        "parent_id": absent,
        "owner_id": absent,
        "departments": [entry("departments", known["departments"]), {"department_id": absent}],
        "locations": [{"location_id": absent}],
        "resource_ids": [known["resources"]["id"], absent],
        "roles": [{"role_id": absent, "responsibility": "informed"}, entry("roles", known["roles"])],
    }
    pointers = {
        "/parent_id",
        "/owner_id",
        "/departments/1/department_id",
        "/locations/0/location_id",
        "/resource_ids/1",
        "/roles/0/role_id",
    }
    path = f"/processes/{linked.process['id']}"
    for response in (
        await client.post("/processes", json=body),
        await client.put(path, json=body),
        await client.patch(path, json=body),
    ):
        assert (response.status_code, response.json()["code"]) == (422, "unknown_reference")
        assert set(faults(response)) == {(pointer, "unknown_reference") for pointer in pointers}
    assert await read(client, linked.process) == linked.process


@every_kind
async def test_short_form_means_the_default(client: httpx.AsyncClient, linked: Linked, kind: str) -> None:
    first, second, _ = linked.targets[kind]
    assert linked.process[kind] == [shown(kind, first), shown(kind, second)]
    long = await make_process(client, **{kind: [entry(kind, second), entry(kind, first)]})
    assert long[kind] == linked.process[kind]


@every_detailed_kind
async def test_long_form_keeps_each_value_of_the_links_own_field(
    client: httpx.AsyncClient, linked: Linked, kind: str
) -> None:
    first, second, _ = linked.targets[kind]
    for value in DETAILS[kind][1]:
        made = await make_process(client, **{kind: [entry(kind, first, value), entry(kind, second)]})
        assert made[kind] == [shown(kind, first, value), shown(kind, second)]


@every_detailed_kind
@pytest.mark.parametrize("value", ["nonsense", "", "OWNER", 1])
async def test_unknown_value_of_the_links_own_field_is_refused(
    client: httpx.AsyncClient, linked: Linked, kind: str, value: Any
) -> None:
    field = DETAILS[kind][0]
    link = entry(kind, linked.targets[kind][0]) | {field: value}
    response = await client.post("/processes", json={"name": "Process", kind: [link]})
    assert (response.status_code, faults(response)) == (422, [(f"/{kind}/0/{field}", "literal_error")])
    response = await client.put(linked.path(kind, 0), json={field: value})
    assert (response.status_code, faults(response)) == (422, [(f"/{field}", "literal_error")])
    assert await read(client, linked.process) == linked.process


@every_kind
async def test_invalid_ids_are_rejected(client: httpx.AsyncClient, kind: str) -> None:
    for value in (0, -1, 2**63, 1.5, "1", True, None):
        response = await client.post("/processes", json={"name": "Process", short(kind): [value]})
        assert response.status_code == 422
        assert [error["pointer"] for error in response.json()["errors"]] == [f"/{short(kind)}/0"]
        response = await client.post("/processes", json={"name": "Process", kind: [{key(kind): value}]})
        assert response.status_code == 422
        assert [error["pointer"] for error in response.json()["errors"]] == [f"/{kind}/0/{key(kind)}"]


@every_kind
async def test_more_than_a_thousand_links_of_a_kind_are_refused(client: httpx.AsyncClient, kind: str) -> None:
    response = await client.post("/processes", json={"name": "Process", short(kind): [1] * 1001})
    assert (response.status_code, faults(response)) == (422, [(f"/{short(kind)}", "too_long")])


@every_kind
async def test_both_forms_together_are_rejected(client: httpx.AsyncClient, linked: Linked, kind: str) -> None:
    target = linked.targets[kind][0]
    body = {"name": "Process", kind: [entry(kind, target)], short(kind): [target["id"]]}
    path = f"/processes/{linked.process['id']}"
    for response in (
        await client.post("/processes", json=body),
        await client.put(path, json=body),
        await client.patch(path, json={kind: [], short(kind): []}),
        await client.patch(path, json={kind: None, short(kind): [target["id"]]}),
    ):
        assert (response.status_code, faults(response)) == (422, [(f"/{short(kind)}", "both_forms")])


@pytest.mark.parametrize("kind", ["departments", "resources"])
async def test_contradicting_entries_are_refused(client: httpx.AsyncClient, linked: Linked, kind: str) -> None:
    target = linked.targets[kind][0]
    links = [entry(kind, target, value) for value in DETAILS[kind][1][:2]]
    path = f"/processes/{linked.process['id']}"
    for response in (
        await client.post("/processes", json={"name": "Process", kind: links}),
        await client.put(path, json={"name": "Process", kind: links}),
        await client.patch(path, json={kind: links}),
    ):
        assert (response.status_code, faults(response)) == (422, [(f"/{kind}", "contradicting_links")])


@every_kind
async def test_identical_entries_are_one_link(client: httpx.AsyncClient, linked: Linked, kind: str) -> None:
    target = linked.targets[kind][0]
    explicit = DETAILS[kind][1][0] if kind in DETAILS else None
    for body in (
        {short(kind): [target["id"]] * 3},
        {kind: [entry(kind, target), entry(kind, target, explicit), entry(kind, target)]},
    ):
        assert (await make_process(client, **body))[kind] == [shown(kind, target)]


@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [("departments", "owner", "several_owners"), ("roles", "accountable", "several_accountable")],
)
async def test_at_most_one_owner_and_one_accountable_role(
    client: httpx.AsyncClient, linked: Linked, kind: str, value: str, code: str
) -> None:
    first, second, _ = linked.targets[kind]
    both = {kind: [entry(kind, first, value), entry(kind, second, value)]}
    path = f"/processes/{linked.process['id']}"
    for response in (
        await client.post("/processes", json={"name": "Process"} | both),
        await client.put(path, json={"name": "Process"} | both),
        await client.patch(path, json=both),
    ):
        assert (response.status_code, faults(response)) == (422, [(f"/{kind}", code)])

    body = {DETAILS[kind][0]: value}
    assert (await client.put(linked.path(kind, 0), json=body)).status_code == 204
    before = await read(client, linked.process)
    refused = await client.put(linked.path(kind, 1), json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert faults(refused) == [(f"/{DETAILS[kind][0]}", "conflict")]
    assert await read(client, linked.process) == before
    # Setting the same link again is allowed.
    assert (await client.put(linked.path(kind, 0), json=body)).status_code == 204
    assert await read(client, linked.process) == before


async def test_role_may_have_several_responsibilities(client: httpx.AsyncClient) -> None:
    role, other = await make_role(client), await make_role(client)
    every = DETAILS["roles"][1]
    links = [entry("roles", role, value) for value in every] + [entry("roles", other, "informed")]
    made = await make_process(client, roles=links)
    assert made["roles"] == [shown("roles", role, value) for value in sorted(every)] + [
        shown("roles", other, "informed")
    ]


async def test_put_replaces_every_link(client: httpx.AsyncClient, linked: Linked) -> None:
    path = f"/processes/{linked.process['id']}"
    body: dict[str, Any] = {"name": linked.process["name"]}
    for kind in LINKED:
        _, second, third = linked.targets[kind]
        value = DETAILS[kind][1][2] if kind in DETAILS else None
        body[kind] = [entry(kind, second, value), entry(kind, third)]
    response = await client.put(path, json=body)
    assert response.status_code == 200
    expected = linked.process | {"version": 2, "updated_at": response.json()["updated_at"]}
    for kind in LINKED:
        _, second, third = linked.targets[kind]
        expected[kind] = [shown(kind, second, DETAILS[kind][1][2] if kind in DETAILS else None), shown(kind, third)]
    assert response.json() == expected
    bare = (await client.put(path, json={"name": linked.process["name"]})).json()
    assert bare == expected | {kind: [] for kind in LINKED} | {"version": 3, "updated_at": bare["updated_at"]}


@pytest.mark.parametrize(
    ("kind", "special", "usual"), [("departments", "owner", "customer"), ("roles", "accountable", "informed")]
)
async def test_owner_and_participant_are_swapped_in_one_put(
    client: httpx.AsyncClient, linked: Linked, kind: str, special: str, usual: str
) -> None:
    first, second, _ = linked.targets[kind]
    made = await make_process(client, **{kind: [entry(kind, first, special), entry(kind, second, usual)]})
    for version, (old, new) in enumerate([(first, second), (second, first), (first, second)], start=2):
        body = {"name": made["name"], kind: [entry(kind, old, usual), entry(kind, new, special)]}
        response = await client.put(f"/processes/{made['id']}", json=body)
        assert response.status_code == 200, response.text
        assert response.json()["version"] == version
        assert {link["id"]: link[DETAILS[kind][0]] for link in response.json()[kind]} == {
            old["id"]: usual,
            new["id"]: special,
        }


@every_kind
@pytest.mark.parametrize("form", ["long", "short"])
async def test_patch_replaces_only_the_named_list(
    client: httpx.AsyncClient, linked: Linked, kind: str, form: str
) -> None:
    third = linked.targets[kind][2]
    body = {kind: [entry(kind, third)]} if form == "long" else {short(kind): [third["id"]]}
    response = await client.patch(f"/processes/{linked.process['id']}", json=body)
    assert response.status_code == 200
    assert response.json() == linked.process | {
        kind: [shown(kind, third)],
        "version": 2,
        "updated_at": response.json()["updated_at"],
    }


@every_kind
@pytest.mark.parametrize("form", ["long", "short"])
@pytest.mark.parametrize("nothing", [None, []])
async def test_patch_with_null_or_nothing_clears_the_list(
    client: httpx.AsyncClient, linked: Linked, kind: str, form: str, nothing: Any
) -> None:
    body = {kind if form == "long" else short(kind): nothing}
    response = await client.patch(f"/processes/{linked.process['id']}", json=body)
    assert response.status_code == 200
    assert response.json() == linked.process | {
        kind: [],
        "version": 2,
        "updated_at": response.json()["updated_at"],
    }


async def test_patch_of_a_field_keeps_all_links(client: httpx.AsyncClient, linked: Linked) -> None:
    patched = (await client.patch(f"/processes/{linked.process['id']}", json={"status": "active"})).json()
    assert patched == linked.process | {"status": "active", "version": 2, "updated_at": patched["updated_at"]}


async def test_request_with_many_changes_adds_one_version(client: httpx.AsyncClient, linked: Linked) -> None:
    body = {short(kind): [linked.targets[kind][2]["id"]] for kind in LINKED} | {"name": "New", "status": "active"}
    path = f"/processes/{linked.process['id']}"
    assert (await client.put(path, json=body)).json()["version"] == 2
    assert (await client.patch(path, json={short(kind): [] for kind in LINKED} | {"kind": "support"})).json()[
        "version"
    ] == 3


async def test_request_that_changes_nothing_keeps_the_version(client: httpx.AsyncClient, linked: Linked) -> None:
    path = f"/processes/{linked.process['id']}"
    same = {short(kind): [target["id"] for target in linked.targets[kind][1::-1]] for kind in LINKED}
    long = {kind: [entry(kind, target) for target in linked.targets[kind][:2]] for kind in LINKED}
    for response in (
        await client.put(path, json={"name": linked.process["name"]} | same),
        await client.put(path, json={"name": linked.process["name"]} | long),
        await client.patch(path, json=same),
        await client.patch(path, json={}),
    ):
        assert (response.status_code, response.json()) == (200, linked.process)
    for kind in LINKED:
        assert (await client.put(linked.path(kind, 0))).status_code == 204
        assert (await client.delete(linked.path(kind, 2))).status_code == 204
    assert await read(client, linked.process) == linked.process


@every_kind
@pytest.mark.parametrize("by", ["id", "code"])
async def test_one_link_is_added_and_removed(client: httpx.AsyncClient, linked: Linked, kind: str, by: str) -> None:
    await client.patch(f"/processes/{linked.process['id']}", json={"code": "P-1"})
    before = await read(client, linked.process)
    third = linked.targets[kind][2]
    path = linked.path(kind, 2) if by == "id" else f"/processes/code:p-1/{kind}/code:{third['code'].upper()}"
    for _ in range(2):
        response = await client.put(path)
        assert (response.status_code, response.content) == (204, b"")
        now = await read(client, linked.process)
        assert now == before | {
            kind: [*before[kind], shown(kind, third)],
            "version": before["version"] + 1,
            "updated_at": now["updated_at"],
        }
    for _ in range(2):
        response = await client.delete(path)
        assert (response.status_code, response.content) == (204, b"")
        now = await read(client, linked.process)
        assert now == before | {"version": before["version"] + 2, "updated_at": now["updated_at"]}


@pytest.mark.parametrize("kind", ["departments", "resources"])
async def test_link_call_changes_the_links_own_field(client: httpx.AsyncClient, linked: Linked, kind: str) -> None:
    first, second, _ = linked.targets[kind]
    field, values = DETAILS[kind]
    for version, value in enumerate((*values[1:], values[0]), start=2):
        assert (await client.put(linked.path(kind, 0), json={field: value})).status_code == 204
        now = await read(client, linked.process)
        assert (now["version"], now[kind]) == (version, [shown(kind, first, value), shown(kind, second)])
    # Without a body the link is reset to the default.
    await client.put(linked.path(kind, 0), json={field: values[2]})
    assert (await client.put(linked.path(kind, 0))).status_code == 204
    assert (await read(client, linked.process))[kind] == [shown(kind, first), shown(kind, second)]


async def test_link_call_of_a_role_adds_a_responsibility(client: httpx.AsyncClient, linked: Linked) -> None:
    first, second, _ = linked.targets["roles"]
    path = linked.path("roles", 0)
    assert (await client.put(path, json={"responsibility": "informed"})).status_code == 204
    assert (await client.put(path, json={"responsibility": "accountable"})).status_code == 204
    now = await read(client, linked.process)
    assert now["version"] == 3
    responsibilities = ("accountable", "informed", "responsible")
    assert now["roles"] == [shown("roles", first, each) for each in responsibilities] + [shown("roles", second)]

    assert (await client.delete(path, params={"responsibility": "informed"})).status_code == 204
    assert (await client.delete(path, params={"responsibility": "consulted"})).status_code == 204
    now = await read(client, linked.process)
    assert now["version"] == 4
    assert now["roles"] == [shown("roles", first, each) for each in ("accountable", "responsible")] + [
        shown("roles", second)
    ]

    assert (await client.delete(path)).status_code == 204
    now = await read(client, linked.process)
    assert (now["version"], now["roles"]) == (5, [shown("roles", second)])


async def test_unknown_responsibility_to_remove_is_refused(client: httpx.AsyncClient, linked: Linked) -> None:
    response = await client.delete(linked.path("roles", 0), params={"responsibility": "nonsense"})
    assert (response.status_code, faults(response)) == (422, [("/responsibility", "literal_error")])
    assert await read(client, linked.process) == linked.process


@every_kind
async def test_link_call_on_an_unknown_object_is_not_found(
    client: httpx.AsyncClient, linked: Linked, kind: str
) -> None:
    target = linked.targets[kind][0]["id"]
    noun = kind.removesuffix("s")
    for path, missing in (
        (f"/processes/9223372036854775807/{kind}/{target}", "process"),
        (f"/processes/code:absent/{kind}/{target}", "process"),
        (f"/processes/{linked.process['id']}/{kind}/9223372036854775807", noun),
        (f"/processes/{linked.process['id']}/{kind}/code:absent", noun),
        (f"/processes/{linked.process['id']}/{kind}/x", noun),
    ):
        for response in (await client.put(path), await client.delete(path)):
            assert (response.status_code, response.json()["detail"]) == (404, f"There is no such {missing}.")
    assert await read(client, linked.process) == linked.process


@every_kind
async def test_link_call_with_a_stale_tag_is_refused(client: httpx.AsyncClient, linked: Linked, kind: str) -> None:
    path = f"/processes/{linked.process['id']}"
    stale = (await client.get(path)).headers["etag"]
    assert (await client.put(linked.path(kind, 2), headers={"If-Match": stale})).status_code == 204
    fresh = (await client.get(path)).headers["etag"]
    before = await read(client, linked.process)
    for response in (
        await client.put(linked.path(kind, 0), headers={"If-Match": stale}),
        await client.delete(linked.path(kind, 0), headers={"If-Match": stale}),
    ):
        assert (response.status_code, response.headers["etag"]) == (412, fresh)
    for condition in ("*", fresh, f"W/{fresh}"):
        for response in (
            await client.put(linked.path(kind, 0), headers={"If-None-Match": condition}),
            await client.put(linked.path(kind, 2), headers={"If-None-Match": condition}),
            await client.delete(linked.path(kind, 0), headers={"If-None-Match": condition}),
        ):
            assert (response.status_code, response.headers["etag"]) == (412, fresh)
    assert await read(client, linked.process) == before
    matching = {"If-Match": fresh, "If-None-Match": stale}
    assert (await client.delete(linked.path(kind, 2), headers=matching)).status_code == 204
    assert (await read(client, linked.process))[kind] == linked.process[kind]


@every_detailed_kind
async def test_link_call_rejects_unknown_fields(client: httpx.AsyncClient, linked: Linked, kind: str) -> None:
    response = await client.put(linked.path(kind, 0), json={"nonsense": 1})
    assert (response.status_code, faults(response)) == (422, [("/nonsense", "extra_forbidden")])


@every_kind
@pytest.mark.parametrize("by", ["id", "code"])
async def test_processes_of_one_object_are_listed(
    client: httpx.AsyncClient, linked: Linked, kind: str, by: str
) -> None:
    first, _, third = linked.targets[kind]
    second = await make_process(client, **{short(kind): [first["id"]]})
    await make_process(client)

    async def list_processes(target: dict[str, Any], query: str = "") -> dict[str, Any]:
        reference = target["id"] if by == "id" else f"code:{target['code'].upper()}"
        response = await client.get(f"/{kind}/{reference}/processes{query}")
        assert response.status_code == 200
        page: dict[str, Any] = response.json()
        return page

    assert (await list_processes(first))["items"] == [linked.process, second]
    assert (await list_processes(first, "?sort=-id&count=exact"))["items"] == [second, linked.process]
    page = await list_processes(first, "?limit=1&count=exact")
    assert (page["items"], page["total"]) == ([linked.process], 2)
    following = (await client.get(page["next"].removeprefix("/api/v1"))).json()
    assert (following["items"], following["next"]) == ([second], None)
    assert await list_processes(third, "?count=exact") == {"items": [], "next": None, "prev": None, "total": 0}
    for reference in ("9223372036854775807", "code:absent", "x"):
        response = await client.get(f"/{kind}/{reference}/processes")
        assert (response.status_code, response.json()["detail"]) == (404, f"There is no such {kind.removesuffix('s')}.")
    assert (await client.get(f"/{kind}/{first['id']}/processes?limt=1")).status_code == 400


async def test_process_is_listed_once_for_a_role_with_several_responsibilities(client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    made = await make_process(client, roles=[entry("roles", role, value) for value in DETAILS["roles"][1]])
    page = (await client.get(f"/roles/{role['id']}/processes?count=exact")).json()
    assert (page["items"], page["total"]) == ([made], 1)


async def test_deleting_a_process_deletes_its_links(client: httpx.AsyncClient, linked: Linked) -> None:
    assert (await client.delete(f"/processes/{linked.process['id']}")).status_code == 204
    for kind in LINKED:
        for target in linked.targets[kind]:
            assert (await client.get(f"/{kind}/{target['id']}/processes")).json()["items"] == []
            assert (await client.delete(f"/{kind}/{target['id']}")).status_code == 204


@every_kind
async def test_objects_linked_to_a_process_cannot_be_deleted(
    client: httpx.AsyncClient, linked: Linked, kind: str
) -> None:
    first = linked.targets[kind][0]
    await client.patch(f"/processes/{linked.process['id']}", json={"code": "P-1"})
    response = await client.delete(f"/{kind}/{first['id']}")
    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "still_referenced")
    assert problem["detail"] == f"The {kind.removesuffix('s')} is still referenced by 1 process."
    brief = {"type": "processes", "id": linked.process["id"], "code": "P-1", "name": linked.process["name"]}
    expected = {"total": 1, "counts": {"processes": 1}, "first": [brief], "has_unreadable": False}
    assert problem["dependants"] == expected
    assert (await client.delete(linked.path(kind, 0))).status_code == 204
    assert (await client.delete(f"/{kind}/{first['id']}")).status_code == 204


async def test_role_with_several_responsibilities_is_one_dependant(client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    await make_process(client, roles=[entry("roles", role, value) for value in DETAILS["roles"][1]])
    response = await client.delete(f"/roles/{role['id']}")
    assert (response.status_code, response.json()["dependants"]["counts"]) == (409, {"processes": 1})


async def test_dependants_are_counted_by_collection(client: httpx.AsyncClient) -> None:
    department = await make_department(client)
    child = await make_department(client, parent_id=department["id"])
    user = await make_user(client, department_id=department["id"])
    role = await make_role(client, department_id=department["id"])
    resource = await make_resource(client, owner_department_id=department["id"])
    processes = [await make_process(client, department_ids=[department["id"]]) for _ in range(2)]
    response = await client.delete(f"/departments/{department['id']}")
    assert response.status_code == 409
    dependants = response.json()["dependants"]
    assert dependants["total"] == 6
    assert dependants["counts"] == {"departments": 1, "processes": 2, "resources": 1, "roles": 1, "users": 1}
    expected = [("departments", child), *(("processes", process) for process in processes)]
    expected += [("resources", resource), ("roles", role), ("users", user)]
    assert [(each["type"], each["id"]) for each in dependants["first"]] == [
        (kind, made["id"]) for kind, made in expected
    ]


async def test_location_that_resources_and_processes_use_cannot_be_deleted(client: httpx.AsyncClient) -> None:
    location = await make_location(client)
    await make_resource(client, location_id=location["id"])
    await make_process(client, location_ids=[location["id"]])
    response = await client.delete(f"/locations/{location['id']}")
    assert (response.status_code, response.json()["dependants"]["counts"]) == (409, {"processes": 1, "resources": 1})


async def test_renamed_target_is_shown_by_its_new_name(client: httpx.AsyncClient, linked: Linked) -> None:
    path = f"/processes/{linked.process['id']}"
    before = (await client.get(path)).headers["etag"]
    role = linked.targets["roles"][0]
    await client.patch(f"/roles/{role['id']}", json={"name": "Renamed"})
    response = await client.get(path, headers={"If-None-Match": before})
    assert response.status_code == 200
    assert response.json()["roles"][0]["name"] == "Renamed"
    assert response.json()["version"] == linked.process["version"]
