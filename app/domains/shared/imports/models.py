"""The table of planned imports."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Index, LargeBinary, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.domains.shared.models import Base


class ImportPlan(Base):
    """A planned import of a file, which can be executed once. The row is deleted when it is executed or expired.

    Like `IdempotencyKey` it has no foreign key to its user.
    """

    __tablename__ = "import_plans"
    __table_args__ = (
        Index(f"ix_{__tablename__}_user_id", "user_id", "expires_at"),
        Index(f"ix_{__tablename__}_expires_at", "expires_at"),
    )

    # Random, so that it cannot be guessed.
    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(BigInteger)
    collection: Mapped[str] = mapped_column(String(64))
    # The options for reading the file.
    options: Mapped[Any] = mapped_column(JSONB)
    # Compressed with zlib.
    file: Mapped[bytes] = mapped_column(LargeBinary)
    # A digest of the objects, versions and rules on which the plan is based.
    basis: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
