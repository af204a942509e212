"""The table of kept answers."""

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
    """The first answer to what a user sent with an `Idempotency-Key`. A row is there once the answer is final.

    It refers to its user by no foreign key, whose check would be one more lock in every such request: ids are never
    given again, and the row goes within a day.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(f"ix_{__tablename__}_expires_at", "expires_at"),)

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    # Of the request, to tell a repeat from another request.
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    # What the caller might do then: with less nobody sees the answer again.
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[Any] = mapped_column(JSONB)
    # Null when it was too large to be kept.
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
