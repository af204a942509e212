"""The columns, indexes and constraints that all collections share."""

from datetime import datetime
from functools import cache
from typing import Any, ClassVar, Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Computed,
    DateTime,
    ForeignKey,
    Function,
    Identity,
    Index,
    MetaData,
    String,
    Table,
    Text,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column, relationship

Criticality = Literal["low", "medium", "high", "critical"]

CODE_LENGTH = 64
EXTERNAL_ID_LENGTH = 512
NAME_LENGTH = 500
URL_LENGTH = 2048

# The default of the columns that have the time of a creation: a function that is constant in a statement, so that
# `created_at` equals `updated_at`. The beginning of the transaction may be long before.
STATEMENT_TIME = func.statement_timestamp()

# Constraint names are API: `constraints.py` maps them to errors.
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
    """Return a nullable foreign key to `target`; deleting a referenced row fails."""
    foreign_key = ForeignKey(f"{target}.id", ondelete="RESTRICT", use_alter=use_alter)
    return mapped_column(BigInteger, foreign_key, nullable=True)


def link_end(target: str, *, cascade: bool = False) -> Any:
    """Return one end of a link table, part of its primary key; deleting the row it refers to fails unless `cascade`."""
    return mapped_column(
        BigInteger, ForeignKey(f"{target}.id", ondelete="CASCADE" if cascade else "RESTRICT"), primary_key=True
    )


def conflict(pointer: str, detail: str) -> dict[str, Any]:
    """Return the `info` of a unique index: the JSON pointer and the message of the error for its violation."""
    return {"conflict": (pointer, detail)}


def enumeration(name: str, values: tuple[str, ...]) -> CheckConstraint:
    """Return the CHECK that limits a text column to `values`; an enumerated type could not be changed in place."""
    return CheckConstraint(f"{name} IN ({', '.join(repr(value) for value in values)})", name=name)


class RegisterObject(Base):
    """A row of a collection."""

    __abstract__ = True

    # The singular for error messages.
    noun: ClassVar[str]

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True, sort_order=-20)
    code: Mapped[str | None] = mapped_column(String(CODE_LENGTH), sort_order=-19)
    external_id: Mapped[str | None] = mapped_column(String(EXTERNAL_ID_LENGTH), sort_order=-18)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), sort_order=-17)
    description: Mapped[str | None] = mapped_column(Text, sort_order=-16)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=STATEMENT_TIME, sort_order=20)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=STATEMENT_TIME, sort_order=21)
    created_by_id: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey("users.id", ondelete="RESTRICT"), sort_order=22
    )
    updated_by_id: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey("users.id", ondelete="RESTRICT"), sort_order=23
    )
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"), sort_order=24)
    # The words of code and name, with `^` before the first, and those of code, name and description (revision 0006).
    search_name: Mapped[Any] = mapped_column(
        TSVECTOR,
        Computed("search_name_words((code)::text, (name)::text)", persisted=True),
        deferred=True,
        sort_order=25,
    )
    search_text: Mapped[Any] = mapped_column(
        TSVECTOR,
        Computed("search_text_words((code)::text, (name)::text, description)", persisted=True),
        deferred=True,
        sort_order=26,
    )

    # The brief in documents of other objects: JSON without the closing brace, so that a link can add its own field.
    brief_json: Mapped[str] = mapped_column(
        Text, Computed("brief_json(id, (code)::text, (name)::text)", persisted=True), deferred=True, sort_order=27
    )

    @declared_attr
    @classmethod
    def created_by(cls) -> Mapped[Any]:
        return relationship("User", foreign_keys=[cls.created_by_id], remote_side="User.id", lazy="raise")

    @declared_attr
    @classmethod
    def updated_by(cls) -> Mapped[Any]:
        return relationship("User", foreign_keys=[cls.updated_by_id], remote_side="User.id", lazy="raise")


def fold_function(column: str) -> str:
    """Return the function of the database that folds the texts of a column (revision 0010)."""
    return "fold_email" if column == "email" else "fold"


def folded(text_: ColumnElement[Any], column: str | None = None) -> ColumnElement[str]:
    """Return a text, folded as the texts of `column`. By default the text is a column itself."""
    return Function(fold_function(column or str(text_.key)), text_, type_=Text())


def folded_key(column: ColumnElement[Any]) -> ColumnElement[str]:
    """Return the beginning of a folded text, which fits into a B-tree: the expression of orders and equalities."""
    return folded(column) if column.key in {"code", "email"} else func.fold_key(column, type_=Text())


def rank_sql(name: str, values: tuple[str, ...]) -> str:
    """Return the SQL of the rank of a column's value among `values`, from 1; NULL ranks last."""
    array = ", ".join(repr(value) for value in values)
    return f"coalesce(array_position(ARRAY[{array}]::text[], {name}::text), {len(values) + 1})"


def register_table(
    table: str, *extra: Any, tree: bool = False, texts: tuple[str, ...] = (), exact_texts: tuple[str, ...] = ()
) -> tuple[Any, ...]:
    """Return the indexes and constraints of a collection's table: for each sort order, filter and foreign key.

    Without an index on a foreign key, every DELETE in the referenced table would scan this one sequentially. `texts`
    are additional text columns with partial filters. `exact_texts` are those with equality filters only; each has its
    own index, which is cheaper for a new column than rebuilding the trigram index.
    """
    nullable = ("external_id", "description", *(name for name in texts if name != "email"), *exact_texts)
    # One trigram index on all columns serves the partial filters (`__ic`, `__sw`).
    trigrams: dict[str, Any] = {
        f"folded_{name}": literal_column(f"{fold_function(name)}({name})").label(f"folded_{name}")
        for name in ("code", "external_id", "name", "description", *texts)
    }
    foreign_keys = ["created_by_id", "updated_by_id", *(["parent_id"] if tree else [])]
    return (
        Index(f"uq_{table}_code", text("fold(code)"), unique=True),
        # Partial, because a foreign key cannot refer to the column of a partial index. An UPDATE of a column that a
        # foreign key can refer to takes FOR UPDATE, which conflicts with the FOR KEY SHARE of new references: two
        # objects that start to refer to each other would deadlock.
        Index(f"uq_{table}_external_id", "external_id", unique=True, postgresql_where=text("external_id IS NOT NULL")),
        Index(f"ix_{table}_code", text("num_nulls(code)"), text("coalesce(fold(code), '')"), "id"),
        Index(f"ix_{table}_name", text("fold_key(name)"), "id"),
        Index(f"ix_{table}_created_at", "created_at", "id"),
        Index(f"ix_{table}_updated_at", "updated_at", "id"),
        Index(f"ix_{table}_version", "version", "id"),
        Index(
            f"ix_{table}_text",
            *trigrams.values(),
            postgresql_using="gin",
            postgresql_ops=dict.fromkeys(trigrams, "gin_trgm_ops"),
        ),
        # A short GIN pending list (fastupdate), because every search reads all of it. Without a pending list, writes
        # cost half as much again; with one of the default size, searches do.
        *(
            Index(f"ix_{table}_{name}", name, postgresql_using="gin", postgresql_with={"gin_pending_list_limit": "64"})
            for name in ("search_name", "search_text")
        ),
        *(Index(f"ix_{table}_{name}", text(f"fold_key({name})"), "id") for name in exact_texts),
        *(Index(f"ix_{table}_{name}_null", text(f"num_nulls({name})"), "id") for name in nullable),
        *(Index(f"ix_{table}_{column}", column) for column in foreign_keys),
        # The foreign key alone would accept a new row that names its own id as its parent.
        *([CheckConstraint("parent_id <> id", name="parent_id")] if tree else []),
        *extra,
    )


def table_of(model: type[Base]) -> Table:
    """Return the table of a model."""
    return model.metadata.tables[model.__tablename__]


def referenced_name(table: str, column: str) -> str:
    """Return the name of the table that a column of a table refers to, which may not be declared yet."""
    (key,) = Base.metadata.tables[table].c[column].foreign_keys
    return key.target_fullname.partition(".")[0]


@cache
def model_of(foreign_key: Column[Any]) -> type[RegisterObject]:
    """Return the model of the table that a column refers to."""
    (key,) = foreign_key.foreign_keys
    models = (mapper.class_ for mapper in Base.registry.mappers if mapper.local_table is key.column.table)
    model: type[RegisterObject] = next(models)
    return model


ChangeAction = Literal["created", "updated", "deleted", "linked", "unlinked"]


class SearchWord(Base):
    """A word of a collection, from which similar words are suggested for misspelt ones.

    A word of a collection may occur twice: a unique index would make transactions that add the same word wait for each
    other. Housekeeping removes duplicates, and words that no object of the collection has.
    """

    __tablename__ = "search_vocabulary"
    __table_args__ = (
        Index(f"ix_{__tablename__}_word", "word", "collection"),
        Index(
            f"ix_{__tablename__}_letters", "letters", postgresql_using="gin", postgresql_ops={"letters": "gin_trgm_ops"}
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    collection: Mapped[str] = mapped_column(Text)
    # Collated by code points, so that an index range holds all words with a common prefix.
    word: Mapped[str] = mapped_column(Text(collation="C"))
    # In ASCII: pg_trgm ignores characters that are not letters in the locale of the database.
    letters: Mapped[str] = mapped_column(Text, Computed("search_letters(word)", persisted=True))
    # Set by housekeeping before it removes the row, and never reset. Writers of the word then add another row.
    is_unused: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
