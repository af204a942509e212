"""Who is calling."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.database import SessionDep, fetch, prepare
from app.utils.exceptions import ServiceUnavailable

# The first administrator is the one user whom nobody created.
_FIRST_ADMINISTRATOR = prepare(text("SELECT id FROM users WHERE created_by_id IS NULL ORDER BY id LIMIT 1"))


@dataclass(frozen=True, slots=True)
class Caller:
    """The user on whose behalf a change is made."""

    id: int


async def first_administrator(session: AsyncSession) -> Caller | None:
    """Return the first administrator, or None before one was made."""
    row = await fetch(session, _FIRST_ADMINISTRATOR)
    return None if row is None else Caller(row["id"])


async def get_caller(request: Request, session: SessionDep) -> Caller:
    """Return the caller: the first administrator, on whose behalf every request is made.

    Raises `ServiceUnavailable` before `python -m app init` has made one.
    """
    caller = await first_administrator(session)
    if caller is None:
        raise ServiceUnavailable("The register has no administrator yet: run `python -m app init`.", retry_after=30)
    request.state.caller_id = caller.id
    return caller


CallerDep = Annotated[Caller, Depends(get_caller)]
