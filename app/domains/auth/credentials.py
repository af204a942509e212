"""Base class and functions shared by the services of credentials and the command line."""

from typing import Any

from pydantic import SecretStr
from sqlalchemy import Executable

from app.core.caller import Caller
from app.core.config import Settings
from app.core.database import RegisterSession
from app.core.passwords import PasswordCheck, Passwords
from app.core.tokens import (
    LINK_LIFETIME,
    LINK_TOKEN,
    new_token,
    token_hash,
)
from app.domains.auth import statements
from app.domains.auth.schemas import PasswordLink
from app.utils.exceptions import (
    CallerBusy,
    CommonPassword,
    Conflict,
    Fault,
    HashingBusy,
    TooManyRequests,
)


class CredentialService:
    """Base of the services that read and write credentials."""

    session: RegisterSession
    settings: Settings
    passwords: Passwords
    address: str

    async def _row(self, statement: Executable, **values: Any) -> Any:
        """Run a statement and return its only row, or None."""
        return (await self.session.execute(statement, values)).one_or_none()

    async def _count_attempt(self, email: str) -> Any:
        """Count an attempt; return `id` and `password_hash` of the account, and the `keys` of the counters.

        `id` and `password_hash` are None if there is no active account. Raises `TooManyRequests` if a limit is
        exceeded.
        """
        attempt = await self._row(
            statements.COUNT_ATTEMPT,
            email=email,
            address=self.address,
            window=float(self.settings.sign_in_window_seconds),
            max_attempts=self.settings.sign_in_attempts,
            max_per_address=self.settings.sign_in_attempts_per_address,
            max_per_account=self.settings.sign_in_attempts_per_account,
        )
        if attempt.blocked_seconds is not None:
            raise TooManyRequests(retry_after=max(1, attempt.blocked_seconds))  # rolls back the count
        # Commit now: a failed request must not roll back the count, and hashing needs no connection.
        await self.session.release()
        return attempt

    async def _check_attempt(self, attempt: Any, stored_hash: str | None, password: SecretStr) -> PasswordCheck:
        """Check the password of a counted attempt. Raises `HashingBusy` and `CallerBusy`.

        An attempt that could not be checked does not count. The count comes first nevertheless, so that an attempt that
        exceeds a limit takes no place in the queue.
        """
        try:
            return await self.passwords.verify(stored_hash, password.get_secret_value(), address=self.address)
        except (HashingBusy, CallerBusy):
            await self.session.execute(statements.UNDO_ATTEMPT, {"keys": attempt.keys})
            await self.session.release()  # commits what the error would roll back
            raise

    async def _reject_common_password(self, password: SecretStr, pointer: str, *personal: str | None) -> None:
        """Raise `CommonPassword` if a password is easy to guess, also with the `personal` texts.

        Raises `HashingBusy` and `CallerBusy`, too.
        """
        weakness = await self.passwords.weakness(password.get_secret_value(), *personal, address=self.address)
        if weakness is not None:
            fault = Fault.of(pointer, weakness)
            raise CommonPassword(fault.detail, errors=[fault])


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
