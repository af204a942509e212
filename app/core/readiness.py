"""Whether requests can be served."""

import asyncio
import time

import structlog
from sqlalchemy import text

from app.core.database import session_of
from app.core.database_errors import DRIVER_ERRORS
from app.core.pool import Database
from app.core.statements import fetch, prepare
from app.utils.exceptions import ServiceUnavailable

logger = structlog.get_logger("app.readiness")

PATIENCE_SECONDS = 1.0
REMEMBERED_SECONDS = 1.0

_HAS_SCHEMA = prepare(text("SELECT 1 WHERE to_regclass('alembic_version') IS NOT NULL"))
_REVISION = prepare(text("SELECT version_num FROM alembic_version"))


class Readiness:
    """The answer of `/health/ready`, remembered for a second so that probes cost the database nothing."""

    def __init__(self, database: Database, head: str) -> None:
        self._database = database
        self._head = head
        self._checked_at = float("-inf")
        self._fault: str | None = None
        self.draining = False

    async def check(self) -> None:
        """Raise `ServiceUnavailable` when the service is stopping, or the database is away or of another schema."""
        if self.draining:
            raise ServiceUnavailable("The service is stopping.")
        if time.monotonic() - self._checked_at > REMEMBERED_SECONDS:
            self._fault = await self._find_fault()
            self._checked_at = time.monotonic()
        if self._fault is not None:
            raise ServiceUnavailable(self._fault)

    async def _find_fault(self) -> str | None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), session_of(self._database) as session:
                if await fetch(session, _HAS_SCHEMA) is None:
                    return "The database has no schema yet: run `python -m app migrate`."
                row = await fetch(session, _REVISION)
        except (ServiceUnavailable, *DRIVER_ERRORS) as error:
            logger.warning("not ready", cause=repr(error.__cause__ or error))
            return "The database cannot be reached at the moment."
        if row is None or row.version_num != self._head:
            return "The schema of the database is not that of this version: run `python -m app migrate`."
        return None
