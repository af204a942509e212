"""What a document shows of other objects: briefs of those it refers to, and lists of its links.

For one object they are sub-selects correlated with it; for a page each of them is made once for all its objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    Select,
    Subquery,
    Text,
    any_,
    case,
    cast,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import RelationshipProperty

from app.domains.shared.representations import nested

_EMPTY_LIST: ColumnElement[Any] = literal_column("'[]'::json")


def json_list(rows: Subquery) -> ColumnElement[bytes]:
    """Return the rows as a JSON array in bytes, in their order."""
    items = func.coalesce(func.json_agg(rows.table_valued()), _EMPTY_LIST)
    return select(utf8(items)).select_from(rows).scalar_subquery()


def nested_schema(annotation: Any) -> type[BaseModel]:
    schema = nested(annotation)
    assert schema is not None  # a relationship is shown by a schema of its own
    return schema


def utf8(json: ColumnElement[Any]) -> ColumnElement[bytes]:
    # The driver hands bytea over as it came; text it would decode, only for us to encode it again.
    return func.convert_to(cast(json, Text), literal_column("'UTF8'"))


def _json_row(columns: Sequence[ColumnElement[Any]], *outer: FromClause) -> ColumnElement[Any]:
    row = select(*columns).correlate(*outer).subquery("x")
    return select(row.table_valued()).correlate(*outer).scalar_subquery()


def brief_of_one(
    relationship: RelationshipProperty[Any], schema: type[BaseModel], source: FromClause
) -> ColumnElement[Any]:
    (foreign_key,) = relationship.local_columns
    target = relationship.mapper.local_table.alias("t")
    names = schema.model_fields
    columns: list[ColumnElement[Any]] = [target.c[name] for name in names]
    if isinstance(source, CTE) and relationship.mapper.local_table is relationship.parent.local_table:
        # Of what a statement writes itself the table still has what was before.
        itself = target.c.id == source.c.id
        columns = [case((itself, source.c[name]), else_=target.c[name]).label(name) for name in names]
    row = select(*columns).correlate(source)
    brief = row.where(target.c.id == source.c[foreign_key.name]).subquery("brief")
    return select(func.row_to_json(brief.table_valued())).correlate(source).scalar_subquery()


@dataclass(frozen=True, slots=True)
class OfPage:
    """What a page shows of other objects: made once for all of the page, and joined with it by `key`."""

    rows: CTE
    joined_on: ColumnElement[Any]
    shown: ColumnElement[Any]


def briefs_of_page(relationship: RelationshipProperty[Any], schema: type[BaseModel], page: FromClause) -> OfPage:
    # One brief serves all objects that refer to it; correlated, PostgreSQL looked for it once an object.
    (foreign_key,) = relationship.local_columns
    target = relationship.mapper.local_table.alias("t")
    brief = select(*(target.c[name] for name in schema.model_fields)).correlate(target).subquery("brief")
    row = select(func.row_to_json(brief.table_valued())).correlate(target).scalar_subquery()
    ids = func.array(select(page.c[foreign_key.name]).distinct().scalar_subquery())
    query = select(target.c.id.label("key"), row.label("brief")).where(target.c.id == any_(ids))
    rows = query.cte(f"{relationship.key}_of_page").prefix_with("MATERIALIZED")
    return OfPage(rows, page.c[foreign_key.name], rows.c.brief)


def _links(relationship: RelationshipProperty[Any], schema: type[BaseModel], link: FromClause) -> Select[tuple[Any]]:
    """Return the query of links, rows as the link table has them, joined with the other side and aggregated as JSON."""
    (to_other,) = relationship.mapper.relationships
    (foreign_key,) = to_other.local_columns
    target = to_other.mapper.local_table.alias("t")
    columns = [link.c[name] if name in link.c else target.c[name] for name in schema.model_fields]
    order = [target.c.id, *(column for column in columns if column.table is link)]
    items = func.json_agg(aggregate_order_by(_json_row(columns, link, target), *order))
    query = select(func.coalesce(items, _EMPTY_LIST).label("items"))
    return query.select_from(link.join(target, target.c.id == link.c[foreign_key.name]))


def links_of_one(
    relationship: RelationshipProperty[Any], schema: type[BaseModel], source: FromClause
) -> ColumnElement[Any]:
    link = relationship.mapper.local_table.alias("l")
    (owner,) = relationship.remote_side
    query = _links(relationship, schema, link)
    return query.where(link.c[owner.name] == source.c.id).correlate(source).scalar_subquery()


def links_written(
    relationship: RelationshipProperty[Any], schema: type[BaseModel], links: FromClause
) -> ColumnElement[Any]:
    """Return the links that a statement gives to an object, which it does not see in the table yet."""
    return _links(relationship, schema, links).scalar_subquery()


def links_of_page(relationship: RelationshipProperty[Any], schema: type[BaseModel], page: FromClause) -> OfPage:
    # Aggregated once for all objects of the page: correlated, it costs more than twice as much.
    link = relationship.mapper.local_table.alias("l")
    (owner,) = relationship.remote_side
    ids = func.array(select(page.c.id).scalar_subquery())
    query = _links(relationship, schema, link)
    query = query.add_columns(link.c[owner.name].label("key")).where(link.c[owner.name] == any_(ids))
    rows = query.group_by(link.c[owner.name]).cte(f"{relationship.key}_of_page")
    return OfPage(rows, page.c.id, func.coalesce(rows.c["items"], _EMPTY_LIST))
