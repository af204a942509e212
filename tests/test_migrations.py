"""The revisions of the schema, on separate databases."""

import asyncio
import json
import os
import re
import shutil
import sys
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.config import Config
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
    "0009_words_of_collections.py": "125e02c109bb6c67ed55a50d72f392d1584b8de28280a17037754fb31d4aaba0",
    "0010_folding.py": "f24d05615595617e7e31785869cc916100c48443fb3fd1c67cae08aaa4542059",
    "0011_change_feed.py": "3debea8cc961743c35e96a3237aa52b2b5ba3ee9dbfadea309bd299baaffef76",
    "0012_times.py": "e5ff6984ee52d5b59a27249fa79801fc97024af70dfd62496174032f8ff78b6e",
    "0013_change_filters.py": "0ba6f92e14e2471fc20f104125073216fb4d8d60ad8116208631cd87d22e5d11",
}

# Code that revisions import. A digest may be changed while no landed revision imports the file.
HELPERS = {
    "app/core/collection_migrations.py": "5fd52130646f3e2affd9b2501ad11b961e22eda593afa226292a83b759b77d3c",
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


@pytest.mark.parametrize("helper", HELPERS)
def test_helpers_of_revisions_are_unchanged(root: Path, helper: str) -> None:
    digest = sha256((root / helper).read_bytes()).hexdigest()
    assert digest == HELPERS[helper], f"{helper} runs in landed revisions: undo the change and add a function"


def test_revisions_import_only_helpers(root: Path) -> None:
    """A change of any other module cannot change what a revision does."""
    scripts = (path.read_text("utf-8") for path in (root / "alembic/versions").glob("*.py"))
    imports = re.compile(r"^ *(?:from|import) (app\b[\w.]*)", re.MULTILINE)
    modules = {module for script in scripts for module in imports.findall(script)}
    assert {f"{module.replace('.', '/')}.py" for module in modules} <= HELPERS.keys()


async def schema_of(url: URL) -> list[tuple[str, str]]:
    """Return every column, constraint and index with its definition."""
    async with connected(url) as connection:
        rows = await connection.fetch(
            """
            SELECT table_name || '.' || column_name AS name,
                   concat_ws(' ', data_type, character_maximum_length, is_nullable, column_default,
                             identity_generation, generation_expression) AS definition
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


async def test_revisions_create_exactly_the_schema_of_the_models(empty: URL, server_url: URL) -> None:
    # Alembic does not compare the conditions of partial indexes and CHECK constraints.
    await asyncio.to_thread(upgrade, empty)
    async with new_database(server_url) as url:
        engine = create_async_engine(driver_url(url))
        async with engine.begin() as connection:
            await connection.execute(text("CREATE EXTENSION pg_trgm"))
            # Functions that the models use, but do not create.
            for number in ("0006", "0008", "0010", "0013"):
                revision: Any = ScriptDirectory.from_config(alembic_config(empty)).get_revision(number)
                for function, definition in revision.module.FUNCTIONS.items():
                    await connection.exec_driver_sql(f"CREATE FUNCTION {function} {definition}")
            await connection.run_sync(Base.metadata.create_all)
        await engine.dispose()
        of_models = await schema_of(url)
    assert [row for row in await schema_of(empty) if "alembic_version" not in row[0]] == of_models


# Recreates a landed collection: locations have the most kinds of columns and indexes.
RECREATED_COLLECTION = """
import sqlalchemy as sa

from alembic import op
from app.core.collection_migrations import create_collection, drop_collection

revision = "anew"
down_revision = "{head}"

REFERRING = {{"process_locations": "fk_process_locations_location_id", "resources": "fk_resources_location_id"}}


def upgrade():
    op.execute("DROP TABLE locations CASCADE")
    create_collection(
        "locations",
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("address", sa.String(1000)),
        sa.Column("country", sa.String(2)),
        sa.Column("timezone", sa.String(64)),
        sa.Column("latitude", sa.Double()),
        sa.Column("longitude", sa.Double()),
        sa.CheckConstraint(
            "kind IN ('region', 'country', 'city', 'site', 'building', 'floor', 'room', 'virtual')", name="kind"
        ),
        sa.CheckConstraint("(latitude IS NULL) = (longitude IS NULL)", name="coordinates"),
        sa.CheckConstraint("latitude BETWEEN -90 AND 90", name="latitude"),
        sa.CheckConstraint("longitude BETWEEN -180 AND 180", name="longitude"),
        sa.Index("ix_locations_kind", "kind", "id"),
        sa.Index("ix_locations_latitude", "latitude", "id"),
        sa.Index("ix_locations_longitude", "longitude", "id"),
        tree=True,
        texts=("address", "country", "timezone"),
    )
    for table, name in REFERRING.items():
        op.create_foreign_key(name, table, "locations", ["location_id"], ["id"], ondelete="RESTRICT")


def downgrade():
    for table, name in REFERRING.items():
        op.drop_constraint(name, table)
    drop_collection("locations")
"""


def config_with(revision: str, database: URL, root: Path, directory: Path) -> Config:
    """Return the configuration of a copy of the revisions with the further revision `anew`."""
    shutil.copytree(root / "alembic", directory / "alembic", ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "alembic/versions/anew.py").write_text(revision.format(head=head_revision()), "utf-8")
    config = alembic_config(database)
    config.set_main_option("script_location", str(directory / "alembic"))
    return config


async def test_helper_creates_a_collection_as_landed_revisions_do(empty: URL, root: Path, tmp_path: Path) -> None:
    await asyncio.to_thread(upgrade, empty)
    schema, triggers = await schema_of(empty), await triggers_of(empty)
    config = config_with(RECREATED_COLLECTION, empty, root, tmp_path)
    await asyncio.to_thread(command.upgrade, config, "anew")
    assert await schema_of(empty) == schema
    assert await triggers_of(empty) == triggers
    await asyncio.to_thread(command.check, config)
    await asyncio.to_thread(command.downgrade, config, "-1")
    assert [row for row in await schema_of(empty) if re.match(r"(\w\w_)?locations", row[0])] == []
    assert await triggers_of(empty) == [row for row in triggers if " ON public.locations " not in row]


# Recreates landed tables of links: without an own field, and with an own field in the primary key.
RECREATED_LINKS = """
import sqlalchemy as sa

from app.core.collection_migrations import create_link_table, drop_link_table

revision = "anew"
down_revision = "{head}"


def upgrade():
    drop_link_table("process_locations")
    create_link_table("process_locations", owner=("process_id", "processes"), target=("location_id", "locations"))
    drop_link_table("process_roles")
    create_link_table(
        "process_roles",
        sa.Column("responsibility", sa.String(), primary_key=True),
        sa.CheckConstraint(
            "responsibility IN ('responsible', 'accountable', 'consulted', 'informed')", name="responsibility"
        ),
        sa.Index(
            "uq_process_roles_accountable",
            "process_id",
            unique=True,
            postgresql_where=sa.text("responsibility = 'accountable'"),
        ),
        owner=("process_id", "processes"),
        target=("role_id", "roles"),
    )


def downgrade():
    drop_link_table("process_locations")
    drop_link_table("process_roles")
"""


async def test_helper_creates_links_as_landed_revisions_do(empty: URL, root: Path, tmp_path: Path) -> None:
    await asyncio.to_thread(upgrade, empty)
    schema = await schema_of(empty)
    config = config_with(RECREATED_LINKS, empty, root, tmp_path)
    await asyncio.to_thread(command.upgrade, config, "anew")
    assert await schema_of(empty) == schema
    await asyncio.to_thread(command.downgrade, config, "-1")
    made = re.compile(r"(\w\w_)?process_(locations|roles)")
    assert await schema_of(empty) == [row for row in schema if not made.match(row[0])]


async def triggers_of(url: URL) -> list[str]:
    """Return the definition of every trigger."""
    query = "SELECT pg_get_triggerdef(oid) AS definition FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
    async with connected(url) as connection:
        return [row["definition"] for row in await connection.fetch(query)]


NAMED = """
    INSERT INTO departments (name) VALUES ('Procurement'), ('Warehousing and procurement');
    INSERT INTO roles (name) VALUES ('Procurement'), ('Level 12345');
    INSERT INTO users (name, email) VALUES ('Visitor', 'visitor@register.example');
    DELETE FROM users WHERE name = 'Visitor';
"""
OF_DEPARTMENTS, OF_ROLES = ("departments", "procurement"), ("roles", "procurement")


async def vocabulary_of(url: URL) -> list[tuple[str, ...]]:
    async with connected(url) as connection:
        rows = await connection.fetch("SELECT to_jsonb(v) AS row FROM search_vocabulary AS v ORDER BY word, id")
    found = (json.loads(row["row"]) for row in rows)
    return [tuple(row[name] for name in ("collection", "word") if name in row) for row in found]


async def test_words_get_their_collections_and_lose_them_again(empty: URL) -> None:
    config = alembic_config(empty)
    await asyncio.to_thread(command.upgrade, config, "0008")
    async with connected(empty) as connection:
        await connection.execute(NAMED)
    await asyncio.to_thread(command.upgrade, config, "0009")
    # The word of a deleted object is gone.
    known = [OF_DEPARTMENTS, OF_ROLES, ("departments", "warehousing")]
    assert sorted(await vocabulary_of(empty)) == sorted([("roles", "level"), *known])
    async with connected(empty) as connection:
        await connection.execute("INSERT INTO users (name, email) VALUES ('Procurement', 'a@register.example')")
        await connection.execute("UPDATE roles SET name = 'Warehousing' WHERE name LIKE 'Level%'")
    added = [("users", "procurement"), ("roles", "warehousing")]
    assert sorted(await vocabulary_of(empty)) == sorted([("roles", "level"), *known, *added])
    await asyncio.to_thread(command.downgrade, config, "0008")
    async with connected(empty) as connection:
        await connection.execute("INSERT INTO roles (name) VALUES ('Warehousing of spirits')")
    assert {word for (word,) in await vocabulary_of(empty)} == {"level", "procurement", "warehousing", "spirits"}
    await asyncio.to_thread(command.upgrade, config, "0009")
    assert ("roles", "spirits") in await vocabulary_of(empty)
    assert ("roles", "level") not in await vocabulary_of(empty)


async def are_waiting(observer: asyncpg.Connection, number: int) -> bool:
    """Return whether this number of processes wait for a lock."""
    query = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
    return bool(await observer.fetchval(query) == number)


@pytest.mark.parametrize(("begin", "end"), [("0008", "0009"), ("0009", "0008")])
@pytest.mark.parametrize(
    "write",
    ["INSERT INTO departments (name) VALUES ('Logistics')", "UPDATE roles SET name = 'Logistics'"],
)
async def test_writers_that_wait_for_the_words_of_collections_succeed(
    empty: URL, begin: str, end: str, write: str
) -> None:
    config = alembic_config(empty)
    await asyncio.to_thread(command.upgrade, config, begin)
    migrate = command.upgrade if begin < end else command.downgrade
    async with connected(empty) as blocker, connected(empty) as writer, connected(empty) as observer:
        await blocker.execute(NAMED)
        transaction = blocker.transaction()
        await transaction.start()
        # A search: the migration waits for its end after it has locked other tables.
        await blocker.execute("LOCK TABLE search_vocabulary IN ACCESS SHARE MODE")
        migration = asyncio.create_task(asyncio.to_thread(migrate, config, end))

        await until(lambda: are_waiting(observer, 1))
        written = asyncio.create_task(writer.execute(write))
        await until(lambda: are_waiting(observer, 2))
        await transaction.rollback()
        await asyncio.wait_for(asyncio.gather(migration, written), HANG_TIMEOUT)
    assert any(row[-1] == "logistics" for row in await vocabulary_of(empty))


FILLED = """
    INSERT INTO changes (type, object_id, object_code, object_name, action, before, after)
    SELECT 'roles', n, 'R-' || n, 'Filled', 'updated', '{"name": "A"}', '{"name": "B"}' FROM generate_series(1, 1000) n
"""
WRITTEN = "INSERT INTO changes (type, object_id, object_name, action) VALUES ('roles', 1, 'Written', 'updated')"


@pytest.mark.parametrize(
    ("begin", "end", "lets_write"),
    [
        *(("0010", "0011", True), ("0011", "0012", False), ("0012", "0013", True)),
        *(("0013", "0012", True), ("0012", "0011", False), ("0011", "0010", True)),
    ],
)
async def test_revisions_of_the_history_lose_no_concurrent_change(
    empty: URL, begin: str, end: str, lets_write: bool
) -> None:
    config = alembic_config(empty)
    await asyncio.to_thread(command.upgrade, config, begin)
    migrate = command.upgrade if begin < end else command.downgrade
    async with connected(empty) as blocker, connected(empty) as writer, connected(empty) as observer:
        await blocker.execute(FILLED)
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute(WRITTEN)
        migration = asyncio.create_task(asyncio.to_thread(migrate, config, end))

        async def is_decided() -> bool:
            return written.done() or await are_waiting(observer, 2)

        await until(lambda: are_waiting(observer, 1))
        written = asyncio.create_task(writer.execute(WRITTEN))
        await until(is_decided)
        # The build or the removal of an index waits for the open transaction, but keeps no other waiting.
        assert written.done() or not lets_write
        assert not migration.done()
        await transaction.commit()
        await asyncio.wait_for(asyncio.gather(migration, written), HANG_TIMEOUT)
        counts = "SELECT array_agg(count ORDER BY count) FROM (SELECT count(*) FROM changes GROUP BY object_name) AS c"
        assert await observer.fetchval(counts) == [2, 1000]
        assert await observer.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0


async def test_three_concurrent_migrations_succeed(empty: URL, root: Path) -> None:
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
        # The first attempt fails; a later one succeeds.
        await until_second_lock_wait(empty)
        assert not migration.done()
        await transaction.rollback()
        await asyncio.wait_for(migration, HANG_TIMEOUT)
    assert [name for name, _ in await schema_of(empty) if name.startswith("processes.")] == []
