"""Bulk writes and concurrent writers. Everything here is committed, to one database for all tests."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import URL

from app.main import create_app
from tests.builders import make, make_department, make_location, make_process, make_role, make_user
from tests.catalogue import every_hierarchy
from tests.conftest import Committed, new_database, settings_for
from tests.domains.shared.bulk import Item, create, send, write
from tests.test_races import read, send_together, statuses

ROUNDS = 6


@pytest.fixture(scope="module")
async def client(server_url: URL, template: URL) -> AsyncIterator[httpx.AsyncClient]:
    async with new_database(server_url, template.database) as url:
        register = Committed(create_app(settings_for(url)), url)
        # With all connections open, requests that are sent together run together.
        await send_together(*(register.client.get("/departments") for _ in range(10)))
        yield register.client
        await register.client.aclose()
        await register.app.state.database.dispose()


def update(made: dict[str, Any], **data: Any) -> Item:
    return {"op": "update", "id": made["id"], "data": data}


def delete(made: dict[str, Any]) -> Item:
    return {"op": "delete", "id": made["id"]}


def codes(responses: list[httpx.Response]) -> list[str]:
    return [response.json()["code"] for response in responses if response.status_code == 409]


@pytest.mark.parametrize(
    ("collection", "member", "value"),
    [("departments", "code", "c{}"), ("processes", "external_id", "x{}"), ("users", "email", "c{}@register.example")],
)
async def test_one_of_two_batches_with_the_same_keys_wins(
    client: httpx.AsyncClient, collection: str, member: str, value: str
) -> None:
    for number in range(ROUNDS):
        items = [
            create(**{"name": f"Twin {n}", "email": f"{number}-{n}@x.example", member: value.format(f"{number}-{n}")})
            for n in range(20)
        ]
        for item in items:
            if collection != "users":
                del item["data"]["email"]
        responses = await send_together(send(client, collection, items), send(client, collection, items[::-1]))
        assert statuses(responses) == [200, 409]
        assert codes(responses) == ["duplicate"]
        (refused,) = (response.json() for response in responses if response.status_code == 409)
        assert len(refused["errors"]) == 20
    total = (await read(client, f"/{collection}?count=exact&name__ic=twin"))["total"]
    assert total == 20 * ROUNDS


async def test_two_upserts_with_the_same_new_codes_both_succeed(client: httpx.AsyncClient) -> None:
    for number in range(ROUNDS):
        one, other = (
            [{"op": "upsert", "code": f"U{number}-{n}", "data": {"name": name}} for n in range(10)]
            for name in ("One", "Other")
        )
        responses = await send_together(send(client, "roles", one), send(client, "roles", other[::-1]))
        assert statuses(responses) == [200, 200]
        counts = [response.json()["counts"] for response in responses]
        assert {(each["created"], each["updated"]) for each in counts} == {(10, 0), (0, 10)}
        found = [await read(client, f"/roles/code:U{number}-{n}") for n in range(10)]
        assert ({each["version"] for each in found}, len({each["name"] for each in found})) == ({2}, 1)


async def test_batch_and_single_create_with_one_code(client: httpx.AsyncClient) -> None:
    for number in range(ROUNDS):
        items = [create(name="Many", code=f"S{number}-{n}") for n in range(10)]
        many, one = await send_together(
            send(client, "locations", items),
            client.post("/locations", json={"name": "One", "code": f"s{number}-5"}),
        )
        assert (many.status_code, one.status_code) in {(200, 409), (409, 201)}
        found = await client.get(f"/locations/code:S{number}-0")
        assert found.status_code == (200 if many.status_code == 200 else 404)


async def test_batches_in_opposite_orders_do_not_deadlock(client: httpx.AsyncClient) -> None:
    made = [await make_department(client) for _ in range(20)]
    roles = [(await make_role(client))["id"] for _ in range(10)]
    processes = [await make_process(client) for _ in range(10)]
    for number in range(ROUNDS):
        links: dict[str, Any] = {"department_ids": [each["id"] for each in made], "role_ids": roles}
        backwards = {name: ids[::-1] for name, ids in links.items()}
        responses = await send_together(
            send(client, "departments", [update(each, name=f"Forth {number}") for each in made]),
            send(client, "departments", [update(each, name=f"Back {number}") for each in made[::-1]]),
            send(client, "processes", [update(each, name=f"Forth {number}", **links) for each in processes]),
            send(client, "processes", [update(each, name=f"Back {number}", **backwards) for each in processes[::-1]]),
            client.patch(f"/departments/{made[-1]['id']}", json={"description": f"D {number}"}),
        )
        assert statuses(responses) == [200] * 5
    found = [await read(client, f"/departments/{each['id']}") for each in made]
    assert len({each["name"] for each in found}) == 1
    assert [each["version"] for each in found] == [1 + 2 * ROUNDS] * 19 + [1 + 3 * ROUNDS]


async def test_batch_and_single_writes_of_the_same_objects(client: httpx.AsyncClient) -> None:
    for number in range(ROUNDS):
        made = [await make_location(client, description="Old") for _ in range(8)]
        changed, replaced, deleted = await send_together(
            send(client, "locations", [update(each, name=f"Many {number}") for each in made]),
            client.put(f"/locations/{made[2]['id']}", json={"name": "One"}),
            client.delete(f"/locations/{made[5]['id']}"),
        )
        assert (replaced.status_code, deleted.status_code) == (200, 204)
        assert changed.status_code in {200, 422}
        if changed.status_code == 422:
            (fault,) = changed.json()["errors"]
            assert (fault["pointer"], fault["code"]) == ("/items/5/id", "not_found")
        found = [await client.get(f"/locations/{each['id']}") for each in made]
        assert [each.status_code for each in found] == [200] * 5 + [404] + [200] * 2
        version = 2 if changed.status_code == 200 else 1
        assert [found[n].json()["version"] for n in (0, 1, 3, 4, 6, 7)] == [version] * 6
        assert found[2].json()["version"] == version + 1
        assert found[2].json()["description"] is None


async def test_one_of_two_batches_with_the_same_version_wins(client: httpx.AsyncClient) -> None:
    for _ in range(ROUNDS):
        made = await make_role(client)
        path = f"/roles/{made['id']}"
        tag = {"If-Match": (await client.get(path)).headers["etag"]}
        many, one = await send_together(
            send(client, "roles", [update(made, name="Many") | {"version": 1}]),
            client.patch(path, json={"name": "One"}, headers=tag),
        )
        assert (many.status_code, one.status_code) in {(200, 412), (409, 200)}
        assert (await read(client, path))["version"] == 2


@every_hierarchy
async def test_moves_that_form_a_cycle_together_do_not_all_succeed(
    client: httpx.AsyncClient, collection: str, reference: str
) -> None:
    for number in range(ROUNDS):
        one, other, third = [await make(client, collection) for _ in range(3)]
        moves = [
            send(
                client,
                collection,
                [update(one, **{reference: other["id"]}), update(third, description="Same batch")],
            ),
            send(client, collection, [update(other, **{reference: one["id"]})])
            if number % 2
            else client.patch(f"/{collection}/{other['id']}", json={reference: one["id"]}),
        ]
        responses = await send_together(*moves)
        assert statuses(responses) == [200, 409]
        assert codes(responses) == ["cycle"]
        parents = [(await read(client, f"/{collection}/{each['id']}"))[reference] for each in (one, other)]
        assert parents in ([other["id"], None], [None, one["id"]])


@pytest.mark.parametrize(
    ("kind", "field", "value"), [("departments", "relation", "owner"), ("roles", "responsibility", "accountable")]
)
async def test_one_owner_and_one_accountable_role(client: httpx.AsyncClient, kind: str, field: str, value: str) -> None:
    targets = [(await make(client, kind))["id"] for _ in range(2)]
    target = f"{kind.removesuffix('s')}_id"
    for _ in range(ROUNDS):
        processes = [await make_process(client) for _ in range(3)]
        links = {kind: [{target: targets[0], field: value}]}
        many, one = await send_together(
            send(client, "processes", [update(each, **links) for each in processes]),
            client.put(f"/processes/{processes[1]['id']}/{kind}/{targets[1]}", json={field: value}),
        )
        # A batch replaces existing links; a single link is rejected next to another.
        assert (many.status_code, one.status_code) in {(200, 204), (200, 409)}
        found = [(await read(client, f"/processes/{each['id']}"))[kind] for each in processes]
        assert [[(link["id"], link[field]) for link in links] for links in found] == [[(targets[0], value)]] * 3


async def test_links_to_objects_that_a_batch_deletes(client: httpx.AsyncClient) -> None:
    for _ in range(ROUNDS):
        gone = [await make_department(client) for _ in range(5)]
        process = await make_process(client)
        deleted, linked, single = await send_together(
            send(client, "departments", [delete(each) for each in gone]),
            send(client, "processes", [create(name="New", department_ids=[each["id"] for each in gone[::-1]])]),
            client.put(f"/processes/{process['id']}/departments/{gone[2]['id']}"),
        )
        if deleted.status_code == 200:
            assert (linked.status_code, linked.json()["code"]) == (422, "unknown_reference")
            assert {each["code"] for each in linked.json()["errors"]} <= {"unknown_reference"}
            assert single.status_code == 404
        else:
            assert (deleted.status_code, deleted.json()["code"]) == (409, "still_referenced")
            assert 200 in {linked.status_code, single.status_code - 4}
        left = [(await client.get(f"/departments/{each['id']}")).status_code for each in gone]
        assert left == [404 if deleted.status_code == 200 else 200] * 5


async def test_new_references_between_two_objects_do_not_deadlock(client: httpx.AsyncClient) -> None:
    for number in range(ROUNDS):
        users, departments = [], []
        for _ in range(4):
            users.append(await make_user(client))
            departments.append(await make_department(client))
        heads = [update(each, head_id=user["id"]) for each, user in zip(departments, users, strict=True)]
        members = [
            update(user, department_id=each["id"], external_id=f"m/{number}/{user['id']}")
            for each, user in zip(departments, users, strict=True)
        ]
        responses = await send_together(send(client, "departments", heads), send(client, "users", members[::-1]))
        assert statuses(responses) == [200, 200]


async def test_one_administrator_stays(client: httpx.AsyncClient) -> None:
    (first,) = (await read(client, "/users?access_level=admin"))["items"]
    for _ in range(ROUNDS):
        others = await write(
            client, "users", *(create(name="A", email=f"a{n}@x.example", access_level="admin") for n in range(2))
        )
        many, one = await send_together(
            send(client, "users", [update(each, is_active=False) for each in others]),
            client.patch(f"/users/{others[0]['id']}", json={"access_level": "viewer"}),
        )
        assert statuses([many, one]) == [200, 200]
        # The first administrator is the last one now, and must stay.
        refused = await send(client, "users", [update(first, is_active=False)])
        assert (refused.status_code, refused.json()["code"]) == (409, "last_administrator")
        await write(client, "users", *(delete(each) for each in others))
