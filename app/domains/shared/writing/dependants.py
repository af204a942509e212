"""Objects that refer to an object and thereby prevent its deletion."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    Executable,
    Label,
    Select,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    exists,
    false,
    func,
    literal_column,
    not_,
    select,
    union,
)

from app.core.database import RegisterSession
from app.domains.shared.models import Base, RegisterObject, table_of
from app.utils.wording import counted, joined

MAX_LISTED = 20


# Stands for all objects of the collections that the caller may not read, whatever their number.
UNREADABLE_OBJECTS = "objects that this token may not read"


@dataclass(frozen=True, slots=True)
class Dependants:
    """The number of referring objects by collection, and the first of them as briefs with their `type`.

    Both have only objects that the caller may read; `has_unreadable` is whether there are others.
    """

    counts: dict[str, int]
    first: list[dict[str, Any]]
    has_unreadable: bool

    def __bool__(self) -> bool:
        return bool(self.counts) or self.has_unreadable

    @property
    def summary(self) -> str:
        models = (mapper.class_ for mapper in Base.registry.mappers)
        nouns = {model.__tablename__: model.noun for model in models if issubclass(model, RegisterObject)}
        parts = [counted(count, nouns[name], name) for name, count in self.counts.items()]
        return joined([*parts, UNREADABLE_OBJECTS] if self.has_unreadable else parts)

    def as_json(self) -> dict[str, Any]:
        total = sum(self.counts.values())
        return {"total": total, "counts": self.counts, "first": self.first, "has_unreadable": self.has_unreadable}


async def find_dependants(
    session: RegisterSession, model: type[RegisterObject], key: int, readable: frozenset[str]
) -> Dependants:
    """Return the objects that refer to the object with the id `key`, other than itself.

    `readable` has the names of the collections that the caller may read.
    """
    row = (await session.execute(_dependants_query(model), {"key": key, "readable": list(readable)})).one()
    return Dependants(row.counts or {}, row.first or [], row.has_unreadable)


@cache
def _dependants_query(model: type[RegisterObject]) -> Executable:
    table = table_of(model)
    dependants = union(*_references_to(table)).cte("dependants").prefix_with("MATERIALIZED")
    kind = dependants.c.type
    is_readable = kind == any_(bindparam("readable", type_=ARRAY(Text)))
    groups = select(kind, func.count().label("n")).where(is_readable).group_by(kind).order_by(kind).subquery()
    counts = select(func.json_object_agg(groups.c.type, groups.c.n)).scalar_subquery()
    rows = select(*dependants.c).where(is_readable).order_by(kind, dependants.c.id)
    briefs = rows.limit(literal_column(str(MAX_LISTED))).subquery("b")
    first = select(func.json_agg(briefs.table_valued())).scalar_subquery()
    has_unreadable = exists(select(kind).where(not_(is_readable)))
    return select(counts.label("counts"), first.label("first"), has_unreadable.label("has_unreadable"))


def _references_to(table: Table) -> list[Select[Any]]:
    """Return a query of type, id, code and name for each foreign key to the table that restricts its deletes."""
    queries = [_referring_objects(column, owner, table) for column, owner in restricting_foreign_keys(table)]
    # If no foreign key refers to the collection, a query without rows is left.
    return queries or [select(_type_of(table), table.c.id, table.c.code, table.c.name).where(false())]


def restricting_foreign_keys(table: Table) -> Iterator[tuple[Column[Any], Table]]:
    """Yield each foreign key that restricts deletes from the table, and the table of the objects that have the key."""
    objects = {
        mapper.class_.__tablename__ for mapper in Base.registry.mappers if issubclass(mapper.class_, RegisterObject)
    }
    for other in Base.metadata.tables.values():
        for column in other.c:
            if any(key.column.table is table and key.ondelete == "RESTRICT" for key in column.foreign_keys):
                yield column, other if other.name in objects else _owner(other)


def _owner(link: Table) -> Table:
    """Return the table of the objects that own a link: deleting an owner deletes its links (ON DELETE CASCADE)."""
    return next(key.column.table for key in link.foreign_keys if key.ondelete == "CASCADE")


def _type_of(table: Table) -> Label[str]:
    return literal_column(f"'{table.name}'").label("type")


def _referring_objects(column: Column[Any], owner: Table, target: Table) -> Select[Any]:
    query = select(_type_of(owner), owner.c.id, owner.c.code, owner.c.name)
    parameter = bindparam("key", type_=BigInteger)
    if column.table is not owner:
        (end,) = (other for other in column.table.c if any(key.column.table is owner for key in other.foreign_keys))
        # A process may have several links to one role; DISTINCT, as a UNION of a single query removes no duplicates.
        query = query.join(column.table, end == owner.c.id).distinct()
    if owner is target:
        return query.where(and_(column == parameter, not_(owner.c.id == parameter)))
    return query.where(column == parameter)
