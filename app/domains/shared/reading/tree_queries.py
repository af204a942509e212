"""Recursive queries of trees: the ancestors of an object, and its subtree down to a depth."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    Executable,
    FromClause,
    Integer,
    Select,
    Text,
    any_,
    bindparam,
    cast,
    func,
    literal_column,
    not_,
    select,
)
from sqlalchemy.dialects.postgresql import array

from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.query.orders import Condition
from app.domains.shared.reading.json_text import json_list

MAX_DEPTH = 100
MAX_NODES = 10_000

_ZERO, _ONE = literal_column("0", Integer), literal_column("1", Integer)


@dataclass(frozen=True, slots=True)
class Subtree:
    """Nodes as a JSON array in bytes, and whether there are more than `MAX_NODES`."""

    items: bytes
    truncated: bool


@cache
def select_ancestors(model: type[RegisterObject], condition: Condition) -> Executable:
    """Return the statement of an object's ancestors: `items`, the root first, and `rows`, which includes the object.

    `rows` is 0 if the object does not exist. The parameter is `key`.
    """
    table = table_of(model)
    start = select(table.c.id, table.c.parent_id, _ZERO.label("distance"), array([table.c.id]).label("path"))
    chain = start.where(condition(table)).cte("chain", recursive=True)
    step = select(table.c.id, table.c.parent_id, chain.c.distance + _ONE, func.array_append(chain.c.path, table.c.id))
    chain = chain.union_all(step.where(table.c.id == chain.c.parent_id, _is_new(table, chain)))
    ancestors = select(table.c.id, table.c.code, table.c.name).join(chain, chain.c.id == table.c.id)
    return _nodes(chain, ancestors.where(chain.c.distance > _ZERO).order_by(chain.c.distance.desc()))


@cache
def select_tree(model: type[RegisterObject], condition: Condition) -> Executable:
    """Return the statement of an object and its descendants: `items`, depth first, and `rows`, the number of all nodes.

    The parameters are `key` and `depth`.
    """
    table = table_of(model)
    # The id breaks ties; leading zeros make its text sort like the number.
    number = func.lpad(cast(table.c.id, Text), literal_column("19"), literal_column("'0'"))
    sort_path = array([func.lower(table.c.name), number])
    start = select(table.c.id, _ZERO.label("depth"), array([table.c.id]).label("path"), sort_path.label("sort_path"))
    chain = start.where(condition(table)).cte("chain", recursive=True)
    step = select(
        table.c.id,
        chain.c.depth + _ONE,
        func.array_append(chain.c.path, table.c.id),
        func.array_cat(chain.c.sort_path, sort_path),
    ).where(
        table.c.parent_id == chain.c.id,
        chain.c.depth < bindparam("depth", type_=Integer),
        _is_new(table, chain),
    )
    chain = chain.union_all(step)
    child = table.alias("child")
    children = select(func.count()).where(child.c.parent_id == table.c.id).correlate(table).scalar_subquery()
    nodes = select(
        table.c.id, table.c.code, table.c.name, table.c.parent_id, chain.c.depth, children.label("children")
    ).join(chain, chain.c.id == table.c.id)
    return _nodes(chain, nodes.order_by(chain.c.sort_path).limit(literal_column(str(MAX_NODES))))


def _is_new(table: FromClause, chain: CTE) -> Any:
    return not_(table.c.id == any_(chain.c.path))


def _nodes(chain: CTE, nodes: Select[Any]) -> Executable:
    rows = select(func.count()).select_from(chain).scalar_subquery()
    return select(rows.label("rows"), json_list(nodes.subquery("node")).label("items"))
