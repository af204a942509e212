"""The feed of changes under concurrent writers: every committed change is delivered exactly once."""

import asyncio
import random
from collections import Counter
from typing import Any

import httpx
from sqlalchemy import select

from app.core.caller import Caller
from app.core.permissions import scopes_of
from app.domains.role.schemas import RolePatch
from app.domains.role.service import RoleService
from app.domains.shared.reading.preconditions import UNCONDITIONAL
from tests.builders import make_role
from tests.conftest import Committed, connected, until_lock_wait
from tests.domains.change.feed import NDJSON, lines, position_now, read
from tests.waiting import HANG_TIMEOUT

WRITERS = 50
WRITES = 6
SHARED = 5
ADMINISTRATOR = Caller(1, "First administrator", "admin", scopes_of("admin"))


class Reader:
    """A consumer that reconnects at random, and keeps the item with the greatest `id` of each object."""

    def __init__(self, client: httpx.AsyncClient, position: str) -> None:
        self._client = client
        self._position = position
        self._random = random.Random(16)  # noqa: S311 - no secret
        self.ids: list[int] = []
        self.objects: dict[tuple[str, int], dict[str, Any]] = {}

    async def step(self) -> bool:
        """Read once and take some of the changes; return whether there were any."""
        if self._random.random() < 0.4:
            response = await self._client.get("/changes/feed", params={"after": self._position}, headers=NDJSON)
            items, end = lines(response)
        else:
            page = await read(self._client, after=self._position, limit=self._random.randint(1, 40))
            items, end = page["items"], page["position"]
        # The rest of the response is lost with the connection, or all of it.
        taken = items if self._random.random() < 0.5 else items[: self._random.randint(0, len(items))]
        for item in taken:
            self._take(item)
        if len(taken) == len(items):
            self._position = end
        elif taken:
            self._position = taken[-1]["position"]
        return bool(items)

    def _take(self, item: dict[str, Any]) -> None:
        self.ids.append(item["id"])
        key = item["type"], item["object"]["id"]
        if item["id"] > self.objects.get(key, {"id": 0})["id"]:
            self.objects[key] = item


async def rename(client: httpx.AsyncClient, role: int, name: str) -> None:
    response = await client.patch(f"/roles/{role}", json={"name": name})
    assert response.status_code == 200, response.text


async def write(client: httpx.AsyncClient, number: int, shared: list[int]) -> None:
    """Create, rename and delete roles, some of which other writers rename, too."""
    own = (await make_role(client, name=f"Role of {number}"))["id"]
    for step in range(WRITES):
        await rename(client, shared[(number + step) % SHARED], f"Shared, by {number} in step {step}")
        await rename(client, own, f"Role of {number}, step {step}")
    if number % 3 == 0:
        assert (await client.delete(f"/roles/{own}")).status_code == 204


async def patch_in(session: Any, role: int, name: str) -> None:
    await RoleService(session, ADMINISTRATOR).patch(str(role), RolePatch(name=name), UNCONDITIONAL)


async def hold_open(register: Committed, role: int, begun: asyncio.Event, end: asyncio.Event) -> None:
    """Change a role in a transaction that begins before all others, and is committed after many of them."""
    async with register.app.state.database.transaction() as session:
        await session.execute(select(1))
        await patch_in(session, role, "Begun first")
        begun.set()
        await end.wait()
        await patch_in(session, role, "Begun first, committed late")


async def wait_for_a_row(register: Committed, roles: list[int]) -> None:
    """Change a role in a transaction that waits for one that began later, so that its later change has a lower id."""
    database = register.app.state.database
    async with database.transaction() as early, database.transaction() as late:
        await early.execute(select(1))
        await patch_in(early, roles[0], "Has its transaction id")
        await late.execute(select(1))
        await patch_in(late, roles[1], "Changed by the later transaction")
        waiting = asyncio.create_task(patch_in(early, roles[1], "Changed after the wait"))
        await until_lock_wait(register.url)
        await late.commit()
        await asyncio.wait_for(waiting, HANG_TIMEOUT)


async def test_reader_gets_every_committed_change_once(committed: Committed) -> None:
    client = committed.client
    start = await position_now(client)
    held, *waited = [(await make_role(client))["id"] for _ in range(3)]
    shared = [(await make_role(client))["id"] for _ in range(SHARED)]
    begun, end = asyncio.Event(), asyncio.Event()
    reader = Reader(client, start)
    holding = asyncio.create_task(hold_open(committed, held, begun, end))
    await asyncio.wait_for(begun.wait(), HANG_TIMEOUT)
    await wait_for_a_row(committed, waited)
    writing = asyncio.gather(*(write(client, number, shared) for number in range(WRITERS)))
    # Changes that were committed after the open transaction began are not delivered yet.
    while not writing.done():
        await reader.step()
    assert len(reader.ids) == len(waited) + SHARED + 1
    more = asyncio.gather(*(write(client, WRITERS + number, shared) for number in range(5)))
    end.set()
    await asyncio.wait_for(asyncio.gather(writing, holding, more), HANG_TIMEOUT)
    while await reader.step():
        pass
    async with connected(committed.url) as connection:
        rows = await connection.fetch("SELECT id, transaction_id FROM changes WHERE type = 'roles' ORDER BY id")
    # A rename to the present name would be no change; every other write is one.
    assert Counter(reader.ids) == Counter(row["id"] for row in rows)
    transactions = {row["id"]: row["transaction_id"] for row in rows}
    assert [transactions[id_] for id_ in reader.ids] == sorted(transactions.values())
    assert reader.ids != sorted(reader.ids)  # otherwise this test would show less
    for (collection, object_id), item in reader.objects.items():
        found = await client.get(f"/{collection}/{object_id}")
        if item["action"] == "deleted":
            assert found.status_code == 404
        else:
            assert found.json()["name"] == item["after"]["name"] == item["object"]["name"]
    assert (await client.get(f"/roles/{waited[1]}")).json()["name"] == "Changed after the wait"
