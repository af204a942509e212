"""Tables of processes and their links."""

from typing import Any, Literal, get_args

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.domains.department.models import DepartmentRelation
from app.domains.resource.models import ResourceUsage
from app.domains.role.models import RoleResponsibility
from app.domains.shared.models import (
    Base,
    Criticality,
    RegisterObject,
    conflict,
    enumeration,
    link_end,
    rank_sql,
    reference,
    register_table,
)
from app.utils.fault_codes import text_of

ProcessKind = Literal["core", "management", "support"]
ProcessStatus = Literal["draft", "in_review", "active", "retired"]


class ProcessDepartment(Base):
    __tablename__ = "process_departments"
    __table_args__ = (
        enumeration("relation", get_args(DepartmentRelation)),
        Index(
            f"uq_{__tablename__}_owner",
            "process_id",
            unique=True,
            postgresql_where=text("relation = 'owner'"),
            info=conflict("/departments", text_of("several_owners")),
        ),
        Index(f"ix_{__tablename__}_department_id", "department_id", "process_id"),
    )

    process_id: Mapped[int] = link_end("processes", cascade=True)
    department_id: Mapped[int] = link_end("departments")
    relation: Mapped[str]

    department: Mapped[Any] = relationship("Department", lazy="raise")


class ProcessLocation(Base):
    __tablename__ = "process_locations"
    __table_args__ = (Index(f"ix_{__tablename__}_location_id", "location_id", "process_id"),)

    process_id: Mapped[int] = link_end("processes", cascade=True)
    location_id: Mapped[int] = link_end("locations")

    location: Mapped[Any] = relationship("Location", lazy="raise")


class ProcessResource(Base):
    __tablename__ = "process_resources"
    __table_args__ = (
        enumeration("usage", get_args(ResourceUsage)),
        Index(f"ix_{__tablename__}_resource_id", "resource_id", "process_id"),
    )

    process_id: Mapped[int] = link_end("processes", cascade=True)
    resource_id: Mapped[int] = link_end("resources")
    usage: Mapped[str]

    resource: Mapped[Any] = relationship("Resource", lazy="raise")


class ProcessRole(Base):
    __tablename__ = "process_roles"
    __table_args__ = (
        enumeration("responsibility", get_args(RoleResponsibility)),
        Index(
            f"uq_{__tablename__}_accountable",
            "process_id",
            unique=True,
            postgresql_where=text("responsibility = 'accountable'"),
            info=conflict("/roles", text_of("several_accountable")),
        ),
        Index(f"ix_{__tablename__}_role_id", "role_id", "process_id"),
    )

    process_id: Mapped[int] = link_end("processes", cascade=True)
    role_id: Mapped[int] = link_end("roles")
    # A role may hold several responsibilities in one process.
    responsibility: Mapped[str] = mapped_column(primary_key=True)

    role: Mapped[Any] = relationship("Role", lazy="raise")


class Process(RegisterObject):
    __tablename__ = "processes"
    __table_args__ = register_table(
        __tablename__,
        enumeration("kind", get_args(ProcessKind)),
        enumeration("status", get_args(ProcessStatus)),
        enumeration("criticality", get_args(Criticality)),
        Index(f"ix_{__tablename__}_owner_id", "owner_id"),
        Index(f"ix_{__tablename__}_kind", "kind", "id"),
        Index(f"ix_{__tablename__}_status", "status", "id"),
        Index(f"ix_{__tablename__}_criticality", text(rank_sql("criticality", get_args(Criticality))), "id"),
        tree=True,
    )
    noun = "process"

    parent_id: Mapped[int | None] = reference("processes")
    kind: Mapped[str]
    status: Mapped[str]
    criticality: Mapped[str | None]
    owner_id: Mapped[int | None] = reference("users")

    parent: Mapped[Any] = relationship("Process", foreign_keys=[parent_id], remote_side="Process.id", lazy="raise")
    owner: Mapped[Any] = relationship("User", foreign_keys=[owner_id], lazy="raise")
    departments: Mapped[list[ProcessDepartment]] = relationship(lazy="raise")
    locations: Mapped[list[ProcessLocation]] = relationship(lazy="raise")
    resources: Mapped[list[ProcessResource]] = relationship(lazy="raise")
    roles: Mapped[list[ProcessRole]] = relationship(lazy="raise")
