"""How many of the objects that a list selects are in which group."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, create_model
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Executable,
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
from app.domains.shared.models import RegisterObject, model_of, table_of
from app.domains.shared.query.filters import Parameter, Selection
from app.domains.shared.query.groups import Grouping, LinkTable
from app.domains.shared.query.pages import FilterQuery, ListQuery
from app.domains.shared.reading.json_text import json_list
from app.domains.shared.schemas import Brief

MAX_GROUPS = 1000


@dataclass(frozen=True, slots=True)
class Counts:
    """The largest groups as a JSON array in bytes, how many objects were counted, and whether groups are missing."""

    group_by: str
    groups: bytes
    total: int
    truncated: bool


class StatsQuery(FilterQuery):
    """The parameters of statistics; `stats_query` adds those of a list's declaration."""

    group_by: str

    def statement(self, model: type[RegisterObject]) -> tuple[Executable, dict[str, Any]]:
        """Return the statement of the counts and its parameters."""
        selected, arguments = self.selected()
        grouping = self.declaration.groups[self.group_by]
        detail = None
        if grouping.links is not None and grouping.links.detail in self.model_fields_set:
            detail = self.declaration.parameters[grouping.links.detail]
        return _counts(model, grouping, selected, detail), arguments


def stats_parameters(listed: type[ListQuery]) -> QueryModel[StatsQuery]:
    """Return the dependency that validates the parameters of the statistics of a list."""
    return query_of(stats_query(listed))


def stats_query(listed: type[ListQuery]) -> type[StatsQuery]:
    """Return the model of the parameters of the statistics of a list."""
    names = tuple(listed.declaration.groups)
    group_by = Field(description="What to count by.", examples=[names[0]])
    fields: dict[str, Any] = {"group_by": (Literal[names], group_by)} | listed.declaration.fields
    model = create_model(listed.__name__.replace("List", "Stats"), __base__=StatsQuery, **fields)
    model.declaration = listed.declaration
    return model


@lru_cache(maxsize=256)
def _counts(
    model: type[RegisterObject], grouping: Grouping, selected: Selection | None, detail: Parameter | None
) -> Executable:
    """Return the statement of the counts: `total`, `found` groups and `groups`, of which there may be fewer.

    Of links with a `detail` only those with one of the values of that parameter are counted.
    """
    table = table_of(model).alias("o")
    if grouping.links is None:
        query = select(table.c[grouping.column].label("key"), func.count().label("count")).group_by(
            table.c[grouping.column]
        )
        counted = _where(query, table, selected).cte("counted")
        total = func.coalesce(func.sum(counted.c.count), constant("0"))
        total_query = select(cast(total, BigInteger)).scalar_subquery()
    elif selected is None:
        counted = _all_linked(table, grouping.links, grouping.column).cte("counted")
        total_query = select(func.count()).select_from(table).scalar_subquery()
    else:
        matching = _where(select(table.c.id), table, selected).cte("matching").prefix_with("MATERIALIZED")
        counted = _linked(matching, grouping.links, grouping.column, detail).cte("counted")
        total_query = select(func.count()).select_from(matching).scalar_subquery()
    found = select(func.count()).select_from(counted).scalar_subquery()
    groups = json_list(_groups(counted, _target(model, grouping)).subquery("g"))
    return select(total_query.label("total"), found.label("found"), groups.label("groups"))


def _where(query: Select[Any], table: FromClause, selected: Selection | None) -> Select[Any]:
    query = query.select_from(table)
    return query if selected is None else query.where(selected(table))


def _all_linked(table: FromClause, links: LinkTable, target: str) -> CompoundSelect[Any]:
    """Count all links, and the objects that have none: to join several times as many links to objects takes long."""
    link = table_of(links.model).alias("l")
    owner = link.c[links.owner]
    linked = select(link.c[target].label("key"), _count(links, target, owner).label("count"))
    every = select(func.count().label("number")).select_from(table).subquery("every")
    owners = select(func.count(distinct(owner)).label("number")).subquery("owners")
    alone = select(null(), every.c.number - owners.c.number).join_from(every, owners, every.c.number > owners.c.number)
    return union_all(linked.group_by(link.c[target]), alone)


def _linked(matching: FromClause, links: LinkTable, target: str, detail: Parameter | None) -> Select[Any]:
    link = table_of(links.model).alias("l")
    same = [link.c[links.owner] == matching.c.id]
    if detail is not None:
        same.append(link.c[detail.name] == any_(detail.bound()))
    query = select(link.c[target].label("key"), _count(links, target, matching.c.id).label("count"))
    return query.select_from(matching.outerjoin(link, and_(*same))).group_by(link.c[target])


def _count(links: LinkTable, target: str, owner: ColumnElement[int]) -> ColumnElement[int]:
    # Two objects may have several links with each other; the object still counts once.
    once = {column.name for column in table_of(links.model).primary_key} == {links.owner, target}
    return func.count() if once else func.count(distinct(owner))


def _target(model: type[RegisterObject], grouping: Grouping) -> FromClause | None:
    if not grouping.refers:
        return None
    owner = model if grouping.links is None else grouping.links.model
    return table_of(model_of(table_of(owner).c[grouping.column])).alias("t")


def _groups(counted: FromClause, target: FromClause | None) -> Select[Any]:
    """Select the largest groups, each with the brief of the object that it stands for."""
    largest = select(counted).order_by(counted.c.count.desc(), counted.c.key).limit(constant(str(MAX_GROUPS)))
    group = largest.subquery("largest")
    shown: ColumnElement[Any] = constant("NULL")
    if target is not None:
        row = select(*(target.c[name] for name in Brief.model_fields)).where(target.c.id == group.c.key)
        brief = row.correlate(group).subquery("brief")
        shown = select(func.row_to_json(brief.table_valued())).correlate(group).scalar_subquery()
    query = select(cast(group.c.key, Text).label("key"), shown.label("object"), group.c.count)
    return query.order_by(group.c.count.desc(), group.c.key)
