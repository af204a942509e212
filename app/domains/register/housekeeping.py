"""Removes what has expired, a batch at a time, so that nobody waits for a lock of ours."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Executable, Row, text
from sqlalchemy.exc import DBAPIError

from app.core.database import Database
from app.core.database_errors import NO_PRIVILEGE, sqlstate_of
from app.utils.exceptions import RegisterError

BATCH = 5000
# Of what may have megabytes beside its row, which go with it.
_FEWER = {"idempotency keys": 200, "import plans": 20}

# What others are at work on is passed over: waiting for it could end in a deadlock, and it may have been prolonged or
# replaced by then.
_EXPIRED = {
    # Before their sessions, which would take all of theirs along in one statement.
    "refresh tokens": "DELETE FROM refresh_tokens WHERE expires_at < now() AND token_hash IN "
    "(SELECT token_hash FROM refresh_tokens WHERE expires_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "sessions": "DELETE FROM sessions WHERE expires_at < now() AND id IN "
    "(SELECT id FROM sessions WHERE expires_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "password links": "DELETE FROM password_links WHERE expires_at < now() AND user_id IN "
    "(SELECT user_id FROM password_links WHERE expires_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
    # Those who wonder why a program stopped still find its token for a month.
    "API tokens": "DELETE FROM api_tokens WHERE id IN "
    "(SELECT id FROM api_tokens WHERE expires_at < now() - interval '30 days' LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "familiar addresses": "DELETE FROM familiar_addresses WHERE last_used_at < now() - interval '90 days' "
    "AND (user_id, address) IN (SELECT user_id, address FROM familiar_addresses "
    "WHERE last_used_at < now() - interval '90 days' LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "idempotency keys": "DELETE FROM idempotency_keys WHERE expires_at < now() AND (user_id, key) IN "
    "(SELECT user_id, key FROM idempotency_keys WHERE expires_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "import plans": "DELETE FROM import_plans WHERE expires_at < now() AND id IN "
    "(SELECT id FROM import_plans WHERE expires_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
    # Whoever imports the same again within a month need not make anew what has no keys. Before their imports, by which
    # it is known how old they are.
    "imported ids": "DELETE FROM imported_objects WHERE (import_id, collection, old_id) IN "
    "(SELECT o.import_id, o.collection, o.old_id FROM imported_objects o JOIN register_imports i ON i.id = o.import_id "
    "WHERE i.used_at < now() - interval '30 days' LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "imports": "DELETE FROM register_imports WHERE id IN (SELECT i.id FROM register_imports i "
    "WHERE i.used_at < now() - interval '30 days' "
    "AND NOT EXISTS (SELECT FROM imported_objects o WHERE o.import_id = i.id) LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "attempts to sign in": "DELETE FROM sign_in_attempts WHERE ends_at < now() AND key IN "
    "(SELECT key FROM sign_in_attempts WHERE ends_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
}
# What made an object and what it came to be are never removed. Each batch goes on where the last one ended, so that
# rows which stay are looked at once, not once a batch.
_HISTORY = """
    WITH old AS MATERIALIZED (
        SELECT id, at, type, object_id FROM changes
         WHERE at < now() - make_interval(days => :days) AND (at, id) > (:at, :id) ORDER BY at, id LIMIT :batch
    ), removed AS (
        DELETE FROM changes WHERE id IN (
            SELECT c.id FROM old o JOIN changes c ON c.id = o.id
             WHERE EXISTS (SELECT FROM changes e WHERE e.type = o.type AND e.object_id = o.object_id AND e.id < o.id)
               AND EXISTS (SELECT FROM changes l WHERE l.type = o.type AND l.object_id = o.object_id AND l.id > o.id)
               FOR UPDATE OF c SKIP LOCKED)
        RETURNING 1
    )
    SELECT at, id, (SELECT count(*) FROM removed) AS removed FROM old ORDER BY at DESC, id DESC LIMIT 1
"""


async def clean_up(database: Database, history_days: int | None) -> dict[str, int]:
    """Remove what has expired and, unless it is None, the history older than `history_days`; return the numbers.

    Raises `RegisterError` when the database role may not do that.
    """
    try:
        removed = {
            what: await _remove_expired(database, text(f"{sql} RETURNING 1"), min(BATCH, _FEWER.get(what, BATCH)))
            for what, sql in _EXPIRED.items()
        }
        if history_days is not None:
            removed["changes"] = await _thin_history(database, history_days)
    except DBAPIError as error:
        if sqlstate_of(error) != NO_PRIVILEGE:
            raise
        raise RegisterError(
            "The database role may not remove this, as it should be for the role of the service: "
            "run housekeeping as the owner of the tables (docs/10-history.md)."
        ) from error
    return removed


async def _remove_expired(database: Database, statement: Executable, batch: int) -> int:
    removed = 0
    while True:
        rows = await _run(database, statement, batch=batch)
        removed += len(rows)
        if len(rows) < batch:
            return removed


async def _thin_history(database: Database, days: int) -> int:
    removed = 0
    reached: dict[str, Any] = {"at": datetime.min.replace(tzinfo=UTC), "id": 0}
    while rows := await _run(database, text(_HISTORY), batch=BATCH, days=days, **reached):
        removed += rows[0].removed
        reached = {"at": rows[0].at, "id": rows[0].id}
    return removed


async def _run(database: Database, statement: Executable, **values: Any) -> Sequence[Row[*tuple[Any, ...]]]:
    async with database.transaction() as session:
        return (await session.execute(statement, values)).all()
