"""Filters that look beyond the row itself: along links, and down trees."""

from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    String,
    Table,
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
from app.domains.shared.models import Base, model_of, table_of
from app.domains.shared.query.filters import Filter, FixedLink, Given, IdParameter, Parameter
from app.domains.shared.query.orders import Condition

Match = Literal["any", "all", "none"]


def subtree(field: str, model: type[Base], name: str | None = None) -> Iterable[Filter]:
    """Filter by where `field` of a model's rows, an id, stands in a tree: at an object or anywhere below it.

    The parameter is `name`, or else that of the field with `_within` for `_id`.
    """
    parameter = _within(name or field.replace("_id", "_within"))

    def condition(source: FromClause, given: Given) -> ColumnElement[bool]:
        table = table_of(model)
        # Of the object itself, or of what it refers to.
        tree = table if field == "id" else _referred(table, field)
        return source.c[field] == any_(_subtree(tree, given[parameter.name]))

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
    """Filter by links: `owner` and `target` are the columns of their two ends.

    The parameters are `target` and, `in_tree`, that of its subtree; `detail`, the link's own field and the `Literal`
    of its values; and `match`, which tells whether any, all or none of the targets given must be linked. What is said
    of a link must hold of one and the same.
    """
    what = target.removesuffix("_id")
    parameters = [Parameter(target, IdParameter, f"Linked to one of these {what}s.", BigInteger(), many=True)]
    if in_tree:
        parameters.append(_within(f"{what}_within"))
    if detail is not None:
        description = f"Linked to such a {what} as one of these."
        parameters.append(Parameter(detail[0], detail[1], description, String(), many=True))
    if match is not None:
        description = f"Whether `any`, the default, `all` or `none` of the {what}s in `{target}` must be linked."
        parameters.append(Parameter(match, Match, description, None, needs=target))

    def condition(source: FromClause, given: Given) -> ColumnElement[bool]:
        table = table_of(model)
        link = table.alias(f"linked_{what}")
        same = [link.c[owner] == source.c.id]
        if detail is not None and detail[0] in given:
            same.append(link.c[detail[0]] == any_(given[detail[0]]))
        if f"{what}_within" in given:
            same.append(link.c[target] == any_(_subtree(_referred(table, target), given[f"{what}_within"])))
        if target not in given:
            return _is_linked(link, *same)
        any_of_them = _is_linked(link, *same, link.c[target] == any_(given[target]))
        how = given.get(match or "", "any")
        if how == "all":
            # The first condition says nothing new, but can be looked up.
            return and_(any_of_them, not_(_is_missing(link, same, link.c[target], given[target])))
        return any_of_them if how == "any" else not_(any_of_them)

    yield Filter(tuple(parameters), condition)


def _within(name: str) -> Parameter:
    return Parameter(name, IdParameter, "In the subtree of this object, itself included.", BigInteger())


def _referred(table: Table, column_name: str) -> Table:
    (key,) = table.c[column_name].foreign_keys
    return key.column.table


def _subtree(table: Table, root: ColumnElement[int]) -> ColumnElement[Any]:
    """Return the array of the ids of an object and of all below it, which is made once a statement."""
    here = table.alias("here")
    inside = select(here.c.id).where(here.c.id == root).cte(recursive=True)
    child = table.alias("child")
    # UNION drops the rows it has seen, so that even a cycle would end.
    inside = inside.union(select(child.c.id).where(child.c.parent_id == inside.c.id))
    return func.array(select(inside.c.id).scalar_subquery())


def _is_linked(link: FromClause, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(select(literal_column("1")).select_from(link).where(*conditions).correlate_except(link))


def _is_missing(
    link: FromClause, same: list[ColumnElement[bool]], linked_to: ColumnElement[int], wanted: ColumnElement[Any]
) -> ColumnElement[bool]:
    """Select the owners that lack a link to one of those wanted."""
    each = func.unnest(wanted).table_valued(column("id", BigInteger)).render_derived(name="wanted")
    return _is_linked(each, not_(_is_linked(link, *same, linked_to == each.c.id)))


@cache
def fixed_link(link_set: LinkSet, end: str, condition: Condition) -> FixedLink:
    """Return the link of the objects at one `end` of the links, whose other end `condition` selects."""
    other_end = link_set.owner if end == link_set.target else link_set.target
    other = table_of(model_of(link_set.table.c[other_end])).alias("linked")
    other_id = select(other.c.id).where(condition(other)).scalar_subquery()

    def is_linked(source: FromClause) -> ColumnElement[bool]:
        link = link_set.table.alias("link")
        return exists().where(link.c[end] == source.c.id, link.c[other_end] == other_id)

    # The planner can see that it is one.
    return FixedLink(other_end, array([other_id]), is_linked)
