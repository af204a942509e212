"""The table of the history."""

from datetime import date, datetime
from typing import Any, get_args

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Date,
    DateTime,
    Identity,
    Index,
    String,
    cast,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.domains.shared.models import CODE_LENGTH, NAME_LENGTH, STATEMENT_TIME, Base, ChangeAction, enumeration


class Change(Base):
    """One change of one object. Rows are inserted, never updated.

    It has no foreign keys, because the history of an object outlives the object.
    """

    __tablename__ = "changes"
    __table_args__ = (
        enumeration("action", get_args(ChangeAction)),
        Index(f"ix_{__tablename__}_object", "type", "object_id", "id"),
        # `action` comes first, because plans would replace an index that begins as the former one by it.
        Index(f"ix_{__tablename__}_action", "action", "type", "id"),
        Index(f"ix_{__tablename__}_actor", "actor_id", "action", "type", "id"),
        Index(f"ix_{__tablename__}_at", "at", "id"),
        Index(f"ix_{__tablename__}_day", text("(timezone('UTC', at)::date)"), "id"),
        Index(f"ix_{__tablename__}_transaction_id", "transaction_id", "id"),
        Index(
            f"ix_{__tablename__}_code",
            text("fold(object_code)"),
            "id",
            postgresql_where=text("object_code IS NOT NULL"),
        ),
        # A short pending list (fastupdate), because every search reads all of it.
        Index(
            f"ix_{__tablename__}_members",
            text("change_members(type, action, before, after)"),
            postgresql_using="gin",
            postgresql_with={"gin_pending_list_limit": "64"},
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    # Ids are assigned before the commit, so a reader that follows them may miss the rows of a slower transaction. The
    # transaction id shows which transactions are still in progress; the feed of changes follows it.
    transaction_id: Mapped[int] = mapped_column(BigInteger, server_default=text("pg_current_xact_id()::text::bigint"))
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=STATEMENT_TIME)
    actor_id: Mapped[int | None] = mapped_column(BigInteger)
    actor_name: Mapped[str | None] = mapped_column(String(NAME_LENGTH))
    request_id: Mapped[str | None] = mapped_column(String(128))
    message: Mapped[str | None] = mapped_column(String(500))
    type: Mapped[str] = mapped_column(String(64))
    object_id: Mapped[int] = mapped_column(BigInteger)
    # The code and name at the time of the change.
    object_code: Mapped[str | None] = mapped_column(String(CODE_LENGTH))
    object_name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    action: Mapped[str]
    before: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    after: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))


def utc_day(instant: ColumnElement[datetime]) -> ColumnElement[date]:
    """Return the date of an instant in UTC, in the form of the index on days."""
    return cast(func.timezone(literal_column("'UTC'"), instant), Date)
