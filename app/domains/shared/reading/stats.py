"""Statistics: the number of objects in each group, or in each pair of groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, create_model, field_validator
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

from app.core.http.hints import listed_name_hint
from app.core.prepared import FastStatement, fast_statement
from app.domains.shared.models import RegisterObject, model_of, table_of
from app.domains.shared.query.filters import Parameter, Selection
from app.domains.shared.query.groups import Grouping, LinkTable
from app.domains.shared.query.pages import FilterQuery, ListQuery
from app.domains.shared.query.parameters import JsonParameters
from app.domains.shared.reading.json_text import json_list
from app.domains.shared.schemas import Brief
from app.utils.fault_codes import described_pattern, invalid
from app.utils.wording import counted as in_words

MAX_GROUPS = 1000


# The columns of the keys of a group.
_KEYS = ("key", "second_key")


@dataclass(frozen=True, slots=True)
class Counts:
    """The largest groups as a JSON array in bytes, the number of counted objects, and whether groups are left out."""

    group_by: str
    groups: bytes
    total: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Key:
    """One grouping of a request; if `detail` is not None, only links with one of its values are counted."""

    grouping: Grouping
    detail: Parameter | None = None


class StatsQuery(FilterQuery):
    """The parameters of statistics; `stats_query` adds the filters of a list's declaration."""

    group_by: str

    def statement(self, model: type[RegisterObject]) -> tuple[FastStatement, dict[str, Any]]:
        """Return the statement of the counts and its arguments."""
        keys = tuple(self._key(self.declaration.groups[name]) for name in self.group_by.split(","))
        details = [key.detail.name for key in keys if key.detail is not None and not self._has_other_filter(key.detail)]
        selection, _ = self.selection(without=details)
        _, arguments = self.selection()
        return _counts(model, keys, selection), arguments

    def _key(self, grouping: Grouping) -> _Key:
        detail = grouping.links and grouping.links.detail
        return _Key(grouping, self.declaration.parameters[detail] if detail in self.model_fields_set else None)

    def _has_other_filter(self, detail: Parameter) -> bool:
        """Return whether the request has another filter of the links that have this field."""
        return any(
            parameter.name in self.model_fields_set
            for filter_ in self.declaration.filters
            if detail in filter_.parameters
            for parameter in filter_.parameters
            if parameter is not detail
        )

    @field_validator("group_by")
    @classmethod
    def _check_group_by(cls, value: str) -> str:
        names, known = value.split(","), tuple(cls.declaration.groups)
        if len(names) > len(_KEYS):
            raise invalid("too_many_groups", names=in_words(len(_KEYS), "name"))
        for place, name in enumerate(names, 1):
            if name not in known:
                raise invalid("unknown_group", place=place, hint=listed_name_hint(name, known))
        if len(set(names)) < len(names):
            raise invalid("repeated_group")
        return value


def stats_parameters(list_model: type[ListQuery]) -> JsonParameters[StatsQuery]:
    """Return the dependency that validates the parameters of the statistics of a list."""
    return JsonParameters(stats_query(list_model))


def stats_query(list_model: type[ListQuery]) -> type[StatsQuery]:
    """Return the model of the parameters of the statistics of a list."""
    names = "|".join(list_model.declaration.groups)
    pair = f"(,({names}))?" if len(list_model.declaration.groups) > 1 else ""
    group_by = Field(
        description="Field, reference or link to group by, or two of them, separated by a comma.",
        examples=[next(iter(list_model.declaration.groups))],
        # For OpenAPI only: `_check_group_by` validates, and suggests the nearest name.
        json_schema_extra={
            "pattern": described_pattern(f"^({names}){pair}$", "Must be names of groupings, separated by a comma.")
        },
    )
    fields: dict[str, Any] = {"group_by": (str, group_by)} | list_model.declaration.fields
    model = create_model(list_model.__name__.replace("List", "Stats"), __base__=StatsQuery, **fields)
    model.declaration = list_model.declaration
    return model


@fast_statement(256)
def _counts(model: type[RegisterObject], keys: tuple[_Key, ...], selection: Selection | None) -> Select[Any]:
    """Return the statement of the counts: `total`, `group_count`, and `groups`, at most `MAX_GROUPS` of them."""
    table = table_of(model).alias("o")
    links = [key.grouping.links for key in keys if key.grouping.links is not None]
    if not links:
        counted = _where(_count_objects(table, keys), table, selection).cte("counted")
        total = func.coalesce(func.sum(counted.c.count), constant("0"))
        total_query = select(cast(total, BigInteger)).scalar_subquery()
    elif len(keys) == 1 and keys[0].detail is None and selection is None:
        counted = _count_all_links(table, links[0], keys[0].grouping.column).cte("counted")
        total_query = select(func.count()).select_from(table).scalar_subquery()
    else:
        columns = [table.c[key.grouping.column] for key in keys if key.grouping.links is None]
        matching = _where(select(table.c.id, *columns), table, selection).cte("matching").prefix_with("MATERIALIZED")
        counted = _count_links(matching, keys).cte("counted")
        total_query = select(func.count()).select_from(matching).scalar_subquery()
    group_count = select(func.count()).select_from(counted).scalar_subquery()
    targets = [_target(model, key.grouping) for key in keys]
    groups = json_list(_groups(counted, targets).subquery("g"))
    return select(total_query.label("total"), group_count.label("group_count"), groups.label("groups"))


def _where(query: Select[Any], table: FromClause, selection: Selection | None) -> Select[Any]:
    query = query.select_from(table)
    return query if selection is None else query.where(selection(table))


def _count_objects(table: FromClause, keys: Sequence[_Key]) -> Select[Any]:
    columns = [table.c[key.grouping.column] for key in keys]
    labels = [column.label(label) for label, column in zip(_KEYS, columns, strict=False)]
    return select(*labels, func.count().label("count")).group_by(*columns)


def _count_all_links(table: FromClause, links: LinkTable, target: str) -> CompoundSelect[Any]:
    """Count all links by target, and the objects without links, faster than with an outer join."""
    link = table_of(links.model).alias("l")
    owner = link.c[links.owner]
    count = func.count() if _is_unique(links, target) else func.count(distinct(owner))
    counts = select(link.c[target].label("key"), count.label("count"))
    objects = select(func.count().label("number")).select_from(table).subquery("objects")
    owners = select(func.count(distinct(owner)).label("number")).subquery("owners")
    difference = objects.c.number - owners.c.number
    unlinked = select(null(), difference).join_from(objects, owners, objects.c.number > owners.c.number)
    return union_all(counts.group_by(link.c[target]), unlinked)


def _count_links(matching: FromClause, keys: Sequence[_Key]) -> Select[Any]:
    """Count the objects of `matching` by links, and by the columns of other groupings."""
    source, columns = matching, []
    count: ColumnElement[int] = func.count()
    for label, key in zip(_KEYS, keys, strict=False):
        links, target = key.grouping.links, key.grouping.column
        if links is None:
            columns.append(matching.c[target].label(label))
            continue
        link = table_of(links.model).alias(f"{label}_link")
        conditions = [link.c[links.owner] == matching.c.id]
        if key.detail is not None:
            conditions.append(link.c[key.detail.name] == any_(key.detail.bind()))
        source = source.outerjoin(link, and_(*conditions))
        columns.append(link.c[target].label(label))
        if not _is_unique(links, target):
            count = func.count(distinct(matching.c.id))
    query = select(*columns, count.label("count")).select_from(source)
    return query.group_by(*(column.element for column in columns))


def _is_unique(links: LinkTable, target: str) -> bool:
    """Return whether the primary key excludes several links between the same two objects."""
    return {column.name for column in table_of(links.model).primary_key} == {links.owner, target}


def _target(model: type[RegisterObject], grouping: Grouping) -> FromClause | None:
    if not grouping.is_reference:
        return None
    owner = model if grouping.links is None else grouping.links.model
    return table_of(model_of(table_of(owner).c[grouping.column])).alias("t")


def _groups(counted: FromClause, targets: Sequence[FromClause | None]) -> Select[Any]:
    """Select the largest groups, each with the briefs of its objects if the keys are references."""
    keys = _KEYS[: len(targets)]
    order = counted.c.count.desc(), *(counted.c[key] for key in keys)
    group = select(counted).order_by(*order).limit(constant(str(MAX_GROUPS))).subquery("largest")
    first, *others = (
        select(cast(group.c[key], Text).label("key"), _brief(group, group.c[key], target).label("object"))
        for key, target in zip(keys, targets, strict=True)
    )
    query = first.add_columns(group.c.count)
    for other in others:
        second = other.correlate(group).subquery("second")
        as_json = select(func.row_to_json(second.table_valued())).correlate(group).scalar_subquery()
        query = query.add_columns(as_json.label("second"))
    return query.order_by(group.c.count.desc(), *(group.c[key] for key in keys))


def _brief(group: FromClause, key: ColumnElement[Any], target: FromClause | None) -> ColumnElement[Any]:
    if target is None:
        return constant("NULL")
    row = select(*(target.c[name] for name in Brief.model_fields)).where(target.c.id == key)
    columns = row.correlate(group).subquery("brief")
    return select(func.row_to_json(columns.table_valued())).correlate(group).scalar_subquery()
