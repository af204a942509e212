"""Fast path, part 3: JSON that PostgreSQL joins as text, and what a document shows of other objects.

PostgreSQL's own JSON functions build a tree in memory and write it out; joining text that is JSON already costs a third
of that, and every object has its own brief ready in a column, `brief_json`. Briefs and lists of links are sub-selects
correlated with the object for one object, and made once for all objects for a page.
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

from app.domains.shared.query.representations import nested

# What `brief_json` is made of.
_BRIEF = ("id", "code", "name")


def json_list(rows: Subquery) -> ColumnElement[bytes]:
    """Return the rows as a JSON array in bytes, in their order."""
    items = func.coalesce(func.json_agg(rows.table_valued()), literal_column("'[]'::json"))
    return select(utf8(items)).select_from(rows).scalar_subquery()


def utf8(json: ColumnElement[Any]) -> ColumnElement[bytes]:
    # The driver hands bytea over as it came; text it would decode, only for us to encode it again.
    return func.convert_to(cast(json, Text), literal_column("'UTF8'"))


def json_object(members: Iterable[tuple[str, ColumnElement[str]]]) -> ColumnElement[str]:
    """Return the members, which are JSON already, as an object."""
    parts: list[ColumnElement[str]] = []
    for name, value in members:
        parts += [_constant(f'{"," if parts else "{"}"{name}":'), value]
    return func.concat(*parts, _constant("}"))


def json_array(items: ColumnElement[str]) -> ColumnElement[str]:
    """Return the items, which commas separate already, as an array; NULL for none."""
    return func.concat(_constant("["), items, _constant("]"))


def json_value(value: ColumnElement[Any], *, nullable: bool) -> ColumnElement[str]:
    """Return the value of a column as JSON."""
    json = cast(value if isinstance(value.type, Integer) else func.to_json(value), Text)
    return func.coalesce(json, _constant("null")) if nullable else json


def _constant(json: str) -> ColumnElement[str]:
    return literal_column(f"'{json}'", Text)


def nested_schema(annotation: Any) -> type[BaseModel]:
    schema = nested(annotation)
    assert schema is not None  # a relationship is shown by a schema of its own
    return schema


def _brief(target: FromClause, *, keyed: bool = False) -> ColumnElement[str]:
    """Return the brief of an object without the brace that ends it; one that is `keyed` has the external id, too."""
    brief: ColumnElement[str] = target.c.brief_json
    if not keyed:
        return brief
    return brief.concat(_constant(',"external_id":')).concat(json_value(target.c.external_id, nullable=True))


def brief_of_one(
    relationship: RelationshipProperty[Any], source: FromClause, *, keyed: bool = False
) -> ColumnElement[str]:
    (foreign_key,) = relationship.local_columns
    target = relationship.mapper.local_table.alias("t")
    key = source.c[foreign_key.name]
    found = select(_brief(target, keyed=keyed).concat(_constant("}"))).where(target.c.id == key)
    brief: ColumnElement[str] = func.coalesce(found.correlate(source).scalar_subquery(), _constant("null"))
    if isinstance(source, CTE) and relationship.mapper.local_table is relationship.parent.local_table:
        # What a statement writes itself is not in the table yet, or still as it was before.
        return case((key == source.c.id, source.c.brief_json.concat(_constant("}"))), else_=brief)
    return brief


@dataclass(frozen=True, slots=True)
class PageBriefs:
    """What a page shows of other objects: made once for all of the page, and joined with it by `key`."""

    rows: CTE
    joined_on: ColumnElement[Any]
    shown: ColumnElement[str]


def briefs_of_page(relationship: RelationshipProperty[Any], page: FromClause) -> PageBriefs:
    # One brief serves all objects that refer to it; correlated, PostgreSQL looked for it once an object.
    (foreign_key,) = relationship.local_columns
    target = relationship.mapper.local_table.alias("t")
    ids = func.array(select(page.c[foreign_key.name]).distinct().scalar_subquery())
    brief = target.c.brief_json.concat(_constant("}"))
    query = select(target.c.id.label("key"), brief.label("brief")).where(target.c.id == any_(ids))
    rows = query.cte(f"{relationship.key}_of_page").prefix_with("MATERIALIZED")
    return PageBriefs(rows, page.c[foreign_key.name], func.coalesce(rows.c.brief, _constant("null")))


def _links(
    relationship: RelationshipProperty[Any], schema: type[BaseModel], link: FromClause, *, keyed: bool = False
) -> Select[str]:
    """Return the query of links, rows as the link table has them, joined with the other side as one JSON array."""
    (to_other,) = relationship.mapper.relationships
    (foreign_key,) = to_other.local_columns
    target = to_other.mapper.local_table.alias("t")
    entry = _brief(target, keyed=keyed)
    order: list[ColumnElement[Any]] = [target.c.id]
    for name, field in schema.model_fields.items():
        if name not in _BRIEF:
            # Nothing that a schema lists needs escaping.
            assert get_origin(field.annotation) is Literal
            entry = entry.concat(_constant(f',"{name}":"')).concat(link.c[name]).concat(_constant('"'))
            order.append(link.c[name])
    entries = func.string_agg(entry.concat(_constant("}")), aggregate_order_by(_constant(","), *order))
    query = select(json_array(entries).label("items"))
    return query.select_from(link.join(target, target.c.id == link.c[foreign_key.name]))


def links_of_one(
    relationship: RelationshipProperty[Any], schema: type[BaseModel], source: FromClause, *, keyed: bool = False
) -> ColumnElement[str]:
    link = relationship.mapper.local_table.alias("l")
    (owner,) = relationship.remote_side
    query = _links(relationship, schema, link, keyed=keyed)
    return query.where(link.c[owner.name] == source.c.id).correlate(source).scalar_subquery()


def links_after_write(
    relationship: RelationshipProperty[Any], schema: type[BaseModel], links: FromClause
) -> ColumnElement[str]:
    """Return the links that a statement gives to an object, which it does not see in the table yet."""
    return _links(relationship, schema, links).scalar_subquery()


def links_of_page(relationship: RelationshipProperty[Any], schema: type[BaseModel], page: FromClause) -> PageBriefs:
    # Aggregated once for all objects of the page: correlated, it costs more than twice as much.
    link = relationship.mapper.local_table.alias("l")
    (owner,) = relationship.remote_side
    ids = func.array(select(page.c.id).scalar_subquery())
    query = _links(relationship, schema, link)
    query = query.add_columns(link.c[owner.name].label("key")).where(link.c[owner.name] == any_(ids))
    rows = query.group_by(link.c[owner.name]).cte(f"{relationship.key}_of_page")
    return PageBriefs(rows, page.c.id, func.coalesce(rows.c["items"], _constant("[]")))
