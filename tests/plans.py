"""Query plans of PostgreSQL, as `EXPLAIN (FORMAT JSON)` returns them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import URL

from tests.conftest import connected, new_database

# ANALYZE samples 300 rows per unit, which is every row here, so plans are the same in every run.
SAMPLE_ALL = "SET default_statistics_target = 400"


@asynccontextmanager
async def filled(server_url: URL, template: URL, fill: str, table: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a copy of `template` in which one table has many rows and current statistics."""
    async with new_database(server_url, template.database) as url, connected(url) as connection:
        await connection.execute(fill)
        await connection.execute(SAMPLE_ALL)
        await connection.execute(f"ANALYZE {table}")
        yield connection


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)
