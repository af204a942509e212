"""Authenticates access tokens and API tokens."""

from typing import Any

from sqlalchemy import Executable, text

from app.core.caller import Caller
from app.core.database import Database
from app.core.permissions import effective_scopes
from app.core.tokens import API_TOKEN, Tokens, is_well_formed
from app.utils.exceptions import ConnectionLost, DatabaseReadOnly, OutcomeUnknown

_BY_SESSION = text(
    """
    SELECT u.id, u.name, u.access_level, s.scopes, s.id AS session_id
      FROM sessions s JOIN users u ON u.id = s.user_id
     WHERE s.id = :session_id AND u.id = :user_id AND s.expires_at > now() AND u.is_active
    """
)
_SELECT_CALLER = """
        SELECT u.id, u.name, u.access_level, t.scopes, t.id AS token_id,
               extract(epoch FROM t.expires_at)::float8 AS expires_at,
               t.last_used_at IS NULL OR t.last_used_at < now() - interval '1 minute'
                   OR t.token_hash <> :current_hash AS is_stale
          FROM api_tokens t JOIN users u ON u.id = t.user_id
         WHERE t.token_hash = ANY(:hashes) AND t.expires_at > now() AND u.is_active
"""
_BY_API_TOKEN_READ_ONLY = text(_SELECT_CALLER)
# Also updates `last_used_at`, at most once a minute, and the hash after a change of `SECRET_KEY`.
_BY_API_TOKEN = text(
    f"""
        WITH found AS ({_SELECT_CALLER}
        ), used AS (
            UPDATE api_tokens t SET last_used_at = now(), token_hash = :current_hash
              FROM found WHERE t.id = found.token_id AND found.is_stale
               -- Repeated: of concurrent requests one writes; the others wait for its row lock and recheck.
               AND (t.last_used_at IS NULL OR t.last_used_at < now() - interval '1 minute'
                    OR t.token_hash <> :current_hash)
        )
        SELECT id, name, access_level, scopes, expires_at FROM found
    """  # noqa: S608 - constant text only
)


class Callers:
    """Finds the caller of a token, in a separate transaction because the request has no session yet."""

    def __init__(self, database: Database, tokens: Tokens) -> None:
        self._database = database
        self._tokens = tokens

    async def find(self, token: str) -> Caller | None:
        """Return the caller of an access token or an API token, or None if the token is invalid or expired.

        Raises `ServiceUnavailable` like every statement.
        """
        if token.startswith(API_TOKEN):
            return await self._find_by_api_token(token)
        claims = self._tokens.read_access_token(token)
        if claims is None:
            return None
        row = await self._row(_BY_SESSION, session_id=claims.session_id, user_id=claims.user_id)
        if row is None:
            return None
        scopes = effective_scopes(row.access_level, row.scopes)
        return Caller(row.id, row.name, row.access_level, scopes, row.session_id, claims.expires_at)

    def read_user(self, token: str) -> int | None:
        """Return the user of an access token by its signature alone, or None for any other token."""
        claims = self._tokens.read_access_token(token)
        return None if claims is None else claims.user_id

    async def _find_by_api_token(self, token: str) -> Caller | None:
        if not is_well_formed(API_TOKEN, token):
            return None
        hashes = self._tokens.api_token_hashes(token)
        values = {"hashes": hashes, "current_hash": hashes[0]}
        try:
            row = await self._row(_BY_API_TOKEN, **values)
        except DatabaseReadOnly:
            row = await self._row(_BY_API_TOKEN_READ_ONLY, **values)
        if row is None:
            return None
        scopes = effective_scopes(row.access_level, row.scopes)
        return Caller(row.id, row.name, row.access_level, scopes, expires_at=row.expires_at)

    async def _row(self, statement: Executable, **values: Any) -> Any:
        """Run a statement in a separate transaction and return its only row, or None."""

        async def run() -> Any:
            async with self._database.transaction() as session:
                return (await session.execute(statement, values)).one_or_none()

        try:
            return await self._database.retry(run)
        except OutcomeUnknown as error:
            raise ConnectionLost from error  # safe to repeat: at most `last_used_at` is written twice
