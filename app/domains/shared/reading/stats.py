"""Statistics: the number of objects in each group."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, create_model
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    FromClause,
    Select,
    Text,
    and_,
    any_,
    cast,
    distinct,
    func,
    null,
    select,
    union_all,
)
from sqlalchemy import literal_column as constant

from app.core.http.query_models import QueryModel, query_of
from app.core.prepared import FastStatement, fast_statement
from app.domains.shared.models import RegisterObject, model_of, table_of
from app.domains.shared.query.filters import Parameter, Selection
from app.domains.shared.query.groups import Grouping, LinkTable
from app.domains.shared.query.pages import FilterQuery, ListQuery
from app.domains.shared.reading.json_text import json_list
from app.domains.shared.schemas import Brief

MAX_GROUPS = 1000


@dataclass(frozen=True, slots=True)
class Counts:
    """The largest groups as a JSON array in bytes, the number of counted objects, and whether groups are left out."""

    group_by: str
    groups: bytes
    total: int
    truncated: bool


class StatsQuery(FilterQuery):
    """The parameters of statistics; `stats_query` adds the filters of a list's declaration."""

    group_by: str

    def statement(self, model: type[RegisterObject]) -> tuple[FastStatement, dict[str, Any]]:
        """Return the statement of the counts and its arguments."""
        selection, arguments = self.selection()
        grouping = self.declaration.groups[self.group_by]
        detail = None
        if grouping.links is not None and grouping.links.detail in self.model_fields_set:
            detail = self.declaration.parameters[grouping.links.detail]
        return _counts(model, grouping, selection, detail), arguments


def stats_parameters(list_model: type[ListQuery]) -> QueryModel[StatsQuery]:
    """Return the dependency that validates the parameters of the statistics of a list."""
    return query_of(stats_query(list_model))


def stats_query(list_model: type[ListQuery]) -> type[StatsQuery]:
    """Return the model of the parameters of the statistics of a list."""
    names = tuple(list_model.declaration.groups)
    group_by = Field(description="Field, reference or link to group by.", examples=[names[0]])
    fields: dict[str, Any] = {"group_by": (Literal[names], group_by)} | list_model.declaration.fields
    model = create_model(list_model.__name__.replace("List", "Stats"), __base__=StatsQuery, **fields)
    model.declaration = list_model.declaration
    return model


@fast_statement(256)
def _counts(
    model: type[RegisterObject], grouping: Grouping, selection: Selection | None, detail: Parameter | None
) -> Select[Any]:
    """Return the statement of the counts: `total`, `group_count`, and `groups`, at most `MAX_GROUPS` of them.

    If `detail` is not None, only links with one of the values of that parameter are counted.
    """
    table = table_of(model).alias("o")
    if grouping.links is None:
        query = select(table.c[grouping.column].label("key"), func.count().label("count")).group_by(
            table.c[grouping.column]
        )
        counted = _where(query, table, selection).cte("counted")
        total = func.coalesce(func.sum(counted.c.count), constant("0"))
        total_query = select(cast(total, BigInteger)).scalar_subquery()
    elif selection is None:
        counted = _count_all_links(table, grouping.links, grouping.column).cte("counted")
        total_query = select(func.count()).select_from(table).scalar_subquery()
    else:
        matching = _where(select(table.c.id), table, selection).cte("matching").prefix_with("MATERIALIZED")
        counted = _count_links(matching, grouping.links, grouping.column, detail).cte("counted")
        total_query = select(func.count()).select_from(matching).scalar_subquery()
    group_count = select(func.count()).select_from(counted).scalar_subquery()
    groups = json_list(_groups(counted, _target(model, grouping)).subquery("g"))
    return select(total_query.label("total"), group_count.label("group_count"), groups.label("groups"))


def _where(query: Select[Any], table: FromClause, selection: Selection | None) -> Select[Any]:
    query = query.select_from(table)
    return query if selection is None else query.where(selection(table))


def _count_all_links(table: FromClause, links: LinkTable, target: str) -> CompoundSelect[Any]:
    """Count all links by target, and the objects without links, faster than with an outer join."""
    link = table_of(links.model).alias("l")
    owner = link.c[links.owner]
    counts = select(link.c[target].label("key"), _count_owners(links, target, owner).label("count"))
    objects = select(func.count().label("number")).select_from(table).subquery("objects")
    owners = select(func.count(distinct(owner)).label("number")).subquery("owners")
    difference = objects.c.number - owners.c.number
    unlinked = select(null(), difference).join_from(objects, owners, objects.c.number > owners.c.number)
    return union_all(counts.group_by(link.c[target]), unlinked)


def _count_links(matching: FromClause, links: LinkTable, target: str, detail: Parameter | None) -> Select[Any]:
    link = table_of(links.model).alias("l")
    conditions = [link.c[links.owner] == matching.c.id]
    if detail is not None:
        conditions.append(link.c[detail.name] == any_(detail.bind()))
    query = select(link.c[target].label("key"), _count_owners(links, target, matching.c.id).label("count"))
    return query.select_from(matching.outerjoin(link, and_(*conditions))).group_by(link.c[target])


def _count_owners(links: LinkTable, target: str, owner: ColumnElement[int]) -> ColumnElement[int]:
    # `distinct` unless the primary key excludes several links between the same two objects.
    is_unique = {column.name for column in table_of(links.model).primary_key} == {links.owner, target}
    return func.count() if is_unique else func.count(distinct(owner))


def _target(model: type[RegisterObject], grouping: Grouping) -> FromClause | None:
    if not grouping.is_reference:
        return None
    owner = model if grouping.links is None else grouping.links.model
    return table_of(model_of(table_of(owner).c[grouping.column])).alias("t")


def _groups(counted: FromClause, target: FromClause | None) -> Select[Any]:
    """Select the largest groups, each with the brief of its object if the key is a reference."""
    largest = select(counted).order_by(counted.c.count.desc(), counted.c.key).limit(constant(str(MAX_GROUPS)))
    group = largest.subquery("largest")
    brief: ColumnElement[Any] = constant("NULL")
    if target is not None:
        row = select(*(target.c[name] for name in Brief.model_fields)).where(target.c.id == group.c.key)
        columns = row.correlate(group).subquery("brief")
        brief = select(func.row_to_json(columns.table_valued())).correlate(group).scalar_subquery()
    query = select(cast(group.c.key, Text).label("key"), brief.label("object"), group.c.count)
    return query.order_by(group.c.count.desc(), group.c.key)
