"""The one statement that reads a collection's objects as finished JSON.

It is derived from the `Read` schema and the mapping: a field is a column; a field named like a many-to-one relationship
is a brief that follows the foreign key; one named like a one-to-many relationship is the list of its link rows, each
with the columns its own schema names, taken from the link or else from the object on its other side. PostgreSQL builds
the JSON, so nothing is read into Python objects only to be written out again. That the result equals what Pydantic
would have made is held by a test over every collection.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any, get_args

from pydantic import BaseModel
from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    String,
    Subquery,
    Text,
    any_,
    bindparam,
    cast,
    func,
    inspect,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Mapper, RelationshipDirection, RelationshipProperty

from app.core.database import Statement, prepare
from app.domains.shared.lists import order_by
from app.domains.shared.models import RegisterObject
from app.domains.shared.schemas import ObjectRead

Condition = Callable[[FromClause], ColumnElement[bool]]

_EMPTY_LIST: ColumnElement[Any] = literal_column("'[]'::json")


@dataclass(frozen=True, slots=True)
class Document:
    """One object as the bytes that go to the client."""

    id: int
    version: int
    body: bytes

    @property
    def etag(self) -> str:
        """The version and a digest of these bytes: a renamed brief changes the bytes but not the version."""
        return f'"{self.version}.{blake2b(self.body, digest_size=8).hexdigest()}"'


def by_id(source: FromClause) -> ColumnElement[bool]:
    """Select the object whose `id` is the parameter `key`."""
    return source.c.id == bindparam("key", type_=BigInteger)


def by_code(source: FromClause) -> ColumnElement[bool]:
    """Select the object whose `code` is the parameter `key`, ignoring case."""
    return func.lower(source.c.code) == func.lower(bindparam("key", type_=String))


class Documents:
    """The read statements of one collection. Compiled at first use, when all models are mapped."""

    def __init__(self, schema: type[ObjectRead], model: type[RegisterObject]) -> None:
        self._schema = schema
        self._model = model

    @cached_property
    def one_by_id(self) -> Statement:
        return self._one(by_id)

    @cached_property
    def one_by_code(self) -> Statement:
        return self._one(by_code)

    @lru_cache(maxsize=256)  # noqa: B019 - there is one instance a collection, for the life of the process
    def page(self, sort: str, condition: Condition | None = None) -> Statement:
        """Return the statement of a page: `rows` (one more than `limit` when more follow) and `items`.

        Its parameters are `limit`, `offset` and those of the condition.
        """
        order = order_by(sort)
        table = self._mapper.local_table.alias("o")
        limit = bindparam("limit", type_=BigInteger)
        query = select(*table.c).order_by(*order(table)).limit(limit + literal_column("1"))
        query = query.offset(bindparam("offset", type_=BigInteger))
        if condition is not None:
            query = query.where(condition(table))
        page = query.cte("page").prefix_with("MATERIALIZED")
        joined: FromClause = page
        columns = []
        for name, part in self._columns(page, in_page=True):
            if isinstance(part, CTE):
                joined = joined.outerjoin(part, part.c.owner == page.c.id)
                columns.append(func.coalesce(part.c["items"], _EMPTY_LIST).label(name))
            else:
                columns.append(part.label(name))
        rows = select(*columns).select_from(joined).order_by(*order(page)).limit(limit).subquery("d")
        count = select(func.count()).select_from(page).scalar_subquery()
        return prepare(select(count.label("rows"), json_list(rows).label("items")))

    @lru_cache(maxsize=256)  # noqa: B019
    def count(self, condition: Condition | None = None) -> Statement:
        """Return the statement that counts the list; its parameters are those of the condition."""
        table = self._mapper.local_table.alias("o")
        query = select(func.count().label("total")).select_from(table)
        return prepare(query if condition is None else query.where(condition(table)))

    @property
    def _mapper(self) -> Mapper[Any]:
        return inspect(self._model)

    def _one(self, condition: Condition) -> Statement:
        table = self._mapper.local_table.alias("o")
        columns = [column.label(name) for name, column in self._columns(table, in_page=False)]
        row = select(*columns).select_from(table).where(condition(table)).subquery("d")
        body = _utf8(func.row_to_json(row.table_valued()))
        return prepare(select(row.c.id, row.c.version, body.label("body")))

    def _columns(self, source: FromClause, *, in_page: bool) -> Iterator[tuple[str, Any]]:
        relationships = self._mapper.relationships
        for name, field in self._schema.model_fields.items():
            if name not in relationships:
                yield name, source.c[name]
            elif relationships[name].direction is RelationshipDirection.MANYTOONE:
                yield name, _brief(relationships[name], _nested(field.annotation), source)
            elif in_page:
                yield name, _links_of_page(relationships[name], _nested(field.annotation), source)
            else:
                yield name, _links_of_one(relationships[name], _nested(field.annotation), source)


def json_list(rows: Subquery) -> ColumnElement[bytes]:
    """Return the rows as a JSON array in bytes, in their order."""
    items = func.coalesce(func.json_agg(rows.table_valued()), _EMPTY_LIST)
    return select(_utf8(items)).select_from(rows).scalar_subquery()


def _nested(annotation: Any) -> type[BaseModel]:
    """Return the schema inside `Schema`, `Schema | None` or `list[Schema]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_nested(argument) for argument in get_args(annotation) if argument is not type(None))


def _utf8(json: ColumnElement[Any]) -> ColumnElement[bytes]:
    # The driver hands bytea over as it came; text it would decode, only for us to encode it again.
    return func.convert_to(cast(json, Text), literal_column("'UTF8'"))


def _json_row(columns: Sequence[ColumnElement[Any]], *outer: FromClause) -> ColumnElement[Any]:
    row = select(*columns).correlate(*outer).subquery("x")
    return select(row.table_valued()).correlate(*outer).scalar_subquery()


def _brief(relationship: RelationshipProperty[Any], schema: type[BaseModel], source: FromClause) -> ColumnElement[Any]:
    (foreign_key,) = relationship.local_columns
    target = relationship.mapper.local_table.alias("t")
    row = select(*(target.c[name] for name in schema.model_fields)).correlate(source)
    brief = row.where(target.c.id == source.c[foreign_key.name]).subquery("brief")
    return select(func.row_to_json(brief.table_valued())).correlate(source).scalar_subquery()


def _links(relationship: RelationshipProperty[Any], schema: type[BaseModel]) -> tuple[FromClause, Select[Any]]:
    """Return the link table and a query of its rows, joined with the other side and aggregated as JSON."""
    link = relationship.mapper.local_table.alias("l")
    (to_other,) = relationship.mapper.relationships
    (foreign_key,) = to_other.local_columns
    target = to_other.mapper.local_table.alias("t")
    columns = [link.c[name] if name in link.c else target.c[name] for name in schema.model_fields]
    order = [target.c.id, *(column for column in columns if column.table is link)]
    items = func.json_agg(aggregate_order_by(_json_row(columns, link, target), *order))
    query = select(func.coalesce(items, _EMPTY_LIST).label("items"))
    return link, query.select_from(link.join(target, target.c.id == link.c[foreign_key.name]))


def _links_of_one(
    relationship: RelationshipProperty[Any], schema: type[BaseModel], source: FromClause
) -> ColumnElement[Any]:
    link, query = _links(relationship, schema)
    (owner,) = relationship.remote_side
    return query.where(link.c[owner.name] == source.c.id).correlate(source).scalar_subquery()


def _links_of_page(relationship: RelationshipProperty[Any], schema: type[BaseModel], page: FromClause) -> CTE:
    # Aggregated once for all objects of the page: correlated, it costs more than twice as much.
    link, query = _links(relationship, schema)
    (owner,) = relationship.remote_side
    ids = func.array(select(page.c.id).scalar_subquery())
    query = query.add_columns(link.c[owner.name].label("owner")).where(link.c[owner.name] == any_(ids))
    return query.group_by(link.c[owner.name]).cte(f"{relationship.key}_of_page")
