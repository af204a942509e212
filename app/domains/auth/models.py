"""Tables of credentials: passwords, refresh tokens, link tokens, API tokens, familiar addresses and sign-in attempts.

Their rows are not objects of the register: they have no version and no own history, and are deleted with their user.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, DateTime, ForeignKey, Identity, Index, LargeBinary, String, Text, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.domains.shared.models import NAME_LENGTH, STATEMENT_TIME, Base
from app.domains.user.models import User


def _of_user(**options: Any) -> Any:
    return mapped_column(BigInteger, ForeignKey("users.id", ondelete="CASCADE"), **options)


def _instant(**options: Any) -> Any:
    return mapped_column(DateTime(timezone=True), **options)


class Credential(Base):
    """The password hash of a user. A user without one cannot sign in."""

    __tablename__ = "credentials"

    user_id: Mapped[int] = _of_user(primary_key=True)
    password_hash: Mapped[str] = mapped_column(Text)


class RefreshToken(Base):
    """A refresh token, kept after it is spent because reuse means that the token was stolen."""

    __tablename__ = "refresh_tokens"
    __table_args__ = (
        Index(f"ix_{__tablename__}_session_id", "session_id"),
        Index(f"ix_{__tablename__}_expires_at", "expires_at"),
    )

    token_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    session_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("sessions.id", ondelete="CASCADE"))
    expires_at: Mapped[datetime] = _instant()
    spent_at: Mapped[datetime | None] = _instant()


class PasswordLink(Base):
    """The link with which a user sets a password. A user has at most one; a new link replaces it."""

    __tablename__ = "password_links"
    __table_args__ = (
        Index(f"uq_{__tablename__}_token_hash", "token_hash", unique=True),
        Index(f"ix_{__tablename__}_expires_at", "expires_at"),
    )

    user_id: Mapped[int] = _of_user(primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = _instant()


class ApiToken(Base):
    """A token with which a program acts on behalf of a user."""

    __tablename__ = "api_tokens"
    __table_args__ = (
        Index(f"uq_{__tablename__}_token_hash", "token_hash", unique=True),
        Index(f"ix_{__tablename__}_user_id", "user_id", "id"),
        Index(f"ix_{__tablename__}_expires_at", "expires_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    user_id: Mapped[int] = _of_user()
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    token_hash: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = _instant(server_default=STATEMENT_TIME)
    expires_at: Mapped[datetime] = _instant()
    last_used_at: Mapped[datetime | None] = _instant()

    user: Mapped[User] = relationship(lazy="raise")


class FamiliarAddress(Base):
    """An address from which a user has signed in; attempts from other addresses do not block the user there."""

    __tablename__ = "familiar_addresses"
    __table_args__ = (Index(f"ix_{__tablename__}_last_used_at", "last_used_at"),)

    user_id: Mapped[int] = _of_user(primary_key=True)
    address: Mapped[str] = mapped_column(Text, primary_key=True)
    last_used_at: Mapped[datetime] = _instant(server_default=func.now())


class SignInAttempts(Base):
    """The number of sign-in attempts of a key within the window that ends at `ends_at`."""

    __tablename__ = "sign_in_attempts"
    __table_args__ = (Index(f"ix_{__tablename__}_ends_at", "ends_at"),)

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    attempts: Mapped[int] = mapped_column(BigInteger)
    ends_at: Mapped[datetime] = _instant()
