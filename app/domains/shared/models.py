"""What every registered object has, as columns."""

from datetime import datetime
from typing import Any, ClassVar, Literal

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    String,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column, relationship

Criticality = Literal["low", "medium", "high", "critical"]

CODE_LENGTH = 64
EXTERNAL_ID_LENGTH = 512
NAME_LENGTH = 500
URL_LENGTH = 2048

# Constraint names are API: `constraints.py` maps errors from them.
NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


def reference(target: str, *, use_alter: bool = False) -> Any:
    """Return an optional foreign key to `target`, which keeps the other side from being deleted."""
    foreign_key = ForeignKey(f"{target}.id", ondelete="RESTRICT", use_alter=use_alter)
    return mapped_column(BigInteger, foreign_key, nullable=True)


def link_end(target: str, *, cascade: bool = False) -> Any:
    """Return one end of a link table: part of its primary key, restricting deletes unless `cascade`."""
    return mapped_column(
        BigInteger, ForeignKey(f"{target}.id", ondelete="CASCADE" if cascade else "RESTRICT"), primary_key=True
    )


def enumeration(name: str, values: tuple[str, ...]) -> CheckConstraint:
    """Return the CHECK that keeps a text column to `values`; an enumerated type could not be changed in place."""
    return CheckConstraint(f"{name} IN ({', '.join(repr(value) for value in values)})", name=name)


class RegisterObject(Base):
    """A row of one of the six collections."""

    __abstract__ = True

    # What a person calls one of these in an error message.
    noun: ClassVar[str]

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True, sort_order=-20)
    code: Mapped[str | None] = mapped_column(String(CODE_LENGTH), sort_order=-19)
    external_id: Mapped[str | None] = mapped_column(String(EXTERNAL_ID_LENGTH), sort_order=-18)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), sort_order=-17)
    description: Mapped[str | None] = mapped_column(Text, sort_order=-16)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now(), sort_order=20)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now(), sort_order=21)
    created_by_id: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey("users.id", ondelete="RESTRICT"), sort_order=22
    )
    updated_by_id: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey("users.id", ondelete="RESTRICT"), sort_order=23
    )
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"), sort_order=24)

    @declared_attr
    @classmethod
    def created_by(cls) -> Mapped[Any]:
        return relationship("User", foreign_keys=[cls.created_by_id], remote_side="User.id", lazy="raise")

    @declared_attr
    @classmethod
    def updated_by(cls) -> Mapped[Any]:
        return relationship("User", foreign_keys=[cls.updated_by_id], remote_side="User.id", lazy="raise")


def register_table(table: str, *extra: Any, tree: bool = False) -> tuple[Any, ...]:
    """Return the keys and indexes of a collection's table: one for each list order and each foreign key.

    A foreign key without an index would make every DELETE on its other side scan this table.
    """
    foreign_keys = ["created_by_id", "updated_by_id", *(["parent_id"] if tree else [])]
    return (
        Index(f"uq_{table}_code", text("lower(code)"), unique=True),
        # Partial, so that it is no key that foreign keys could refer to: changing one of those locks out whoever refers
        # to the object, and two objects that come to refer to each other would deadlock.
        Index(f"uq_{table}_external_id", "external_id", unique=True, postgresql_where=text("external_id IS NOT NULL")),
        Index(f"ix_{table}_code", text("lower(code)"), "id"),
        Index(f"ix_{table}_name", text("lower(name)"), "id"),
        Index(f"ix_{table}_created_at", "created_at", "id"),
        Index(f"ix_{table}_updated_at", "updated_at", "id"),
        *(Index(f"ix_{table}_{column}", column) for column in foreign_keys),
        *extra,
    )


def table_of(model: type[Base]) -> Table:
    """Return the table of a model."""
    return model.metadata.tables[model.__tablename__]


def model_of(foreign_key: Column[Any]) -> type[RegisterObject]:
    """Return the model of the objects that a column refers to."""
    (key,) = foreign_key.foreign_keys
    models = (mapper.class_ for mapper in Base.registry.mappers if mapper.local_table is key.column.table)
    model: type[RegisterObject] = next(models)
    return model
