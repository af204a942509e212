"""Filters by links."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    String,
    and_,
    any_,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, array

from app.domains.shared.collection import LinkSet
from app.domains.shared.models import Base, model_of, table_of
from app.domains.shared.query.filters import Filter, FixedLink, Operands, Parameter, reference_parameter
from app.domains.shared.query.orders import Condition
from app.domains.shared.query.tree_filters import is_in, select_elements, select_subtree, subtree_parameter

Match = Literal["any", "all", "none"]
IsIn = Callable[[ColumnElement[Any], Select[Any]], ColumnElement[bool]]


def links(
    link: type[Base] | str,
    owner: str,
    target: str,
    other: str,
    *,
    detail: tuple[str, Any] | None = None,
    repeatable: bool = False,
    in_tree: bool = False,
    reads: str | None = None,
) -> Iterable[Filter]:
    """Yield the filter by one kind of links, whose parameters `_Links` explains.

    `link` is the model of the links, or the name of their table if a higher domain declares them. `owner` and `target`
    are the columns of the filtered objects and of those of the collection `other`, which is `in_tree` if it is a tree.
    `detail` is the link's own field and the `Literal` of its values; with `repeatable`, two objects may have several
    links, which differ in `detail`. `reads` is the collection that the caller must be permitted to read to learn of the
    links, if that is not the filtered one.
    """
    table = link if isinstance(link, str) else link.__tablename__
    kind = _Links(table, owner, target, other, detail[0] if detail else "")
    parameters = [*_target_parameters(kind, reads)]
    if in_tree:
        for name, linked in ((kind.within, "linked"), (f"{kind.within}__not", "except those linked")):
            parameters.append(subtree_parameter(name, f"Only objects {linked} to a {kind.noun} whose `id` is", other))
    if detail is not None:
        parameters += _detail_parameters(kind, detail[1], reads, repeatable=repeatable)
    yield Filter(tuple(parameters), kind.condition, describes_fixed_link=kind.describes_fixed_link, join=kind.join)


@dataclass(frozen=True, slots=True)
class _Links:
    """One kind of links, and the meaning of its parameters.

    For the links of departments to processes, with `relation` as own field, they are:

        process_id             linked to one of these processes; with `process_match`, to `all` or `none` of them
        process_within         linked to a process in this subtree; with `process_id`, to the same process
        process_match=none     without `process_id`: linked to no process
        process_id__null       true: linked to no process, or meets the conditions above; false: linked to a process
        process_id__not        linked to none of these processes
        process_within__not    linked to no process in this subtree
        relation               restricts the links that count; without the parameters above, there must be one

    If the own field is part of the key, as `responsibility` of the links to roles, there is also:

        responsibility_match   whether `any`, `all` or `none` of the values must link a process for it to count
    """

    table: str
    owner: str
    target: str
    # The collection at the other end.
    other: str
    detail: str

    @property
    def noun(self) -> str:
        """The noun of the objects at the other end."""
        return self.target.removesuffix("_id")

    @property
    def within(self) -> str:
        return f"{self.noun}_within"

    @property
    def match(self) -> str:
        return f"{self.noun}_match"

    def join(self, source: FromClause, operands: Operands) -> ColumnElement[bool] | None:
        """Return the condition as a join with the subtree, or None if the links need not be found by a subtree."""
        has_alternative = operands.get(f"{self.target}__null") or operands.get(self.match) == "none"
        if self.within not in operands or self.target in operands or has_alternative:
            return None
        return self.condition(source, operands, ColumnElement.in_)

    def condition(self, source: FromClause, operands: Operands, in_subtree: IsIn = is_in) -> ColumnElement[bool]:
        """Return the condition that the links of the rows of `source` are as the operands require.

        `in_subtree` returns the condition that a link leads to one of the objects of a required subtree.
        """
        link = Base.metadata.tables[self.table].alias(f"linked_{self.noun}")
        restricted = counted_links(link, self.table, (self.owner, self.target), self.detail, operands)
        counted = [link.c[self.owner] == source.c.id, *restricted]
        conditions = []
        if self._requires_links(operands):
            conditions.append(self._required(link, counted, operands, in_subtree))
        is_null = operands.get(f"{self.target}__null")
        if is_null is not None:
            is_any_linked = _exists(link, *counted)
            conditions = [or_(*conditions, not_(is_any_linked))] if is_null else [*conditions, is_any_linked]
        if f"{self.target}__not" in operands:
            conditions.append(not_(_exists(link, *counted, self._is_target(link, operands[f"{self.target}__not"]))))
        if f"{self.within}__not" in operands:
            outside = select_subtree(self.other, operands[f"{self.within}__not"])
            owners = select(link.c[self.owner]).where(*restricted, link.c[self.target].in_(outside))
            conditions.append(not_(is_in(source.c.id, select_elements(owners))))
        return and_(*conditions)

    def describes_fixed_link(self, operands: Operands) -> bool:
        """Return whether no operand compares the linked objects with others than that of the path."""
        return not operands.keys() & {self.target, self.match, f"{self.target}__not", f"{self.target}__null"}

    def _requires_links(self, operands: Operands) -> bool:
        if operands.keys() & {self.target, self.within, self.match}:
            return True
        # The own field alone requires a link, unless it restricts those that must not exist.
        states_absence = operands.keys() & {f"{self.target}__not", f"{self.within}__not"}
        return self.detail in operands and not states_absence and not operands.get(f"{self.target}__null")

    def _required(
        self, link: FromClause, counted: list[ColumnElement[bool]], operands: Operands, in_subtree: IsIn
    ) -> ColumnElement[bool]:
        """Return the condition for links to the objects that `target`, `within` and `match` select."""
        if self.within in operands:
            counted = [*counted, in_subtree(link.c[self.target], select_subtree(self.other, operands[self.within]))]
        selected = [self._is_target(link, operands[self.target])] if self.target in operands else []
        is_any_linked, mode = _exists(link, *counted, *selected), operands.get(self.match, "any")
        if mode == "all":
            # The first condition is redundant, but an index can serve it.
            return and_(is_any_linked, _has_all(link, counted, link.c[self.target], operands[self.target]))
        return is_any_linked if mode == "any" else not_(is_any_linked)

    def _is_target(self, link: FromClause, ids: ColumnElement[Any]) -> ColumnElement[bool]:
        return link.c[self.target] == any_(ids)


def _target_parameters(kind: _Links, reads: str | None) -> Iterable[Parameter]:
    target, noun = kind.target, kind.noun
    for name, linked in ((target, "linked to one"), (f"{target}__not", "linked to none")):
        description = f"Only objects {linked} of these {kind.other}."
        yield reference_parameter(name, kind.other, description, is_list=True, reads=reads)
    absence = f"`true`: only objects linked to no {noun}, or also these if there are other conditions on the {noun}"
    yield Parameter(f"{target}__null", bool, f"{absence}; `false`: only objects linked to one.", None, reads=reads)
    description = f"Whether `any` (default), `all` or `none` of the {noun}s in `{target}` must be linked."
    description += f" `none` without `{target}`: no {noun} at all."
    yield Parameter(kind.match, Match, description, None, requires=target, independent="none", reads=reads)


def _detail_parameters(kind: _Links, values: Any, reads: str | None, *, repeatable: bool) -> Iterable[Parameter]:
    description = f"Only links to a {kind.noun} with one of these values as `{kind.detail}` count."
    yield Parameter(kind.detail, values, description, String(), is_list=True, reads=reads)
    if repeatable:
        name = f"{kind.detail}_match"
        description = f"Whether a {kind.noun} must be linked with `any` (default), `all` or `none` of these values."
        yield Parameter(name, Match, description, None, requires=kind.detail, reads=reads)


def _exists(link: FromClause, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(select(literal_column("1")).select_from(link).where(*conditions).correlate_except(link))


def _has_all(
    link: FromClause, conditions: list[ColumnElement[bool]], value: ColumnElement[Any], required: ColumnElement[Any]
) -> ColumnElement[bool]:
    """Return the condition that the links have all `required` values of a column."""
    present = select(value).select_from(link).where(*conditions, value == any_(required)).correlate_except(link)
    return func.array(present.scalar_subquery(), type_=ARRAY(value.type)).contains(required)


def counted_links(
    link: FromClause, table: str, ends: tuple[str, str], detail: str, operands: Operands
) -> list[ColumnElement[bool]]:
    """Return the conditions on a row of links, an alias of `table`, that the operands of its own field state.

    `ends` are the columns of both objects. With the operand `detail_match`, a link counts only if all of the values, or
    none of them, link the same two objects.
    """
    if detail not in operands:
        return []
    values = operands[detail]
    has_value = link.c[detail] == any_(values)
    mode = operands.get(f"{detail}_match", "any")
    if mode == "any":
        return [has_value]
    # The other links between the same objects.
    other = Base.metadata.tables[table].alias(f"other_{ends[1].removesuffix('_id')}")
    between = [other.c[end] == link.c[end] for end in ends]
    if mode == "none":
        return [not_(_exists(other, *between, other.c[detail] == any_(values)))]
    return [has_value, _has_all(other, between, other.c[detail], values)]


@cache
def fixed_link(link_set: LinkSet, end: str, condition: Condition) -> FixedLink:
    """Return the fixed link of the objects at one `end`; `condition` selects the object at the other end."""
    other_end = link_set.owner if end == link_set.target else link_set.target
    other = table_of(model_of(link_set.table.c[other_end])).alias("linked")
    other_id = select(other.c.id).where(condition(other)).scalar_subquery()

    def is_linked(source: FromClause) -> ColumnElement[bool]:
        link = link_set.table.alias("link")
        return exists().where(link.c[end] == source.c.id, link.c[other_end] == other_id)

    # An array literal, not a subquery: the planner then estimates one element.
    return FixedLink(other_end, array([other_id]), is_linked)
