"""The schema's revisions, on databases of their own."""

import asyncio
import os
import shutil
import sys
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import create_async_engine

from alembic import command
from app.core.engine import driver_url
from app.core.migrations import alembic_config, head_revision, upgrade
from app.models import Base
from tests.conftest import connected, new_database, text_of
from tests.waiting import HANG_TIMEOUT, until

# SHA-256 of every landed revision. Databases have run them, so a correction is a new revision.
LANDED = {
    "0001_first_schema.py": "64213d287452c9c391a3658b3570b22778e36925834d40b1f88343eba0bb8023",
    "0002_accounts_and_history.py": "b7c5f758d6cd391c53a36a6aa2646ba08750c28a6022b9a3a126c4de642c75ce",
    "0003_positions_in_lists.py": "c372231bb6bfa3db01898af82a443b17b1357ad1dc87e544e90f10843102a687",
    "0004_idempotency_keys.py": "08de128983124afe4ba1d68bb48a840854a1af18ef12927e8b4132cce1e1ec29",
    "0005_list_indexes.py": "ed12c05507634c248e0a57a5856f579fbc582bff61cf0f154ba5de2b8a925e12",
    "0006_search.py": "9c82fb8ceb0f0c62c00491cc4e01456cf408d6349cd354af20cf49c87f47737d",
    "0007_import_plans.py": "c8fd1372f17341bfe3f98de987c4f5b86408cf01b033d1a6ee989623501f358a",
    "0008_briefs.py": "10b15b40a476bc9d4a342a016668b423114d21c2820ab688a1b9abd2faff6a1a",
}


def faults_of(versions: Path) -> list[str]:
    """Return the faults of the revisions' files, each with its remedy."""
    found = {file.name: sha256(file.read_bytes()).hexdigest() for file in sorted(versions.glob("*.py"))}
    gone = [f"{name} has landed: restore it under this name" for name in LANDED if name not in found]
    changed = [
        f"{name} has landed: undo the change and add a revision"
        for name, digest in LANDED.items()
        if found.get(name, digest) != digest
    ]
    new = [
        f'{name} is new: add "{name}": "{digest}" to LANDED in tests/test_migrations.py'
        for name, digest in found.items()
        if name not in LANDED
    ]
    return gone + changed + new


def test_landed_revisions_are_unchanged(root: Path) -> None:
    faults = faults_of(root / "alembic/versions")
    assert not faults, "\n".join(faults)


def test_change_of_a_landed_revision_is_found(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "alembic/versions", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__*"))
    first, second, third, *_ = sorted(tmp_path.iterdir())
    first.write_bytes(first.read_bytes() + b"\n")
    second.unlink()
    third.rename(tmp_path / "0003_renamed.py")
    (tmp_path / "9999_new.py").write_bytes(b"")
    assert faults_of(tmp_path) == [
        f"{second.name} has landed: restore it under this name",
        f"{third.name} has landed: restore it under this name",
        f"{first.name} has landed: undo the change and add a revision",
        f'0003_renamed.py is new: add "0003_renamed.py": "{LANDED[third.name]}" to LANDED in tests/test_migrations.py',
        f'9999_new.py is new: add "9999_new.py": "{sha256().hexdigest()}" to LANDED in tests/test_migrations.py',
    ]


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
