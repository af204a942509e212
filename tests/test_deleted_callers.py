"""A caller who was deleted, but is still in the cache of callers, gets 401 from all operations that need the user."""

import json
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from app.core.http import authorisation
from app.core.http.authorisation import Authenticator
from app.core.permissions import AUTHENTICATED, DECLARATION, PUBLIC, SCOPES
from tests.builders import make_department, make_process, make_role, make_user
from tests.test_history import OPERATIONS, World, world, write_operations

__all__ = ["world"]  # a fixture


@pytest.fixture
async def deleted(world: World, monkeypatch: pytest.MonkeyPatch) -> httpx.AsyncClient:
    """A client whose user was an administrator and is deleted. The service still has the user in its cache."""
    monkeypatch.setattr(authorisation, "time", SimpleNamespace(monotonic=lambda: 1000.0, time=time.time))
    find = world.app.state.authenticator._find
    monkeypatch.setitem(world.app.state._state, "authenticator", Authenticator(find, lambda _token: None, 1.0))
    user, client, _ = await world.account(access_level="admin")
    assert (await client.get("/users/me")).status_code == 200
    await world.connection.execute("DELETE FROM users WHERE id = $1", user["id"])
    assert (await client.get("/departments")).status_code == 200  # the cache works
    return client


def assert_unauthorized(response: httpx.Response) -> None:
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized"), response.text
    assert response.headers["www-authenticate"] == 'Bearer realm="process-register", error="invalid_token"'


def permissions(app: Any) -> dict[str, str]:
    operations = (each for path in app.openapi()["paths"].values() for each in path.values())
    return {operation["operationId"]: operation[DECLARATION] for operation in operations}


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
async def test_write_of_a_deleted_caller_is_unauthorized(
    world: World, deleted: httpx.AsyncClient, operation: str
) -> None:
    call = await OPERATIONS[operation](world)
    method, path = write_operations(world.app)[operation]
    last = await world.last()
    url = path.removeprefix("/api/v1").format(**call.place)
    request: dict[str, Any] = {"json": call.body, "data": call.form}
    if call.file is not None:
        request = {"content": call.file, "headers": {"Content-Type": "application/x-ndjson"}}
    response = await deleted.request(method, url, **request)
    if permissions(world.app)[operation] == PUBLIC:
        assert response.is_success
        return
    assert_unauthorized(response)
    assert await world.last() == last


@pytest.mark.parametrize("number", range(4))
async def test_other_batches_of_a_deleted_caller_are_unauthorized(
    world: World, deleted: httpx.AsyncClient, number: int
) -> None:
    departments = [await make_department(world.client) for _ in range(2)]
    new, gone = {"op": "create", "data": {"name": "New"}}, {"op": "delete", "id": departments[0]["id"]}
    changed = {"op": "update", "id": departments[1]["id"], "data": {"name": "Changed"}}
    items = ([new], [gone], [changed], [{"op": "delete", "id": 0}, gone])[number]
    for atomic in ("true", "false"):
        response = await deleted.post("/departments/bulk", params={"atomic": atomic}, json={"items": items})
        if number == 3 and atomic == "true":
            assert response.status_code == 422  # nothing would be written
        else:
            assert_unauthorized(response)
    assert (await world.client.get(f"/departments/{departments[0]['id']}")).status_code == 200


async def test_idempotency_key_of_a_deleted_caller_is_not_used_up(world: World, deleted: httpx.AsyncClient) -> None:
    keys = "SELECT count(*) FROM idempotency_keys"
    before = await world.connection.fetchval(keys)
    for path, body in (
        ("/roles", {"name": "R"}),
        ("/roles/bulk", {"items": [{"op": "create", "data": {"name": "R"}}]}),
    ):
        assert_unauthorized(await deleted.post(path, json=body, headers={"Idempotency-Key": "deleted"}))
    assert await world.connection.fetchval(keys) == before


async def test_plan_of_a_deleted_caller_is_unauthorized(deleted: httpx.AsyncClient) -> None:
    response = await deleted.post(
        "/locations/import",
        params={"dry_run": "true"},
        content=json.dumps({"name": "Planned"}),
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert_unauthorized(response)


@pytest.mark.parametrize("path", ["/users/me", "/users/me/tokens", "/auth/sessions", "/api-tokens"])
async def test_own_account_of_a_deleted_caller_is_unauthorized(deleted: httpx.AsyncClient, path: str) -> None:
    assert_unauthorized(await deleted.get(path))


@pytest.mark.parametrize("path", ["/auth/sessions/1", "/users/me/tokens/1", "/api-tokens/1"])
async def test_absent_credential_of_a_deleted_caller_is_unauthorized(deleted: httpx.AsyncClient, path: str) -> None:
    assert_unauthorized(await deleted.delete(path))


async def test_absent_object_is_not_confused_with_a_deleted_caller(world: World) -> None:
    process, role, user = await make_process(world.client), await make_role(world.client), await make_user(world.client)
    absent = await world.client.put(f"/processes/{process['id']}", json={"name": "P", "owner_id": 2**62})
    assert (absent.status_code, absent.json()["errors"][0]["pointer"]) == (422, "/owner_id")
    for _ in range(2):
        assert (await world.client.delete(f"/roles/{role['id']}/holders/{user['id']}")).status_code in {204, 404}
    for path, status in ((f"/users/{user['id']}", 204), (f"/users/{user['id']}", 404)):
        assert (await world.client.delete(path)).status_code == status


async def test_author_of_objects_cannot_be_deleted(world: World) -> None:
    user, client, _ = await world.account(access_level="admin")
    await make_department(client)
    refused = await world.client.delete(f"/users/{user['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "still_referenced")


async def test_user_can_delete_the_own_account(world: World) -> None:
    for delete in ("one", "many"):
        user, client, _ = await world.account(access_level="admin")
        if delete == "one":
            assert (await client.delete(f"/users/{user['id']}")).status_code == 204
        else:
            body = {"items": [{"op": "delete", "id": user["id"]}]}
            assert (await client.post("/users/bulk", json=body)).status_code == 200
        assert_unauthorized(await client.get("/users/me"))


def test_every_permission_is_looked_up_or_has_an_author(world: World) -> None:
    """The writes that may use the cache are those of collections, whose rows refer to their author."""
    cached = {name: each for name, each in permissions(world.app).items() if each not in authorisation._CREDENTIALS}
    writes = {name: cached[name] for name in write_operations(world.app) if name in cached}
    assert {each for each in writes.values() if each not in SCOPES} == {PUBLIC}
    assert {name for name, each in cached.items() if each == AUTHENTICATED} == {"get_me", "search_objects"}
