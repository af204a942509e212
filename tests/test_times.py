"""The times of an object never go back, whatever writes it. The tests commit, to one database for all of them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import URL

from tests.builders import make_role
from tests.catalogue import COLLECTIONS
from tests.conftest import connected, until_lock_wait
from tests.test_history import OPERATIONS, OTHER_PASSWORD, PASSWORD, World, new_world, perform
from tests.times import misplaced_times

# The clock is set back by a day: all times that are stored are a day ahead.
SET_BACK = "".join(
    f"UPDATE {table} SET {', '.join(f'{name} = {name} + make_interval(days => 1)' for name in names)};"
    for table, names in {
        **dict.fromkeys(COLLECTIONS, ("created_at", "updated_at")),
        "api_tokens": ("created_at",),
        "changes": ("at",),
    }.items()
)
HOLD_ALL = "".join(f"UPDATE {table} SET description = description;" for table in COLLECTIONS)

every_operation = pytest.mark.parametrize("operation", sorted(OPERATIONS))


@pytest.fixture(scope="module")
async def world(server_url: URL, template: URL) -> AsyncIterator[World]:
    async with new_world(server_url, template) as world:
        yield world


async def waits_for_lock(world: World, writing: asyncio.Task[Any]) -> bool:
    """Return true once a statement waits for a lock, or false once the task is done."""
    waiting = asyncio.create_task(until_lock_wait(world.url))
    await asyncio.wait({writing, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    return not writing.done()


@every_operation
async def test_times_do_not_go_back_with_the_clock(world: World, operation: str) -> None:
    call = await OPERATIONS[operation](world)
    await world.connection.execute(SET_BACK)
    last = await world.last()
    await perform(world, operation, call)
    assert await misplaced_times(world.connection) == []
    for record in await world.records(last):
        is_ahead = await world.connection.fetchval("SELECT $1 > now() + interval '12 hours'", record["at"])
        assert is_ahead is (record["action"] != "created"), record


@every_operation
async def test_time_of_a_writer_that_waits_follows_the_wait(world: World, operation: str) -> None:
    call = await OPERATIONS[operation](world)
    last = await world.last()
    async with connected(world.url) as other:
        async with other.transaction():
            await other.execute(HOLD_ALL)
            writing = asyncio.create_task(perform(world, operation, call))
            has_waited = await waits_for_lock(world, writing)
            released_at = await other.fetchval("SELECT clock_timestamp()")
        await writing
    assert await misplaced_times(world.connection) == []
    for record in await world.records(last):
        # New objects and tokens have no row that another transaction could hold.
        assert has_waited or record["action"] == "created" or record["type"] == "api_tokens", record
        assert not has_waited or record["at"] >= released_at, record


@pytest.mark.parametrize("path", ["bulk", "import"])
async def test_transaction_that_began_first_and_writes_last_has_the_later_time(world: World, path: str) -> None:
    held, changed = [await make_role(world.client, code=f"{path}-{number}") for number in range(2)]
    codes = [held["code"], changed["code"]]
    if path == "bulk":
        items = [{"op": "update", "code": code, "data": {"name": "By the batch"}} for code in codes]
        body = json.dumps({"items": items})
    else:
        body = "\n".join(json.dumps({"code": code, "name": "By the file"}) for code in codes)
    headers = {"Content-Type": "application/json" if path == "bulk" else "application/x-ndjson"}
    async with connected(world.url) as other, other.transaction():
        await other.execute("SELECT FROM roles WHERE id = $1 FOR NO KEY UPDATE", held["id"])
        # Locks its objects in the order of their ids.
        writing = asyncio.create_task(world.client.post(f"/roles/{path}", content=body, headers=headers))
        assert await waits_for_lock(world, writing)
        meanwhile = (await world.client.patch(f"/roles/{changed['id']}", json={"description": "Meanwhile"})).json()
    response = await writing
    assert response.status_code == 200, response.text
    after = (await world.client.get(f"/roles/{changed['id']}")).json()
    assert (after["version"], after["updated_at"] > meanwhile["updated_at"]) == (3, True)
    assert await misplaced_times(world.connection) == []


async def test_change_of_credentials_sets_the_time_of_the_user_only(world: World) -> None:
    account = await world.account()
    path = f"/users/{account.user['id']}"
    before = await world.client.get(path)
    assert before.json()["updated_at"] > account.user["updated_at"]
    assert before.json() == account.user | {"updated_at": before.json()["updated_at"]}
    body = {"old_password": PASSWORD, "new_password": OTHER_PASSWORD}
    assert (await account.client.post("/users/me/password", json=body)).status_code == 204
    after = await world.client.get(path, headers={"If-None-Match": before.headers["ETag"]})
    assert after.json() == before.json() | {"updated_at": after.json()["updated_at"]}
    # The version, which conditional writes compare, is the same.
    patched = await world.client.patch(path, json={"description": "D"}, headers={"If-Match": before.headers["ETag"]})
    assert (patched.status_code, patched.json()["version"]) == (200, 2)
