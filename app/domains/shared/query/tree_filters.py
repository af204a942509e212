"""Filters by the place of an object in its tree: its subtree, its level, and whether it has children."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    any_,
    column,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
)

from app.domains.shared.models import Base, referenced_name, table_of
from app.domains.shared.query.children import select_children
from app.domains.shared.query.filters import Digits, Filter, Operands, Parameter, reference_parameter
from app.domains.shared.references import MAX_ID

LevelParameter = Annotated[int, Field(ge=1, le=MAX_ID), Digits]

_ROOT = 1


def subtree(field: str, model: type[Base], name: str | None = None) -> Iterable[Filter]:
    """Yield the filters by a subtree: the id in `field` belongs to an object or to one of its descendants, or not.

    The parameters are `name`, by default `field` with `_within` instead of `_id`, and `name` with `__not`.
    """
    # The tree of the objects themselves, or that of the objects they refer to.
    tree = model.__tablename__ if field == "id" else referenced_name(model.__tablename__, field)
    name = name or field.replace("_id", "_within")
    inside = subtree_parameter(name, f"Only objects whose `{field}` is", tree)
    outside = subtree_parameter(f"{name}__not", f"Only objects except those whose `{field}` is", tree)

    yield Filter(
        (inside,),
        lambda source, operands: is_in(source.c[field], select_subtree(tree, operands[inside.name])),
        field=field,
        join=lambda source, operands: source.c[field].in_(select_subtree(tree, operands[inside.name])),
    )
    yield Filter(
        (outside,),
        lambda source, operands: not_(is_in(source.c[field], select_subtree(tree, operands[outside.name]))),
    )


def tree(model: type[Base]) -> Iterable[Filter]:
    """Yield the filters by the place in the tree that `parent_id` forms.

        within          in the subtree of this object
        level           at one of these levels; roots have level 1
        level__not      at none of these levels; objects without a level match
        has_children    true: is the parent of an object; false: is not

    An object in or below a cycle has no level. The level is not stored: a statement reads the objects from the roots
    down to the greatest level of the request, or to the one above it, by the index of `parent_id`.
    """
    yield from subtree("id", model, "within")
    yield _levels(model)
    yield _other_levels(model)
    yield _has_children(model)


def _levels(model: type[Base]) -> Filter:
    parameter = _level_parameter("level", "Only objects at one of these levels of the tree; roots have level 1.")

    def join(source: FromClause, operands: Operands) -> ColumnElement[bool] | None:
        shape, levels = operands[parameter.name]
        return None if shape.includes_roots else source.c.parent_id.in_(_select_parents(model, levels))

    return Filter((parameter,), lambda source, operands: _is_at(source, model, *operands[parameter.name]), join=join)


def _other_levels(model: type[Base]) -> Filter:
    parameter = _level_parameter("level__not", "Only objects at none of these levels of the tree.")

    return Filter((parameter,), lambda source, operands: not_(_is_at(source, model, *operands[parameter.name])))


def _has_children(model: type[Base]) -> Filter:
    description = "`true`: only objects that have children; `false`: only objects without children."
    parameter = Parameter("has_children", bool, description, None)

    def condition(source: FromClause, operands: Operands) -> ColumnElement[bool]:
        child = table_of(model).alias("child_of_object")
        is_parent = select_children(child, source.c.id, literal_column("1")).exists()
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
        conditions.append(is_in(source.c.parent_id, _select_parents(model, levels)))
    return or_(*conditions)


def _select_parents(model: type[Base], levels: ColumnElement[Any]) -> Select[Any]:
    """Select the ids of the objects one level above these levels, the possible parents of those at them.

    The recursion ends even if the table has cycles, because no object in or below a cycle is below a root.
    """
    table = table_of(model)
    wanted = func.unnest(levels).table_valued(column("level", BigInteger)).render_derived(name="wanted")
    deepest = select(func.max(wanted.c.level)).scalar_subquery()
    root, child = table.alias("root"), table.alias("child")
    roots = select(root.c.id, _number(_ROOT + 1).label("level_of_children")).where(_is_root(root))
    nodes = roots.cte(recursive=True)
    found = select_children(child, nodes.c.id, child.c.id).lateral()
    step = select(found.c.id, nodes.c.level_of_children + _number(1)).join_from(nodes, found, true())
    nodes = nodes.union_all(step.where(nodes.c.level_of_children < deepest))
    return select_elements(select(nodes.c.id).where(nodes.c.level_of_children == any_(levels)))


def select_subtree(tree: str, root: ColumnElement[int]) -> Select[Any]:
    """Select the ids of the subtree of an object of the collection `tree`."""
    table = Base.metadata.tables[tree]
    node, child = table.alias("node"), table.alias("child")
    descendants = select(node.c.id).where(node.c.id == root).cte(recursive=True)
    found = select_children(child, descendants.c.id, child.c.id).lateral()
    # UNION discards duplicate rows, so the recursion ends even in a cycle.
    descendants = descendants.union(select(found.c.id).join_from(descendants, found, true()))
    return select_elements(select(descendants.c.id))


def select_elements(ids: Select[Any]) -> Select[Any]:
    """Select the same ids as the elements of an array.

    PostgreSQL may expect too many rows of a recursion for an index or a hash table. It expects ten elements of an array
    that a subquery builds, and one of a range of these. So it searches an index for each element, and does not read the
    rows in the order of the list to compare them with the elements.
    """
    elements = func.unnest(func.array(ids.scalar_subquery())).table_valued(column("id", BigInteger))
    element = elements.render_derived(name="element").c.id
    # All ids are in this range.
    return select(element).where(element.between(_number(1), _number(MAX_ID)))


def is_in(field: ColumnElement[int], ids: Select[Any]) -> ColumnElement[bool]:
    """Return the condition that an id is in a set, false for a missing one, which builds a hash table of the set.

    `field = ANY (array)` would compare each row with all elements.
    """
    return field.in_(ids).is_(true())


def subtree_parameter(name: str, description: str, tree: str) -> Parameter:
    """Return the parameter of the root of a subtree of the collection `tree`."""
    description = f"{description} this value or in the subtree below it."
    return reference_parameter(name, tree, description, reads=tree)


def _number(value: int) -> ColumnElement[int]:
    return literal_column(str(value), BigInteger)
