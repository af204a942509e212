"""Housekeeping removes the words that no object of their collection has, and no word that one has."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
from sqlalchemy import URL, text

from app.core.database import Database
from app.domains.collections import NAMES
from app.domains.register import unused_words
from app.domains.register.unused_words import remove_unused_words
from tests.builders import make, make_department, make_role
from tests.conftest import Committed, connected
from tests.plans import nodes
from tests.waiting import HANG_TIMEOUT, until

# The digits of a number `n` as letters.
LETTERS = "translate(n::text, '0123456789', 'abcdefghij')"


@pytest.fixture
async def connection(committed: Committed) -> AsyncIterator[asyncpg.Connection]:
    async with connected(committed.url) as connection:
        yield connection


async def words(connection: asyncpg.Connection, *wanted: str) -> list[tuple[str, str]]:
    rows = await connection.fetch(
        "SELECT collection, word FROM search_vocabulary WHERE word = ANY($1) AND NOT is_unused ORDER BY 1, 2", wanted
    )
    return [(row["collection"], row["word"]) for row in rows]


async def found(client: httpx.AsyncClient, q: str, collection: str = "departments") -> list[str]:
    response = await client.get(f"/{collection}", params={"q": q})
    assert response.status_code == 200, response.text
    return [item["name"] for item in response.json()["items"]]


async def test_words_of_deleted_objects_are_removed(committed: Committed, connection: asyncpg.Connection) -> None:
    client, database = committed.client, committed.app.state.database
    gone = await make_department(client, name="Procurement", description="Tenders and framework agreements")
    await make_role(client, name="Procurement")
    await make_department(client, name="Agreements")
    changed = await make(client, "users", name="Clementine Hathersage")
    await client.patch(f"/users/{changed['id']}", json={"name": "Clementine Baskerville"})
    assert (await client.delete(f"/departments/{gone['id']}")).status_code == 204
    assert await remove_unused_words(database) == 4
    assert await words(connection, "procurement", "tenders", "framework", "agreements", "hathersage", "clementine") == [
        ("departments", "agreements"),
        ("roles", "procurement"),
        ("users", "clementine"),
    ]
    assert await remove_unused_words(database) == 0
    # The words come back with an object.
    await make_department(client, name="Tenders")
    assert await found(client, "tendres") == ["Tenders"]


async def test_every_collection_keeps_its_words(committed: Committed, connection: asyncpg.Connection) -> None:
    for collection in NAMES:
        await make(committed.client, collection, name="Persistent")
    await remove_unused_words(committed.app.state.database)
    assert await words(connection, "persistent") == [(name, "persistent") for name in sorted(NAMES)]


async def test_duplicates_and_words_of_dropped_collections_are_removed(
    database: Database, committed: Committed, connection: asyncpg.Connection
) -> None:
    await make_department(committed.client, name="Procurement")
    await connection.execute(
        "INSERT INTO search_vocabulary (collection, word) "
        "VALUES ('departments', 'procurement'), ('departments', 'procurement'), ('contracts', 'procurement')"
    )
    assert await remove_unused_words(database) == 3
    assert await words(connection, "procurement") == [("departments", "procurement")]


async def test_words_in_any_script_are_recognised(
    database: Database, committed: Committed, connection: asyncpg.Connection
) -> None:
    for name in (
        "Beschaffungsämter",
        "ΠΡΟΜΉΘΕΙΕΣ",
        "закупки",
        "購買管理部門",
        "क्रय प्रबंधन",
        "O'Reilly\\Sons & Co | ! : *",
    ):
        await make_department(committed.client, name=name)
    before = await connection.fetch("SELECT word FROM search_vocabulary ORDER BY id")
    assert await remove_unused_words(database) == 0
    assert await connection.fetch("SELECT word FROM search_vocabulary ORDER BY id") == before


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
@pytest.mark.parametrize(
    "write",
    [
        "INSERT INTO departments (name) VALUES ('Procurement')",
        "UPDATE departments SET name = 'Procurement' WHERE name = 'Other'",
    ],
)
async def test_word_of_a_concurrent_writer_stays(
    committed: Committed, connection: asyncpg.Connection, write: str, ending: str
) -> None:
    made = await make_department(committed.client, name="Procurement")
    await make_department(committed.client, name="Other")
    await committed.client.delete(f"/departments/{made['id']}")
    async with connected(committed.url) as writer:
        await writer.execute("BEGIN")
        # The word is known, so the writer does not add it.
        await writer.execute(write)
        run = asyncio.create_task(remove_unused_words(committed.app.state.database))

        async def is_marked() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM search_vocabulary WHERE is_unused"))

        await until(is_marked)
        # Meanwhile no other writer waits.
        await make_department(committed.client, name="Tenders")
        assert not run.done()
        await writer.execute(ending)
    removed = await asyncio.wait_for(run, HANG_TIMEOUT)
    stays = ending == "COMMIT"
    assert await words(connection, "procurement") == ([("departments", "procurement")] if stays else [])
    assert await found(committed.client, "procuremnet") == (["Procurement"] if stays else [])
    assert removed == (0 if stays else 1)


async def test_writers_of_a_marked_word_add_another_row(
    committed: Committed, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make_department(committed.client, name="Procurement")
    await committed.client.delete(f"/departments/{made['id']}")
    wait = unused_words._writers_have_ended

    async def write_first(database: Database) -> bool:
        await make_department(committed.client, name="Procurement")
        assert await words(connection, "procurement") == [("departments", "procurement")]
        return await wait(database)

    monkeypatch.setattr(unused_words, "_writers_have_ended", write_first)
    assert await remove_unused_words(committed.app.state.database) == 1
    assert await words(connection, "procurement") == [("departments", "procurement")]
    assert await connection.fetchval("SELECT count(*) FROM search_vocabulary WHERE is_unused") == 0


async def test_run_that_waits_too_long_leaves_the_rest_to_the_next(
    committed: Committed,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = committed.app.state.database
    made = await make_department(committed.client, name="Procurement")
    await committed.client.delete(f"/departments/{made['id']}")
    async with connected(committed.url) as writer, writer.transaction():
        await writer.execute("INSERT INTO roles (name) VALUES ('Other')")
        with monkeypatch.context() as patch:
            patch.setattr(unused_words, "MAX_WAIT_SECONDS", 0)
            assert await remove_unused_words(database) == 0
    assert caplog.messages == [
        "1 unused search words are left to the next run: a transaction has been writing for over 0 seconds."
    ]
    # The word is used again before the next run.
    await make_department(committed.client, name="Procurement")
    assert await remove_unused_words(database) == 1
    assert await words(connection, "procurement") == [("departments", "procurement")]


async def test_concurrent_runs_and_writers_lose_no_word(
    committed: Committed, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unused_words, "BATCH", 3)
    names = ["Procurement", "Warehousing", "Controlling"]

    async def write() -> None:
        for number in range(20):
            made = [await make_department(committed.client, name=name) for name in names]
            if number < 19:
                for each in made:
                    await committed.client.delete(f"/departments/{each['id']}")

    async def clean() -> None:
        for _ in range(10):
            await remove_unused_words(committed.app.state.database)

    await asyncio.gather(write(), write(), clean(), clean())
    await remove_unused_words(committed.app.state.database)
    assert await words(connection, *(name.lower() for name in names)) == [
        ("departments", name.lower()) for name in sorted(names)
    ]


@pytest.mark.parametrize("elsewhere", ["another database", "a reader", "another table"])
async def test_run_does_not_wait_for_transactions_that_write_no_object(
    committed: Committed,
    server_url: URL,
    monkeypatch: pytest.MonkeyPatch,
    elsewhere: str,
) -> None:
    made = await make_department(committed.client, name="Procurement")
    await committed.client.delete(f"/departments/{made['id']}")
    url = server_url if elsewhere == "another database" else committed.url
    monkeypatch.setattr(unused_words, "MAX_WAIT_SECONDS", 0)
    async with connected(url) as other, other.transaction():
        if elsewhere == "a reader":
            await other.execute("SELECT * FROM departments FOR UPDATE")
        else:
            await other.execute("CREATE TABLE written (id int); INSERT INTO written VALUES (1)")
        assert await other.fetchval("SELECT pg_current_xact_id()") is not None
        assert await remove_unused_words(committed.app.state.database) == 1


async def test_run_waits_once_for_all_words(
    committed: Committed, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = 0
    wait = unused_words._writers_have_ended

    async def count(database: Database) -> bool:
        nonlocal waits
        waits += 1
        return await wait(database)

    monkeypatch.setattr(unused_words, "_writers_have_ended", count)
    await connection.execute(
        f"INSERT INTO search_vocabulary (collection, word) SELECT 'roles', 'word' || {LETTERS} "
        "FROM generate_series(1, 1000) AS n"
    )
    assert await remove_unused_words(committed.app.state.database) == 1000
    assert waits == 1


@pytest.mark.parametrize("words", [20, 199, 202, 400])
async def test_words_of_many_objects_are_looked_up_once(
    database: Database, connection: asyncpg.Connection, words: int
) -> None:
    await connection.execute(
        f"INSERT INTO departments (name) SELECT 'Word ' || {LETTERS} || ' common' FROM generate_series(1, 5000) AS n"
    )
    await connection.execute("TRUNCATE search_vocabulary")
    await connection.execute(
        f"INSERT INTO search_vocabulary (collection, word) SELECT 'departments', CASE n % 3 WHEN 0 THEN 'common' "
        f"ELSE 'gone' || {LETTERS} END FROM generate_series(1, {words}) AS n"
    )
    await connection.execute("ANALYZE departments, search_vocabulary")
    explain = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {unused_words._MARK}")
    async with database.transaction() as session:
        plan = (await session.execute(explain, {"id": 0, "batch": unused_words.BATCH})).scalar_one()
    scans = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == "departments"]
    assert sum(node["Actual Loops"] for node in scans) <= min(words, unused_words.BATCH)


async def test_batches_look_each_word_up_in_an_index_once(database: Database, connection: asyncpg.Connection) -> None:
    await connection.execute(
        f"INSERT INTO departments (name) SELECT 'Procurement ' || {LETTERS} FROM generate_series(10000, 14999) AS n"
    )
    await connection.execute("ANALYZE departments, search_vocabulary")
    explain = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {unused_words._MARK}")
    batches = 0
    last_id: int | None = 0
    async with database.transaction() as session:
        plan = (await session.execute(explain, {"id": 0, "batch": 200})).scalar_one()
        scans = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == "departments"]
        assert {node["Node Type"] for node in scans} == {"Bitmap Heap Scan"}
        # A frequent word is read from one object only.
        assert sum(node["Actual Rows"] * node["Actual Loops"] for node in scans) <= 200
        while last_id is not None:
            # Keyset pagination: no row is read twice.
            last_id = (await session.execute(unused_words._MARK, {"id": last_id, "batch": 200})).one().id
            batches += 1
    total = await connection.fetchval("SELECT count(*) FROM search_vocabulary")
    assert batches == -(-total // 200) + 1
