"""Deletes expired rows and unused words in small batches to keep locks short."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Executable, Row, text
from sqlalchemy.exc import DBAPIError

from app.core.database import Database
from app.core.database_errors import NO_PRIVILEGE, sqlstate_of
from app.domains.register.unused_words import remove_unused_words
from app.utils.exceptions import RegisterError

BATCH = 5000
# Tables whose rows may have megabytes of values stored out of line (TOAST).
_SMALL_BATCHES = {"idempotency keys": 200, "import plans": 20}

# Locked rows are skipped: waiting for them could deadlock, and they may be extended or replaced meanwhile.
_DELETE_EXPIRED = {
    # Before sessions, whose deletion would cascade to any number of refresh tokens in one statement.
    "refresh tokens": "DELETE FROM refresh_tokens WHERE expires_at < now() AND token_hash IN "
    "(SELECT token_hash FROM refresh_tokens WHERE expires_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "sessions": "DELETE FROM sessions WHERE expires_at < now() AND id IN "
    "(SELECT id FROM sessions WHERE expires_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "password links": "DELETE FROM password_links WHERE expires_at < now() AND user_id IN "
    "(SELECT user_id FROM password_links WHERE expires_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
    # Kept for 30 days, so that users can see why a program lost access.
    "API tokens": "DELETE FROM api_tokens WHERE id IN "
    "(SELECT id FROM api_tokens WHERE expires_at < now() - interval '30 days' LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "familiar addresses": "DELETE FROM familiar_addresses WHERE last_used_at < now() - interval '90 days' "
    "AND (user_id, address) IN (SELECT user_id, address FROM familiar_addresses "
    "WHERE last_used_at < now() - interval '90 days' LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "idempotency keys": "DELETE FROM idempotency_keys WHERE expires_at < now() AND (user_id, key) IN "
    "(SELECT user_id, key FROM idempotency_keys WHERE expires_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "idempotency usage": "DELETE FROM idempotency_usage WHERE ends_at < now() AND user_id IN "
    "(SELECT user_id FROM idempotency_usage WHERE ends_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "import plans": "DELETE FROM import_plans WHERE expires_at < now() AND id IN "
    "(SELECT id FROM import_plans WHERE expires_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
    # Kept for 30 days, so that a repeated import finds objects without keys. Before imports, whose rows have the age.
    "imported ids": "DELETE FROM imported_objects WHERE (import_id, collection, old_id) IN "
    "(SELECT o.import_id, o.collection, o.old_id FROM imported_objects o JOIN register_imports i ON i.id = o.import_id "
    "WHERE i.used_at < now() - interval '30 days' LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "imports": "DELETE FROM register_imports WHERE id IN (SELECT i.id FROM register_imports i "
    "WHERE i.used_at < now() - interval '30 days' "
    "AND NOT EXISTS (SELECT FROM imported_objects o WHERE o.import_id = i.id) LIMIT :batch FOR UPDATE SKIP LOCKED)",
    "sign-in attempts": "DELETE FROM sign_in_attempts WHERE ends_at < now() AND key IN "
    "(SELECT key FROM sign_in_attempts WHERE ends_at < now() LIMIT :batch FOR UPDATE SKIP LOCKED)",
}
# Keeps the first and the last change of each object. Keyset pagination: each batch starts after the last one, so that
# remaining rows are read once, not once per batch. Counts the deletion and records the greatest position among the
# deleted changes: the feed rejects positions that are older than this deletion and lie before it. A state that was
# restored from a dump stays as it is, because the next reader replaces it.
_DELETE_CHANGES = """
    WITH old AS MATERIALIZED (
        SELECT id, at, type, object_id FROM changes
         WHERE at < now() - make_interval(days => :days) AND (at, id) > (:at, :id) ORDER BY at, id LIMIT :batch
    ), removed AS (
        DELETE FROM changes WHERE id IN (
            SELECT c.id FROM old o JOIN changes c ON c.id = o.id
             WHERE EXISTS (SELECT FROM changes e WHERE e.type = o.type AND e.object_id = o.object_id AND e.id < o.id)
               AND EXISTS (SELECT FROM changes l WHERE l.type = o.type AND l.object_id = o.object_id AND l.id > o.id)
               FOR UPDATE OF c SKIP LOCKED)
        RETURNING id, transaction_id
    ), last AS (
        SELECT max(ARRAY[CASE WHEN r.id <= s.settled_through THEN 0 ELSE r.transaction_id END, r.id]) AS position
          FROM removed r, feed_state s
    ), noted AS (
        UPDATE feed_state s
           SET thinnings = s.thinnings + 1, thinned_before = greatest(s.thinned_before, l.position),
               row_version = pg_current_xact_id()::text::bigint % 4294967296
          FROM last l WHERE l.position IS NOT NULL AND s.xmin::text::bigint = s.row_version
    )
    SELECT at, id, (SELECT count(*) FROM removed) AS removed FROM old ORDER BY at DESC, id DESC LIMIT 1
"""
# Waits until no epoch of the feed is beginning, and keeps the next one waiting.
_LOCK_FEED = text("LOCK TABLE feed_state IN ROW EXCLUSIVE MODE")


async def clean_up(database: Database, history_days: int | None) -> dict[str, int]:
    """Delete expired rows, unused words and, unless `history_days` is None, changes older than `history_days` days,
    except the first and the last change of each object.

    Return the number of deleted rows by kind. Raises `RegisterError` if the database role lacks the privilege.
    """
    try:
        removed = {
            kind: await _delete_expired(
                database, text(f"{sql} RETURNING 1"), min(BATCH, _SMALL_BATCHES.get(kind, BATCH))
            )
            for kind, sql in _DELETE_EXPIRED.items()
        }
        if history_days is not None:
            removed["changes"] = await _delete_changes(database, history_days)
        # Last, as this waits for writers.
        removed["search words"] = await remove_unused_words(database)
    except DBAPIError as error:
        if sqlstate_of(error) != NO_PRIVILEGE:
            raise
        raise RegisterError(
            "The role of the service is not allowed to delete these rows. "
            "Run housekeeping as the owner of the tables (docs/10-history.md)."
        ) from error
    return removed


async def _delete_expired(database: Database, statement: Executable, batch: int) -> int:
    removed = 0
    while True:
        rows = await _run(database, statement, batch=batch)
        removed += len(rows)
        if len(rows) < batch:
            return removed


async def _delete_changes(database: Database, days: int) -> int:
    removed = 0
    last_row: dict[str, Any] = {"at": datetime.min.replace(tzinfo=UTC), "id": 0}
    while rows := await _run(database, _LOCK_FEED, text(_DELETE_CHANGES), batch=BATCH, days=days, **last_row):
        removed += rows[0].removed
        last_row = {"at": rows[0].at, "id": rows[0].id}
    return removed


async def _run(database: Database, *statements: Executable, **values: Any) -> Sequence[Row[*tuple[Any, ...]]]:
    """Run statements in one transaction, and return the rows of the last one, which takes the values."""
    *first, last = statements
    async with database.transaction() as session:
        for statement in first:
            await session.execute(statement)
        return (await session.execute(last, values)).all()
