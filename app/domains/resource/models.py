"""The table of resources."""

from typing import Any, Literal, get_args

from sqlalchemy import Index, String, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.domains.shared.models import (
    URL_LENGTH,
    Criticality,
    RegisterObject,
    enumeration,
    rank_sql,
    reference,
    register_table,
)

ResourceKind = Literal["application", "data_store", "equipment", "facility", "document", "material", "supplier"]
# The usage of a resource by a process.
ResourceUsage = Literal["uses", "reads", "writes", "produces"]


class Resource(RegisterObject):
    __tablename__ = "resources"
    __table_args__ = register_table(
        __tablename__,
        enumeration("kind", get_args(ResourceKind)),
        enumeration("criticality", get_args(Criticality)),
        Index(f"ix_{__tablename__}_owner_department_id", "owner_department_id"),
        Index(f"ix_{__tablename__}_location_id", "location_id"),
        Index(f"ix_{__tablename__}_kind", "kind", "id"),
        Index(f"ix_{__tablename__}_criticality", text(rank_sql("criticality", get_args(Criticality))), "id"),
        texts=("url",),
    )
    noun = "resource"

    kind: Mapped[str]
    owner_department_id: Mapped[int | None] = reference("departments")
    location_id: Mapped[int | None] = reference("locations")
    criticality: Mapped[str | None]
    url: Mapped[str | None] = mapped_column(String(URL_LENGTH))

    owner_department: Mapped[Any] = relationship("Department", lazy="raise")
    location: Mapped[Any] = relationship("Location", lazy="raise")
