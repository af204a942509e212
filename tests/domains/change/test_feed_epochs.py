"""The feed of changes after a restore and after housekeeping: no reader misses a change without an error."""

import asyncio
import base64
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ProgrammingError

from app.core import local_postgres
from app.core.database import Database
from app.core.local_postgres import EmbeddedPostgres
from app.domains.register.housekeeping import clean_up
from app.domains.shared.history.feed_state import Epochs
from app.main import create_app
from app.utils.db_init import initialise
from tests.api.conftest import assert_problem
from tests.builders import make_role
from tests.conftest import (
    FAST,
    Committed,
    connected,
    give_admin_token,
    register_like,
    settings_for,
    text_of,
    until_sql,
)
from tests.domains.change.feed import HOLDS_ONE, NDJSON, lines, names, position_now, read, read_all
from tests.waiting import HANG_TIMEOUT


async def assert_gone(client: httpx.AsyncClient, position: str, code: str) -> None:
    """Assert that the feed does not continue from a position, in any format and with any filter."""
    for headers in ({}, NDJSON):
        for parameters in ({}, {"type": "roles"}, {"wait": 30}):
            response = await client.get("/changes/feed", params={"after": position, **parameters}, headers=headers)
            assert "after=now" in assert_problem(response, code)["detail"]


@pytest.fixture
async def clusters(tmp_path: Path) -> AsyncIterator[tuple[URL, URL]]:
    """The addresses of two new servers, of which the first has a register."""
    with (
        EmbeddedPostgres(tmp_path / "first", report=lambda _: None, settings=FAST) as first,
        EmbeddedPostgres(tmp_path / "second", report=lambda _: None, settings=FAST) as second,
    ):
        url = make_url(first)
        await initialise(settings_for(url), url, lambda _: None, demo_data=False)
        await give_admin_token(url)
        yield url, make_url(second)


async def run(program: str, url: URL, *arguments: str) -> None:
    """Run a program of PostgreSQL on a database."""
    path = local_postgres._find_binaries() / program
    command = (str(path), f"--dbname={text_of(url)}", *arguments)
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=HANG_TIMEOUT)


async def test_restored_dump_begins_an_epoch(clusters: tuple[URL, URL], tmp_path: Path) -> None:
    old, new = clusters
    dump = f"--file={tmp_path / 'dump'}"
    async with AsyncExitStack() as stack:
        registers = []
        for url in (old, new):
            register = Committed(create_app(settings_for(url)), url)
            stack.push_async_callback(register.app.state.database.dispose)
            registers.append(await stack.enter_async_context(register.client))
        former, client = registers
        await read(former)
        await use_transaction_ids(old, 1_000)
        for number in range(20):
            await make_role(former, name=f"Role {number}")
        changes = await read_all(former)
        positions = [changes[0]["position"], changes[-1]["position"], await position_now(former)]
        await run("pg_dump", old, "--format=custom", dump)
        await run("pg_restore", new, "--exit-on-error", str(tmp_path / "dump"))
        for position in positions:
            await assert_gone(client, position, "feed_reset")
            assert (await former.get("/changes/feed", params={"after": position})).status_code == 200
        # Everything once in the order of `id`, although the transaction ids are those of the other server.
        assert [item["id"] for item in await read_all(client, limit=3)] == [item["id"] for item in changes]
        now = await position_now(client)
        for number in range(20):
            await make_role(client, name=f"New {number}")
        later = await read_all(client, after=now, limit=3)
        assert names(later) == [f"New {number}" for number in range(20)]
        ids = [item["id"] for item in (*changes, *later)]
        assert ids == sorted(set(ids))
        assert [item["id"] for item in await read_all(client, limit=7)] == ids
        assert [item["id"] for item in lines(await client.get("/changes/feed", headers=NDJSON))[0]] == ids
        # The ids of transactions there now pass those of the restored changes.
        await use_transaction_ids(new, 2_000)
        await make_role(client, name="Newest")
        assert names(await read_all(client, after=later[-1]["position"], limit=1)) == ["Newest"]
        async with connected(new) as connection:
            query = "SELECT max(object_name) FROM changes WHERE object_name ~ 'Role|New' GROUP BY transaction_id"
            order = [row[0] for row in await connection.fetch(f"{query} ORDER BY transaction_id")]
        # Otherwise this test would show less.
        assert [order[0], order[-1]] == ["New 0", "Newest"]


async def use_transaction_ids(url: URL, number: int) -> None:
    """Use up ids of transactions."""
    async with connected(url) as connection:
        for _ in range(number):
            await connection.execute("SELECT pg_current_xact_id()")


async def test_dump_restored_into_its_own_database_begins_an_epoch(clusters: tuple[URL, URL], tmp_path: Path) -> None:
    url, _ = clusters
    register = Committed(create_app(settings_for(url)), url)
    async with register.client as client:
        before = await position_now(client)
        await run("pg_dump", url, "--format=custom", f"--file={tmp_path / 'dump'}")
        await make_role(client, name="Lost")
        after = await position_now(client)
        await register.app.state.database.dispose()
        await run("pg_restore", url, "--clean", "--if-exists", "--exit-on-error", str(tmp_path / "dump"))
        # Housekeeping, too, may come first.
        await clean_up(register.app.state.database, 30)
        for position in (before, after):
            await assert_gone(client, position, "feed_reset")
        assert "Lost" not in names(await read_all(client))
    await register.app.state.database.dispose()


async def test_copied_database_begins_an_epoch(server_url: URL, committed: Committed) -> None:
    position = await position_now(committed.client)
    await committed.app.state.database.dispose()
    async with register_like(server_url, committed.url) as copy:
        await assert_gone(copy.client, position, "feed_reset")
        assert await position_now(copy.client) != position
    assert (await read(committed.client, after=position))["items"] == []


async def test_epoch_lasts(committed: Committed) -> None:
    position = await position_now(committed.client)
    async with connected(committed.url) as connection:
        for statement in ("VACUUM FULL", "VACUUM FREEZE", "ANALYZE", "CHECKPOINT", "SELECT pg_switch_wal()"):
            await connection.execute(statement)
            assert (await read(committed.client, after=position))["items"] == []
        # The way to begin an epoch by hand.
        await connection.execute("DELETE FROM feed_state")
    await assert_gone(committed.client, position, "feed_reset")


async def test_concurrent_first_reads_begin_one_epoch(committed: Committed) -> None:
    other = Committed(create_app(settings_for(committed.url)), committed.url)
    async with other.client as client:
        reads = [each.get("/changes/feed?after=now") for each in (client, committed.client) for _ in range(4)]
        responses = await asyncio.gather(*reads)
        for response in responses:
            assert response.status_code == 200 or assert_problem(response, "database_busy")
        # One read of each process begins it, or finds it begun.
        positions = [response.json()["position"] for response in responses if response.status_code == 200]
        assert len(positions) >= 2
        assert {*positions, await position_now(client), await position_now(committed.client)} == {positions[0]}
    await other.app.state.database.dispose()


async def test_start_begins_the_epoch_that_the_first_read_finds(committed: Committed) -> None:
    async with connected(committed.url) as connection:
        state = "SELECT to_jsonb(s) FROM feed_state AS s"
        assert await connection.fetchval(state) is None
        async with committed.app.router.lifespan_context(committed.app):
            await until_sql(committed.url, "EXISTS (SELECT FROM feed_state)")
        begun = await connection.fetchval(state)
        # Neither a read nor another start begins another one.
        await position_now(committed.client)
        await committed.app.state.epochs.begin_at_start()
        assert begun is not None
        assert await connection.fetchval(state) == begun


async def test_start_with_an_older_schema_leaves_the_epoch_to_the_first_read(empty: URL) -> None:
    database = Database(empty, settings_for(empty))
    await Epochs(database).begin_at_start()
    with pytest.raises(ProgrammingError, match="feed_state"):
        await Epochs(database).begin()
    await database.dispose()


async def test_position_shows_only_numbers_of_the_feed(committed: Committed) -> None:
    page = await read(committed.client)
    async with connected(committed.url) as connection:
        epoch = await connection.fetchval("SELECT epoch::text FROM feed_state")
    for position, last in ((page["items"][-1]["position"], page["items"][-1]["id"]), (page["position"], 0)):
        payload = json.loads(base64.urlsafe_b64decode(position + "==")[16:])
        assert payload == [epoch, 0, payload[2], last]
        assert isinstance(payload[2], int)


@asynccontextmanager
async def waiting_epoch(register: Committed) -> AsyncIterator[asyncio.Future[None]]:
    """Let the next attempt at an epoch pause at its first check until the block ends, or the future has a result."""
    paused, go_on = asyncio.Event(), asyncio.Future[None]()

    async def pause(_seconds: float) -> None:
        paused.set()
        await asyncio.shield(go_on)

    register.app.state.epochs.pause = pause
    begin = asyncio.create_task(register.client.get("/changes/feed"))
    try:
        await asyncio.wait_for(paused.wait(), HANG_TIMEOUT)
        yield go_on
    finally:
        if not go_on.done():
            go_on.set_result(None)
        await asyncio.wait_for(begin, HANG_TIMEOUT)


@pytest.mark.parametrize("headers", [{}, NDJSON], ids=["page", "stream"])
async def test_epoch_that_cannot_begin_holds_no_connection(committed: Committed, headers: dict[str, str]) -> None:
    client, pool = committed.client, committed.app.state.database.engine.pool
    async with connected(committed.url) as writer:
        last_id = "SELECT last_value FROM changes_id_seq"
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute(HOLDS_ONE, "Held")
        before = await writer.fetchval(last_id)
        async with waiting_epoch(committed):
            assert pool.checkedout() == 0
            # Other readers neither wait nor lock anything.
            for _ in range(3):
                response = await client.get("/changes/feed", headers=headers)
                assert_problem(response, "database_busy")
                assert response.headers["Retry-After"] == "1"
            assert pool.checkedout() == 0
            assert await writer.fetchval("SELECT count(*) FROM pg_locks WHERE mode LIKE 'ShareRow%'") == 0
        assert await writer.fetchval(last_id) == before
        await transaction.rollback()
    assert "Held" not in names(await read_all(client))


async def no_pause(_seconds: float) -> None:
    pass


@pytest.mark.parametrize("headers", [{}, NDJSON], ids=["page", "stream"])
async def test_epoch_begins_after_the_writers_that_may_have_drawn_ids(
    committed: Committed, headers: dict[str, str]
) -> None:
    client = committed.client
    committed.app.state.epochs.pause = no_pause
    async with connected(committed.url) as writer, writer.transaction():
        await writer.execute(HOLDS_ONE, "Drawn before")
        # As many checks as documented; then the reader has to ask again.
        assert_problem(await client.get("/changes/feed", headers=headers), "database_busy")
    assert names(await read_all(client))[-1] == "Drawn before"
    async with connected(committed.url) as writer:
        await writer.execute("DELETE FROM feed_state")
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute(HOLDS_ONE, "Drawn before, too")
        async with waiting_epoch(committed) as go_on:
            # A writer that begins meanwhile is not awaited, and its change comes after the settled ones.
            await make_role(client, name="Meanwhile")
            await transaction.commit()
            go_on.set_result(None)
    settled = names((await read(client))["items"])
    assert settled[-1] == "Drawn before, too"
    assert names(await read_all(client)) == [*settled, "Meanwhile"]


async def test_feed_does_not_continue_on_a_promoted_standby(clusters: tuple[URL, URL], tmp_path: Path) -> None:
    primary_url, _ = clusters
    async with AsyncExitStack() as stack:
        primary = Committed(create_app(settings_for(primary_url)), primary_url)
        stack.push_async_callback(primary.app.state.database.dispose)
        client = await stack.enter_async_context(primary.client)
        position = await position_now(client)
        copy = tmp_path / "standby" / "postgres"
        copy.mkdir(parents=True)
        await run("pg_basebackup", primary_url, "--checkpoint=fast", "--no-sync", f"--pgdata={copy / 'data'}")
        (copy / "data/standby.signal").touch()
        await make_role(client, name="Lost")
        server = EmbeddedPostgres(tmp_path / "standby", report=lambda _: None, settings=FAST)
        url = make_url(stack.enter_context(server))
        standby = Committed(create_app(settings_for(url)), url)
        stack.push_async_callback(standby.app.state.database.dispose)
        reader = await stack.enter_async_context(standby.client)
        # Other reads work there. The feed cannot know which server the standby follows.
        assert (await reader.get("/roles")).status_code == 200
        for after in ("now", position):
            for headers in ({}, NDJSON):
                response = await reader.get("/changes/feed", params={"after": after}, headers=headers)
                assert "primary server" in assert_problem(response, "database_read_only")["detail"]
        async with connected(url) as connection:
            assert await connection.fetchval("SELECT pg_promote()")
        await make_role(reader, name="After the failover")
        await assert_gone(reader, position, "feed_reset")
        assert names(await read_all(reader))[-1] == "After the failover"


async def test_first_read_of_a_database_that_accepts_no_changes_is_unavailable(committed: Committed) -> None:
    async with connected(committed.url) as connection:
        await connection.execute(f"ALTER DATABASE {committed.url.database} SET default_transaction_read_only = on")
        await connection.execute("SET default_transaction_read_only = off")
        assert_problem(await committed.client.get("/changes/feed"), "database_read_only")
        await connection.execute(f"ALTER DATABASE {committed.url.database} RESET default_transaction_read_only")
    await committed.app.state.database.dispose()
    position = await position_now(committed.client)
    async with connected(committed.url) as connection:
        await connection.execute(f"ALTER DATABASE {committed.url.database} SET default_transaction_read_only = on")
    await committed.app.state.database.dispose()
    assert (await read(committed.client, after=position))["items"] == []


async def record(register: Committed, *names_: str, days: int = 90) -> None:
    """Record changes of one object in one transaction each, some days ago."""
    async with connected(register.url) as connection:
        for name in names_:
            await connection.execute(
                "INSERT INTO changes (type, object_id, object_name, action, at) "
                "VALUES ('roles', 1, $1, 'updated', now() - $2 * interval '1 day')",
                *(name, days),
            )


@pytest.mark.parametrize("settled", [False, True])
async def test_reader_behind_deleted_changes_gets_an_error(committed: Committed, settled: bool) -> None:
    client, database = committed.client, committed.app.state.database
    if not settled:
        await read(client)
    await record(committed, "A", "B", "C", "D")
    items = (await read_all(client))[-4:]
    assert names(items) == ["A", "B", "C", "D"]
    elsewhere = (await read(client, after=items[0]["position"], type="departments"))["position"]
    beginning = await read(client, limit=1)
    assert (await clean_up(database, 30))["changes"] == 2
    # B and C are deleted: readers before C get an error, and those at C or later miss nothing.
    for position in (beginning["position"], items[0]["position"], items[1]["position"]):
        await assert_gone(client, position, "feed_expired")
    assert names(await read_all(client, after=items[2]["position"])) == ["D"]
    assert await read_all(client, after=items[3]["position"]) == []
    # A reader that found nothing of its type has gone on nevertheless.
    assert await read_all(client, after=elsewhere, type="departments") == []
    # A reader that begins now gets all that is kept, also if housekeeping runs again and deletes nothing.
    kept = await read_all(client, limit=1)
    assert names(kept)[-2:] == ["A", "D"]
    assert (await clean_up(database, 30))["changes"] == 0
    for number, item in enumerate(kept, 1):
        assert names(await read_all(client, after=item["position"])) == names(kept)[number:]
    # The next deletion ends the feed again for readers before it.
    await record(committed, "E", "F", days=60)
    assert (await clean_up(database, 30))["changes"] == 2
    await assert_gone(client, kept[-1]["position"], "feed_expired")
    assert names(await read_all(client))[-2:] == ["A", "F"]


async def test_concurrent_runs_of_housekeeping_record_all_deletions(
    committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.domains.register.housekeeping.BATCH", 7)
    client, database = committed.client, committed.app.state.database
    await read(client)
    await record(committed, *map(str, range(60)))
    items = (await read_all(client))[-60:]
    removed = await asyncio.gather(*(clean_up(database, 30) for _ in range(3)))
    assert sum(each["changes"] for each in removed) == 58
    for item in items[:-2]:
        await assert_gone(client, item["position"], "feed_expired")
    assert names(await read_all(client, after=items[-2]["position"])) == ["59"]
