"""Recursive queries of trees: the ancestors of an object, and its subtree down to a depth.

The work grows with the number of returned nodes and of their children, not with the size of the tree. Each recursion
ends after `MAX_DEPTH` levels, also in a cycle, and each step finds its rows by an index. A recursion whose rows a
`LIMIT` takes stops once there are enough (PostgreSQL, "Recursive Queries").
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Executable,
    Integer,
    Select,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import array

from app.domains.shared.models import RegisterObject, folded_key, table_of
from app.domains.shared.query.children import select_children
from app.domains.shared.query.orders import Condition
from app.domains.shared.reading.json_text import json_list

# The number of ancestors that an object may have; trees that are deeper were created before the limit.
MAX_DEPTH = 100
MAX_NODES = 10_000


@dataclass(frozen=True, slots=True)
class TreeNodes:
    """Nodes of a tree as a JSON array in bytes, and whether nodes beyond `MAX_DEPTH` or `MAX_NODES` are missing."""

    items: bytes
    truncated: bool


@cache
def select_ancestors(model: type[RegisterObject], condition: Condition) -> Executable:
    """Return the statement of the nearest `MAX_DEPTH` ancestors of an object, the root first.

    The columns are `items`; `found`, whether the object exists; and `truncated`. The parameter is `key`.
    """
    table = table_of(model)
    start = select(table.c.id, table.c.parent_id, _number(0).label("distance")).where(condition(table))
    chain = start.cte("chain", recursive=True)
    parent = select(table.c.id, table.c.parent_id).where(table.c.id == chain.c.parent_id).limit(_number(1)).lateral()
    step = select(parent.c.id, parent.c.parent_id, chain.c.distance + _number(1)).join_from(chain, parent, true())
    chain = chain.union_all(step.where(chain.c.distance < _number(MAX_DEPTH)))
    brief = select(table.c.id, table.c.code, table.c.name).where(table.c.id == chain.c.id).limit(_number(1)).lateral()
    nodes = select(brief).join_from(chain, brief, true()).where(chain.c.distance > _number(0))
    ancestors = nodes.order_by(chain.c.distance.desc())
    is_cut = (chain.c.distance == _number(MAX_DEPTH)) & chain.c.parent_id.is_not(None)
    return _nodes(chain, ancestors, func.bool_or(is_cut))


@cache
def select_tree(model: type[RegisterObject], condition: Condition) -> Executable:
    """Return the statement of an object and its descendants: depth first, siblings by name.

    At most `MAX_NODES` nodes are selected level by level, so that the deepest ones are missing. The columns are those
    of `select_ancestors`, the parameters `key` and `depth`.
    """
    table = table_of(model)
    max_nodes, depth = _number(MAX_NODES), bindparam("depth", type_=Integer)
    start = select(table.c.id, _number(0).label("depth"), cast(array([]), ARRAY(Integer)).label("path"))
    chain = start.where(condition(table)).cte("chain", recursive=True)
    # One node more than are returned shows that there are more.
    child = select_children(table, chain.c.id, table.c.id, table.c.name)
    limited = child.limit(max_nodes + _number(1)).lateral("limited")
    position = func.row_number().over(order_by=(folded_key(limited.c.name), limited.c.id))
    ranked = select(limited.c.id, cast(position, Integer).label("position")).lateral("ranked")
    step = select(ranked.c.id, chain.c.depth + _number(1), func.array_append(chain.c.path, ranked.c.position))
    chain = chain.union_all(step.join_from(chain, ranked, true()).where(chain.c.depth < depth))
    found = select(chain.c.id, chain.c.depth, chain.c.path).limit(max_nodes + _number(1)).cte("found")
    other = table.alias("child")
    children = select_children(other, table.c.id, func.count()).scalar_subquery()
    row = select(table.c.id, table.c.code, table.c.name, table.c.parent_id, children.label("children"))
    node = row.where(table.c.id == found.c.id).limit(_number(1)).lateral()
    columns = node.c.id, node.c.code, node.c.name, node.c.parent_id, found.c.depth, node.c.children
    nodes = select(*columns).join_from(found, node, true())
    has_child = select_children(other, found.c.id, other.c.id).exists()
    is_cut = (depth == _number(MAX_DEPTH)) & func.bool_or((found.c.depth == _number(MAX_DEPTH)) & has_child)
    truncated = (func.count() > max_nodes) | is_cut
    return _nodes(found, nodes.order_by(found.c.path).limit(max_nodes), truncated)


def _nodes(source: CTE, nodes: Select[Any], truncated: ColumnElement[bool]) -> Executable:
    facts = select((func.count() > _number(0)).label("found"), truncated.label("truncated")).select_from(source)
    return facts.add_columns(json_list(nodes.subquery("node")).label("items"))


def _number(value: int) -> ColumnElement[int]:
    return literal_column(str(value), Integer)
