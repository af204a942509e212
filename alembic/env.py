"""Runs the migrations: one process at a time, with short waits for locks."""

import asyncio

from sqlalchemy import Connection, pool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from alembic import context
from app.core.config import get_settings
from app.core.database import advisory_key
from app.core.engine import driver_url
from app.models import Base

LOCK_TIMEOUT = "2s"
ATTEMPTS = 10
# A lock that is not available in time, and a deadlock with a transaction that writes several tables.
_LOCK_ERRORS = {"55P03", "40P01"}


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate_with_retries(connection: AsyncConnection) -> None:
    """Migrate. DDL that waits for a table in use blocks all later statements, so it waits briefly and is retried."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await connection.run_sync(migrate)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _LOCK_ERRORS or attempt == ATTEMPTS:
                raise
            await connection.rollback()
            await asyncio.sleep(attempt / 2)
        else:
            return


async def take_turn(guard: AsyncConnection) -> None:
    """Wait until no other process migrates.

    The lock is tried again and again: a statement that waits is a transaction, whose end the other process would await
    while it builds an index concurrently.
    """
    lock = text("SELECT pg_try_advisory_lock(:key)").bindparams(key=advisory_key("migrations"))
    while not await guard.scalar(lock):  # noqa: ASYNC110 - PostgreSQL, not this process, sets the event
        await asyncio.sleep(0.1)


async def run() -> None:
    url = context.config.attributes.get("url") or get_settings().database_url
    if url is None:
        raise SystemExit("Set DATABASE_URL to the database to migrate.")
    engine = create_async_engine(
        driver_url(url),
        poolclass=pool.NullPool,
        connect_args={"server_settings": {"lock_timeout": LOCK_TIMEOUT, "timezone": "UTC"}},
    )
    try:
        # On a separate connection: a statement before Alembic begins its transaction would begin one that Alembic does
        # not commit. The lock ends with the connection, even if this process is killed.
        async with engine.connect() as guard, engine.connect() as connection:
            await guard.execution_options(isolation_level="AUTOCOMMIT")
            await take_turn(guard)
            await migrate_with_retries(connection)
    finally:
        await engine.dispose()


asyncio.run(run())
