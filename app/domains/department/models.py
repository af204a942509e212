"""The table of departments."""

from typing import Any, Literal

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, relationship

from app.domains.shared.models import RegisterObject, reference, register_table

# The relation of a department to a process.
DepartmentRelation = Literal["owner", "participant", "supplier", "customer"]


class Department(RegisterObject):
    __tablename__ = "departments"
    __table_args__ = register_table(__tablename__, Index(f"ix_{__tablename__}_head_id", "head_id"), tree=True)
    noun = "department"

    parent_id: Mapped[int | None] = reference("departments")
    head_id: Mapped[int | None] = reference("users")

    parent: Mapped[Any] = relationship(
        "Department", foreign_keys=[parent_id], remote_side="Department.id", lazy="raise"
    )
    head: Mapped[Any] = relationship("User", foreign_keys=[head_id], lazy="raise")
