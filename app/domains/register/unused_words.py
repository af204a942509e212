"""Removes words from the search vocabulary that no object of their collection has.

A word may be removed only if no transaction is left that has found the word known, and whose object is not visible yet.
So each batch takes three steps, each with a later snapshot, and none makes a writer wait:

1. Unused words are marked. From now on, transactions that write such a word add another row.
2. All transactions end that had begun to write when the marks were committed.
3. The marked rows are deleted. A word that an object has after all gets a new row.

A mark is never taken back, so concurrent and interrupted runs do no harm: the next run completes what is marked.
"""

import asyncio
import time
from typing import Any

from sqlalchemy import Executable, text

from app.core.database import Database
from app.domains.collections import NAMES

BATCH = 200
# Longer than any statement of a request, and than an idle transaction.
MAX_WAIT_SECONDS = 120.0
_POLL_SECONDS = 0.05


def _is_used(word: str) -> str:
    """Return the condition that an object of its collection has the word."""
    # A row number instead of EXISTS: with EXISTS, the planner expects to find an object soon by scanning the table.
    cases = " ".join(
        f"""
        WHEN '{name}' THEN (
            SELECT count(*) > 0 FROM (
                SELECT row_number() OVER () AS number FROM {name}
                 WHERE search_text @@ CAST(quote_literal({word}.word) AS tsquery)
            ) AS found WHERE number = 1)"""  # noqa: S608 - names of tables
        for name in NAMES
    )
    return f"CASE {word}.collection {cases} ELSE false END"


# Keyset pagination: each batch starts after the last one. A word that an older row has, too, needs no row of its own.
_MARK = text(
    f"""
    WITH batch AS MATERIALIZED (
        SELECT id, collection, word, is_unused FROM search_vocabulary WHERE id > :id ORDER BY id LIMIT :batch
    ), unused AS (
        SELECT id FROM batch
         WHERE is_unused OR NOT ({_is_used("batch")})
            OR EXISTS (SELECT FROM search_vocabulary AS older
                        WHERE older.word = batch.word AND older.collection = batch.collection
                          AND older.id < batch.id AND NOT older.is_unused)
    ), marked AS (
        UPDATE search_vocabulary SET is_unused = true WHERE id IN (
            SELECT id FROM search_vocabulary WHERE id IN (SELECT id FROM unused) FOR UPDATE SKIP LOCKED)
        RETURNING id
    )
    SELECT max(id) AS id, ARRAY(SELECT id FROM marked) AS marked FROM batch
    """  # noqa: S608 - constant text only, as below
)
_BARRIER = text("SELECT CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text)")
_HAVE_ENDED = text("SELECT pg_snapshot_xmin(pg_current_snapshot()) >= CAST(CAST(:barrier AS text) AS xid8)")
_REMOVE = text(
    f"""
    WITH removed AS (
        DELETE FROM search_vocabulary WHERE id IN (
            SELECT id FROM search_vocabulary WHERE id = ANY(:ids) FOR UPDATE SKIP LOCKED)
        RETURNING collection, word
    ), added AS (
        INSERT INTO search_vocabulary (collection, word)
        SELECT DISTINCT collection, word FROM removed
         WHERE {_is_used("removed")}
           AND NOT EXISTS (SELECT FROM search_vocabulary AS other
                            WHERE other.word = removed.word AND other.collection = removed.collection
                              AND NOT other.is_unused)
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM removed) - (SELECT count(*) FROM added) AS removed
    """  # noqa: S608
)


async def remove_unused_words(database: Database) -> int:
    """Remove duplicate words and words without an object; return the number of removed rows.

    Stops early if a transaction does not end within `MAX_WAIT_SECONDS`; the next run removes the rest.
    """
    removed = last_id = 0
    while True:
        async with database.transaction() as session:
            batch = (await session.execute(_MARK, {"id": last_id, "batch": BATCH})).one()
        if batch.id is None:
            return removed
        last_id = batch.id
        if batch.marked:
            if not await _writers_have_ended(database):
                return removed
            async with database.transaction() as session:
                removed += (await session.execute(_REMOVE, {"ids": batch.marked})).scalar_one()


async def _writers_have_ended(database: Database) -> bool:
    """Wait for the end of all transactions that write now; return whether they have ended in time."""
    barrier = await _scalar(database, _BARRIER)
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while not await _scalar(database, _HAVE_ENDED, barrier=barrier):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def _scalar(database: Database, statement: Executable, **values: Any) -> Any:
    """Run a statement in a transaction of its own, so that it has a new snapshot, and return its value."""
    async with database.transaction() as session:
        return await session.scalar(statement, values)
