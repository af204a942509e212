"""The statements that claim an `Idempotency-Key` and keep the first answer to it."""

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
    """A request as its key knows it, and the session in whose transaction its answer is kept."""

    session: RegisterSession
    user_id: int
    key: str
    fingerprint: bytes
    scopes: frozenset[str]

    @property
    def lock(self) -> int:
        """The key of the advisory lock that the request holds while it is carried out."""
        return advisory_key(f"{IDEMPOTENCY_KEY} {self.user_id} {self.key}")


async def claim(attempt: Attempt) -> Any | None:
    """Return what is kept of the key, or None when it is this request's.

    Raises `RequestInFlight` when it is another one's.
    """
    values = {"user_id": attempt.user_id, "key": attempt.key, "lock": attempt.lock}
    row = (await attempt.session.execute(_CLAIM, values)).one()
    if row.status is not None:
        return row
    if not row.claimed:
        raise RequestInFlight
    return None


async def store_response(attempt: Attempt, response: Response) -> None:
    """Keep the answer, which is final when the transaction is committed."""
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
    if (await attempt.session.execute(_KEEP, values)).first() is None:
        raise RequestInFlight  # and what this one wrote is undone


def _claim_statement() -> Executable:
    """Return the statement that reads what is kept of a key, or else takes the lock of it unless another one has it."""
    table = table_of(IdempotencyKey)
    kept = (
        select(table.c.fingerprint, table.c.scopes, table.c.status, table.c.headers, table.c.body)
        .where(
            table.c.user_id == bindparam("user_id", type_=BigInteger),
            table.c.key == bindparam("key", type_=String),
            table.c.expires_at > func.now(),
        )
        .cte("kept")
        .prefix_with("MATERIALIZED")
    )
    one = select(literal_column("1")).subquery("one")
    lock = func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger))
    # Of those who only read nobody keeps another one waiting.
    claimed = case((exists(select(kept.c.status)), literal_column("false")), else_=lock)
    return select(claimed.label("claimed"), *kept.c).select_from(one.outerjoin(kept, literal_column("true")))


def _keep_statement() -> Executable:
    """Return the statement that keeps an answer, in the place of an expired one; no row when one is kept already."""
    table = table_of(IdempotencyKey)
    # The parameters are the other columns.
    adding = insert(table).values(expires_at=func.now() + literal_column(f"interval '{RETENTION_HOURS} hours'"))
    new = {column.name: adding.excluded[column.name] for column in table.c if not column.primary_key}
    keys = list(table.primary_key.columns)
    replacing = adding.on_conflict_do_update(index_elements=keys, set_=new, where=table.c.expires_at <= func.now())
    return replacing.returning(table.c.status)


_CLAIM = _claim_statement()
_KEEP = _keep_statement()
