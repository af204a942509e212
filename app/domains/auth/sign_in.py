"""The service of sign-in, refresh and password links."""

from typing import Any, Self

from fastapi import Request
from pydantic import SecretStr

from app.core.caller import Caller
from app.core.config import Settings
from app.core.database import RegisterSession, SessionDep
from app.core.http.authorisation import client_address
from app.core.passwords import Passwords
from app.core.permissions import AccessLevel, effective_scopes
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
from app.domains.auth.credentials import CredentialService
from app.domains.auth.schemas import (
    Refresh,
    SetPassword,
    SignIn,
    TokenPair,
)
from app.domains.user.sessions import end_sessions
from app.utils.exceptions import (
    Fault,
    RefreshRejected,
    SpentLink,
    WrongCredentials,
)

MAX_USER_AGENT_LENGTH = 200
# The refresh tokens of one session, spent ones included. A client that refreshes every ten minutes has 4,320 of them.
MAX_REFRESH_TOKENS = 10_000


class SignInService(CredentialService):
    """Opens and refreshes sessions for callers who are not signed in."""

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
        """Create the service of a request."""
        return cls(session, request)

    async def sign_in(self, form: SignIn) -> TokenPair:
        """Open a session for an e-mail address and its password.

        Raises `TooManyRequests`, `WrongCredentials` with the same response and timing for every cause, and
        `HashingBusy`, which does not count as an attempt.
        """
        attempt, scopes = await self._count_attempt(form.username), form.scope.split() or None
        pair = await self._open_if_valid(attempt, attempt.password_hash, form.password, scopes)
        if pair is None:
            # Another hash was stored meanwhile: of a new password, or of this one with stronger parameters.
            row = await self._row(statements.SELECT_PASSWORD, user_id=attempt.id)
            await self.session.release()
            pair = row and await self._open_if_valid(attempt, row.password_hash, form.password, scopes)
        if pair is None:
            raise WrongCredentials
        return pair

    async def _open_if_valid(
        self, attempt: Any, stored_hash: str | None, password: SecretStr, scopes: list[str] | None
    ) -> TokenPair | None:
        """Open a session if the password matches; return None if `stored_hash` was replaced or the user deactivated.

        Raises `WrongCredentials` if the password does not match, and `HashingBusy`.
        """
        check = await self._check_attempt(attempt, stored_hash, password)
        if not check.is_valid or stored_hash is None:
            raise WrongCredentials
        return await self._open_session(
            attempt.id, stored_hash, scopes=scopes, new_hash=check.new_hash, keys=attempt.keys
        )

    async def refresh(self, body: Refresh) -> TokenPair:
        """Exchange a refresh token for a new token pair.

        A repetition within `REFRESH_GRACE` returns the same refresh token. Later reuse ends the session, because reuse
        means that the token was stolen; so does a refresh of a session with `MAX_REFRESH_TOKENS` tokens. Raises
        `RefreshRejected` in these cases, if the token is invalid or expired, and if a repetition cannot return the same
        refresh token because its key was removed from the settings.
        """
        token = body.refresh_token.get_secret_value()
        if not is_well_formed(REFRESH_TOKEN, token):
            raise RefreshRejected
        successors = {token_hash(each): each for each in self.tokens.successors(token)}
        row = await self._row(
            statements.ROTATE_REFRESH_TOKEN,
            token_hash=token_hash(token),
            successor_hashes=list(successors),
            lifetime=REFRESH_LIFETIME,
            grace=REFRESH_GRACE,
            max_tokens=MAX_REFRESH_TOKENS,
        )
        if row is None:
            raise RefreshRejected
        if row.must_end:
            self.session.forget_callers(row.user_id)
            await self.session.release()  # commits the end of the session, which the error would roll back
            raise RefreshRejected
        # A replica with other keys may have stored another successor than this one would.
        stored_hash = next(iter(successors)) if row.is_first else row.stored_hash
        if stored_hash is None:
            values = {"successor_hashes": list(successors)}
            stored_hash = await self.session.scalar(statements.SELECT_SUCCESSOR, values)
        if stored_hash is None:
            raise RefreshRejected
        return self._token_pair(row.user_id, row.session_id, successors[stored_hash], row.access_level, row.scopes)

    async def set_password(self, body: SetPassword) -> TokenPair:
        """Set the password of the user of a link, end all sessions of the user, and open a new one.

        Raises `SpentLink` if the token is invalid, expired or spent, `CommonPassword`, and `HashingBusy`.
        """
        digest = token_hash(body.token.get_secret_value())
        user = await self._row(statements.SELECT_LINK_USER, token_hash=digest)
        if user is None:
            raise _spent_link()
        await self.session.release()  # hashing needs no connection
        await self._reject_common_password(body.password, "/password", user.name, user.email)
        new_hash = await self.passwords.hash(body.password.get_secret_value(), address=self.address)
        author = Caller(user.id, user.name, "viewer", frozenset(), request_id=self.request_id)
        redeemed = await self._row(statements.REDEEM_LINK, token_hash=digest, new_hash=new_hash, **author.signature())
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
        row = await self._row(
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
        if row is None:
            return None  # deactivated, or another hash stored, since the check
        self.session.forget_callers(user_id)  # a trigger may have deleted the user's oldest session
        return self._token_pair(user_id, row.id, refresh_token, row.access_level, scopes)

    def _token_pair(
        self, user_id: int, session_id: int, refresh_token: str, access_level: AccessLevel, scopes: list[str] | None
    ) -> TokenPair:
        return TokenPair(
            access_token=self.tokens.access_token(user_id, session_id),
            token_type="bearer",  # noqa: S106 - the name in RFC 6750
            expires_in=ACCESS_SECONDS,
            refresh_token=refresh_token,
            scope=" ".join(sorted(effective_scopes(access_level, scopes))),
        )


def _spent_link() -> SpentLink:
    return SpentLink(errors=[Fault.of("/token", "spent_link")])
