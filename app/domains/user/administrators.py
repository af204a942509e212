"""The first administrator, on whose behalf the command line acts."""

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.core.database_errors import NO_TABLE, sqlstate_of
from app.core.permissions import scopes_of
from app.domains.user.models import User

# The private database of `run` has no URL that `init` could take.
NOT_INITIALISED = (
    "The register is not initialised. Run `python -m app init` first (without DATABASE_URL: `python -m app run`)."
)


async def first_administrator(session: RegisterSession) -> Caller | None:
    """Return the first administrator, on whose behalf the command line acts; None if there is no user or no schema."""
    # Only the first administrator has no creator.
    first = select(User.id, User.name).where(User.created_by_id.is_(None)).order_by(User.id).limit(1)
    try:
        row = (await session.execute(first)).one_or_none()
    except DBAPIError as error:
        if sqlstate_of(error) != NO_TABLE:
            raise
        return None
    return None if row is None else Caller(row.id, row.name, "admin", scopes_of("admin"))
