"""Statistics: the number of objects in each group, or in each pair of groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, create_model, field_validator
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    CompoundSelect,
    FromClause,
    Label,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    column,
    distinct,
    func,
    null,
    select,
    true,
    union_all,
)
from sqlalchemy import literal_column as constant

from app.core.http.hints import listed_name_hint
from app.core.prepared import FastStatement, fast_statement
from app.domains.shared.models import RegisterObject, model_of, table_of
from app.domains.shared.query.filters import Parameter, Selection
from app.domains.shared.query.groups import Grouping, LinkTable
from app.domains.shared.query.link_filters import Match, counted_links
from app.domains.shared.query.pages import FilterQuery, ListQuery
from app.domains.shared.query.parameters import JsonParameters
from app.domains.shared.reading.json_text import json_list
from app.domains.shared.schemas import Brief
from app.utils.fault_codes import described_pattern, invalid
from app.utils.wording import counted as in_words

MAX_GROUPS = 1000
# Counting two kinds of links takes time in proportion to the pairs of links: about a microsecond for each.
MAX_PAIRS = 2_000_000

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
    """One grouping of a request; if `detail` is not None, it restricts the counted links, by its values and `match`."""

    grouping: Grouping
    detail: Parameter | None = None
    match: Match = "any"

    @property
    def links(self) -> LinkTable | None:
        return self.grouping.links

    @property
    def column(self) -> str:
        return self.grouping.column

    @property
    def is_unique(self) -> bool:
        """Whether the primary key excludes several links between the same two objects."""
        assert self.links is not None
        return {each.name for each in table_of(self.links.model).primary_key} == {self.links.owner, self.column}

    def counted_links(self, owner_id: ColumnElement[int], name: str) -> tuple[FromClause, list[ColumnElement[bool]]]:
        """Return the table of the links under this name, and the conditions on the counted links of an object."""
        assert self.links is not None
        table = table_of(self.links.model)
        link = table.alias(name)
        detail = self.links.detail or ""
        operands = {} if self.detail is None else {detail: self.detail.bind(), f"{detail}_match": self.match}
        ends = (self.links.owner, self.column)
        return link, [link.c[ends[0]] == owner_id, *counted_links(link, table.name, ends, detail, operands)]


class StatsQuery(FilterQuery):
    """The parameters of statistics; `stats_query` adds the filters of a list's declaration."""

    group_by: str

    def statement(self, model: type[RegisterObject]) -> tuple[FastStatement, dict[str, Any]]:
        """Return the statement of the counts and its arguments."""
        keys = tuple(self._key(self.declaration.groups[name]) for name in self.group_by.split(","))
        details = [key.detail for key in keys if key.detail is not None and not self._has_other_filter(key.detail)]
        selection, arguments = self.selection(without=[name for each in details for name in _own_parameters(each)])
        # These restrict the counted links instead.
        arguments |= {each.argument: getattr(self, each.name) for each in details}
        return _counts(model, keys, selection), arguments

    def _key(self, grouping: Grouping) -> _Key:
        detail = grouping.links and grouping.links.detail
        if detail not in self.model_fields_set:
            return _Key(grouping)
        return _Key(grouping, self.declaration.parameters[detail], getattr(self, f"{detail}_match", None) or "any")

    def _has_other_filter(self, detail: Parameter) -> bool:
        """Return whether the request has another filter of the links that have this field."""
        return any(
            parameter.name in self.model_fields_set
            for filter_ in self.declaration.filters
            if detail in filter_.parameters
            for parameter in filter_.parameters
            if parameter.name not in _own_parameters(detail)
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


def _own_parameters(detail: Parameter) -> tuple[str, str]:
    """Return the names of the parameters of the links' own field."""
    return detail.name, f"{detail.name}_match"


@fast_statement(256)
def _counts(model: type[RegisterObject], keys: tuple[_Key, ...], selection: Selection | None) -> Select[Any]:
    """Return the statement of the counts: `total`, `group_count`, and `groups`, at most `MAX_GROUPS` of them.

    `pair_count` is the number of pairs of links; there are no groups if it is greater than the parameter `max_pairs`.
    """
    table = table_of(model).alias("o")
    links = [key for key in keys if key.links is not None]
    pair_count: ColumnElement[int] = constant("0", BigInteger)
    if not links:
        counted = _where(_count_objects(table, keys), table, selection).cte("counted")
        total = func.coalesce(func.sum(counted.c.count), constant("0"))
        total_query = select(cast(total, BigInteger)).scalar_subquery()
    elif len(keys) == 1 and keys[0].detail is None and selection is None:
        counted = _count_all_links(table, keys[0]).cte("counted")
        total_query = select(func.count()).select_from(table).scalar_subquery()
    else:
        columns = [table.c[key.column] for key in keys if key.links is None]
        matching = _where(select(table.c.id, *columns), table, selection).cte("matching").prefix_with("MATERIALIZED")
        if len(links) < len(_KEYS):
            counted = _count_links(matching, keys).cte("counted")
        else:
            linked = _linked(matching, keys).cte("linked").prefix_with("MATERIALIZED")
            pair_count = select(_pair_count(linked)).scalar_subquery()
            counted = _count_pairs(linked).where(pair_count <= bindparam("max_pairs", type_=BigInteger)).cte("counted")
        total_query = select(func.count()).select_from(matching).scalar_subquery()
    group_count = select(func.count()).select_from(counted).scalar_subquery()
    groups = json_list(_groups(counted, [_target(model, key.grouping) for key in keys]).subquery("g"))
    return select(
        total_query.label("total"),
        pair_count.label("pair_count"),
        group_count.label("group_count"),
        groups.label("groups"),
    )


def _where(query: Select[Any], table: FromClause, selection: Selection | None) -> Select[Any]:
    query = query.select_from(table)
    return query if selection is None else query.where(selection(table))


def _count_objects(table: FromClause, keys: Sequence[_Key]) -> Select[Any]:
    columns = [table.c[key.column] for key in keys]
    labels = [column.label(label) for label, column in zip(_KEYS, columns, strict=False)]
    return select(*labels, func.count().label("count")).group_by(*columns)


def _count_all_links(table: FromClause, key: _Key) -> CompoundSelect[Any]:
    """Count all links by target, and the objects without links, faster than with an outer join."""
    assert key.links is not None
    link = table_of(key.links.model).alias("l")
    owner, target = link.c[key.links.owner], link.c[key.column]
    count = func.count() if key.is_unique else func.count(distinct(owner))
    counts = select(target.label("key"), count.label("count"))
    objects = select(func.count().label("number")).select_from(table).subquery("objects")
    owners = select(func.count(distinct(owner)).label("number")).subquery("owners")
    difference = objects.c.number - owners.c.number
    unlinked = select(null(), difference).join_from(objects, owners, objects.c.number > owners.c.number)
    return union_all(counts.group_by(target), unlinked)


def _count_links(matching: FromClause, keys: Sequence[_Key]) -> Select[Any]:
    """Count the objects of `matching` by one kind of links, and by the column of another grouping."""
    source, columns = matching, []
    count: ColumnElement[int] = func.count()
    for label, key in zip(_KEYS, keys, strict=False):
        if key.links is None:
            columns.append(matching.c[key.column].label(label))
            continue
        link, conditions = key.counted_links(matching.c.id, "link")
        source = source.outerjoin(link, and_(*conditions))
        columns.append(link.c[key.column].label(label))
        if not key.is_unique:
            count = func.count(distinct(matching.c.id))
    query = select(*columns, count.label("count")).select_from(source)
    return query.group_by(*(column.element for column in columns))


def _linked(matching: FromClause, keys: Sequence[_Key]) -> Select[Any]:
    """Select the ids that each object of `matching` is linked to, as one array for each kind of links."""
    columns: list[ColumnElement[Any]] = []
    for label, key in zip(_KEYS, keys, strict=True):
        link, conditions = key.counted_links(matching.c.id, f"{label}_link")
        targets = select(link.c[key.column]).where(*conditions).correlate(matching)
        targets = targets if key.is_unique else targets.distinct()
        columns.append(func.array(targets.scalar_subquery(), type_=ARRAY(BigInteger)).label(label))
    return select(*columns).select_from(matching)


def _pair_count(linked: FromClause) -> ColumnElement[int]:
    """Return the number of rows that `_count_pairs` counts. An object without links is paired as with one."""
    one, other = (cast(func.greatest(func.cardinality(linked.c[label]), constant("1")), BigInteger) for label in _KEYS)
    return cast(func.coalesce(func.sum(one * other), constant("0")), BigInteger)


def _count_pairs(linked: FromClause) -> Select[Any]:
    """Count the objects by pairs of the objects that they are linked to."""
    source: FromClause = linked
    columns: list[Label[Any]] = []
    for label in _KEYS:
        ids = func.unnest(linked.c[label]).table_valued(column("id", BigInteger), name=f"{label}_ids").render_derived()
        source = source.outerjoin(ids, true())
        columns.append(ids.c.id.label(label))
    query = select(*columns, func.count().label("count")).select_from(source)
    return query.group_by(*(column.element for column in columns))


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
