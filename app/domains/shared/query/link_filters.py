"""Filters by links and by subtrees."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    FromClause,
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
from app.domains.shared.models import Base, model_of, referenced_name, table_of
from app.domains.shared.query.field_filters import is_not
from app.domains.shared.query.filters import (
    BooleanParameter,
    Filter,
    FixedLink,
    Operands,
    Parameter,
    reference_parameter,
)
from app.domains.shared.query.orders import Condition

Match = Literal["any", "all", "none"]


def subtree(field: str, model: type[Base], name: str | None = None) -> Iterable[Filter]:
    """Yield the filters by a subtree: the id in `field` belongs to an object or to one of its descendants, or not.

    The parameters are `name`, by default `field` with `_within` instead of `_id`, and `name` with `__not`.
    """
    # The tree of the objects themselves, or that of the objects they refer to.
    tree = model.__tablename__ if field == "id" else referenced_name(model.__tablename__, field)
    name = name or field.replace("_id", "_within")
    inside = _subtree_parameter(name, f"Only objects whose `{field}` is", tree)
    outside = _subtree_parameter(f"{name}__not", f"Only objects except those whose `{field}` is", tree)

    def is_within(source: FromClause, root: ColumnElement[int]) -> ColumnElement[bool]:
        return source.c[field] == any_(_subtree_ids(tree, root))

    yield Filter((inside,), lambda source, operands: is_within(source, operands[inside.name]), field=field)
    yield Filter((outside,), lambda source, operands: is_not(is_within(source, operands[outside.name])))


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
            parameters.append(_subtree_parameter(name, f"Only objects {linked} to a {kind.noun} whose `id` is", other))
    if detail is not None:
        parameters += _detail_parameters(kind, detail[1], reads, repeatable=repeatable)
    yield Filter(tuple(parameters), kind.condition, describes_fixed_link=kind.describes_fixed_link)


@dataclass(frozen=True, slots=True)
class _Links:
    """One kind of links, and the meaning of its parameters.

    For the links of processes to roles, with `responsibility` as own field, they are:

        role_id                linked to one of these roles; with `role_match`, to `all` or `none` of them
        role_within            linked to a role in this subtree; with `role_id`, to the same role
        role_match=none        without `role_id`: linked to no role
        role_id__null          true: linked to no role, or meets the conditions above; false: linked to a role
        role_id__not           linked to none of these roles
        role_within__not       linked to no role in this subtree
        responsibility         restricts the links that count; without the parameters above, there must be one
        responsibility_match   whether `any`, `all` or `none` of the values must link a role for it to count
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

    def condition(self, source: FromClause, operands: Operands) -> ColumnElement[bool]:
        """Return the condition that the links of the rows of `source` are as the operands require."""
        link = Base.metadata.tables[self.table].alias(f"linked_{self.noun}")
        counted = [link.c[self.owner] == source.c.id, *self._counted(link, operands)]
        conditions = []
        if self._requires_links(operands):
            conditions.append(self._required(link, counted, operands))
        is_null = operands.get(f"{self.target}__null")
        if is_null is not None:
            is_any_linked = _exists(link, *counted)
            conditions = [or_(*conditions, not_(is_any_linked))] if is_null else [*conditions, is_any_linked]
        for name, is_selected in ((self.target, self._is_target), (self.within, self._is_within)):
            if f"{name}__not" in operands:
                conditions.append(not_(_exists(link, *counted, is_selected(link, operands[f"{name}__not"]))))
        return and_(*conditions)

    def describes_fixed_link(self, operands: Operands) -> bool:
        """Return whether the operands require links, but do not say which objects are linked."""
        return not operands.keys() & {self.target, self.match} and self._requires_links(operands)

    def _requires_links(self, operands: Operands) -> bool:
        if operands.keys() & {self.target, self.within, self.match}:
            return True
        # The own field alone requires a link, unless it restricts those that must not exist.
        states_absence = operands.keys() & {f"{self.target}__not", f"{self.within}__not"}
        return self.detail in operands and not states_absence and not operands.get(f"{self.target}__null")

    def _required(
        self, link: FromClause, counted: list[ColumnElement[bool]], operands: Operands
    ) -> ColumnElement[bool]:
        """Return the condition for links to the objects that `target`, `within` and `match` select."""
        if self.within in operands:
            counted = [*counted, self._is_within(link, operands[self.within])]
        selected = [self._is_target(link, operands[self.target])] if self.target in operands else []
        is_any_linked, mode = _exists(link, *counted, *selected), operands.get(self.match, "any")
        if mode == "all":
            # The first condition is redundant, but an index can serve it.
            return and_(is_any_linked, _has_all(link, counted, link.c[self.target], operands[self.target]))
        return is_any_linked if mode == "any" else not_(is_any_linked)

    def _is_target(self, link: FromClause, ids: ColumnElement[Any]) -> ColumnElement[bool]:
        return link.c[self.target] == any_(ids)

    def _is_within(self, link: FromClause, root: ColumnElement[int]) -> ColumnElement[bool]:
        return link.c[self.target] == any_(_subtree_ids(self.other, root))

    def _counted(self, link: FromClause, operands: Operands) -> list[ColumnElement[bool]]:
        """Return the conditions on a link to an object that the own field lets count."""
        if self.detail not in operands:
            return []
        values = operands[self.detail]
        has_value = link.c[self.detail] == any_(values)
        mode = operands.get(f"{self.detail}_match", "any")
        if mode == "any":
            return [has_value]
        # The other links between the same objects.
        other = Base.metadata.tables[self.table].alias(f"other_{self.noun}")
        between = [other.c[end] == link.c[end] for end in (self.owner, self.target)]
        if mode == "none":
            return [not_(_exists(other, *between, other.c[self.detail] == any_(values)))]
        return [has_value, _has_all(other, between, other.c[self.detail], values)]


def _target_parameters(kind: _Links, reads: str | None) -> Iterable[Parameter]:
    target, noun = kind.target, kind.noun
    for name, linked in ((target, "linked to one"), (f"{target}__not", "linked to none")):
        description = f"Only objects {linked} of these {kind.other}."
        yield reference_parameter(name, kind.other, description, is_list=True, reads=reads)
    absence = f"`true`: only objects linked to no {noun}, or also these if there are other conditions on the {noun}"
    yield Parameter(
        f"{target}__null", BooleanParameter, f"{absence}; `false`: only objects linked to one.", None, reads=reads
    )
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


def _subtree_parameter(name: str, description: str, tree: str) -> Parameter:
    description = f"{description} this value or in the subtree below it."
    return reference_parameter(name, tree, description, reads=tree)


def _subtree_ids(tree: str, root: ColumnElement[int]) -> ColumnElement[Any]:
    """Return the array of the ids of a subtree, an uncorrelated subquery that runs once per statement."""
    table = Base.metadata.tables[tree]
    node = table.alias("node")
    descendants = select(node.c.id).where(node.c.id == root).cte(recursive=True)
    child = table.alias("child")
    # UNION discards duplicate rows, so the recursion ends even in a cycle.
    descendants = descendants.union(select(child.c.id).where(is_child(child, descendants.c.id)))
    return func.array(select(descendants.c.id).scalar_subquery())


def is_child(table: FromClause, parent_id: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that a row of `table` is a child of an object, for a search by the index of `parent_id`.

    With `=`, PostgreSQL may read the whole table at each level of a deep tree, or for each leaf of a flat one, since it
    expects as many rows for each object as there are per parent on average. For a range it expects a small part.
    """
    return table.c.parent_id.between(parent_id, parent_id)


def _exists(link: FromClause, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(select(literal_column("1")).select_from(link).where(*conditions).correlate_except(link))


def _has_all(
    link: FromClause, conditions: list[ColumnElement[bool]], value: ColumnElement[Any], required: ColumnElement[Any]
) -> ColumnElement[bool]:
    """Return the condition that the links have all `required` values of a column."""
    present = select(value).select_from(link).where(*conditions, value == any_(required)).correlate_except(link)
    return func.array(present.scalar_subquery(), type_=ARRAY(value.type)).contains(required)


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
