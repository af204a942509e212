"""Filters by the place of an object in its tree: its level, and whether it has children."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

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
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
)

from app.domains.shared.models import Base, table_of
from app.domains.shared.query.filters import Digits, Filter, Operands, Parameter
from app.domains.shared.query.link_filters import is_child
from app.domains.shared.schemas import MAX_ID

LevelParameter = Annotated[int, Field(ge=1, le=MAX_ID), Digits]

_ROOT = 1


def tree(model: type[Base]) -> Iterable[Filter]:
    """Yield the filters by the place in the tree that `parent_id` forms.

        level           one of these levels; roots have level 1
        level__not      none of these levels; objects without a level match
        has_children    true: is the parent of an object; false: is not

    An object in or below a cycle has no level. The level is not stored: a statement reads the objects from the roots
    down to the level above the greatest of the request, by the index of `parent_id`.
    """
    yield _level_filter(model, "level", "Only objects at one of these levels of the tree; roots have level 1.")
    yield _level_filter(model, "level__not", "Only objects at none of these levels of the tree.", negated=True)
    description = "`true`: only objects that have children; `false`: only objects without children."
    has_children = Parameter("has_children", bool, description, None)

    def condition(source: FromClause, operands: Operands) -> ColumnElement[bool]:
        child = table_of(model).alias("child_of_object")
        is_parent = exists(select(literal_column("1")).where(is_child(child, source.c.id)).correlate_except(child))
        return is_parent if operands[has_children.name] else not_(is_parent)

    yield Filter((has_children,), condition)


def _level_filter(model: type[Base], name: str, description: str, *, negated: bool = False) -> Filter:
    parameter = Parameter(name, LevelParameter, description, BigInteger(), is_list=True, shape=_level_shape)

    def condition(source: FromClause, operands: Operands) -> ColumnElement[bool]:
        (includes_roots, includes_others), levels = operands[name]
        is_root = source.c.parent_id.is_(None) if includes_roots else false()
        if not includes_others:
            return not_(is_root) if negated else is_root
        parents = _select_parents(model, levels)
        if negated:
            # A hashed subplan: comparing each row with all elements of an array would take quadratic time.
            return and_(not_(is_root), source.c.parent_id.in_(parents).is_not(true()))
        # An array, for the index of `parent_id`.
        return or_(is_root, source.c.parent_id == any_(func.array(parents.scalar_subquery())))

    return Filter((parameter,), condition)


def _level_shape(levels: Sequence[int]) -> tuple[bool, bool]:
    """Return whether the roots are among the levels, and whether others are."""
    return _ROOT in levels, any(level != _ROOT for level in levels)


def _select_parents(model: type[Base], levels: ColumnElement[Any]) -> Select[Any]:
    """Select the ids of the possible parents of the objects at these levels, which are one level above them.

    The recursion ends even if the table has cycles, because no object in or below a cycle is below a root.
    """
    table = table_of(model)
    wanted = func.unnest(levels).table_valued(column("level", BigInteger)).render_derived(name="wanted")
    deepest = select(func.max(wanted.c.level)).scalar_subquery()
    root, child = table.alias("root"), table.alias("child")
    roots = select(root.c.id, _number(_ROOT + 1).label("child_level")).where(root.c.parent_id.is_(None))
    above = roots.cte(recursive=True)
    step = select(child.c.id, above.c.child_level + _number(1)).where(is_child(child, above.c.id))
    above = above.union_all(step.where(above.c.child_level < deepest))
    return select(above.c.id).where(above.c.child_level == any_(levels))


def _number(value: int) -> ColumnElement[int]:
    return literal_column(str(value), BigInteger)
