"""Signing in, and the credentials of users."""

from functools import cache
from typing import Any, Self

from fastapi import Request
from pydantic import SecretStr
from sqlalchemy import BigInteger, ColumnElement, Executable, FromClause, bindparam, literal_column, select

from app.core.caller import Caller, CallerDep
from app.core.config import Settings
from app.core.database import RegisterSession, SessionDep
from app.core.http.authorisation import REFUSED, client_address
from app.core.passwords import Passwords, is_common
from app.core.permissions import AccessLevel, scopes_of
from app.core.tokens import (
    ACCESS_SECONDS,
    API_TOKEN,
    LINK_LIFETIME,
    LINK_TOKEN,
    REFRESH_GRACE,
    REFRESH_LIFETIME,
    REFRESH_TOKEN,
    Tokens,
    is_well_formed,
    new_token,
    token_hash,
)
from app.domains.auth import statements
from app.domains.auth.models import ApiToken
from app.domains.auth.schemas import (
    ApiTokenCreate,
    ApiTokenMade,
    ApiTokenRead,
    ChangePassword,
    Me,
    PasswordLink,
    Refresh,
    SetPassword,
    SignIn,
    TokenPair,
)
from app.domains.shared.models import table_of
from app.domains.shared.query.orders import Condition
from app.domains.shared.query.pages import Listing, ListQuery, PageQuery, execute_page
from app.domains.shared.reading.documents import Documents
from app.domains.shared.reading.keys import not_found, parse_key
from app.domains.shared.schemas import Brief
from app.domains.user.models import User
from app.domains.user.sessions import end_sessions
from app.utils.exceptions import (
    CommonPassword,
    Conflict,
    Fault,
    InvalidContent,
    NotFound,
    SpentLink,
    TooManyRequests,
    Unauthorized,
    WrongCredentials,
)

LONGEST_USER_AGENT = 200
_API_TOKENS = Documents(ApiTokenRead, ApiToken)
_NEWEST_FIRST = ListQuery(sort="-id").order


class _CredentialService:
    """Runs the statements of a service that deals with credentials."""

    session: RegisterSession

    async def _row(self, statement: Executable, **values: Any) -> Any:
        """Run a statement and return its row, or None."""
        return (await self.session.execute(statement, values)).one_or_none()


class SignInService(_CredentialService):
    """What can be done without being signed in."""

    def __init__(self, session: RegisterSession, request: Request) -> None:
        self.session = session
        self.settings: Settings = request.app.state.settings
        self.passwords: Passwords = request.app.state.passwords
        self.tokens: Tokens = request.app.state.tokens
        self.address = client_address(request)
        agent = request.headers.get("user-agent", "")[:LONGEST_USER_AGENT]
        self.user_agent = "".join(character for character in agent if character.isprintable()) or None
        self.request_id: str = request.state.request_id

    @classmethod
    async def provide(cls, session: SessionDep, request: Request) -> Self:
        """Make the service of one request."""
        return cls(session, request)

    async def sign_in(self, form: SignIn) -> TokenPair:
        """Open a session for an e-mail address and its password.

        Raises `WrongCredentials`, in the same way and time whatever is wrong, and `TooManyRequests`.
        """
        account = await count_attempt(self.session, self.settings, form.username, self.address)
        # The attempt counts whatever comes of it, and hashing needs no connection.
        await self.session.release()
        scopes, keys = form.scope.split() or None, account.keys
        pair = await self._open_if_right(form.password, account.id, account.password_hash, scopes, keys)
        if pair is None:
            # Another hash was stored since: of another password, or of this one with stronger parameters.
            now = await self._row(statements.PASSWORD_OF, user_id=account.id)
            await self.session.release()
            pair = now and await self._open_if_right(form.password, account.id, now.password_hash, scopes, keys)
        if pair is None:
            raise WrongCredentials
        return pair

    async def _open_if_right(
        self, password: SecretStr, user_id: int, known: str | None, scopes: list[str] | None, keys: list[str]
    ) -> TokenPair | None:
        verdict = await self.passwords.verify(known, password.get_secret_value())
        if not verdict.right or known is None:
            raise WrongCredentials
        return await self._open_session(user_id, known, scopes=scopes, new_hash=verdict.new_hash, keys=keys)

    async def refresh(self, body: Refresh) -> TokenPair:
        """Exchange a refresh token for the next one.

        Within `REFRESH_GRACE` of its use the answer is the same again; later, its second use ends the session, since
        one of the two users is a thief. Raises `Unauthorized`.
        """
        token = body.refresh_token.get_secret_value()
        refused = Unauthorized("The refresh token is not valid, or not any more.", challenge=REFUSED)
        if not is_well_formed(REFRESH_TOKEN, token):
            raise refused
        successor = self.tokens.successor(token)
        row = await self._row(
            statements.ROTATE,
            token_hash=token_hash(token),
            successor_hash=token_hash(successor),
            lifetime=REFRESH_LIFETIME,
            grace=REFRESH_GRACE,
        )
        if row is None:
            raise refused
        if row.is_reused:
            await self.session.release()  # the refusal must not undo that the session was ended
            raise refused
        return self._pair(row.user_id, row.session_id, successor, row.access_level, row.scopes)

    async def set_password(self, body: SetPassword) -> TokenPair:
        """Give a user a password by the token of a link, end all other sessions, and open one.

        Raises `SpentLink` for a token that is not valid, or not any more, and `CommonPassword`.
        """
        hashed = token_hash(body.token.get_secret_value())
        user = await self._row(statements.USER_OF_LINK, token_hash=hashed)
        if user is None:
            raise _spent_link()
        refuse_common(body.password, "/password", user.name, user.email)
        await self.session.release()  # hashing needs no connection
        new_hash = await self.passwords.hash(body.password.get_secret_value())
        author = Caller(user.id, user.name, "viewer", frozenset(), request_id=self.request_id)
        redeemed = await self._row(statements.REDEEM_LINK, token_hash=hashed, new_hash=new_hash, **author.signature())
        if redeemed is None:
            raise _spent_link()
        await end_sessions(self.session, user.id)
        pair = await self._open_session(user.id, new_hash)
        assert pair is not None  # the user's row is locked
        return pair

    async def _open_session(
        self,
        user_id: int,
        password_hash: str,
        *,
        scopes: list[str] | None = None,
        new_hash: str | None = None,
        keys: list[str] | None = None,
    ) -> TokenPair | None:
        refresh_token = new_token(REFRESH_TOKEN)
        opened = await self._row(
            statements.OPEN_SESSION,
            user_id=user_id,
            password_hash=password_hash,
            scopes=scopes,
            address=self.address,
            user_agent=self.user_agent,
            lifetime=REFRESH_LIFETIME,
            token_hash=token_hash(refresh_token),
            new_hash=new_hash,
            keys=keys or [],
        )
        if opened is None:
            return None  # deactivated, or given another password, since it was checked
        return self._pair(user_id, opened.id, refresh_token, opened.access_level, scopes)

    def _pair(
        self, user_id: int, session_id: int, refresh_token: str, access_level: AccessLevel, scopes: list[str] | None
    ) -> TokenPair:
        granted = scopes_of(access_level) if scopes is None else scopes_of(access_level) & set(scopes)
        return TokenPair(
            access_token=self.tokens.access_token(user_id, session_id),
            token_type="bearer",  # noqa: S106 - what RFC 6750 calls it
            expires_in=ACCESS_SECONDS,
            refresh_token=refresh_token,
            scope=" ".join(sorted(granted)),
        )


class AccountService(_CredentialService):
    """What a signed-in user does with credentials: the own ones, and as an administrator with those of others."""

    def __init__(self, session: RegisterSession, caller: Caller, request: Request) -> None:
        self.session = session
        self.caller = caller
        self.settings: Settings = request.app.state.settings
        self.passwords: Passwords = request.app.state.passwords
        self.tokens: Tokens = request.app.state.tokens
        self.address = client_address(request)

    @classmethod
    async def provide(cls, session: SessionDep, caller: CallerDep, request: Request) -> Self:
        """Make the service of one request."""
        return cls(session, caller, request)

    async def me(self) -> Me:
        """Return the caller, with what this token may do."""
        row = await self._row(statements.ME, user_id=self.caller.user_id)
        if row is None:
            raise not_found(User)  # deleted since the token was checked
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
        return await execute_page(self.session, statements.SESSIONS, statements.COUNT_SESSIONS, query, own)

    async def end_session(self, session_id: int) -> None:
        """Sign the caller out in one place. Raises `NotFound` when it is not the caller's."""
        if await self._row(statements.END_SESSION, session_id=session_id, user_id=self.caller.user_id) is None:
            raise NotFound("There is no such session.")

    async def end_own_session(self) -> None:
        """Sign the caller out here."""
        await self._row(statements.END_SESSION, session_id=self.caller.session_id, user_id=self.caller.user_id)

    async def end_all_sessions(self) -> None:
        """Sign the caller out everywhere."""
        await end_sessions(self.session, self.caller.user_id)

    async def change_password(self, body: ChangePassword) -> None:
        """Give the caller another password, and end the other sessions.

        Raises `InvalidContent` when the old one is wrong, `CommonPassword`, and `TooManyRequests`.
        """
        user_id = self.caller.user_id
        user = await self._row(statements.PASSWORD_OF, user_id=user_id)
        if user is None:
            raise not_found(User)
        refuse_common(body.new_password, "/new_password", user.name, user.email)
        account = await count_attempt(self.session, self.settings, user.email, self.address)
        await self.session.release()  # as in `SignInService.sign_in`
        verdict = await self.passwords.verify(user.password_hash, body.old_password.get_secret_value())
        new_hash = await self.passwords.hash(body.new_password.get_secret_value()) if verdict.right else ""
        changed = verdict.right and await self._row(
            statements.CHANGE_PASSWORD,
            user_id=user_id,
            old_hash=user.password_hash,
            new_hash=new_hash,
            **self.caller.signature(),
        )
        if not changed:
            fault = Fault("/old_password", "wrong_password", "This is not the password.")
            raise InvalidContent("The old password is wrong.", errors=[fault])
        own = {"user_id": user_id, "session_id": self.caller.session_id}
        await self.session.execute(statements.END_OTHER_SESSIONS, own)
        await self.session.execute(statements.FORGIVE_ATTEMPT, {"keys": account.keys})

    async def make_link(self, reference: str) -> PasswordLink:
        """Make the token of a link by which a user sets a password; an earlier one is no longer valid.

        Raises `NotFound`, `Conflict` when the user is not active, and `Forbidden` when the user could do more than this
        session: whoever holds the link is that user.
        """
        key = parse_key(reference, User)
        user = await self._row(_access_level(key.condition), key=key.value)
        if user is None:
            raise not_found(User)
        for scope in sorted(scopes_of(user.access_level)):
            self.caller.demand(scope)
        await self._be_signed_in()
        return await make_link(self.session, self.caller, user.id)

    async def make_api_token(self, body: ApiTokenCreate) -> ApiTokenMade:
        """Make an API token for the caller. Raises `Forbidden` for a scope that the caller does not have."""
        for scope in body.scopes:
            self.caller.demand(scope)
        await self._be_signed_in()
        token = new_token(API_TOKEN)
        row = await self._row(
            statements.MAKE_API_TOKEN,
            user_id=self.caller.user_id,
            name=body.name,
            token_hash=self.tokens.api_token_hashes(token)[0],
            scopes=sorted(set(body.scopes)),
            days=body.expires_in_days,
            **self.caller.signature(),
        )
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

    async def _be_signed_in(self) -> None:
        own = {"user_id": self.caller.user_id, "session_id": self.caller.session_id}
        if await self._row(statements.LOCK_SESSION, **own) is None:
            raise Unauthorized("The session was ended.", challenge=REFUSED)

    async def own_api_tokens(self, query: PageQuery) -> Listing:
        """Return one page of the caller's API tokens, the newest first."""
        return await self._api_tokens(_of_user, query, user_id=self.caller.user_id)

    async def all_api_tokens(self, query: PageQuery) -> Listing:
        """Return one page of everybody's API tokens, the newest first."""
        return await self._api_tokens(_of_anybody, query)

    async def revoke_api_token(self, token_id: int, *, own: bool) -> None:
        """Revoke an API token; only one of the caller's when it is to be an `own` one. Raises `NotFound`."""
        revoked = await self._row(
            statements.REVOKE_API_TOKEN,
            token_id=token_id,
            user_id=self.caller.user_id if own else None,
            **self.caller.signature(),
        )
        if revoked is None:
            raise NotFound("There is no such token.")

    async def _api_tokens(self, condition: Condition, query: PageQuery, **values: Any) -> Listing:
        page = _API_TOKENS.select_page(_NEWEST_FIRST, condition)
        return await execute_page(self.session, page, _API_TOKENS.count(condition), query, values)


async def make_link(session: RegisterSession, caller: Caller, user_id: int) -> PasswordLink:
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


def refuse_common(password: SecretStr, pointer: str, *own: str | None) -> None:
    """Raise `CommonPassword` for one that others would try first."""
    if is_common(password.get_secret_value(), *own):
        detail = "Everybody would try this password first: choose another."
        raise CommonPassword(detail, errors=[Fault(pointer, "common_password", detail)])


def _spent_link() -> SpentLink:
    detail = "The link is not valid, or not any more: ask for a new one."
    return SpentLink(detail, errors=[Fault("/token", "spent_link", detail)])


@cache
def _access_level(condition: Condition) -> Executable:
    table = table_of(User)
    return select(table.c.id, table.c.access_level).where(condition(table))


def _of_user(source: FromClause) -> ColumnElement[bool]:
    return source.c.user_id == bindparam("user_id", type_=BigInteger)


def _of_anybody(_source: FromClause) -> ColumnElement[bool]:
    return literal_column("true")
