"""The statements that claim an `Idempotency-Key` and store the first response."""

from dataclasses import dataclass
from typing import Any

from fastapi import Response
from sqlalchemy import (
    BigInteger,
    Executable,
    String,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import insert

from app.core.database import RegisterSession, advisory_key
from app.domains.shared.idempotency.models import IdempotencyKey
from app.domains.shared.models import table_of
from app.utils.exceptions import (
    RequestInFlight,
)

IDEMPOTENCY_KEY = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
RETENTION_HOURS = 24
MAX_STORED_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request with a key, and the session in whose transaction its response is stored."""

    session: RegisterSession
    user_id: int
    key: str
    fingerprint: bytes
    scopes: frozenset[str]

    @property
    def lock(self) -> int:
        """The key of the advisory lock that the request holds while it is executed."""
        return advisory_key(f"{IDEMPOTENCY_KEY} {self.user_id} {self.key}")


async def claim(attempt: Attempt) -> Any | None:
    """Return the stored response for the key, or None once this request has claimed the key.

    Raises `RequestInFlight` if another request holds it.
    """
    values = {"user_id": attempt.user_id, "key": attempt.key, "lock": attempt.lock}
    row = (await attempt.session.execute(_CLAIM, values)).one()
    if row.status is not None:
        return row
    if not row.claimed:
        raise RequestInFlight
    return None


async def store_response(attempt: Attempt, response: Response) -> None:
    """Store the response, which is final once the transaction is committed.

    Raises `RequestInFlight` if another request has stored one in the meantime.
    """
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.raw_headers}
    headers.pop("content-length", None)
    body = bytes(response.body)
    values = {
        "user_id": attempt.user_id,
        "key": attempt.key,
        "fingerprint": attempt.fingerprint,
        "scopes": sorted(attempt.scopes),
        "status": response.status_code,
        "headers": headers,
        "body": body if len(body) <= MAX_STORED_BYTES else None,
    }
    if (await attempt.session.execute(_STORE, values)).first() is None:
        raise RequestInFlight  # rolls back the writes of this request


def _claim_statement() -> Executable:
    """Return the statement that reads the stored response for a key, or else tries to take the advisory lock."""
    table = table_of(IdempotencyKey)
    stored = (
        select(table.c.fingerprint, table.c.scopes, table.c.status, table.c.headers, table.c.body)
        .where(
            table.c.user_id == bindparam("user_id", type_=BigInteger),
            table.c.key == bindparam("key", type_=String),
            table.c.expires_at > func.now(),
        )
        .cte("stored")
        .prefix_with("MATERIALIZED")
    )
    one = select(literal_column("1")).subquery("one")
    lock = func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger))
    # Replays take no lock.
    claimed = case((exists(select(stored.c.status)), literal_column("false")), else_=lock)
    return select(claimed.label("claimed"), *stored.c).select_from(one.outerjoin(stored, literal_column("true")))


def _store_statement() -> Executable:
    """Return the statement that stores a response or replaces an expired one; no row if there is a current one."""
    table = table_of(IdempotencyKey)
    # The parameters are the other columns.
    statement = insert(table).values(expires_at=func.now() + literal_column(f"interval '{RETENTION_HOURS} hours'"))
    new = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    keys = list(table.primary_key.columns)
    statement = statement.on_conflict_do_update(index_elements=keys, set_=new, where=table.c.expires_at <= func.now())
    return statement.returning(table.c.status)


_CLAIM = _claim_statement()
_STORE = _store_statement()
