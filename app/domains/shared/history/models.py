"""The table of the history."""

from datetime import datetime
from typing import Any, get_args

from sqlalchemy import (
    BigInteger,
    DateTime,
    Identity,
    Index,
    String,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.domains.shared.models import CODE_LENGTH, NAME_LENGTH, Base, ChangeAction, enumeration


class Change(Base):
    """One change of one object: the history, and the source of events to come. Rows are added, never changed.

    It refers to nothing by a foreign key: the history of an object outlives it.
    """

    __tablename__ = "changes"
    __table_args__ = (
        enumeration("action", get_args(ChangeAction)),
        Index(f"ix_{__tablename__}_object", "type", "object_id", "id"),
        Index(f"ix_{__tablename__}_actor_id", "actor_id", "id"),
        Index(f"ix_{__tablename__}_type", "type", "id"),
        Index(f"ix_{__tablename__}_at", "at", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    # Ids are given before the commit, so a reader who follows them may pass over a slower transaction; with this one
    # it can tell which are still under way.
    transaction_id: Mapped[int] = mapped_column(BigInteger, server_default=text("pg_current_xact_id()::text::bigint"))
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    actor_id: Mapped[int | None] = mapped_column(BigInteger)
    actor_name: Mapped[str | None] = mapped_column(String(NAME_LENGTH))
    request_id: Mapped[str | None] = mapped_column(String(128))
    message: Mapped[str | None] = mapped_column(String(500))
    type: Mapped[str] = mapped_column(String(64))
    object_id: Mapped[int] = mapped_column(BigInteger)
    # What it was called then.
    object_code: Mapped[str | None] = mapped_column(String(CODE_LENGTH))
    object_name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    action: Mapped[str]
    before: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    after: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
