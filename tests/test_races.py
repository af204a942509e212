"""Concurrent requests, and failing commits. The tests commit, to one database for all of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import httpx
import pytest
import structlog
from sqlalchemy import URL

from app.domains.shared import router as shared_router
from app.main import create_app
from tests.builders import make, make_department, make_process, make_role, make_user
from tests.catalogue import LINKED, every_hierarchy
from tests.conftest import Committed, connected, new_database, settings_for, until_lock_wait

ROUNDS = 12


async def send_together(*requests: Awaitable[httpx.Response]) -> list[httpx.Response]:
    """Send requests together. No race may end in a server error, not even in the 503 of a deadlock."""
    responses = await asyncio.gather(*requests)
    for response in responses:
        assert response.status_code < 500, response.text
    return list(responses)


def statuses(responses: list[httpx.Response]) -> list[int]:
    return sorted(response.status_code for response in responses)


async def read(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    response = await client.get(path)
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


@pytest.fixture(scope="module")
async def register(server_url: URL, template: URL) -> AsyncIterator[Committed]:
    async with new_database(server_url, template.database) as url:
        register = Committed(create_app(settings_for(url)), url)
        # With all connections open, requests that are sent together run together.
        await send_together(*(register.client.get("/departments") for _ in range(10)))
        yield register
        await register.client.aclose()
        await register.app.state.database.dispose()


@pytest.fixture
def client(register: Committed) -> httpx.AsyncClient:
    return register.client


async def query(register: Committed, *statements: str) -> list[asyncpg.Record]:
    async with connected(register.url) as connection:
        for statement in statements:
            rows: list[asyncpg.Record] = await connection.fetch(statement)
    return rows


@contextmanager
def without_log() -> Iterator[None]:
    """Suppress the log of expected failures."""
    with structlog.testing.capture_logs():
        yield


@every_hierarchy
@pytest.mark.parametrize("size", [2, 3])
async def test_concurrent_moves_that_form_a_cycle_do_not_all_succeed(
    client: httpx.AsyncClient, collection: str, reference: str, size: int
) -> None:
    for _ in range(ROUNDS):
        nodes = [await make(client, collection) for _ in range(size)]
        following = [*nodes[1:], nodes[0]]
        responses = await send_together(
            *(
                client.patch(f"/{collection}/{node['id']}", json={reference: parent["id"]})
                for node, parent in zip(nodes, following, strict=True)
            )
        )
        assert statuses(responses) == [200] * (size - 1) + [409]
        assert [response.json()["code"] for response in responses if response.status_code == 409] == ["cycle"]
        found = [await read(client, f"/{collection}/{node['id']}") for node in nodes]
        # The rejected move alone leaves its object at the top.
        assert [node[reference] for node in found].count(None) == 1


async def test_move_below_an_object_that_is_being_deleted(client: httpx.AsyncClient) -> None:
    for _ in range(ROUNDS):
        parent, child = await make_department(client), await make_department(client)
        moved, deleted = await send_together(
            client.patch(f"/departments/{child['id']}", json={"parent_id": parent["id"]}),
            client.delete(f"/departments/{parent['id']}"),
        )
        assert (moved.status_code, deleted.status_code) in {(200, 409), (422, 204)}
        now = await read(client, f"/departments/{child['id']}")
        assert now["parent_id"] == (parent["id"] if moved.status_code == 200 else None)


async def test_concurrent_replacements_never_mix(client: httpx.AsyncClient) -> None:
    targets = {kind: [(await make(client, kind))["id"] for _ in range(6)] for kind in LINKED}
    for number in range(ROUNDS):
        first = {"name": f"First {number}"} | {f"{kind.removesuffix('s')}_ids": targets[kind][:4] for kind in LINKED}
        second: dict[str, Any] = {"name": f"Second {number}"} | {
            f"{kind.removesuffix('s')}_ids": targets[kind][:1:-1] for kind in LINKED
        }
        process = await make_process(client, department_ids=targets["departments"])
        path = f"/processes/{process['id']}"
        responses = await send_together(*(client.put(path, json=body) for body in (first, second)))
        assert statuses(responses) == [200, 200]
        documents = sorted((response.json() for response in responses), key=lambda each: int(each["version"]))
        assert [document["version"] for document in documents] == [2, 3]
        for body, response in zip((first, second), responses, strict=True):
            for kind in LINKED:
                wanted = sorted(body[f"{kind.removesuffix('s')}_ids"])
                assert [link["id"] for link in response.json()[kind]] == wanted
        assert await read(client, path) == documents[-1]


async def test_replacements_in_opposite_orders_do_not_deadlock(client: httpx.AsyncClient) -> None:
    roles = [await make_role(client) for _ in range(10)]
    processes = [await make_process(client) for _ in range(4)]
    ids = [role["id"] for role in roles]
    for number in range(ROUNDS):
        responses = await send_together(
            *(
                client.patch(f"/processes/{process['id']}", json={"role_ids": ids[::step], "name": f"N{number}"})
                for process, step in zip(processes, (1, -1, 2, -3), strict=True)
            ),
            *(client.patch(f"/roles/{role['id']}", json={"name": f"N{number}"}) for role in roles[:4]),
        )
        assert statuses(responses) == [200] * 8


async def test_concurrent_mutual_references_do_not_deadlock(client: httpx.AsyncClient) -> None:
    for number in range(ROUNDS):
        first, second = await make_user(client), await make_user(client)
        department = await make_department(client)
        responses = await send_together(
            client.patch(f"/users/{first['id']}", json={"manager_id": second["id"], "external_id": f"1/{number}"}),
            client.patch(
                f"/users/{second['id']}",
                json={"external_id": f"2/{number}", "department_id": department["id"]},
            ),
            client.patch(
                f"/departments/{department['id']}", json={"head_id": second["id"], "external_id": f"3/{number}"}
            ),
        )
        assert statuses(responses) == [200, 200, 200]


@pytest.mark.parametrize(
    ("collection", "bodies"),
    [
        ("departments", [{"code": "fin-{}"}, {"code": "FIN-{}"}]),
        ("processes", [{"external_id": "a/{}"}, {"external_id": "a/{}"}]),
        ("users", [{"email": "ada{}@register.example"}, {"email": "ADA{}@register.example"}]),
    ],
)
async def test_one_of_two_creates_with_the_same_key_succeeds(
    client: httpx.AsyncClient, collection: str, bodies: list[dict[str, str]]
) -> None:
    for number in range(ROUNDS):
        filled = [{name: value.format(number) for name, value in body.items()} for body in bodies]
        responses = await send_together(
            *(client.post(f"/{collection}", json={"name": "One of two"} | body) for body in filled)
        )
        assert statuses(responses) == [201, 409]
        assert [each.json()["code"] for each in responses if each.status_code == 409] == ["duplicate"]
    listed = await read(client, f"/{collection}?limit=200&sort=-id")
    assert len([item for item in listed["items"] if item["name"] == "One of two"]) == ROUNDS


@pytest.mark.parametrize(
    ("kind", "field", "value"), [("departments", "relation", "owner"), ("roles", "responsibility", "accountable")]
)
async def test_one_of_two_concurrent_owners_is_stored(
    client: httpx.AsyncClient, kind: str, field: str, value: str
) -> None:
    targets = [await make(client, kind) for _ in range(2)]
    for _ in range(ROUNDS):
        process = await make_process(client)
        path = f"/processes/{process['id']}"
        responses = await send_together(
            *(client.put(f"{path}/{kind}/{target['id']}", json={field: value}) for target in targets)
        )
        assert statuses(responses) == [204, 409]
        winner = targets[[response.status_code for response in responses].index(204)]
        now = await read(client, path)
        assert [(link["id"], link[field]) for link in now[kind]] == [(winner["id"], value)]
        assert now["version"] == 2


@pytest.mark.parametrize("way", ["link", "create", "patch"])
async def test_link_to_an_object_that_is_being_deleted(
    register: Committed, client: httpx.AsyncClient, way: str
) -> None:
    for _ in range(ROUNDS):
        process, department = await make_process(client), await make_department(client)
        path = f"/processes/{process['id']}"
        links = {"department_ids": [department["id"]]}
        if way == "link":
            linking = client.put(f"{path}/departments/{department['id']}")
        elif way == "create":
            linking = client.post("/processes", json={"name": "New"} | links)
        else:
            linking = client.patch(path, json=links)
        linked, deleted = await send_together(linking, client.delete(f"/departments/{department['id']}"))
        if deleted.status_code == 204:
            assert linked.status_code in {404, 409, 422}, linked.text
        else:
            assert (deleted.status_code, linked.is_success) == (409, True)
            assert deleted.json()["dependants"]["counts"] == {"processes": 1}
        found = await client.get(f"/departments/{department['id']}")
        assert found.status_code == (404 if deleted.status_code == 204 else 200)
    dangling = (
        "SELECT * FROM process_departments l LEFT JOIN departments d ON d.id = l.department_id WHERE d.id IS NULL"
    )
    assert await query(register, dangling) == []


async def test_deleted_process_and_a_link_to_it(register: Committed, client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    for _ in range(ROUNDS):
        process = await make_process(client)
        path = f"/processes/{process['id']}"
        linked, deleted = await send_together(client.put(f"{path}/roles/{role['id']}"), client.delete(path))
        assert (linked.status_code, deleted.status_code) in {(204, 204), (404, 204)}
    assert await query(register, f"SELECT * FROM process_roles WHERE role_id = {role['id']}") == []


async def test_entity_tag_prevents_lost_updates(client: httpx.AsyncClient) -> None:
    made = await make_department(client)
    path = f"/departments/{made['id']}"
    for number in range(ROUNDS):
        tag = {"If-Match": (await client.get(path)).headers["etag"]}
        bodies = [{"name": f"First {number}"}, {"description": f"Second {number}"}]
        responses = await send_together(*(client.patch(path, json=body, headers=tag) for body in bodies))
        assert statuses(responses) == [200, 412]
        (winner,) = (response for response in responses if response.status_code == 200)
        (loser,) = (response for response in responses if response.status_code == 412)
        assert await read(client, path) == winner.json()
        assert loser.headers["etag"] == winner.headers["etag"]


async def test_concurrent_patches_of_different_fields_are_both_stored(client: httpx.AsyncClient) -> None:
    made = await make_department(client)
    path = f"/departments/{made['id']}"
    for number in range(ROUNDS):
        bodies = [{"name": f"First {number}"}, {"description": f"Second {number}"}]
        assert statuses(await send_together(*(client.patch(path, json=body) for body in bodies))) == [200, 200]
        now = await read(client, path)
        assert (now["name"], now["description"]) == (f"First {number}", f"Second {number}")
        assert now["version"] == 1 + 2 * (number + 1)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_write_after_a_lock_wait_returns_the_current_names(
    register: Committed, client: httpx.AsyncClient, method: str
) -> None:
    role, process = await make_role(client), await make_process(client)
    path = f"/processes/{process['id']}"
    async with connected(register.url) as holder:
        # It locks the object and does not change it.
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute(f"SELECT FROM processes WHERE id = {process['id']} FOR UPDATE")
        body = {"name": "Waited", "role_ids": [role["id"]]}
        writing = asyncio.create_task(client.request(method, path, json=body))
        await until_lock_wait(register.url)
        assert not writing.done()
        assert (await client.patch(f"/roles/{role['id']}", json={"name": f"Renamed by {method}"})).status_code == 200
        await transaction.rollback()
    response, now = await writing, await client.get(path)
    assert response.json()["roles"][0]["name"] == f"Renamed by {method}"
    assert (response.content, response.headers["etag"]) == (now.content, now.headers["etag"])


async def test_twenty_concurrent_links_are_stored(client: httpx.AsyncClient) -> None:
    roles = [await make_role(client) for _ in range(20)]
    process = await make_process(client)
    path = f"/processes/{process['id']}"
    responses = await send_together(*(client.put(f"{path}/roles/{role['id']}") for role in roles))
    assert statuses(responses) == [204] * 20
    now = await read(client, path)
    assert [link["id"] for link in now["roles"]] == [role["id"] for role in roles]
    assert now["version"] == 21
    responses = await send_together(*(client.delete(f"{path}/roles/{role['id']}") for role in roles))
    assert statuses(responses) == [204] * 20
    now = await read(client, path)
    assert (now["roles"], now["version"]) == ([], 41)


async def test_concurrent_identical_links_are_one_link(client: httpx.AsyncClient) -> None:
    role, user = await make_role(client), await make_user(client)
    path = f"/roles/{role['id']}/holders/{user['id']}"
    assert statuses(await send_together(*(client.put(path) for _ in range(10)))) == [204] * 10
    assert (await read(client, f"/roles/{role['id']}"))["version"] == 2
    assert len((await read(client, f"/roles/{role['id']}/holders"))["items"]) == 1


EVERYTHING = "SELECT * FROM departments ORDER BY id"
REFUSE_AT_COMMIT = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}', CONSTRAINT = '{constraint}'; END $$

CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE OR DELETE ON departments
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@pytest.mark.parametrize(
    ("sqlstate", "constraint", "status", "code"),
    [
        ("23514", "ck_departments_made_up", 500, "internal_error"),
        ("P0001", "", 500, "internal_error"),
        ("23505", "uq_departments_code", 409, "duplicate"),
        ("23503", "fk_departments_head_id", 422, "unknown_reference"),
    ],
)
async def test_failed_commit_is_an_error_and_stores_nothing(
    register: Committed, client: httpx.AsyncClient, sqlstate: str, constraint: str, status: int, code: str
) -> None:
    made = await make_department(client)
    path = f"/departments/{made['id']}"
    before = await query(register, EVERYTHING)
    trigger = REFUSE_AT_COMMIT.format(sqlstate=sqlstate, constraint=constraint)
    await query(register, *trigger.split("\n\n"))
    try:
        with without_log():
            responses = [
                await client.post("/departments", json={"name": "Never", "code": "NEVER"}),
                await client.put(path, json={"name": "Never"}),
                await client.patch(path, json={"name": "Never"}),
                await client.delete(path),
            ]
    finally:
        await query(register, "DROP FUNCTION refuse CASCADE")
    for response in responses:
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert "refused" not in response.text
        assert "location" not in response.headers
        assert "etag" not in response.headers
    assert await query(register, EVERYTHING) == before


async def test_transaction_is_rolled_back_if_its_response_fails(
    register: Committed, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("cannot be made")

    made = await make_department(client)
    before = await query(register, EVERYTHING)
    monkeypatch.setattr(shared_router, "created_response", fail)
    monkeypatch.setattr(shared_router, "updated_response", fail)
    monkeypatch.setattr(shared_router, "no_content", fail)
    path = f"/departments/{made['id']}"
    with without_log():
        for response in (
            await client.post("/departments", json={"name": "Never"}, headers={"Idempotency-Key": "never-1"}),
            await client.patch(path, json={"name": "Never"}, headers={"Idempotency-Key": "never-2"}),
            await client.delete(path),
        ):
            assert (response.status_code, response.json()["code"]) == (500, "internal_error")
            assert "cannot be made" not in response.text
    assert await query(register, EVERYTHING) == before
