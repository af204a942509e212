"""Filters by the place of an object in its tree: its subtree, its level, and whether it has children."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    and_,
    any_,
    column,
    exists,
    func,
    intersect,
    literal_column,
    not_,
    or_,
    select,
    true,
)

from app.domains.shared.models import Base, table_of
from app.domains.shared.query.filters import BooleanParameter, Digits, Filter, Operands, Parameter
from app.domains.shared.query.link_filters import is_child, subtree
from app.domains.shared.references import MAX_ID

LevelParameter = Annotated[int, Field(ge=1, le=MAX_ID), Digits]

_ROOT = 1


def tree(model: type[Base]) -> Iterable[Filter]:
    """Yield the filters by the place in the tree that `parent_id` forms.

        within          in the subtree of this object
        level           at one of these levels; roots have level 1
        level__not      at none of these levels; objects without a level match
        has_children    true: is the parent of an object; false: is not

    An object in or below a cycle has no level. The level is not stored: a statement reads the objects from the roots
    down to the greatest level of the request, or to the one above it, by the index of `parent_id`.
    """
    within, *others = subtree("id", model, "within")
    yield _within_and_level(model, within)
    yield from others
    yield _other_levels(model)
    yield _has_children(model)


def _within_and_level(model: type[Base], within: Filter) -> Filter:
    level = _level_parameter("level", "Only objects at one of these levels of the tree; roots have level 1.")

    def condition(source: FromClause, operands: Operands) -> ColumnElement[bool]:
        subtrees = {name: operand for name, operand in operands.items() if name != level.name}
        if level.name not in operands:
            return within.condition(source, subtrees)
        if not subtrees:
            return _is_at(source, model, *operands[level.name])
        shape, levels = operands[level.name]
        if not shape.includes_others:
            return and_(_is_root(source), within.condition(source, subtrees))
        # PostgreSQL would compare each row of one set with all elements of the array of the other.
        table = table_of(model).alias("in_subtree")
        ids = intersect(_select_at(model, levels), select(table.c.id).where(within.condition(table, subtrees)))
        return source.c.id == any_(func.array(ids.scalar_subquery()))

    return Filter((*within.parameters, level), condition)


def _other_levels(model: type[Base]) -> Filter:
    parameter = _level_parameter("level__not", "Only objects at none of these levels of the tree.")

    def condition(source: FromClause, operands: Operands) -> ColumnElement[bool]:
        shape, levels = operands[parameter.name]
        conditions = [not_(_is_root(source))] if shape.includes_roots else []
        if shape.includes_others:
            # A hashed subplan: comparing each row with all elements of an array would take quadratic time.
            conditions.append(source.c.parent_id.in_(_select_at(model, levels, above=1)).is_not(true()))
        return and_(*conditions)

    return Filter((parameter,), condition)


def _has_children(model: type[Base]) -> Filter:
    description = "`true`: only objects that have children; `false`: only objects without children."
    parameter = Parameter("has_children", BooleanParameter, description, None)

    def condition(source: FromClause, operands: Operands) -> ColumnElement[bool]:
        child = table_of(model).alias("child_of_object")
        is_parent = exists(select(literal_column("1")).where(is_child(child, source.c.id)).correlate_except(child))
        return is_parent if operands[parameter.name] else not_(is_parent)

    return Filter((parameter,), condition)


class _Shape(NamedTuple):
    """The part of the levels of a request that is written into the statement; the values are a bind parameter."""

    includes_roots: bool
    includes_others: bool


def _shape(levels: Sequence[int]) -> _Shape:
    return _Shape(_ROOT in levels, any(level != _ROOT for level in levels))


def _level_parameter(name: str, description: str) -> Parameter:
    return Parameter(name, LevelParameter, description, BigInteger(), is_list=True, shape=_shape)


def _is_root(source: FromClause) -> ColumnElement[bool]:
    is_root: ColumnElement[bool] = source.c.parent_id.is_(None)
    return is_root


def _is_at(source: FromClause, model: type[Base], shape: _Shape, levels: ColumnElement[Any]) -> ColumnElement[bool]:
    conditions = [_is_root(source)] if shape.includes_roots else []
    if shape.includes_others:
        parents = func.array(_select_at(model, levels, above=1).scalar_subquery())
        conditions.append(source.c.parent_id == any_(parents))
    return or_(*conditions)


def _select_at(model: type[Base], levels: ColumnElement[Any], *, above: Literal[0, 1] = 0) -> Select[Any]:
    """Select the ids of the objects at these levels, or one level `above`.

    The recursion ends even if the table has cycles, because no object in or below a cycle is below a root.
    """
    table = table_of(model)
    wanted = func.unnest(levels).table_valued(column("level", BigInteger)).render_derived(name="wanted")
    deepest = select(func.max(wanted.c.level)).scalar_subquery()
    root, child = table.alias("root"), table.alias("child")
    # The level that is compared: that of the object, or of its children.
    roots = select(root.c.id, _number(_ROOT + above).label("level")).where(_is_root(root))
    nodes = roots.cte(recursive=True)
    step = select(child.c.id, nodes.c.level + _number(1)).where(is_child(child, nodes.c.id))
    nodes = nodes.union_all(step.where(nodes.c.level < deepest))
    return select(nodes.c.id).where(nodes.c.level == any_(levels))


def _number(value: int) -> ColumnElement[int]:
    return literal_column(str(value), BigInteger)
