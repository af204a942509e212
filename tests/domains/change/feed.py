"""Readers of the feed of changes."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx

from tests.conftest import Committed, connected

NDJSON = {"Accept": "application/x-ndjson"}
HOLDS_ONE = "INSERT INTO changes (type, object_id, object_name, action) VALUES ('roles', 1, $1, 'updated')"


async def read(client: httpx.AsyncClient, **parameters: Any) -> dict[str, Any]:
    """Return one page."""
    response = await client.get("/changes/feed", params=parameters)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


async def read_all(client: httpx.AsyncClient, **parameters: Any) -> list[dict[str, Any]]:
    """Return the items of all pages that can be read at once."""
    items: list[dict[str, Any]] = []
    while True:
        page = await read(client, **parameters)
        items += page["items"]
        if not page["has_more"]:
            return items
        parameters["after"] = page["position"]


async def position_now(client: httpx.AsyncClient) -> str:
    position: str = (await read(client, after="now"))["position"]
    return position


def names(items: list[dict[str, Any]]) -> list[str]:
    """Return the names of the changed objects."""
    return [item["object"]["name"] for item in items]


def lines(response: httpx.Response) -> tuple[list[dict[str, Any]], str]:
    """Return the changes of a response in NDJSON that has no more, and the position of its last line."""
    items, last = lines_and_end(response)
    assert not last["has_more"]
    return items, last["position"]


def lines_and_end(response: httpx.Response) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the changes of a response in NDJSON, and its last line."""
    assert response.status_code == 200, response.text
    *items, last = map(json.loads, response.text.splitlines())
    assert last.keys() == {"position", "has_more"}
    return items, last


@asynccontextmanager
async def held_change(register: Committed, name: str) -> AsyncIterator[asyncpg.Connection]:
    """Record a change in a transaction that is committed at the end of the block."""
    async with connected(register.url) as connection, connection.transaction():
        await connection.execute(HOLDS_ONE, name)
        yield connection
