"""Fast path, part 2: statements that read objects as finished JSON, and parts of the statements that write them.

Loading objects through the ORM and serialising them by Pydantic takes several times as long as the query itself. So the
statements of this module return bytes that are sent unchanged; `RegisterSession.fetch` runs those for one object and
for a page. They are derived from the `Read` schema and the mapping. A field is a column. A field named like a
many-to-one relationship is a brief of the referenced object. A field named like a one-to-many relationship is the list
of its link rows, each with the fields of its own schema, taken from the link or else from the linked object. A test
over every collection checks that the result equals that of Pydantic.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

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
    bindparam,
    case,
    cast,
    func,
    inspect,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.orm import Mapper, RelationshipDirection, RelationshipProperty

from app.core.prepared import fast_statement
from app.domains.shared.collection import Collection
from app.domains.shared.history.diff import changed_members, jsonb_or_null, nonempty_or_null
from app.domains.shared.models import Base, folded, table_of
from app.domains.shared.query.orders import Condition, Order, Start, opaque_parameter
from app.domains.shared.query.representations import Members, default_members
from app.domains.shared.reading.cells import links_cell, plain_cell, reference_cell
from app.domains.shared.reading.json_text import (
    PageValues,
    brief_of_one,
    briefs_of_page,
    json_array,
    json_object,
    json_value,
    links_after_write,
    links_of_one,
    links_of_page,
    nested_schema,
    utf8,
)


@dataclass(frozen=True, slots=True)
class Document:
    """One object as the bytes of its response."""

    id: int
    version: int
    body: bytes

    @property
    def etag(self) -> str:
        """The version and a digest of the bytes: renaming a referenced object changes the bytes but not the version."""
        return f'"{self.version}.{blake2b(self.body, digest_size=8).hexdigest()}"'


def documents_of(collection: Collection) -> "Documents":
    """Return the statements of a collection."""
    return _documents(collection.read, collection.model)


@cache
def _documents(schema: type[BaseModel], model: type[Base]) -> "Documents":
    return Documents(schema, model)


def by_id(source: FromClause) -> ColumnElement[bool]:
    """Return the condition that `id` equals the parameter `key`."""
    return source.c.id == bindparam("key", type_=BigInteger)


def by_code(source: FromClause) -> ColumnElement[bool]:
    """Return the condition that `code` equals the parameter `key`, ignoring case."""
    return folded(source.c.code) == folded(bindparam("key", type_=String), "code")


class Documents:
    """The read statements of one collection, compiled at first use, when all models are mapped.

    There is one instance per collection, which the statements keep for the life of the process.
    """

    def __init__(self, schema: type[BaseModel], model: type[Base]) -> None:
        self._schema = schema
        self.model = model

    @fast_statement(256)
    def single_object(self, condition: Condition, members: Members = None) -> Select[Any]:
        """Return the statement of the object that the condition selects: `id`, `version` and `body`.

        Tables of embedded members are queried only for those among `members`.
        """
        table = self._mapper.local_table.alias("o")
        body = utf8(json_object(self._members(table, members)))
        return select(table.c.id, table.c.version, body.label("body")).where(condition(table))

    @fast_statement(512)
    def page(
        self,
        order: Order,
        condition: Condition | None = None,
        start: Start = "first",
        members: Members = None,
    ) -> Select[Any]:
        """Return the statement of a page: `rows` (one more than `limit` if more follow), `items` and `edges`.

        The parameters are `limit`, `offset`, those of the condition and, unless `start` is "first", those of the
        position. `edges` has the sort keys of the first and the last object, as JSON.
        """
        backwards = start == "before"
        table = self._mapper.local_table.alias("o")
        limit = opaque_parameter("limit")
        found = order.page(table, condition, start).cte("found").prefix_with("MATERIALIZED")
        rows = select(found).order_by(*order.clauses(found, backwards=backwards)).limit(limit)
        page = rows.cte("page").prefix_with("MATERIALIZED")
        joined, body = self._documents_of(page, members)
        bodies = func.string_agg(body, aggregate_order_by(literal_column("','", Text), *order.clauses(page)))
        items = select(utf8(json_array(bodies))).select_from(joined).scalar_subquery()
        count = select(func.count()).select_from(found).scalar_subquery()
        return select(count.label("rows"), items.label("items"), _edges(page, order).label("edges"))

    @fast_statement(256)
    def export(
        self,
        order: Order,
        condition: Condition | None,
        members: Members,
        *,
        from_position: bool,
        as_table: bool,
        with_external_ids: frozenset[str],
    ) -> Select[Any]:
        """Return the statement of the whole list, or of its part `from_position` on, one row per object.

        A row has the `body`, or with `as_table` the cells. Briefs and references of objects in the collections
        `with_external_ids` have the external id, by which another register can resolve them. The parameters are those
        of `page`; a `limit` of NULL means no limit.
        """
        source = self._mapper.local_table.alias("o")
        query = select(*source.c).order_by(*order.clauses(source)).limit(bindparam("limit", type_=BigInteger))
        query = query.offset(bindparam("offset", type_=BigInteger))
        if condition is not None:
            query = query.where(condition(source))
        if from_position:
            query = query.where(order.keyset_condition(source, "after"))
        # The limit is inside the subquery, so that documents are built one by one, for the limited rows only.
        limited = query.subquery("s")
        if as_table:
            row: list[ColumnElement[Any]] = [
                cell.label(name) for name, cell in self._cells(limited, members, with_external_ids)
            ]
        else:
            document = json_object(self._members(limited, members, with_external_ids=with_external_ids))
            row = [utf8(document).label("body")]
        # The explicit FROM is needed if every cell is a correlated subquery: each would otherwise read the list.
        return select(*row).select_from(limited)

    def header(self, members: Members) -> tuple[str, ...]:
        """Return the names of these members, in the order of the schema, which are the cells of a table."""
        shown = default_members(self._schema) if members is None else members
        return tuple(name for name in self._schema.model_fields if name in shown)

    @fast_statement(256)
    def count(self, condition: Condition | None = None) -> Select[Any]:
        """Return the statement of the `total` of the list; its parameters are those of the condition."""
        table = self._mapper.local_table.alias("o")
        query = select(func.count().label("total")).select_from(table)
        return query if condition is None else query.where(condition(table))

    def document_cte(self, row: CTE, links: Mapping[str, FromClause]) -> CTE:
        """Return the CTE of a written object: `id`, `code`, `name`, `version` and `document`.

        `row` is the CTE that writes the object and returns it. `links` has the new links of each written list.
        """
        document = json_object(self._members(row, None, links)).label("document")
        # MATERIALIZED: otherwise the document is built once for each reference to it.
        result = select(row.c.id, row.c.code, row.c.name, row.c.version, document).cte("result")
        return result.prefix_with("MATERIALIZED")

    def changed_members(
        self, before: CTE, after: CTE, removed: Mapping[str, FromClause], added: Mapping[str, FromClause]
    ) -> CTE:
        """Return the CTE of the changed members of a written object; see `changed_members` of `history.diff`.

        `before` and `after` are its rows. `removed` and `added` have the links of each list that may have changed.
        """
        relationships = self._mapper.relationships
        members: dict[str, tuple[ColumnElement[Any], ...]] = {}
        for name, field in self._schema.model_fields.items():
            if name in removed:
                kind = relationships[name], nested_schema(field.annotation)
                members[name] = tuple(
                    nonempty_or_null(links_after_write(*kind, links[name])) for links in (removed, added)
                )
            elif name in self.briefs:
                (key,) = relationships[name].local_columns
                if key.name in before.c:
                    # A brief differs if its reference does: renaming the referenced object does not change this object.
                    differs = before.c[key.name].is_distinct_from(after.c[key.name])
                    briefs = (cast(brief_of_one(relationships[name], row), JSONB) for row in (before, after))
                    members[name] = tuple(case((differs, brief)) for brief in briefs)
            elif name in before.c and name not in ("id", "version"):
                members[name] = tuple(jsonb_or_null(row.c[name]) for row in (before, after))
        return changed_members(before.join(after, literal_column("true")), members)

    def snapshot(self, condition: Condition) -> Subquery:
        """Return the subquery of the object that the condition selects: `id`, `code`, `name` and `document` (JSON)."""
        table = self._mapper.local_table.alias("o")
        document = json_object(self._members(table, None)).label("document")
        return select(table.c.id, table.c.code, table.c.name, document).where(condition(table)).subquery()

    def snapshots(self, condition: Condition) -> Subquery:
        """Return the subquery of `snapshot` for many objects; it reads references and links once for all of them."""
        table = self._mapper.local_table.alias("o")
        page = select(*table.c).where(condition(table)).cte("page").prefix_with("MATERIALIZED")
        joined, document = self._documents_of(page, None)
        return select(page.c.id, page.c.code, page.c.name, document.label("document")).select_from(joined).subquery()

    @property
    def briefs(self) -> tuple[str, ...]:
        """The names of the fields that show the brief of a referenced object."""
        relationships = self._mapper.relationships
        return tuple(
            name
            for name in self._schema.model_fields
            if name in relationships and relationships[name].direction is RelationshipDirection.MANYTOONE
        )

    @property
    def _mapper(self) -> Mapper[Any]:
        return inspect(self.model)

    def _documents_of(self, page: CTE, members: Members) -> tuple[FromClause, ColumnElement[str]]:
        """Return the rows of a page, joined with embedded objects, and the expression of a row's document."""
        joined: FromClause = page
        values: list[tuple[str, ColumnElement[str]]] = []
        for name, member in self._members_of_page(page, members):
            if isinstance(member, PageValues):
                joined = joined.outerjoin(member.rows, member.rows.c.key == member.join_key)
                values.append((name, member.value))
            else:
                values.append((name, member))
        return joined, json_object(values)

    def _cells(
        self, source: FromClause, members: Members, with_external_ids: frozenset[str]
    ) -> Iterator[tuple[str, ColumnElement[str]]]:
        relationships = self._mapper.relationships
        for name in self.header(members):
            if name not in relationships:
                yield name, plain_cell(source.c[name])
            elif relationships[name].direction is RelationshipDirection.MANYTOONE:
                yield name, reference_cell(relationships[name], source, with_external_ids)
            else:
                fields = nested_schema(self._schema.model_fields[name].annotation).model_fields
                yield name, links_cell(relationships[name], frozenset(fields), source, with_external_ids)

    def _plain(self, name: str, source: FromClause) -> ColumnElement[str]:
        return json_value(source.c[name], nullable=bool(table_of(self.model).c[name].nullable))

    def _selected_fields(self, members: Members) -> Iterator[tuple[str, RelationshipProperty[Any] | None, Any]]:
        relationships = self._mapper.relationships
        for name in self.header(members):
            yield name, relationships.get(name), self._schema.model_fields[name].annotation

    def _members(
        self,
        source: FromClause,
        members: Members,
        links: Mapping[str, FromClause] = MappingProxyType({}),
        *,
        with_external_ids: frozenset[str] = frozenset(),
    ) -> Iterator[tuple[str, ColumnElement[str]]]:
        """Yield name and JSON of the members of one row; `links` has the lists that the same statement writes."""
        for name, relationship, annotation in self._selected_fields(members):
            if relationship is None:
                yield name, self._plain(name, source)
            elif relationship.direction is RelationshipDirection.MANYTOONE:
                yield name, brief_of_one(relationship, source, with_external_ids)
            elif name in links:
                yield name, links_after_write(relationship, nested_schema(annotation), links[name])
            else:
                yield name, links_of_one(relationship, nested_schema(annotation), source, with_external_ids)

    def _members_of_page(self, page: CTE, members: Members) -> Iterator[tuple[str, ColumnElement[str] | PageValues]]:
        for name, relationship, annotation in self._selected_fields(members):
            if relationship is None:
                yield name, self._plain(name, page)
            elif relationship.direction is RelationshipDirection.MANYTOONE:
                yield name, briefs_of_page(relationship, page)
            else:
                yield name, links_of_page(relationship, nested_schema(annotation), page)


def _edges(page: CTE, order: Order) -> ColumnElement[str]:
    """Return the JSON text of the sort keys, as texts, of the first and the last row; null for both without rows."""
    keys = func.json_build_array(*(cast(key, Text) for key in order.keys(page)))
    first, last = (
        select(keys).select_from(page).order_by(*order.clauses(page, backwards=backwards)).limit(literal_column("1"))
        for backwards in (False, True)
    )
    edges = func.json_build_array(first.scalar_subquery(), last.scalar_subquery())
    return cast(edges, Text)
