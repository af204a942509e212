"""The table of sessions in which users are signed in."""

from datetime import datetime

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Text,
    delete,
    func,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import RegisterSession
from app.domains.shared.models import Base


class Session(Base):
    """A sign-in of a user: the family of successive refresh tokens that it started."""

    __tablename__ = "sessions"
    __table_args__ = (
        Index(f"ix_{__tablename__}_user_id", "user_id", "id"),
        Index(f"ix_{__tablename__}_expires_at", "expires_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id", ondelete="CASCADE"))
    # NULL: all scopes of the user's access level.
    scopes: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    address: Mapped[str] = mapped_column(Text)
    user_agent: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    last_used_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


async def end_sessions(session: RegisterSession, *user_ids: int) -> None:
    """End all sessions of users."""
    await session.execute(delete(Session).where(Session.user_id.in_(user_ids)))
    session.forget_callers(*user_ids)
