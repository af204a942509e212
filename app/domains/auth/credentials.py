"""What the services of credentials have in common, and what the command line does with credentials."""

from typing import Any

from pydantic import SecretStr
from sqlalchemy import Executable

from app.core.caller import Caller
from app.core.config import Settings
from app.core.database import RegisterSession
from app.core.passwords import is_common
from app.core.tokens import (
    LINK_LIFETIME,
    LINK_TOKEN,
    new_token,
    token_hash,
)
from app.domains.auth import statements
from app.domains.auth.schemas import (
    PasswordLink,
)
from app.utils.exceptions import (
    CommonPassword,
    Conflict,
    Fault,
    TooManyRequests,
)


class CredentialService:
    """Runs the statements of a service that deals with credentials."""

    session: RegisterSession

    async def _row(self, statement: Executable, **values: Any) -> Any:
        """Run a statement and return its row, or None."""
        return (await self.session.execute(statement, values)).one_or_none()


async def create_password_link(session: RegisterSession, caller: Caller, user_id: int) -> PasswordLink:
    """Make the token of a link for a user. Raises `Conflict` when the user is not active."""
    token = new_token(LINK_TOKEN)
    values = {"user_id": user_id, "token_hash": token_hash(token), "lifetime": LINK_LIFETIME, **caller.signature()}
    link = (await session.execute(statements.MAKE_LINK, values)).one_or_none()
    if link is None:
        raise Conflict("The user is not active.")
    return PasswordLink(token=token, expires_at=link.expires_at)


async def store_password(session: RegisterSession, caller: Caller, user_id: int, password_hash: str) -> None:
    """Give a user a password, on behalf of the command line."""
    values = {"user_id": user_id, "new_hash": password_hash, **caller.signature()}
    await session.execute(statements.STORE_PASSWORD, values)


async def count_attempt(session: RegisterSession, settings: Settings, email: str, address: str) -> Any:
    """Count an attempt to sign in; return `id` and `password_hash` of the account, if there is one, and the `keys`.

    Raises `TooManyRequests` when there were too many already.
    """
    values = {
        "email": email,
        "address": address,
        "window": float(settings.sign_in_window_seconds),
        "most": settings.sign_in_attempts,
        "most_per_address": settings.sign_in_attempts_per_address,
        "most_per_account": settings.sign_in_attempts_per_account,
    }
    row = (await session.execute(statements.COUNT_ATTEMPT, values)).one()
    if row.blocked_seconds is not None:
        await session.release()  # the refusal must not undo the count
        raise TooManyRequests(retry_after=max(1, row.blocked_seconds))
    return row


def reject_common_password(password: SecretStr, pointer: str, *own: str | None) -> None:
    """Raise `CommonPassword` for one that others would try first."""
    if is_common(password.get_secret_value(), *own):
        detail = "Everybody would try this password first: choose another."
        raise CommonPassword(detail, errors=[Fault(pointer, "common_password", detail)])
