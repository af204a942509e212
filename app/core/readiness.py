"""The readiness of the service to serve requests."""

import asyncio
import time

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.core.database import Database
from app.utils.exceptions import ServiceUnavailable

logger = structlog.get_logger("app.readiness")

PROBE_TIMEOUT_SECONDS = 1.0
CACHE_SECONDS = 1.0


class Readiness:
    """The result of `/health/ready`, cached for a second so that probes do not load the database."""

    def __init__(self, database: Database, head: str) -> None:
        self._database = database
        self._head = head
        self._checked_at = float("-inf")
        self._check_lock = asyncio.Lock()
        self._fault: str | None = None
        # Set by the signal that stops the service: it is not ready from then on, and its requests cease to wait.
        self.stopping = False

    async def check(self) -> None:
        """Raise `ServiceUnavailable` unless the service can handle requests.

        The service may be stopping, the database unreachable, or the schema of the database one of another version.
        """
        if self.stopping:
            raise ServiceUnavailable("The service is stopping.")
        # One check at a time: concurrent callers share the result of the first.
        async with self._check_lock:
            if time.monotonic() - self._checked_at > CACHE_SECONDS:
                self._fault = await self._find_fault()
                self._checked_at = time.monotonic()
        if self._fault is not None:
            raise ServiceUnavailable(self._fault)

    async def _find_fault(self) -> str | None:
        try:
            # On a separate connection: a busy pool of requests does not mean that the database is unreachable.
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS), self._database.probe_engine.connect() as connection:
                if not await connection.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL")):
                    return "The database has no schema. Run `python -m app migrate`."
                revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        except (ServiceUnavailable, SQLAlchemyError, TimeoutError) as error:
            cause = "timeout" if isinstance(error, TimeoutError) else repr(error.__cause__ or error)
            logger.warning("not ready", cause=cause)
            return ServiceUnavailable.text
        if revision != self._head:
            return "The schema of the database belongs to another version. Run `python -m app migrate`."
        return None
