"""A change of the schema outdates prepared statements: requests run again, on new connections."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from app.core.database import MAX_ATTEMPTS, Database
from app.core.database_errors import translate
from app.core.engine import FairPool
from app.core.prepared import FastStatement
from app.main import create_app
from app.utils.exceptions import OutcomeUnknown, SchemaChanged
from tests.conftest import Committed, borrowed, connected, settings_for, until_lock_wait
from tests.schema_changes import REQUESTS, add_objects, change_types, send

# More than a request has attempts.
CONNECTIONS = 2 * MAX_ATTEMPTS


@pytest.fixture
async def register(committed: Committed) -> AsyncIterator[Committed]:
    settings = settings_for(committed.url, pool_size=CONNECTIONS, export_concurrency=CONNECTIONS + 1)
    register = Committed(create_app(settings), committed.url)
    await add_objects(register.client)
    yield register
    await register.client.aclose()
    await register.app.state.database.dispose()


@pytest.mark.parametrize("kind", REQUESTS)
async def test_request_succeeds_after_a_change_of_types(register: Committed, kind: str) -> None:
    for run in ("before", "after", "later"):
        # As many requests at a time as there are connections, so that each connection prepares the statements.
        requests = (send(register.client, kind, f"{run}-{number}") for number in range(CONNECTIONS))
        responses = await asyncio.gather(*requests)
        assert {response.is_success for response in responses} == {True}, [each.text for each in responses]
        async with connected(register.url) as connection:
            await change_types(connection)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InvalidCachedStatementError("cached plan must not change result type"),
        asyncpg.OutdatedSchemaCacheError("unexpected number of attributes"),
        asyncpg.InternalServerError("cache lookup failed for type 16500"),
        asyncpg.InternalServerError("could not open relation with OID 16500"),
    ],
    ids=str,
)
def test_errors_of_outdated_statements_are_recognised(error: Exception) -> None:
    assert type(translate(error)) is SchemaChanged


def test_other_internal_errors_are_not_retried() -> None:
    error = asyncpg.InternalServerError("unexpected chunk number 1 for toast value 16500")
    assert translate(error) is error


@pytest.mark.parametrize("fast", [True, False], ids=["fast path", "ordinary statement"])
async def test_new_attribute_of_a_type_is_read_by_the_next_attempt(committed: Committed, *, fast: bool) -> None:
    statement = text("SELECT p FROM pairs")
    prepared = FastStatement(lambda: statement)
    database: Database = committed.app.state.database
    attempts = 0

    async def read() -> tuple[Any, ...]:
        nonlocal attempts
        attempts += 1
        async with database.transaction() as session:
            row = await session.fetch(prepared) if fast else (await session.execute(statement)).one()
            assert row is not None
            return tuple(row[0])

    async with connected(committed.url) as connection:
        await connection.execute("CREATE TYPE pair AS (a int); CREATE TABLE pairs (p pair)")
        await connection.execute("INSERT INTO pairs VALUES (ROW(1)::pair)")
        assert await database.retry(read) == (1,)
        await connection.execute("ALTER TYPE pair ADD ATTRIBUTE b int")
        assert await database.retry(read) == (1, None)
        assert await database.retry(read) == (1, None)
    assert attempts == 4


async def test_write_with_an_unreadable_result_has_an_unknown_outcome(committed: Committed) -> None:
    insert = FastStatement(lambda: text("INSERT INTO pairs SELECT p FROM pairs RETURNING p"))
    database: Database = committed.app.state.database
    async with connected(committed.url) as connection:
        await connection.execute("CREATE TYPE pair AS (a int); CREATE TABLE pairs (p pair)")
        await connection.execute("INSERT INTO pairs VALUES (ROW(1)::pair)")
        async with database.transaction() as session:
            await session.write_alone(insert)
            await connection.execute("ALTER TYPE pair ADD ATTRIBUTE b int")
            with pytest.raises(OutcomeUnknown):
                await session.write_alone(insert)
        assert await connection.fetchval("SELECT count(*) FROM pairs") == 4


async def test_each_connection_is_replaced_once(committed: Committed) -> None:
    database = Database(committed.url, settings_for(committed.url, pool_size=2))

    async def backends() -> set[int]:
        async with borrowed(database) as first, borrowed(database) as second:
            return {first.get_server_pid(), second.get_server_pid()}

    before = await backends()
    assert await backends() == before
    assert isinstance(database.engine.pool, FairPool)
    database.engine.pool.replace_connections()
    after = await backends()
    assert not before & after
    assert await backends() == after
    await database.dispose()


async def test_connection_opened_during_a_change_is_used(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(committed.url, settings_for(committed.url, pool_size=1))
    connect, opened = asyncpg.connect, 0

    async def connect_during_a_change(*arguments: Any, **options: Any) -> asyncpg.Connection:
        nonlocal opened
        opened += 1
        connection = await connect(*arguments, **options)
        assert isinstance(database.engine.pool, FairPool)
        database.engine.pool.replace_connections()
        return connection

    monkeypatch.setattr(asyncpg, "connect", connect_during_a_change)
    for _ in range(2):
        async with borrowed(database):
            pass
    assert opened == 1
    await database.dispose()


async def test_export_during_a_rewrite_of_its_table_is_complete(register: Committed) -> None:
    # A transaction whose snapshot is older than the rewrite would find the table empty.
    async with connected(register.url) as connection, connection.transaction():
        await connection.execute("ALTER TABLE processes ALTER COLUMN kind TYPE varchar(10) USING left(kind, 9)")
        export = asyncio.create_task(send(register.client, "stream", ""))
        await until_lock_wait(register.url)
    assert [line.count('"name":"Invoices"') for line in (await export).text.splitlines()] == [1]
