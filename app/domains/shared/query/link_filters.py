"""Filters by links and by subtrees."""

from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    String,
    and_,
    any_,
    column,
    exists,
    func,
    literal_column,
    not_,
    select,
)
from sqlalchemy.dialects.postgresql import array

from app.domains.shared.collection import LinkSet
from app.domains.shared.models import Base, model_of, referenced_name, table_of
from app.domains.shared.query.filters import Filter, FixedLink, Operands, Parameter, reference_parameter
from app.domains.shared.query.orders import Condition

Match = Literal["any", "all", "none"]


def subtree(field: str, model: type[Base], name: str | None = None) -> Iterable[Filter]:
    """Yield the filter by a subtree: the id in `field` belongs to an object or to one of its descendants.

    The parameter is called `name`, by default `field` with `_within` instead of `_id`.
    """
    # The tree of the objects themselves, or that of the objects they refer to.
    tree = model.__tablename__ if field == "id" else referenced_name(model, field)
    parameter = _subtree_parameter(name or field.replace("_id", "_within"), f"Only objects whose `{field}` is", tree)

    def condition(source: FromClause, operands: Operands) -> ColumnElement[bool]:
        return source.c[field] == any_(_subtree_ids(tree, operands[parameter.name]))

    yield Filter((parameter,), condition)


def links(
    model: type[Base],
    owner: str,
    target: str,
    *,
    detail: tuple[str, Any] | None = None,
    in_tree: bool = False,
    match: str | None = None,
) -> Iterable[Filter]:
    """Yield the filter by links; `owner` and `target` are the columns of the two ends.

    The parameters are `target`; with `in_tree` also `target` with `_within` instead of `_id`; `detail`, the name of the
    link's own field and the `Literal` of its values; and `match`, which selects whether any, all or none of the targets
    must be linked. All other conditions must hold for the same link.
    """
    noun, tree = target.removesuffix("_id"), referenced_name(model, target)
    parameters = [reference_parameter(target, tree, f"Only objects linked to one of these {noun}s.", is_list=True)]
    if in_tree:
        parameters.append(_subtree_parameter(f"{noun}_within", f"Only objects linked to a {noun} whose `id` is", tree))
    if detail is not None:
        description = f"Only objects whose link to a {noun} has one of these values as `{detail[0]}`."
        parameters.append(Parameter(detail[0], detail[1], description, String(), is_list=True))
    if match is not None:
        description = f"Whether `any` (default), `all` or `none` of the {noun}s in `{target}` must be linked."
        parameters.append(Parameter(match, Match, description, None, requires=target))

    def condition(source: FromClause, operands: Operands) -> ColumnElement[bool]:
        link = table_of(model).alias(f"linked_{noun}")
        conditions = [link.c[owner] == source.c.id]
        if detail is not None and detail[0] in operands:
            conditions.append(link.c[detail[0]] == any_(operands[detail[0]]))
        if f"{noun}_within" in operands:
            conditions.append(link.c[target] == any_(_subtree_ids(tree, operands[f"{noun}_within"])))
        if target not in operands:
            return _is_linked(link, *conditions)
        is_any_linked = _is_linked(link, *conditions, link.c[target] == any_(operands[target]))
        mode = operands.get(match or "", "any")
        if mode == "all":
            # The first condition is redundant, but an index can serve it.
            return and_(is_any_linked, not_(_lacks_any(link, conditions, link.c[target], operands[target])))
        return is_any_linked if mode == "any" else not_(is_any_linked)

    yield Filter(tuple(parameters), condition)


def _subtree_parameter(name: str, description: str, tree: str) -> Parameter:
    description = f"{description} this value or in the subtree below it."
    return reference_parameter(name, tree, description, tree=tree)


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


def _is_linked(link: FromClause, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(select(literal_column("1")).select_from(link).where(*conditions).correlate_except(link))


def _lacks_any(
    link: FromClause, conditions: list[ColumnElement[bool]], column_: ColumnElement[int], required: ColumnElement[Any]
) -> ColumnElement[bool]:
    """Return the condition that an owner lacks a link to at least one of the required ids."""
    target = func.unnest(required).table_valued(column("id", BigInteger)).render_derived(name="required")
    return _is_linked(target, not_(_is_linked(link, *conditions, column_ == target.c.id)))


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
