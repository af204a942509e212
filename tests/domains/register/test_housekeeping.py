"""Expired rows are deleted in batches; all other rows stay."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event

from app.core.database import Database
from app.domains.register import housekeeping
from app.domains.register.housekeeping import clean_up
from tests.conftest import LONG_TIMEOUT_ENV, Committed, connected, text_of
from tests.waiting import HANG_TIMEOUT

KINDS = (
    "refresh tokens",
    "sessions",
    "password links",
    "API tokens",
    "familiar addresses",
    "idempotency keys",
    "idempotency usage",
    "import plans",
    "imported ids",
    "imports",
    "sign-in attempts",
    "search words",
)
NOTHING = dict.fromkeys(KINDS, 0)
CREDENTIALS = """
    INSERT INTO users (name, email) VALUES ('Gone', 'gone@register.example'), ('Live', 'live@register.example');
    INSERT INTO sessions (user_id, address, expires_at, user_agent)
    SELECT u.id, '192.0.2.7', now() + span.value, span.name
      FROM users u, (VALUES ('expired', interval '-1 second'), ('live', interval '1 hour')) AS span (name, value)
     WHERE u.name = 'Live';
    INSERT INTO refresh_tokens (token_hash, session_id, expires_at)
    SELECT span.name::bytea, s.id, now() + span.value
      FROM sessions s, (VALUES ('expired', interval '-1 second'), ('live', interval '1 hour')) AS span (name, value)
     WHERE s.user_agent = 'live';
    INSERT INTO refresh_tokens (token_hash, session_id, expires_at)
    SELECT 'cascade', id, expires_at FROM sessions WHERE user_agent = 'expired';
    INSERT INTO password_links (user_id, token_hash, expires_at)
    SELECT id, name::bytea, now() + CASE name WHEN 'Live' THEN 1 ELSE -1 END * interval '1 hour'
      FROM users WHERE name IN ('Gone', 'Live');
    INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at)
    SELECT u.id, span.name, span.name::bytea, '{roles:read}', now() + span.value
      FROM users u, (VALUES ('long ago', interval '-30 days -1 hour'), ('lately', interval '-30 days 1 hour'),
                            ('live', interval '1 hour')) AS span (name, value)
     WHERE u.name = 'Live';
    INSERT INTO familiar_addresses (user_id, address, last_used_at)
    SELECT u.id, span.name, now() - span.value
      FROM users u, (VALUES ('long ago', interval '90 days 1 hour'), ('lately', interval '89 days'))
           AS span (name, value)
     WHERE u.name = 'Live';
    INSERT INTO idempotency_keys (user_id, key, fingerprint, scopes, status, headers, body, expires_at)
    SELECT u.id, span.name, '', '{}', 201, '{}', 'body', now() + span.value
      FROM users u, (VALUES ('expired', interval '-1 second'), ('live', interval '1 hour')) AS span (name, value)
     WHERE u.name = 'Live';
    INSERT INTO idempotency_usage (user_id, responses, bytes, ends_at)
    VALUES (1, 3, 4, now() - interval '1 second'), (2, 3, 4, now() + interval '1 hour');
    INSERT INTO import_plans (id, user_id, collection, options, file, basis, expires_at)
    SELECT gen_random_uuid(), 1, span.name, '{}', 'file', '', now() + span.value
      FROM (VALUES ('expired', interval '-1 second'), ('live', interval '1 hour')) AS span (name, value);
    INSERT INTO register_imports (digest, run, used_at)
    SELECT convert_to(span.name, 'UTF8'), 1, now() + span.value
      FROM (VALUES ('expired', interval '-31 days'), ('live', interval '-29 days')) AS span (name, value);
    INSERT INTO imported_objects (import_id, collection, old_id, new_id, run)
    SELECT id, convert_from(digest, 'UTF8'), 1, 1, 1 FROM register_imports;
    INSERT INTO sign_in_attempts (key, attempts, ends_at)
    VALUES ('over', 3, now() - interval '1 second'), ('counting', 3, now() + interval '1 hour');
    INSERT INTO search_vocabulary (collection, word) VALUES ('users', 'forgotten');
"""
LEFT = {
    "SELECT user_agent FROM sessions": ["live"],
    "SELECT convert_from(token_hash, 'UTF8') FROM refresh_tokens": ["live"],
    "SELECT convert_from(token_hash, 'UTF8') FROM password_links": ["Live"],
    "SELECT name FROM api_tokens ORDER BY name": ["Tests", "lately", "live"],
    "SELECT address FROM familiar_addresses": ["lately"],
    "SELECT key FROM idempotency_keys": ["live"],
    "SELECT user_id FROM idempotency_usage": [2],
    "SELECT collection FROM import_plans": ["live"],
    "SELECT collection FROM imported_objects": ["live"],
    "SELECT convert_from(digest, 'UTF8') FROM register_imports": ["live"],
    "SELECT key FROM sign_in_attempts": ["counting"],
    "SELECT word FROM search_vocabulary WHERE word IN ('forgotten', 'gone')": ["gone"],
}


@pytest.fixture
async def connection(committed: Committed) -> AsyncIterator[asyncpg.Connection]:
    async with connected(committed.url) as connection:
        # Removes the changes that the initialisation of the database recorded.
        await connection.execute("TRUNCATE changes")
        yield connection


async def column(connection: asyncpg.Connection, query: str) -> list[Any]:
    return [row[0] for row in await connection.fetch(query)]


async def test_only_expired_rows_are_deleted(database: Database, connection: asyncpg.Connection) -> None:
    await connection.execute(CREDENTIALS)
    users = await column(connection, "SELECT name FROM users ORDER BY id")
    removed = await clean_up(database, None)
    # One of the two refresh tokens belongs to the expired session.
    assert removed == dict.fromkeys(KINDS, 1) | {"refresh tokens": 2}
    for query, left in LEFT.items():
        assert await column(connection, query) == left
    assert await column(connection, "SELECT name FROM users ORDER BY id") == users
    assert await clean_up(database, None) == NOTHING


def test_documentation_lists_all_kinds_of_rows(root: Path) -> None:
    page = (root / "docs" / "07-operations.md").read_text("utf-8")
    section = page.partition("\n## Housekeeping\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \|$", section, re.MULTILINE)
    assert rows == ["reported as", "---", *KINDS[:-1], "changes", KINDS[-1]]


async def test_expired_rows_are_deleted_in_batches(
    database: Database, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only a batch that is not full ends the loop.
    for batch, statements in ((4, 3), (5, 3), (11, 1)):
        await connection.execute(
            "INSERT INTO sign_in_attempts SELECT n, 1, now() - interval '1 day' FROM generate_series(1, 10) AS n"
        )
        monkeypatch.setattr(housekeeping, "BATCH", batch)
        with counted(database) as seen:
            assert await clean_up(database, None) == NOTHING | {"sign-in attempts": 10}
        assert sum("sign_in_attempts" in statement for statement in seen) == statements


async def test_idempotency_keys_are_deleted_in_smaller_batches(
    database: Database, connection: asyncpg.Connection
) -> None:
    # A row may have megabytes out of line.
    await connection.execute(
        """
        INSERT INTO idempotency_keys (user_id, key, fingerprint, scopes, status, headers, body, expires_at)
        SELECT 1, n, '', '{}', 201, '{}', 'body', now() - interval '1 second' FROM generate_series(1, 450) AS n
        """
    )
    with counted(database) as seen:
        assert await clean_up(database, None) == NOTHING | {"idempotency keys": 450}
    assert sum("idempotency_keys" in statement for statement in seen) == 3


class counted:  # noqa: N801 - it reads as a verb
    """Collects the statements that run on a database."""

    def __init__(self, database: Database) -> None:
        self.engine = database.engine.sync_engine
        self.seen: list[str] = []

    def _add(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        self.seen.append(statement)

    def __enter__(self) -> list[str]:
        event.listen(self.engine, "before_cursor_execute", self._add)
        return self.seen

    def __exit__(self, *_error: object) -> None:
        event.remove(self.engine, "before_cursor_execute", self._add)


async def record(connection: asyncpg.Connection, collection: str, object_id: int, *days_ago: float) -> None:
    """Record changes of an object, the oldest first, named by their number."""
    await connection.executemany(
        """
        INSERT INTO changes (type, object_id, object_name, action, at)
        VALUES ($1, $2, $3, 'updated', now() - $4 * interval '1 day')
        """,
        [(collection, object_id, str(number), days) for number, days in enumerate(days_ago, 1)],
    )


async def remaining(connection: asyncpg.Connection) -> dict[tuple[str, int], list[int]]:
    rows = await connection.fetch(
        "SELECT type, object_id, array_agg(object_name::int ORDER BY id) AS left FROM changes GROUP BY type, object_id"
    )
    return {(row["type"], row["object_id"]): row["left"] for row in rows}


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 5000])
async def test_history_is_thinned_between_the_first_and_the_newest_row(
    database: Database, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", batch)
    await record(connection, "roles", 1, 99)
    await record(connection, "roles", 2, 99, 98)
    await record(connection, "roles", 3, 99, 98, 97)
    await record(connection, "roles", 4, *range(90, 60, -1))
    await record(connection, "roles", 5, 99, 98, 31, 29, 1)
    await record(connection, "roles", 6, 29, 28, 27)
    await record(connection, "roles", 7, 99, 1)
    # The same number in another collection is another object.
    await record(connection, "users", 1, 50, 49, 48, 47)
    await record(connection, "users", 3, 1)
    # Changes at the same time, as in a batch; and ids in another order than the times, as after a lock wait.
    await record(connection, "processes", 1, *[80] * 6)
    await record(connection, "processes", 2, 60, 70, 65, 50)
    assert await clean_up(database, 30) == NOTHING | {"changes": 1 + 28 + 2 + 2 + 4 + 2}
    assert await remaining(connection) == {
        ("roles", 1): [1],
        ("roles", 2): [1, 2],
        ("roles", 3): [1, 3],
        ("roles", 4): [1, 30],
        ("roles", 5): [1, 4, 5],
        ("roles", 6): [1, 2, 3],
        ("roles", 7): [1, 2],
        ("users", 1): [1, 4],
        ("users", 3): [1],
        ("processes", 1): [1, 6],
        ("processes", 2): [1, 4],
    }
    assert await clean_up(database, 30) == NOTHING | {"changes": 0}


async def test_history_is_complete_unless_days_are_set(database: Database, connection: asyncpg.Connection) -> None:
    await record(connection, "roles", 1, 9999, 5000, 4000, 1)
    assert await clean_up(database, None) == NOTHING
    assert await remaining(connection) == {("roles", 1): [1, 2, 3, 4]}


async def test_large_history_takes_one_statement_per_batch(database: Database, connection: asyncpg.Connection) -> None:
    await connection.execute(
        """
        INSERT INTO changes (type, object_id, object_name, action, at)
        SELECT 'roles', n % 5000, n, 'updated', now() - interval '90 days' + n * interval '1 second'
          FROM generate_series(1, 50000) AS n
        """
    )
    await connection.execute("ANALYZE changes")
    with counted(database) as seen:
        assert await clean_up(database, 30) == NOTHING | {"changes": 40_000}
    assert sum("changes" in statement for statement in seen) == 50_000 // housekeeping.BATCH + 1
    assert await connection.fetchval("SELECT count(*) FROM changes") == 10_000
    # Remaining rows are read once: the work is linear in their number.
    with counted(database) as seen:
        assert await clean_up(database, 30) == NOTHING | {"changes": 0}
    assert sum("changes" in statement for statement in seen) == 10_000 // housekeeping.BATCH + 1


async def test_two_concurrent_runs_share_the_work(
    database: Database, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 50)
    for number in range(20):
        await record(connection, "roles", number, *range(90, 60, -1))
    await connection.execute(
        "INSERT INTO sign_in_attempts SELECT n, 1, now() - interval '1 day' FROM generate_series(1, 500) AS n"
    )
    removed = await asyncio.gather(clean_up(database, 30), clean_up(database, 30))
    assert sum(each["changes"] for each in removed) == 20 * 28
    assert sum(each["sign-in attempts"] for each in removed) == 500
    assert await remaining(connection) == {("roles", number): [1, 30] for number in range(20)}


async def test_concurrently_replaced_link_stays(database: Database, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO password_links SELECT id, 'old', now() - interval '1 day' FROM users ORDER BY id LIMIT 1"
    )
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("UPDATE password_links SET token_hash = 'new', expires_at = now() + interval '1 day'")
    # A locked row is skipped until the next run.
    assert await clean_up(database, None) == NOTHING
    await transaction.commit()
    assert await clean_up(database, None) == NOTHING
    assert await column(connection, "SELECT convert_from(token_hash, 'UTF8') FROM password_links") == ["new"]


async def test_command_prints_the_numbers_of_deleted_rows(
    committed: Committed, connection: asyncpg.Connection, root: Path
) -> None:
    await connection.execute(CREDENTIALS)
    await record(connection, "roles", 1, 99, 98, 1)
    environment = os.environ | LONG_TIMEOUT_ENV | {"DATABASE_URL": text_of(committed.url), "HISTORY_DAYS": "30"}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "app", "housekeeping"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_TIMEOUT,
    )
    assert (done.stdout, done.stderr.splitlines()) == (
        "",
        [
            "refresh tokens: 2 deleted",
            "sessions: 1 deleted",
            "password links: 1 deleted",
            "API tokens: 1 deleted",
            "familiar addresses: 1 deleted",
            "idempotency keys: 1 deleted",
            "idempotency usage: 1 deleted",
            "import plans: 1 deleted",
            "imported ids: 1 deleted",
            "imports: 1 deleted",
            "sign-in attempts: 1 deleted",
            "changes: 1 deleted",
            "search words: 1 deleted",
        ],
    )
