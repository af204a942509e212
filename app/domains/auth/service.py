"""The service of credentials for signed-in users."""

from functools import cache
from typing import Any, Self

from fastapi import Request
from sqlalchemy import Executable, select

from app.core.caller import Caller, CallerDep
from app.core.config import Settings
from app.core.database import RegisterSession, SessionDep
from app.core.http.authorisation import client_address
from app.core.passwords import Passwords
from app.core.permissions import scopes_of
from app.core.tokens import (
    API_TOKEN,
    Tokens,
    new_token,
)
from app.domains.auth import statements
from app.domains.auth.credentials import CredentialService, create_password_link
from app.domains.auth.lists import API_TOKENS, any_user, by_user, count_of_sessions, page_of_sessions
from app.domains.auth.schemas import (
    ApiTokenCreate,
    ApiTokenMade,
    ChangePassword,
    Me,
    PasswordLink,
)
from app.domains.shared.models import table_of
from app.domains.shared.query.orders import Condition
from app.domains.shared.query.pages import Listing, PageQuery, fetch_page
from app.domains.shared.reading.keys import not_found, parse_key
from app.domains.shared.reading.page_rows import NEWEST_FIRST
from app.domains.shared.schemas import Brief
from app.domains.user.models import User
from app.domains.user.sessions import end_sessions
from app.utils.exceptions import (
    INVALID_TOKEN,
    CallerDeleted,
    Fault,
    InvalidContent,
    NotFound,
    TooManyTokens,
    Unauthorized,
)

# The valid tokens of one user.
MAX_API_TOKENS = 100


class AccountService(CredentialService):
    """Manages the caller's own credentials and, for administrators, those of other users."""

    def __init__(self, session: RegisterSession, caller: Caller, request: Request) -> None:
        self.session = session
        self.caller = caller
        self.settings: Settings = request.app.state.settings
        self.passwords: Passwords = request.app.state.passwords
        self.tokens: Tokens = request.app.state.tokens
        self.address = client_address(request)

    @classmethod
    async def provide(cls, session: SessionDep, caller: CallerDep, request: Request) -> Self:
        """Create the service of a request."""
        return cls(session, caller, request)

    async def me(self) -> Me:
        """Return the caller with the scopes of this token. Raises `CallerDeleted` if the user was deleted meanwhile."""
        row = await self._row(statements.SELECT_ME, user_id=self.caller.user_id)
        if row is None:
            raise CallerDeleted
        department = None
        if row.department_id is not None:
            department = Brief(id=row.department_id, code=row.department_code, name=row.department_name)
        return Me(
            id=row.id,
            code=row.code,
            name=row.name,
            email=row.email,
            access_level=self.caller.access_level,
            scopes=sorted(self.caller.scopes),
            department=department,
        )

    async def sessions(self, query: PageQuery) -> Listing:
        """Return one page of the caller's sessions, the newest first."""
        own = {"user_id": self.caller.user_id, "session_id": self.caller.session_id}
        return await fetch_page(self.session, page_of_sessions(query.start), count_of_sessions(), query, own)

    async def end_session(self, session_id: int) -> None:
        """End one of the caller's sessions. Raises `NotFound` if it is not the caller's."""
        if not await self._end_session(session_id):
            raise NotFound("There is no such session.")

    async def end_own_session(self) -> None:
        """End the caller's current session."""
        await self._end_session(self.caller.session_id)

    async def _end_session(self, session_id: int | None) -> bool:
        user_id = self.caller.user_id
        self.session.forget_callers(user_id)
        return await self._row(statements.END_SESSION, session_id=session_id, user_id=user_id) is not None

    async def end_all_sessions(self) -> None:
        """End all sessions of the caller."""
        await end_sessions(self.session, self.caller.user_id)

    async def change_password(self, body: ChangePassword) -> None:
        """Change the caller's password and end the caller's other sessions.

        Raises `InvalidContent` if the old password is wrong, `CommonPassword`, `TooManyRequests`, and `HashingBusy` and
        `CallerBusy`, which do not count as attempts.
        """
        user_id = self.caller.user_id
        user = await self._row(statements.SELECT_PASSWORD, user_id=user_id)
        if user is None:
            raise CallerDeleted
        await self.session.release()  # hashing needs no connection
        attempt = await self._count_attempt(user.email)
        # The new password is estimated last, because only checks of the old one are counted.
        if not (await self._check_attempt(attempt, user.password_hash, body.old_password)).is_valid:
            raise _wrong_password()
        await self.session.execute(statements.RESET_COUNTERS, {"keys": attempt.keys})
        await self.session.release()
        await self._reject_common_password(body.new_password, "/new_password", user.name, user.email)
        changed = await self._row(
            statements.CHANGE_PASSWORD,
            user_id=user_id,
            old_hash=user.password_hash,
            new_hash=await self.passwords.hash(body.new_password.get_secret_value()),
            **self.caller.signature(),
        )
        if changed is None:
            raise _wrong_password()
        own = {"user_id": user_id, "session_id": self.caller.session_id}
        await self.session.execute(statements.END_OTHER_SESSIONS, own)
        self.session.forget_callers(user_id)

    async def create_password_link(self, reference: str) -> PasswordLink:
        """Create the token of a link with which a user sets a password; an earlier link becomes invalid.

        Raises `NotFound`, `Conflict` if the user is not active, and `Forbidden` if the user has scopes that this
        session lacks, because the holder of the link can act as that user.
        """
        key = parse_key(reference, User)
        user = await self._row(_access_level(key.condition), key=key.value)
        if user is None:
            raise not_found(User)
        self.caller.require(*scopes_of(user.access_level))
        await self._require_live_session()
        return await create_password_link(self.session, self.caller, user.id)

    async def create_api_token(self, body: ApiTokenCreate) -> ApiTokenMade:
        """Create an API token for the caller.

        Raises `Forbidden` for a scope that the caller does not have, and `TooManyTokens`.
        """
        self.caller.require(*body.scopes)
        await self._require_live_session()
        token = new_token(API_TOKEN)
        row = await self._row(
            statements.CREATE_API_TOKEN,
            user_id=self.caller.user_id,
            name=body.name,
            token_hash=self.tokens.api_token_hashes(token)[0],
            scopes=sorted(set(body.scopes)),
            days=body.expires_in_days,
            max_tokens=MAX_API_TOKENS,
            **self.caller.signature(),
        )
        if row is None:
            raise TooManyTokens
        return ApiTokenMade(
            id=row.id,
            name=row.name,
            scopes=row.scopes,
            user=Brief(id=row.user_id, code=row.user_code, name=row.user_name),
            created_at=row.created_at,
            expires_at=row.expires_at,
            last_used_at=None,
            token=token,
        )

    async def _require_live_session(self) -> None:
        """Lock the caller's session; raise `Unauthorized` if it has ended, since the caller may come from the cache."""
        own = {"user_id": self.caller.user_id, "session_id": self.caller.session_id}
        if await self._row(statements.LOCK_SESSION, **own) is None:
            raise Unauthorized("The session has ended.", challenge=INVALID_TOKEN)

    async def own_api_tokens(self, query: PageQuery) -> Listing:
        """Return one page of the caller's API tokens, the newest first."""
        return await self._api_tokens(by_user, query, user_id=self.caller.user_id)

    async def all_api_tokens(self, query: PageQuery) -> Listing:
        """Return one page of the API tokens of all users, the newest first."""
        return await self._api_tokens(any_user, query)

    async def revoke_api_token(self, token_id: int, *, own: bool) -> None:
        """Revoke an API token: with `own` only one of the caller's. Raises `NotFound` if there is no such token."""
        revoked = await self._row(
            statements.REVOKE_API_TOKEN,
            token_id=token_id,
            user_id=self.caller.user_id if own else None,
            **self.caller.signature(),
        )
        if revoked is None:
            raise NotFound("There is no such token.")
        self.session.forget_callers(revoked.user_id)

    async def _api_tokens(self, condition: Condition, query: PageQuery, **values: Any) -> Listing:
        page = API_TOKENS.page(NEWEST_FIRST, condition, query.start)
        return await fetch_page(self.session, page, API_TOKENS.count(condition), query, values)


def _wrong_password() -> InvalidContent:
    return InvalidContent("The old password is wrong.", errors=[Fault.of("/old_password", "wrong_password")])


@cache
def _access_level(condition: Condition) -> Executable:
    table = table_of(User)
    return select(table.c.id, table.c.access_level).where(condition(table))
