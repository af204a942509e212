"""Fast path, part 2: statements that read a collection's objects as finished JSON, and parts of those that write them.

Loading objects through the ORM and serialising them by Pydantic takes several times as long as the query itself. So the
statements of this module return bytes that go to the client as they are; `RegisterSession.fetch` runs those for one
object and for a page. They are derived from the `Read` schema and the mapping: a field is a column; a field named like
a many-to-one relationship is a brief that follows the foreign key; one named like a one-to-many relationship is the
list of its link rows, each with the columns its own schema names, taken from the link or else from the object on its
other side. A test over every collection holds that the result equals what Pydantic would have made.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
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

from app.core.prepared import Prepared, prepare
from app.domains.shared.collection import Collection
from app.domains.shared.history.diff import changed_members, jsonb_or_null, nonempty_or_null
from app.domains.shared.models import Base, table_of
from app.domains.shared.query.orders import Condition, Order, Start, opaque_parameter
from app.domains.shared.query.representations import Members
from app.domains.shared.reading.cells import links_cell, plain_cell, reference_cell
from app.domains.shared.reading.json_text import (
    PageBriefs,
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
    """One object as the bytes that go to the client."""

    id: int
    version: int
    body: bytes

    @property
    def etag(self) -> str:
        """The version and a digest of these bytes: a renamed brief changes the bytes but not the version."""
        return f'"{self.version}.{blake2b(self.body, digest_size=8).hexdigest()}"'


def documents_of(collection: Collection) -> "Documents":
    """Return the statements of a collection."""
    return _documents(collection.read, collection.model)


@cache
def _documents(schema: type[BaseModel], model: type[Base]) -> "Documents":
    return Documents(schema, model)


def by_id(source: FromClause) -> ColumnElement[bool]:
    """Select the object whose `id` is the parameter `key`."""
    return source.c.id == bindparam("key", type_=BigInteger)


def by_code(source: FromClause) -> ColumnElement[bool]:
    """Select the object whose `code` is the parameter `key`, ignoring case."""
    return func.lower(source.c.code) == func.lower(bindparam("key", type_=String))


class Documents:
    """The read statements of one collection. Compiled at first use, when all models are mapped."""

    def __init__(self, schema: type[BaseModel], model: type[Base]) -> None:
        self._schema = schema
        self.model = model

    @lru_cache(maxsize=256)  # noqa: B019 - there is one instance a collection, for the life of the process
    def one(self, condition: Condition, members: Members = None) -> Prepared:
        """Return the statement that reads the object that the condition selects: `id`, `version` and `body`.

        Of an embedded member that is not among `members` no table is touched.
        """
        table = self._mapper.local_table.alias("o")
        body = utf8(json_object(self._members(table, members)))
        return prepare(select(table.c.id, table.c.version, body.label("body")).where(condition(table)))

    @lru_cache(maxsize=512)  # noqa: B019
    def page(
        self,
        order: Order,
        condition: Condition | None = None,
        start: Start = "first",
        members: Members = None,
    ) -> Prepared:
        """Return `select_page`, prepared."""
        return prepare(self.select_page(order, condition, start, members))

    @lru_cache(maxsize=16)  # noqa: B019
    def select_page(
        self,
        order: Order,
        condition: Condition | None = None,
        start: Start = "first",
        members: Members = None,
    ) -> Select[Any]:
        """Return the statement of a page: `rows` (one more than `limit` when more follow), `items` and `edges`.

        Its parameters are `limit`, `offset`, those of the condition and, unless it is the first page, of the position
        after or before which it lies. `edges` has the sort keys of the first and the last object, as JSON.
        """
        backwards = start == "before"
        table = self._mapper.local_table.alias("o")
        limit = opaque_parameter("limit")
        found = order.page(table, condition, start).cte("found").prefix_with("MATERIALIZED")
        shown = select(found).order_by(*order.clauses(found, backwards=backwards)).limit(limit)
        page = shown.cte("page").prefix_with("MATERIALIZED")
        shown_page, body = self._documents_of(page, members)
        bodies = func.string_agg(body, aggregate_order_by(literal_column("','", Text), *order.clauses(page)))
        items = select(utf8(json_array(bodies))).select_from(shown_page).scalar_subquery()
        count = select(func.count()).select_from(found).scalar_subquery()
        return select(count.label("rows"), items.label("items"), _edges(page, order).label("edges"))

    @lru_cache(maxsize=256)  # noqa: B019
    def export(
        self, order: Order, condition: Condition | None, members: Members, *, after: bool, table: bool, keyed: bool
    ) -> Prepared:
        """Return the statement of the whole list, or of what comes `after` a position, one row an object.

        A row is its `body`, or the cells of a `table`; briefs that are `keyed` tell external ids, by which another
        register knows what is meant. The parameters are those of `page`; a `limit` of NULL is none.
        """
        source = self._mapper.local_table.alias("o")
        query = select(*source.c).order_by(*order.clauses(source)).limit(bindparam("limit", type_=BigInteger))
        query = query.offset(bindparam("offset", type_=BigInteger))
        if condition is not None:
            query = query.where(condition(source))
        if after:
            query = query.where(order.beyond(source, "after"))
        # Inside, so that only what is shown is built, and only when it is its turn.
        found = query.subquery("s")
        if table:
            row: list[ColumnElement[Any]] = [cell.label(name) for name, cell in self._cells(found, members)]
        else:
            row = [utf8(json_object(self._members(found, members, keyed=keyed))).label("body")]
        # Where each cell is a query of its own, none names the list: each would then read it for itself.
        return prepare(select(*row).select_from(found))

    def header(self, members: Members) -> tuple[str, ...]:
        """Return the names of the cells of a table."""
        return tuple(name for name in self._schema.model_fields if members is None or name in members)

    @lru_cache(maxsize=256)  # noqa: B019
    def count(self, condition: Condition | None = None) -> Select[Any]:
        """Return the statement that counts the list; its parameters are those of the condition."""
        table = self._mapper.local_table.alias("o")
        query = select(func.count().label("total")).select_from(table)
        return query if condition is None else query.where(condition(table))

    def written(self, row: CTE, links: Mapping[str, FromClause]) -> CTE:
        """Return an object as the statement leaves it that writes it: `id`, `code`, `name`, `version` and `document`.

        `row` is what that returns, and `links` has the new links of each list that it writes.
        """
        document = json_object(self._members(row, None, links)).label("document")
        # PostgreSQL would make the document once for each place that names it, unless it is kept.
        made = select(row.c.id, row.c.code, row.c.name, row.c.version, document).cte("made")
        return made.prefix_with("MATERIALIZED")

    def changed_members(
        self, before: CTE, after: CTE, removed: Mapping[str, FromClause], added: Mapping[str, FromClause]
    ) -> CTE:
        """Return how an object differs from what it was, as `changes.compared` does.

        `before` and `after` are its rows; of each list of links that may have changed there is what went and what came.
        """
        relationships = self._mapper.relationships
        members: dict[str, tuple[ColumnElement[Any], ...]] = {}
        for name, field in self._schema.model_fields.items():
            if name in removed:
                shown = relationships[name], nested_schema(field.annotation)
                members[name] = tuple(
                    nonempty_or_null(links_after_write(*shown, links[name])) for links in (removed, added)
                )
            elif name in self.briefs:
                (key,) = relationships[name].local_columns
                if key.name in before.c:
                    # That somebody renamed the other object is no change of this one.
                    differs = before.c[key.name].is_distinct_from(after.c[key.name])
                    briefs = (cast(brief_of_one(relationships[name], row), JSONB) for row in (before, after))
                    members[name] = tuple(case((differs, brief)) for brief in briefs)
            elif name in before.c and name not in ("id", "version"):
                members[name] = tuple(jsonb_or_null(row.c[name]) for row in (before, after))
        return changed_members(before.join(after, literal_column("true")), members)

    def snapshot(self, condition: Condition) -> Subquery:
        """Return the object that the condition selects as one row: `id`, `code`, `name` and its JSON in `document`."""
        table = self._mapper.local_table.alias("o")
        document = json_object(self._members(table, None)).label("document")
        return select(table.c.id, table.c.code, table.c.name, document).where(condition(table)).subquery()

    def snapshots(self, condition: Condition) -> Subquery:
        """Return the many objects that the condition selects, each as the row that `snapshot` returns."""
        table = self._mapper.local_table.alias("o")
        page = select(*table.c).where(condition(table)).cte("page").prefix_with("MATERIALIZED")
        shown, document = self._documents_of(page, None)
        return select(page.c.id, page.c.code, page.c.name, document.label("document")).select_from(shown).subquery()

    @property
    def briefs(self) -> tuple[str, ...]:
        """The fields that show what a reference beside them refers to."""
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
        """Return the rows of a page, joined with all that is shown of other objects, and the document of each."""
        joined: FromClause = page
        shown: list[tuple[str, ColumnElement[str]]] = []
        for name, member in self._members_of_page(page, members):
            if isinstance(member, PageBriefs):
                joined = joined.outerjoin(member.rows, member.rows.c.key == member.joined_on)
                shown.append((name, member.shown))
            else:
                shown.append((name, member))
        return joined, json_object(shown)

    def _cells(self, source: FromClause, members: Members) -> Iterator[tuple[str, ColumnElement[str]]]:
        relationships = self._mapper.relationships
        for name in self.header(members):
            if name not in relationships:
                yield name, plain_cell(source.c[name])
            elif relationships[name].direction is RelationshipDirection.MANYTOONE:
                yield name, reference_cell(relationships[name], source)
            else:
                shown = nested_schema(self._schema.model_fields[name].annotation).model_fields
                yield name, links_cell(relationships[name], frozenset(shown), source)

    def _plain(self, name: str, source: FromClause) -> ColumnElement[str]:
        return json_value(source.c[name], nullable=bool(table_of(self.model).c[name].nullable))

    def _chosen(self, members: Members) -> Iterator[tuple[str, RelationshipProperty[Any] | None, Any]]:
        relationships = self._mapper.relationships
        for name, field in self._schema.model_fields.items():
            if members is None or name in members:
                yield name, relationships.get(name), field.annotation

    def _members(
        self,
        source: FromClause,
        members: Members,
        links: Mapping[str, FromClause] = MappingProxyType({}),
        *,
        keyed: bool = False,
    ) -> Iterator[tuple[str, ColumnElement[str]]]:
        """Yield the members of the document of one row; `links` has the lists that the statement itself writes."""
        for name, relationship, annotation in self._chosen(members):
            if relationship is None:
                yield name, self._plain(name, source)
            elif relationship.direction is RelationshipDirection.MANYTOONE:
                yield name, brief_of_one(relationship, source, keyed=keyed)
            elif name in links:
                yield name, links_after_write(relationship, nested_schema(annotation), links[name])
            else:
                yield name, links_of_one(relationship, nested_schema(annotation), source, keyed=keyed)

    def _members_of_page(self, page: CTE, members: Members) -> Iterator[tuple[str, ColumnElement[str] | PageBriefs]]:
        for name, relationship, annotation in self._chosen(members):
            if relationship is None:
                yield name, self._plain(name, page)
            elif relationship.direction is RelationshipDirection.MANYTOONE:
                yield name, briefs_of_page(relationship, page)
            else:
                yield name, links_of_page(relationship, nested_schema(annotation), page)


def _edges(page: CTE, order: Order) -> ColumnElement[str]:
    """Return the sort keys of the first and the last row of a page, each as text, as JSON; NULL of an empty page."""
    keys = func.json_build_array(*(cast(key, Text) for key in order.keys(page)))
    first, last = (
        select(keys).select_from(page).order_by(*order.clauses(page, backwards=backwards)).limit(literal_column("1"))
        for backwards in (False, True)
    )
    edges = func.json_build_array(first.scalar_subquery(), last.scalar_subquery())
    return cast(edges, Text)
