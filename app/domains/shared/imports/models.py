"""What is kept of imports: planned files, and which objects became of those of an export."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Index, LargeBinary, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.domains.shared.models import Base


class ImportPlan(Base):
    """A file that was planned, and may be imported once as planned. The row goes within the hour.

    Like a kept answer it refers to its user by no foreign key.
    """

    __tablename__ = "import_plans"
    __table_args__ = (
        Index(f"ix_{__tablename__}_user_id", "user_id", "expires_at"),
        Index(f"ix_{__tablename__}_expires_at", "expires_at"),
    )

    # Nobody guesses it.
    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(BigInteger)
    collection: Mapped[str] = mapped_column(String(64))
    # How the file is read.
    options: Mapped[Any] = mapped_column(JSONB)
    # Compressed.
    file: Mapped[bytes] = mapped_column(LargeBinary)
    # A digest of what the plan rests on.
    basis: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
