"""Base class and functions shared by the services of credentials and the command line."""

from typing import Any

from pydantic import SecretStr
from sqlalchemy import Executable

from app.core.caller import Caller
from app.core.config import Settings
from app.core.database import RegisterSession
from app.core.passwords import Passwords
from app.core.tokens import (
    LINK_LIFETIME,
    LINK_TOKEN,
    new_token,
    token_hash,
)
from app.domains.auth import statements
from app.domains.auth.schemas import PasswordLink
from app.utils.exceptions import (
    CommonPassword,
    Conflict,
    Fault,
    TooManyRequests,
)


class CredentialService:
    """Base of the services that read and write credentials."""

    session: RegisterSession

    async def _row(self, statement: Executable, **values: Any) -> Any:
        """Run a statement and return its only row, or None."""
        return (await self.session.execute(statement, values)).one_or_none()


async def create_password_link(session: RegisterSession, caller: Caller, user_id: int) -> PasswordLink:
    """Create the token of a password link for a user. Raises `Conflict` if the user is not active."""
    token = new_token(LINK_TOKEN)
    values = {"user_id": user_id, "token_hash": token_hash(token), "lifetime": LINK_LIFETIME, **caller.signature()}
    link = (await session.execute(statements.CREATE_LINK, values)).one_or_none()
    if link is None:
        raise Conflict("The user is not active.")
    return PasswordLink(token=token, expires_at=link.expires_at)


async def store_password(session: RegisterSession, caller: Caller, user_id: int, password_hash: str) -> None:
    """Store the password hash of a user and record the change. Used by the command line."""
    values = {"user_id": user_id, "new_hash": password_hash, **caller.signature()}
    await session.execute(statements.STORE_PASSWORD, values)


async def count_attempt(session: RegisterSession, settings: Settings, email: str, address: str) -> Any:
    """Count a sign-in attempt; return `id` and `password_hash` of the account, and the `keys` of the counters.

    `id` and `password_hash` are None if there is no active account. Raises `TooManyRequests` if a limit is exceeded.
    """
    values = {
        "email": email,
        "address": address,
        "window": float(settings.sign_in_window_seconds),
        "max_attempts": settings.sign_in_attempts,
        "max_per_address": settings.sign_in_attempts_per_address,
        "max_per_account": settings.sign_in_attempts_per_account,
    }
    row = (await session.execute(statements.COUNT_ATTEMPT, values)).one()
    if row.blocked_seconds is not None:
        await session.release()  # commits the count, which the error would roll back
        raise TooManyRequests(retry_after=max(1, row.blocked_seconds))
    return row


async def reject_common_password(
    passwords: Passwords, password: SecretStr, pointer: str, *personal: str | None
) -> None:
    """Raise `CommonPassword` if a password is easy to guess, also with the `personal` texts; `HashingBusy`."""
    weakness = await passwords.weakness(password.get_secret_value(), *personal)
    if weakness is not None:
        fault = Fault.of(pointer, weakness)
        raise CommonPassword(fault.detail, errors=[fault])
