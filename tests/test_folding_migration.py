"""The revision that folds codes, names and e-mail addresses, in a register with data."""

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import URL
from sqlalchemy.exc import ProgrammingError

from alembic import command
from app.core.migrations import MigrationRejectedError, alembic_config, head_revision, upgrade
from tests.conftest import connected, text_of, until_lock_wait, until_sql
from tests.test_migrations import revision_of, schema_of
from tests.waiting import HANG_TIMEOUT

BEFORE, AFTER = "0009", "0010"
FUNCTIONS = "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1"
# Two addresses that differ in the final sigma, which `lower` leaves alone.
EQUAL = [("Nikos", "νίκος@x.example"), ("Nikos II", "νίκοσ@x.example"), ("Ada", "ada@x.example")]
INSERT = "INSERT INTO users (name, email) VALUES ($1, $2)"


async def prepare(url: URL, users: list[tuple[str, str]]) -> list[int]:
    """Create the schema before the revision, with some users; return their ids."""
    await asyncio.to_thread(command.upgrade, alembic_config(url), BEFORE)
    async with connected(url) as connection:
        return [await connection.fetchval(f"{INSERT} RETURNING id", *user) for user in users]


async def state_of(url: URL) -> Any:
    async with connected(url) as connection:
        functions = [row[0] for row in await connection.fetch(FUNCTIONS)]
    return await revision_of(url), functions, await schema_of(url)


async def assert_only_harmless_indexes_are_left(url: URL, before: list[tuple[str, str]]) -> None:
    """Finished indexes are kept for the next attempt, apart from unique ones; the former service needs none of them."""
    after = await schema_of(url)
    left = [name for name, _ in after if name.endswith("_folded")]
    assert left
    assert not [name for name in left if name.startswith("uq_")]
    assert (await revision_of(url), [row for row in after if row[0] not in left]) == (BEFORE, before)


async def test_equal_keys_are_listed_and_nothing_is_written(empty: URL, root: Path) -> None:
    one, other, _ = await prepare(empty, EQUAL)
    async with connected(empty) as connection:
        # Clients cannot send such codes, but SQL can.
        await connection.execute("INSERT INTO roles (code, name) VALUES ('ﬁn', 'A'), ('FIN', 'B'), ('FI', 'C')")
        roles = [row["id"] for row in await connection.fetch("SELECT id FROM roles ORDER BY id")]
    before = await state_of(empty)
    environment = os.environ | {"DATABASE_URL": text_of(empty)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "migrate"), cwd=root, env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, output = await asyncio.wait_for(process.communicate(), HANG_TIMEOUT)
    assert process.returncode == 1
    assert output.decode().splitlines()[1:] == [
        f"roles, code: {roles[0]} ('ﬁn'), {roles[1]} ('FIN')",
        f"users, email: {one} ('νίκος@x.example'), {other} ('νίκοσ@x.example')",
    ]
    assert await state_of(empty) == before
    async with connected(empty) as connection:
        await connection.execute("DELETE FROM roles")
        await connection.execute("UPDATE users SET email = 'nikos@x.example' WHERE id = $1", other)
    await asyncio.to_thread(upgrade, empty)
    async with connected(empty) as connection:
        with pytest.raises(asyncpg.UniqueViolationError, match="uq_users_email"):
            await connection.execute(INSERT, "Nikos III", "ΝΊΚΟΣ@x.example")


async def test_interrupted_build_is_continued(empty: URL) -> None:
    await prepare(empty, EQUAL[1:])
    config = alembic_config(empty)
    await asyncio.to_thread(command.upgrade, config, AFTER)
    finished = await state_of(empty)
    await asyncio.to_thread(command.downgrade, config, BEFORE)
    revision: Any = ScriptDirectory.from_config(config).get_revision(AFTER)
    async with connected(empty) as connection:
        for function, definition in revision.module.FUNCTIONS.items():
            await connection.execute(f"CREATE FUNCTION {function} {definition}")
        # One index is finished; the build of the next one was interrupted.
        await connection.execute("CREATE UNIQUE INDEX uq_roles_code_folded ON roles (fold(code))")
        await connection.execute("CREATE INDEX ix_roles_code_folded ON roles (id)")
        await connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_roles_code_folded'::regclass"
        )
        built = await connection.fetchval("SELECT 'uq_roles_code_folded'::regclass::oid")
    await asyncio.to_thread(command.upgrade, config, AFTER)
    assert await state_of(empty) == finished
    async with connected(empty) as connection:
        assert await connection.fetchval("SELECT 'uq_roles_code'::regclass::oid") == built


@pytest.mark.parametrize("collides", [False, True])
async def test_former_service_writes_while_indexes_are_built(empty: URL, *, collides: bool) -> None:
    one, *_ = await prepare(empty, EQUAL[:1] + EQUAL[2:])
    before = await schema_of(empty)
    unique = [row for row in before if row[0].startswith("uq_")]
    async with connected(empty) as former, connected(empty) as other:
        transaction = former.transaction()
        await transaction.start()
        await former.execute("UPDATE users SET name = 'Ada Byron' WHERE name = 'Ada'")
        migration = asyncio.create_task(asyncio.to_thread(upgrade, empty))
        # The build of an index waits for the end of the transaction, but nothing waits for the build.
        await until_lock_wait(empty)
        await other.execute("SET lock_timeout = '1s'")
        await other.execute(INSERT, "Eve", "eve@x.example")
        await other.execute("UPDATE users SET name = 'Eva' WHERE email = 'eve@x.example'")
        new = EQUAL[1] if collides else ("Bob", "bob@x.example")
        # Unique indexes come last, so a write that collides succeeds until then.
        assert [row for row in await schema_of(empty) if row[0].startswith("uq_")] == unique
        added = await other.fetchval(f"{INSERT} RETURNING id", *new)
        await transaction.commit()
        if not collides:
            await asyncio.wait_for(migration, HANG_TIMEOUT)
            assert await other.fetchval("SELECT name FROM users WHERE fold_email(email) = 'bob@x.example'") == "Bob"
            return
        with pytest.raises(MigrationRejectedError, match=rf"users, email: {one} \(.*\), {added} \("):
            await asyncio.wait_for(migration, HANG_TIMEOUT)
    await assert_only_harmless_indexes_are_left(empty, before)


async def test_failed_swap_leaves_no_unique_indexes(empty: URL) -> None:
    await prepare(empty, EQUAL[:1])
    async with connected(empty) as connection:
        definition = await connection.fetchval("SELECT pg_get_indexdef('ix_roles_name'::regclass)")
        await connection.execute("DROP INDEX ix_roles_name")
        before = await schema_of(empty)
        with pytest.raises(ProgrammingError, match="ix_roles_name"):
            await asyncio.to_thread(upgrade, empty)
        await assert_only_harmless_indexes_are_left(empty, before)
        other = await connection.fetchval(f"{INSERT} RETURNING id", *EQUAL[1])
        await connection.execute("DELETE FROM users WHERE id = $1", other)
        await connection.execute(definition)
    await asyncio.to_thread(upgrade, empty)
    assert await revision_of(empty) == head_revision()


async def test_swap_that_waits_too_long_is_tried_again(empty: URL) -> None:
    await prepare(empty, EQUAL[:1])
    waits = "SELECT FROM pg_stat_activity WHERE query LIKE 'DROP INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"
    async with connected(empty) as reader, connected(empty) as former:
        transaction = reader.transaction()
        await transaction.start()
        await reader.execute("LOCK TABLE users IN ACCESS SHARE MODE")
        migration = asyncio.create_task(asyncio.to_thread(upgrade, empty))
        # First the swap waits for the reader, then the removal of the unique indexes does.
        await until_sql(empty, f"EXISTS ({waits})")
        await former.execute(INSERT, "Bob", "bob@x.example")
        with pytest.raises(asyncpg.UniqueViolationError, match="uq_users_email_folded"):
            await former.execute(INSERT, *EQUAL[1])
        await transaction.rollback()
        await asyncio.wait_for(migration, HANG_TIMEOUT)
    assert await revision_of(empty) == head_revision()


@pytest.mark.parametrize(("revision", "suffix", "key"), [(BEFORE, "folded", "lower(code)"), (AFTER, "lower", "code")])
async def test_documented_statement_removes_what_a_killed_command_has_left(
    empty: URL, root: Path, revision: str, suffix: str, key: str
) -> None:
    await asyncio.to_thread(command.upgrade, alembic_config(empty), revision)
    before = await schema_of(empty)
    (statement,) = re.findall(r"```sql\n(.*?)```", (root / "docs/07-operations.md").read_text("utf-8"), re.DOTALL)
    async with connected(empty) as connection:
        await connection.execute(f"CREATE UNIQUE INDEX uq_roles_code_{suffix} ON roles ({key})")
        await connection.execute(f"CREATE INDEX ix_roles_text_{suffix} ON roles (id)")
        removals = [row[0] for row in await connection.fetch(statement)]
        for removal in removals:
            await connection.execute(removal)
        assert len(removals) == 2
    assert await schema_of(empty) == before
