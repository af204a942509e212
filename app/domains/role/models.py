"""Tables of roles and their holders."""

from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, relationship

from app.domains.shared.models import Base, RegisterObject, link_end, reference, register_table


class Role(RegisterObject):
    __tablename__ = "roles"
    __table_args__ = register_table(__tablename__, Index(f"ix_{__tablename__}_department_id", "department_id"))
    noun = "role"

    department_id: Mapped[int | None] = reference("departments")

    department: Mapped[Any] = relationship("Department", lazy="raise")
    holders: Mapped[list["RoleHolder"]] = relationship(lazy="raise", viewonly=True)


class RoleHolder(Base):
    """A user who holds a role."""

    __tablename__ = "role_holders"
    __table_args__ = (Index(f"ix_{__tablename__}_user_id", "user_id", "role_id"),)

    role_id: Mapped[int] = link_end("roles", cascade=True)
    user_id: Mapped[int] = link_end("users")

    user: Mapped[Any] = relationship("User", lazy="raise")
