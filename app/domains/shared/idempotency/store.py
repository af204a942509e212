"""The statements that claim an `Idempotency-Key` and store the first response."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import Response
from sqlalchemy import (
    BigInteger,
    ColumnElement,
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
from sqlalchemy.sql.dml import ReturningInsert

from app.core.database import RegisterSession, advisory_key
from app.domains.shared.idempotency.models import IdempotencyKey, IdempotencyUsage
from app.domains.shared.models import table_of
from app.utils.exceptions import (
    RequestInFlight,
    TooManyKeys,
)

IDEMPOTENCY_KEY = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
RETENTION_HOURS = 24
_RETENTION: ColumnElement[timedelta] = literal_column(f"interval '{RETENTION_HOURS} hours'")
MAX_STORED_BYTES = 16 * 1024 * 1024
# For one user in a period of 24 hours, which begins with the first key: further keys are rejected, and further bodies
# are not stored. Responses of two periods may be stored at a time, so at most twice as many are.
MAX_KEYS = 100_000
MAX_STORED_BYTES_OF_USER = 256 * 1024 * 1024


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

    Raises `RequestInFlight` if another request has stored one in the meantime, and `TooManyKeys` if the user has stored
    the maximum number of responses. Both roll back the writes of this request.
    """
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.raw_headers}
    headers.pop("content-length", None)
    body = bytes(response.body) if len(response.body) <= MAX_STORED_BYTES else None
    values = {
        "user_id": attempt.user_id,
        "key": attempt.key,
        "fingerprint": attempt.fingerprint,
        "scopes": sorted(attempt.scopes),
        "status": response.status_code,
        "headers": headers,
        "body": body,
        "size": len(body or b""),
    }
    row = (await attempt.session.execute(_STORE, values)).one()
    if row.responses > MAX_KEYS:
        raise TooManyKeys
    if row.status is None:
        raise RequestInFlight


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
    """Return the statement that counts a response for its user, and stores it or replaces an expired one.

    It returns the number of responses, and the stored `status`: NULL if these are too many, or if there is a current
    response. The counter is the last row that a request locks, until its commit.
    """
    table = table_of(IdempotencyKey)
    counted = _count_statement().cte("counted")
    new = {
        **{column.name: bindparam(column.name, type_=column.type) for column in table.c},
        "body": case((counted.c.bytes <= MAX_STORED_BYTES_OF_USER, bindparam("body", type_=table.c.body.type))),
        "expires_at": func.now() + _RETENTION,
    }
    rows = select(*new.values()).where(counted.c.responses <= MAX_KEYS)
    statement = insert(table).from_select(list(new), rows)
    keys = list(table.primary_key.columns)
    replaced = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    statement = statement.on_conflict_do_update(
        index_elements=keys, set_=replaced, where=table.c.expires_at <= func.now()
    )
    stored = statement.returning(table.c.status).cte("stored")
    return select(counted.c.responses, stored.c.status).select_from(counted.outerjoin(stored, literal_column("true")))


def _count_statement() -> ReturningInsert[Any]:
    """Return the statement that adds a response to the usage of its user. An expired window starts again."""
    table = table_of(IdempotencyUsage)
    statement = insert(table).values(
        user_id=bindparam("user_id"), responses=1, bytes=bindparam("size"), ends_at=func.now() + _RETENTION
    )
    new = statement.excluded
    is_current = table.c.ends_at > func.now()
    statement = statement.on_conflict_do_update(
        index_elements=[table.c.user_id],
        set_={
            "responses": case((is_current, table.c.responses), else_=0) + new.responses,
            "bytes": case((is_current, table.c.bytes), else_=0) + new.bytes,
            "ends_at": case((is_current, table.c.ends_at), else_=new.ends_at),
        },
    )
    return statement.returning(table.c.responses, table.c.bytes)


_CLAIM = _claim_statement()
_STORE = _store_statement()
