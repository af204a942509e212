"""The lists that are not collections (changes, sessions, API tokens) go on to their end by cursors."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domains.shared.query.pages import MAX_OFFSET
from tests.builders import make_role
from tests.conftest import ADMIN_PASSWORD, client_of
from tests.domains.auth.conftest import ADMIN_EMAIL, sign_in
from tests.domains.shared.test_cursors import pages, walk

_CHANGE = """
    INSERT INTO changes (type, object_id, object_name, action) SELECT 'roles', :role_id, 'Role', 'updated'
      FROM generate_series(1, :number)
"""
_SESSION = """
    INSERT INTO sessions (user_id, address, expires_at) SELECT :user_id, '192.0.2.1', now() + interval '1 day'
      FROM generate_series(1, :number)
"""
_CREDENTIAL = """
    INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at)
    SELECT :user_id, 'Token', sha256(gen_random_uuid()::text::bytea), '{}', now() + interval '1 day'
      FROM generate_series(1, :number)
"""
# The statement that adds rows to each list.
LISTS = {
    "/changes": _CHANGE,
    "/changes?type=roles": _CHANGE,
    "/roles/{role_id}/changes": _CHANGE,
    "/auth/sessions": _SESSION,
    "/users/me/tokens": _CREDENTIAL,
    "/api-tokens": _CREDENTIAL,
}
every_list = pytest.mark.parametrize("path", LISTS)


@dataclass
class World:
    """A signed-in administrator, and a connection that adds rows to lists."""

    client: httpx.AsyncClient
    connection: AsyncConnection
    values: dict[str, Any]

    async def add(self, path: str, number: int) -> None:
        await self.connection.execute(text(LISTS[path]), self.values | {"number": number})

    def url(self, path: str, query: str) -> str:
        return path.format(**self.values) + ("&" if "?" in path else "?") + query

    async def ids(self, path: str) -> list[int]:
        return [item["id"] for item in (await self.client.get(self.url(path, "limit=200"))).json()["items"]]


@pytest.fixture
async def world(app: FastAPI, connection: AsyncConnection) -> AsyncIterator[World]:
    token = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
    async with client_of(app, token) as client:
        values = {"role_id": (await make_role(client))["id"], "user_id": (await client.get("/users/me")).json()["id"]}
        yield World(client, connection, values)


@every_list
async def test_rows_are_seen_once_in_both_directions_while_others_are_added(world: World, path: str) -> None:
    await world.add(path, 11)
    whole = await world.ids(path)
    seen, last = [], {}
    async for page in pages(world.client, world.url(path, "limit=4"), "next"):
        seen += [item["id"] for item in page["items"]]
        last = page
        await world.add(path, 2)
    assert seen == whole == sorted(whole, reverse=True)
    back = await walk(world.client, last["prev"], "prev")
    others = [key for page in reversed(back) for key in page]
    assert others + [item["id"] for item in last["items"]] == await world.ids(path)


@every_list
async def test_offset_is_followed_by_cursors(world: World, path: str) -> None:
    await world.add(path, 9)
    whole = await world.ids(path)
    page = (await world.client.get(world.url(path, "limit=2&offset=3&count=exact"))).json()
    assert ([item["id"] for item in page["items"]], page["total"]) == (whole[3:5], len(whole))
    await world.add(path, 1)
    assert [key for each in await walk(world.client, page["next"]) for key in each] == whole[5:]
    before = (await world.client.get(page["prev"].removeprefix("/api/v1"))).json()
    assert [item["id"] for item in before["items"]] == whole[1:3]
    cursor = page["next"].partition("cursor=")[2]
    assert (await world.client.get(world.url(path, f"offset=1&cursor={cursor}"))).status_code == 422
    assert (await world.client.get(world.url(path, f"cursor={cursor}A"))).status_code == 400
    assert (await world.client.get(f"/processes?cursor={cursor}")).status_code == 400


@pytest.mark.parametrize("path", ["/changes", "/roles/{role_id}/changes", "/api-tokens"])
async def test_list_continues_beyond_the_largest_offset(world: World, path: str) -> None:
    await world.add(path, MAX_OFFSET + 250)
    assert (await world.client.get(world.url(path, f"offset={MAX_OFFSET + 1}"))).status_code == 422
    total = (await world.client.get(world.url(path, "count=exact"))).json()["total"]
    last_pages = await walk(world.client, world.url(path, f"limit=200&offset={MAX_OFFSET}"))
    assert sum(map(len, last_pages)) == total - MAX_OFFSET


async def test_history_of_a_deleted_object_is_read_backwards(world: World) -> None:
    path = "/roles/{role_id}/changes"
    await world.add(path, 5)
    assert (await world.client.delete(f"/roles/{world.values['role_id']}")).status_code == 204
    whole = await world.ids(path)
    assert len(whole) == 7
    last = [page async for page in pages(world.client, world.url(path, "limit=3"), "next")][-1]
    assert [item["id"] for item in last["items"]] == whole[6:]
    back = await walk(world.client, last["prev"], "prev")
    assert [key for page in reversed(back) for key in page] == whole[:6]
    await world.connection.execute(text("DELETE FROM changes WHERE type = 'roles' AND id < :id"), {"id": whole[2]})
    empty = await world.client.get(world.url(path, "limit=3&offset=3"))
    assert (empty.status_code, empty.json()["items"]) == (200, [])
