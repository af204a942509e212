"""Fast path, part 3: JSON built as text, and the briefs and lists of links in documents.

PostgreSQL's JSON functions build a tree in memory and serialise it. Concatenating text that is already JSON costs a
third of that, so every object stores its brief in the column `brief_json`. For one object, briefs and lists of links
are correlated subqueries; for a page, each is one CTE for all objects, joined with the page.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_origin

from pydantic import BaseModel
from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    Integer,
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

from app.domains.shared.query.representations import find_schema

# The members of `brief_json`.
_BRIEF = ("id", "code", "name")


def json_list(rows: Subquery) -> ColumnElement[bytes]:
    """Return the rows as a JSON array in UTF-8, in their order."""
    items = func.coalesce(func.json_agg(rows.table_valued()), literal_column("'[]'::json"))
    return select(utf8(items)).select_from(rows).scalar_subquery()


def utf8(json: ColumnElement[Any]) -> ColumnElement[bytes]:
    """Return JSON as BYTEA in UTF-8: the driver returns it unchanged, but would decode text."""
    return func.convert_to(cast(json, Text), literal_column("'UTF8'"))


def json_object(members: Iterable[tuple[str, ColumnElement[str]]]) -> ColumnElement[str]:
    """Return a JSON object of these members, whose values are JSON text."""
    parts: list[ColumnElement[str]] = []
    for name, value in members:
        parts += [_constant(f'{"," if parts else "{"}"{name}":'), value]
    return func.concat(*parts, _constant("}"))


def json_array(items: ColumnElement[str]) -> ColumnElement[str]:
    """Return a JSON array of `items`, JSON text separated by commas; it is empty if `items` is NULL."""
    return func.concat(_constant("["), items, _constant("]"))


def json_value(value: ColumnElement[Any], *, nullable: bool) -> ColumnElement[str]:
    """Return the value of a column as JSON."""
    json = cast(value if isinstance(value.type, Integer) else func.to_json(value), Text)
    return func.coalesce(json, _constant("null")) if nullable else json


def _constant(json: str) -> ColumnElement[str]:
    return literal_column(f"'{json}'", Text)


def nested_schema(annotation: Any) -> type[BaseModel]:
    schema = find_schema(annotation)
    assert schema is not None  # every relationship has a schema
    return schema


def _brief(target: FromClause, *, with_external_id: bool) -> ColumnElement[str]:
    """Return the brief of an object without its closing brace, optionally with `external_id`."""
    brief: ColumnElement[str] = target.c.brief_json
    if not with_external_id:
        return brief
    return brief.concat(_constant(',"external_id":')).concat(json_value(target.c.external_id, nullable=True))


def brief_of_one(
    relationship: RelationshipProperty[Any], source: FromClause, with_external_ids: frozenset[str] = frozenset()
) -> ColumnElement[str]:
    (foreign_key,) = relationship.local_columns
    target = relationship.mapper.local_table.alias("t")
    key = source.c[foreign_key.name]
    entry = _brief(target, with_external_id=relationship.mapper.class_.__tablename__ in with_external_ids)
    query = select(entry.concat(_constant("}"))).where(target.c.id == key)
    brief: ColumnElement[str] = func.coalesce(query.correlate(source).scalar_subquery(), _constant("null"))
    if isinstance(source, CTE) and relationship.mapper.local_table is relationship.parent.local_table:
        # A statement does not see its own writes in the table (one snapshot), so a self-reference reads the CTE.
        return case((key == source.c.id, source.c.brief_json.concat(_constant("}"))), else_=brief)
    return brief


@dataclass(frozen=True, slots=True)
class PageValues:
    """A CTE of the values that the objects of a page embed, to be joined with the page: `rows.key == join_key`."""

    rows: CTE
    join_key: ColumnElement[Any]
    value: ColumnElement[str]


def briefs_of_page(relationship: RelationshipProperty[Any], page: FromClause) -> PageValues:
    # One lookup per referenced object; a correlated subquery needs one per object of the page.
    (foreign_key,) = relationship.local_columns
    target = relationship.mapper.local_table.alias("t")
    ids = func.array(select(page.c[foreign_key.name]).distinct().scalar_subquery())
    brief = target.c.brief_json.concat(_constant("}"))
    query = select(target.c.id.label("key"), brief.label("brief")).where(target.c.id == any_(ids))
    rows = query.cte(f"{relationship.key}_of_page").prefix_with("MATERIALIZED")
    return PageValues(rows, page.c[foreign_key.name], func.coalesce(rows.c.brief, _constant("null")))


def _links(
    relationship: RelationshipProperty[Any],
    schema: type[BaseModel],
    link: FromClause,
    with_external_ids: frozenset[str] = frozenset(),
) -> Select[str]:
    """Return the query of one JSON array of links; `link` has rows like the link table."""
    (to_other,) = relationship.mapper.relationships
    (foreign_key,) = to_other.local_columns
    target = to_other.mapper.local_table.alias("t")
    entry = _brief(target, with_external_id=to_other.mapper.class_.__tablename__ in with_external_ids)
    order: list[ColumnElement[Any]] = [target.c.id]
    for name, field in schema.model_fields.items():
        if name not in _BRIEF:
            # The values of a `Literal` need no escaping.
            assert get_origin(field.annotation) is Literal
            entry = entry.concat(_constant(f',"{name}":"')).concat(link.c[name]).concat(_constant('"'))
            order.append(link.c[name])
    entries = func.string_agg(entry.concat(_constant("}")), aggregate_order_by(_constant(","), *order))
    query = select(json_array(entries).label("items"))
    return query.select_from(link.join(target, target.c.id == link.c[foreign_key.name]))


def links_of_one(
    relationship: RelationshipProperty[Any],
    schema: type[BaseModel],
    source: FromClause,
    with_external_ids: frozenset[str] = frozenset(),
) -> ColumnElement[str]:
    link = relationship.mapper.local_table.alias("l")
    (owner,) = relationship.remote_side
    query = _links(relationship, schema, link, with_external_ids)
    return query.where(link.c[owner.name] == source.c.id).correlate(source).scalar_subquery()


def links_after_write(
    relationship: RelationshipProperty[Any], schema: type[BaseModel], links: FromClause
) -> ColumnElement[str]:
    """Return the JSON array of the links that the same statement writes and therefore does not see in the table."""
    return _links(relationship, schema, links).scalar_subquery()


def links_of_page(relationship: RelationshipProperty[Any], schema: type[BaseModel], page: FromClause) -> PageValues:
    # One aggregation for the page; a correlated subquery costs more than twice as much.
    link = relationship.mapper.local_table.alias("l")
    (owner,) = relationship.remote_side
    ids = func.array(select(page.c.id).scalar_subquery())
    query = _links(relationship, schema, link)
    query = query.add_columns(link.c[owner.name].label("key")).where(link.c[owner.name] == any_(ids))
    rows = query.group_by(link.c[owner.name]).cte(f"{relationship.key}_of_page")
    return PageValues(rows, page.c.id, func.coalesce(rows.c["items"], _constant("[]")))
