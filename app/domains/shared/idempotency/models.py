"""The table of stored responses."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Index,
    LargeBinary,
    SmallInteger,
    String,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.domains.shared.models import Base


class IdempotencyKey(Base):
    """The first response to a user's request with an `Idempotency-Key`, visible once that request is committed.

    There is no foreign key to the user, because its check would take one more lock in every such request: ids are never
    reused, and the row is deleted after a day.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(f"ix_{__tablename__}_expires_at", "expires_at"),)

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    # A digest of the request, which distinguishes a repeat from another request.
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    # The scopes of the first request. The response is replayed only to a caller who has all of them.
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[Any] = mapped_column(JSONB)
    # NULL if the body was too large to store.
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class IdempotencyUsage(Base):
    """The number and the size of the responses stored for a user in the period that ends at `ends_at`."""

    __tablename__ = "idempotency_usage"

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    responses: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    ends_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
