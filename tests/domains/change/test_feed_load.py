"""The feed of changes under concurrent writers: every change is delivered once, and copies equal the objects."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.core.permissions import SCOPES, scopes_of
from app.core.tokens import API_TOKEN, Tokens, new_token
from app.domains.process.schemas import ProcessPatch
from app.domains.process.service import ProcessService
from app.domains.shared.reading.preconditions import UNCONDITIONAL
from tests.builders import make_department, make_process, make_role, make_user
from tests.conftest import Committed, client_of, connected, settings_for, until_lock_wait
from tests.domains.change.consumer import Consumer
from tests.domains.change.feed import HOLDS_ONE, NDJSON, held_change, lines, names, position_now, read, read_all
from tests.waiting import HANG_TIMEOUT

WRITERS, USERS = 48, 4
WRITES = 3
# Objects that several writers change.
SHARED = 4
# Transactions that are held open at the same time.
HOLDERS = 2
ADMINISTRATOR = Caller(1, "First administrator", "admin", scopes_of("admin"))


class Reader:
    """A consumer that reconnects at random, and loses a part of a response with the connection."""

    def __init__(self, client: httpx.AsyncClient, position: str, consumer: Consumer) -> None:
        self._client = client
        self._position = position
        self._consumer = consumer
        self._random = random.Random(16)  # noqa: S311 - no secret
        self.ids: list[int] = []

    async def step(self) -> bool:
        """Read once and take some of the changes; return whether there were any."""
        if self._random.random() < 0.3:
            response = await self._client.get("/changes/feed", params={"after": self._position}, headers=NDJSON)
            items, end = lines(response)
        else:
            page = await read(self._client, after=self._position, limit=self._random.choice([1, 7, 40, 1_000]))
            items, end = page["items"], page["position"]
        taken = items if self._random.random() < 0.7 else items[: self._random.randint(0, len(items))]
        for item in taken:
            self.ids.append(item["id"])
            await self._consumer.take_change(item)
        if len(taken) == len(items):
            self._position = end
        elif taken:
            self._position = taken[-1]["position"]
        return bool(items)


class Writers:
    """Programs of several users that create, change, link and delete objects, all at once."""

    def __init__(self, register: Committed) -> None:
        self._register = register
        self._clients: list[httpx.AsyncClient] = []

    async def prepare(self) -> None:
        client = self._register.client
        self.users = [(await make_user(client, access_level="admin"))["id"] for _ in range(USERS)]
        self._clients = [client_of(self._register.app, await self._token(user)) for user in self.users]
        self.departments = [(await make_department(client))["id"] for _ in range(3)]
        self.roles = [(await make_role(client))["id"] for _ in range(3)]
        self.shared = [(await make_process(client))["id"] for _ in range(SHARED)]

    async def _token(self, user: int) -> str:
        token = new_token(API_TOKEN)
        async with connected(self._register.url) as connection:
            await connection.execute(
                "INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at) "
                "VALUES ($1, 'Writer', $2, $3, now() + interval '1 day')",
                *(user, Tokens(settings_for(self._register.url)).api_token_hashes(token)[0], sorted(SCOPES)),
            )
        return token

    async def write(self, number: int) -> None:
        """Change an own process, and processes and roles that other writers change, too."""
        client = self._clients[number % USERS]
        chance = random.Random(number)  # noqa: S311 - no secret
        own = await make_process(client, **self.fields(chance, number))
        for step in range(WRITES):
            shared = chance.choice(self.shared)
            fields = self.fields(chance, f"{number}, {step}")
            name, value = chance.choice(list(fields.items()))
            await _sent(client, "PATCH", f"/processes/{shared}", {name: value})
            await _sent(client, "PATCH", f"/processes/{own['id']}", fields)
            holder = f"/roles/{chance.choice(self.roles)}/holders/{chance.choice(self.users)}"
            await _sent(client, chance.choice(["PUT", "DELETE"]), holder)
        if number % 3 == 0:
            await _sent(client, "DELETE", f"/processes/{own['id']}")

    def fields(self, chance: random.Random, name: object) -> dict[str, Any]:
        departments = chance.sample(self.departments, chance.randint(0, 3))
        roles = chance.sample(self.roles, chance.randint(0, 3))
        return {
            "name": f"Named {name}",
            "description": chance.choice([None, f"Described by {name}"]),
            "criticality": chance.choice([None, "low", "high"]),
            "departments": [
                {"department_id": id_, "relation": chance.choice(["customer", "supplier"])} for id_ in departments
            ],
            "roles": [
                {"role_id": id_, "responsibility": chance.choice(["consulted", "informed"])}
                for id_ in (*roles, *roles[:1])
            ],
        }

    async def hold(self, number: int, writing: asyncio.Future[Any]) -> None:
        """Change shared processes in transactions that stay open while other ones are committed."""
        chance = random.Random(-1 - number)  # noqa: S311 - no secret
        while not writing.done():
            async with self._register.app.state.database.transaction() as session:
                await patch_in(session, self.shared[number], **self.fields(chance, "a held transaction"))
                undone = await session.begin_nested()
                await patch_in(session, self.shared[number], name="In a savepoint that is undone")
                await undone.rollback()
                async with session.begin_nested():
                    await patch_in(session, self.shared[number], criticality="critical")
                for _ in range(chance.randint(1, 10)):
                    await session.execute(select(1))

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()


async def _sent(client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None = None) -> None:
    response = await client.request(method, path, json=body)
    # A holder may be absent already.
    assert response.status_code in {200, 204, 404 if "holders" in path else 200}, response.text


async def patch_in(session: RegisterSession, process: int, **fields: Any) -> None:
    await ProcessService(session, ADMINISTRATOR).patch(str(process), ProcessPatch(**fields), UNCONDITIONAL)


@asynccontextmanager
async def delivered_late(
    register: Committed, other: int, waited: int, earlier: dict[str, Any], later: dict[str, Any]
) -> AsyncIterator[None]:
    """Change a process twice, the second time by a transaction that began before the first and waited for it.

    Within the block, another transaction is open that began between the two.
    """
    database = register.app.state.database
    async with database.transaction() as first, database.transaction() as second:
        await patch_in(first, other, name="Has its transaction id")
        async with held_change(register, "Begun between"):
            await patch_in(second, waited, **earlier)
            waiting = asyncio.create_task(patch_in(first, waited, **later))
            await until_lock_wait(register.url)
            await second.commit()
            await asyncio.wait_for(waiting, HANG_TIMEOUT)
            await first.commit()
            yield


CHANGES_SINCE = "SELECT id, transaction_id FROM changes WHERE id > $1"


async def test_reader_gets_every_committed_change_once(committed: Committed, root: Path) -> None:
    client = committed.client
    writers, consumer = Writers(committed), Consumer(root, client)
    await writers.prepare()
    async with connected(committed.url) as connection:
        last_id = await connection.fetchval("SELECT max(id) FROM changes")
        reader = Reader(client, await position_now(client), consumer)
        writing = asyncio.gather(*(writers.write(number) for number in range(WRITERS)))
        holding = asyncio.gather(*(writers.hold(number, writing) for number in range(HOLDERS)))
        # The position is older than the exports, and changes are delivered that these contain.
        await consumer.take_exports()
        while not holding.done():
            await reader.step()
        await asyncio.gather(writing, holding)
        while await reader.step():
            pass
        rows = await connection.fetch(CHANGES_SINCE, last_id)
    assert Counter(reader.ids) == Counter(row["id"] for row in rows)
    transactions = {row["id"]: row["transaction_id"] for row in rows}
    assert [transactions[id_] for id_ in reader.ids] == sorted(transactions.values())
    assert reader.ids != sorted(reader.ids)  # otherwise this test would show less
    await consumer.assert_equal()
    await writers.aclose()


@pytest.mark.parametrize("exported", ["before", "between", None])
@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"description": "Earlier"}, {"name": "Later"}),
        ({"description": "Earlier", "name": "Earlier"}, {"name": "Later"}),
        ({"roles": ["consulted"]}, {"roles": ["consulted", "informed"]}),
        ({"roles": ["consulted"]}, {"roles": ["informed"]}),
        ({"roles": ["consulted", "informed"], "criticality": "low"}, {"roles": [], "criticality": None}),
        ({"roles": []}, {"name": "Later"}),
    ],
    ids=str,
)
async def test_copy_is_right_if_changes_are_delivered_in_another_order(
    committed: Committed, root: Path, earlier: dict[str, Any], later: dict[str, Any], exported: str | None
) -> None:
    client = committed.client
    consumer = Consumer(root, client)
    role = (await make_role(client))["id"]

    def fields(given: dict[str, Any]) -> dict[str, Any]:
        links = [{"role_id": role, "responsibility": each} for each in given.get("roles", ())]
        return given | ({"roles": links} if "roles" in given else {})

    position = await position_now(client)
    waited, other = [(await make_process(client, **fields({"roles": ["informed"]})))["id"] for _ in range(2)]
    if exported == "before":
        await consumer.take_exports()
    async with delivered_late(committed, other, waited, fields(earlier), fields(later)):
        if exported == "between":
            # The later change is before this position, and the earlier one after it.
            position = await position_now(client)
            await consumer.take_exports()
    changes = [item for item in await read_all(client, after=position) if item["type"] == "processes"]
    for change in changes:
        await consumer.take_change(change)
    ids = [change["id"] for change in changes if change["object"]["id"] == waited]
    assert (len(ids), ids == sorted(ids)) == ((1, True) if exported == "between" else (3, False))
    await consumer.assert_equal()


@pytest.mark.parametrize("is_created_before", [True, False])
async def test_copy_lacks_an_object_whose_deletion_is_before_the_position(
    committed: Committed, root: Path, *, is_created_before: bool
) -> None:
    client, database = committed.client, committed.app.state.database
    consumer = Consumer(root, client)
    await position_now(client)  # the first read begins the feed
    other = (await make_process(client))["id"]
    process = (await make_process(client))["id"] if is_created_before else None
    async with database.transaction() as first:
        await patch_in(first, other, name="Has its transaction id")
        async with held_change(committed, "Begun between"):
            if process is None:
                process = (await make_process(client))["id"]
            else:
                await _sent(client, "PATCH", f"/processes/{process}", {"name": "Renamed"})
            await ProcessService(first, ADMINISTRATOR).delete(str(process), UNCONDITIONAL)
            await first.commit()
            position = await position_now(client)
            await consumer.take_exports()
    (change,) = [item for item in await read_all(client, after=position) if item["type"] == "processes"]
    assert change["object"]["id"] == process
    await consumer.take_change(change)
    assert consumer.copy["processes", process].is_deleted
    await consumer.assert_equal()


async def test_change_of_a_prepared_transaction_is_delivered_after_its_commit(committed: Committed) -> None:
    position = await position_now(committed.client)
    async with connected(committed.url) as connection:
        if not int(await connection.fetchval("SHOW max_prepared_transactions")):
            pytest.skip("The server allows no prepared transactions.")
        await connection.execute("BEGIN")
        await connection.execute(HOLDS_ONE, "Prepared")
        await connection.execute("PREPARE TRANSACTION 'feed'")
        try:
            await make_role(committed.client, name="Later")
            assert await read_all(committed.client, after=position) == []
        finally:
            await connection.execute("COMMIT PREPARED 'feed'")
    assert names(await read_all(committed.client, after=position)) == ["Prepared", "Later"]
