"""The schema's revisions, on databases of their own."""

import asyncio
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import create_async_engine

from alembic import command
from app.core.migrations import alembic_config, head_revision, upgrade
from app.core.pool import driver_url
from app.models import Base
from tests.conftest import connected, new_database, text_of
from tests.waiting import HANG_TIMEOUT, until


async def schema_of(url: URL) -> list[tuple[str, str]]:
    """Return every column, constraint and index with its definition."""
    async with connected(url) as connection:
        rows = await connection.fetch(
            """
            SELECT table_name || '.' || column_name AS name, data_type || is_nullable AS definition
              FROM information_schema.columns WHERE table_schema = 'public'
            UNION ALL
            SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
            UNION ALL
            SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
            ORDER BY 1, 2
            """
        )
        return [(row["name"], row["definition"]) for row in rows]


async def revision_of(url: URL) -> str | None:
    async with connected(url) as connection:
        revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
        return revision


async def test_every_revision_goes_up_and_down_and_up_again(empty: URL) -> None:
    config = alembic_config(empty)
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    before = await schema_of(empty)
    for revision in revisions:
        await asyncio.to_thread(command.upgrade, config, revision)
        after = await schema_of(empty)
        await asyncio.to_thread(command.downgrade, config, "-1")
        without_alembic = [row for row in await schema_of(empty) if "alembic_version" not in row[0]]
        assert without_alembic == [row for row in before if "alembic_version" not in row[0]]
        await asyncio.to_thread(command.upgrade, config, revision)
        assert await schema_of(empty) == after
        before = after
    assert await revision_of(empty) == head_revision()


async def test_models_and_head_agree(empty: URL) -> None:
    await asyncio.to_thread(upgrade, empty)
    await asyncio.to_thread(command.check, alembic_config(empty))


async def test_revisions_make_exactly_what_the_models_say(empty: URL, server_url: URL) -> None:
    # Alembic does not compare everything: it passes over the conditions of partial indexes and CHECK constraints.
    await asyncio.to_thread(upgrade, empty)
    async with new_database(server_url) as url:
        engine = create_async_engine(driver_url(url))
        async with engine.begin() as connection:
            await connection.execute(text("CREATE EXTENSION pg_trgm"))
            # What the models use and cannot say.
            for number in ("0006", "0008"):
                revision: Any = ScriptDirectory.from_config(alembic_config(empty)).get_revision(number)
                for function, definition in revision.module.FUNCTIONS.items():
                    await connection.exec_driver_sql(f"CREATE FUNCTION {function} {definition}")
            await connection.run_sync(Base.metadata.create_all)
        await engine.dispose()
        of_models = await schema_of(url)
    assert [row for row in await schema_of(empty) if "alembic_version" not in row[0]] == of_models


async def test_three_migrations_at_once_all_succeed(empty: URL, root: Path) -> None:
    environment = os.environ | {"DATABASE_URL": text_of(empty)}
    command = (sys.executable, "-m", "app", "migrate")
    processes = [await asyncio.create_subprocess_exec(*command, cwd=root, env=environment) for _ in range(3)]
    assert [await asyncio.wait_for(process.wait(), timeout=HANG_TIMEOUT) for process in processes] == [0, 0, 0]
    assert await revision_of(empty) == head_revision()


async def until_second_lock_wait(url: URL) -> None:
    """Return once a second statement has begun to wait for a lock."""
    begun: set[datetime] = set()
    waiting = "SELECT query_start FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with connected(url) as connection:

        async def have_begun() -> bool:
            begun.update(row["query_start"] for row in await connection.fetch(waiting))
            return len(begun) >= 2

        await until(have_begun)


async def test_migration_waits_out_a_lock(empty: URL) -> None:
    await asyncio.to_thread(upgrade, empty)
    config = alembic_config(empty)
    async with connected(empty) as blocker:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE processes IN ACCESS SHARE MODE")
        migration = asyncio.create_task(asyncio.to_thread(command.downgrade, config, "base"))
        # The first attempt fails, a later one gets through.
        await until_second_lock_wait(empty)
        assert not migration.done()
        await transaction.rollback()
        await asyncio.wait_for(migration, HANG_TIMEOUT)
    assert [name for name, _ in await schema_of(empty) if name.startswith("processes.")] == []
