"""The table of users."""

from typing import Any, get_args

from sqlalchemy import Index, String, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.permissions import AccessLevel
from app.domains.shared.models import RegisterObject, enumeration, reference, register_table
from app.utils.text.email_addresses import EMAIL_LENGTH


class User(RegisterObject):
    __tablename__ = "users"
    __table_args__ = register_table(
        __tablename__,
        Index(f"uq_{__tablename__}_email", text("fold_email(email)"), unique=True),
        enumeration("access_level", get_args(AccessLevel)),
        Index(f"ix_{__tablename__}_email", text("fold_email(email)"), "id"),
        Index(f"ix_{__tablename__}_access_level", "access_level", "id"),
        Index(f"ix_{__tablename__}_is_active", "is_active", "id"),
        Index(f"ix_{__tablename__}_department_id", "department_id"),
        Index(f"ix_{__tablename__}_manager_id", "manager_id"),
        texts=("email",),
    )
    noun = "user"

    email: Mapped[str] = mapped_column(String(EMAIL_LENGTH))
    # Departments refer to users: `use_alter` breaks the cycle by adding this foreign key after both tables exist.
    department_id: Mapped[int | None] = reference("departments", use_alter=True)
    manager_id: Mapped[int | None] = reference("users")
    access_level: Mapped[str] = mapped_column(server_default="viewer")
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))

    department: Mapped[Any] = relationship("Department", foreign_keys=[department_id], lazy="raise")
    manager: Mapped[Any] = relationship("User", foreign_keys=[manager_id], remote_side="User.id", lazy="raise")
