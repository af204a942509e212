"""What can be done without being signed in."""

from typing import Self

from fastapi import Request
from pydantic import SecretStr

from app.core.caller import Caller
from app.core.config import Settings
from app.core.database import RegisterSession, SessionDep
from app.core.http.authorisation import REFUSED, client_address
from app.core.passwords import Passwords
from app.core.permissions import AccessLevel, scopes_of
from app.core.tokens import (
    ACCESS_SECONDS,
    REFRESH_GRACE,
    REFRESH_LIFETIME,
    REFRESH_TOKEN,
    Tokens,
    is_well_formed,
    new_token,
    token_hash,
)
from app.domains.auth import statements
from app.domains.auth.credentials import CredentialService, count_attempt, reject_common_password
from app.domains.auth.schemas import (
    Refresh,
    SetPassword,
    SignIn,
    TokenPair,
)
from app.domains.user.sessions import end_sessions
from app.utils.exceptions import (
    Fault,
    SpentLink,
    Unauthorized,
    WrongCredentials,
)

MAX_USER_AGENT_LENGTH = 200


class SignInService(CredentialService):
    """What can be done without being signed in."""

    def __init__(self, session: RegisterSession, request: Request) -> None:
        self.session = session
        self.settings: Settings = request.app.state.settings
        self.passwords: Passwords = request.app.state.passwords
        self.tokens: Tokens = request.app.state.tokens
        self.address = client_address(request)
        agent = request.headers.get("user-agent", "")[:MAX_USER_AGENT_LENGTH]
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
        pair = await self._open_if_valid(form.password, account.id, account.password_hash, scopes, keys)
        if pair is None:
            # Another hash was stored since: of another password, or of this one with stronger parameters.
            now = await self._row(statements.PASSWORD_OF, user_id=account.id)
            await self.session.release()
            pair = now and await self._open_if_valid(form.password, account.id, now.password_hash, scopes, keys)
        if pair is None:
            raise WrongCredentials
        return pair

    async def _open_if_valid(
        self, password: SecretStr, user_id: int, known: str | None, scopes: list[str] | None, keys: list[str]
    ) -> TokenPair | None:
        verdict = await self.passwords.verify(known, password.get_secret_value())
        if not verdict.is_valid or known is None:
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
        reject_common_password(body.password, "/password", user.name, user.email)
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


def _spent_link() -> SpentLink:
    detail = "The link is not valid, or not any more: ask for a new one."
    return SpentLink(detail, errors=[Fault("/token", "spent_link", detail)])
