"""The check that the times of objects and of their histories are in order."""

import asyncpg

from tests.catalogue import COLLECTIONS

# The changes that are earlier than the former change of their object.
_GOING_BACK = """
    SELECT type, object_id, action, at FROM (
        SELECT *, lag(at) OVER (PARTITION BY type, object_id ORDER BY id) AS former FROM changes
    ) c WHERE at < former
"""
# The objects whose `created_at` or `updated_at` is not the time of their creation or of their last change. Objects
# without a change of this kind are not checked.
_DIFFERENT = """
    SELECT DISTINCT ON (c.type, c.object_id) c.type, c.object_id, c.action, c.at FROM changes c JOIN {table} o
        ON c.type = '{table}' AND c.object_id = o.id
     WHERE c.action = 'created' AND c.at <> o.created_at
        OR c.at <> o.updated_at AND c.id = (
            SELECT max(id) FROM changes l WHERE l.type = c.type AND l.object_id = c.object_id)
"""


async def misplaced_times(connection: asyncpg.Connection) -> list[str]:
    """Return the changes whose times are not in order, or not those of their objects."""
    queries = [_GOING_BACK, *(_DIFFERENT.format(table=table) for table in COLLECTIONS)]
    return [str(dict(row)) for query in queries for row in await connection.fetch(query)]
