"""Removes words from the search vocabulary that no object of their collection has.

A word may be removed only if no transaction is left that has found the word known, and whose object is not visible yet.
So a run takes three steps, each with later snapshots, and none makes a writer wait:

1. All unused words are marked, in batches. From now on, transactions that write such a word add another row.
2. All transactions end that were writing objects when the last mark was committed.
3. The marked rows are deleted, in batches. A word that an object has after all gets a new row.

A mark is never taken back, so concurrent and interrupted runs do no harm: the next run completes what is marked.
"""

import asyncio
import logging
import time
from typing import Any

from sqlalchemy import Executable, Row, text

from app.core.database import MAX_STATEMENT_SECONDS, Database
from app.domains.collections import NAMES

logger = logging.getLogger(__name__)

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
# `unused` is materialised, else the planner may look the words up again for each row of a small vocabulary.
_MARK = text(
    f"""
    WITH batch AS MATERIALIZED (
        SELECT id, collection, word, is_unused FROM search_vocabulary WHERE id > :id ORDER BY id LIMIT :batch
    ), unused AS MATERIALIZED (
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
# A writer of objects has locked their table until its transaction ends. Transactions of other databases are not among
# these, nor are those that only read.
_WRITERS = text(
    """
    SELECT ARRAY(SELECT DISTINCT virtualtransaction FROM pg_locks
                  WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted AND relation = ANY(
                        ARRAY(SELECT CAST(to_regclass(name) AS oid) FROM unnest(CAST(:names AS text[])) AS name))
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    """
)
_ARE_RUNNING = text("SELECT EXISTS (SELECT FROM pg_locks WHERE virtualtransaction = ANY(CAST(:writers AS text[])))")
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

    If a transaction does not end within `MAX_WAIT_SECONDS`, nothing is removed and a warning is logged; the next run
    continues.
    """
    marked = await _mark(database)
    if not marked:
        return 0
    if not await _writers_have_ended(database):
        logger.warning(
            "%s unused search words are left to the next run: a transaction has been writing for over %g seconds.",
            f"{len(marked):,}",
            MAX_WAIT_SECONDS,
        )
        return 0
    removed = 0
    for start in range(0, len(marked), BATCH):
        removed += (await _run(database, _REMOVE, ids=marked[start : start + BATCH])).removed
    return removed


async def _mark(database: Database) -> list[int]:
    """Mark the unused words; return the ids of all marked rows."""
    marked: list[int] = []
    last_id: int | None = 0
    while last_id is not None:
        batch = await _run(database, _MARK, id=last_id, batch=BATCH)
        marked += batch.marked
        last_id = batch.id
    return marked


async def _writers_have_ended(database: Database) -> bool:
    """Wait for the end of all transactions that write objects now; return whether they have ended in time."""
    writers = (await _run(database, _WRITERS, names=list(NAMES)))[0]
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while (await _run(database, _ARE_RUNNING, writers=writers))[0]:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def _run(database: Database, statement: Executable, **values: Any) -> Row[*tuple[Any, ...]]:
    """Run a statement in a transaction of its own, so that it has a new snapshot, and return its row."""
    async with database.transaction() as session:
        await session.allow_seconds(MAX_STATEMENT_SECONDS)
        return (await session.execute(statement, values)).one()
