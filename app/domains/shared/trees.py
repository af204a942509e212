"""Collections whose objects stand below one another."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Executable,
    FromClause,
    Integer,
    Select,
    Text,
    any_,
    bindparam,
    cast,
    exists,
    func,
    literal_column,
    not_,
    select,
)
from sqlalchemy.dialects.postgresql import array

from app.domains.shared.bulk_statements import tree_lock
from app.domains.shared.embedding import json_list
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.orders import Condition
from app.domains.shared.references import not_found, parse_key
from app.domains.shared.service import CollectionService
from app.utils.exceptions import Cycle, Fault

DEEPEST = 100
MOST_NODES = 10_000

_ZERO, _ONE = literal_column("0", Integer), literal_column("1", Integer)


@dataclass(frozen=True, slots=True)
class Subtree:
    """Nodes as a JSON array in bytes, and whether there are more than we answer at once."""

    items: bytes
    truncated: bool


class TreeService(CollectionService):
    """A collection that is a tree by `parent_id`."""

    guarded = ("parent_id",)

    async def tree(self, reference: str, depth: int) -> Subtree:
        """Return the object and what stands up to `depth` levels below it, depth first, siblings by name."""
        key = parse_key(reference, self.model)
        values = {"key": key.value, "depth": depth}
        row = (await self.session.execute(_tree(self.model, key.condition), values)).one()
        if not row.rows:
            raise not_found(self.model)
        return Subtree(row.items, truncated=row.rows > MOST_NODES)

    async def ancestors(self, reference: str) -> bytes:
        """Return what the object stands below, the root first, as briefs in a JSON array."""
        key = parse_key(reference, self.model)
        row = (await self.session.execute(_ancestors(self.model, key.condition), {"key": key.value})).one()
        if not row.rows:
            raise not_found(self.model)
        items: bytes = row.items
        return items

    async def _before_update(self, current: dict[str, Any], body: Any) -> None:
        if body.parent_id is not None and body.parent_id != current["parent_id"]:
            await self._refuse_cycle(current["id"], body.parent_id)

    async def _refuse_cycle(self, key: int, parent: int) -> None:
        # Two moves that are each harmless can form a cycle together, so one waits for the other. The check is a
        # statement of its own: it must see what the other has committed meanwhile.
        await self.session.lock(tree_lock(self.model))
        if await self.session.scalar(_is_below(self.model), {"key": key, "parent": parent}):
            detail = f"A {self.model.noun} cannot stand below itself."
            raise Cycle(detail, errors=[Fault("/parent_id", "cycle", detail)])


@cache
def _is_below(model: type[RegisterObject]) -> Executable:
    """Return the statement that tells whether `parent` is `key` or stands below it."""
    table = table_of(model)
    start = select(table.c.id, table.c.parent_id).where(table.c.id == bindparam("parent", type_=BigInteger))
    chain = start.cte("chain", recursive=True)
    # UNION drops the rows it has seen, so that even a cycle would end.
    chain = chain.union(select(table.c.id, table.c.parent_id).where(table.c.id == chain.c.parent_id))
    return select(exists().where(chain.c.id == bindparam("key", type_=BigInteger)).label("below"))


@cache
def _ancestors(model: type[RegisterObject], condition: Condition) -> Executable:
    """Return the statement of the objects above one; `rows` counts that one, too."""
    table = table_of(model)
    start = select(table.c.id, table.c.parent_id, _ZERO.label("distance"), array([table.c.id]).label("path"))
    chain = start.where(condition(table)).cte("chain", recursive=True)
    step = select(table.c.id, table.c.parent_id, chain.c.distance + _ONE, func.array_append(chain.c.path, table.c.id))
    chain = chain.union_all(step.where(table.c.id == chain.c.parent_id, _not_seen(table, chain)))
    above = select(table.c.id, table.c.code, table.c.name).join(chain, chain.c.id == table.c.id)
    return _nodes(chain, above.where(chain.c.distance > _ZERO).order_by(chain.c.distance.desc()))


@cache
def _tree(model: type[RegisterObject], condition: Condition) -> Executable:
    """Return the statement of an object and what stands below it; its parameters are `key` and `depth`."""
    table = table_of(model)
    # The id breaks ties; as text it needs leading zeros to be in the order of numbers.
    number = func.lpad(cast(table.c.id, Text), literal_column("19"), literal_column("'0'"))
    place = array([func.lower(table.c.name), number])
    start = select(table.c.id, _ZERO.label("depth"), array([table.c.id]).label("path"), place.label("place"))
    chain = start.where(condition(table)).cte("chain", recursive=True)
    step = select(
        table.c.id,
        chain.c.depth + _ONE,
        func.array_append(chain.c.path, table.c.id),
        func.array_cat(chain.c.place, place),
    ).where(table.c.parent_id == chain.c.id, chain.c.depth < bindparam("depth", type_=Integer), _not_seen(table, chain))
    chain = chain.union_all(step)
    child = table.alias("child")
    children = select(func.count()).where(child.c.parent_id == table.c.id).correlate(table).scalar_subquery()
    nodes = select(
        table.c.id, table.c.code, table.c.name, table.c.parent_id, chain.c.depth, children.label("children")
    ).join(chain, chain.c.id == table.c.id)
    return _nodes(chain, nodes.order_by(chain.c.place).limit(literal_column(str(MOST_NODES))))


def _not_seen(table: FromClause, chain: CTE) -> Any:
    return not_(table.c.id == any_(chain.c.path))


def _nodes(chain: CTE, nodes: Select[Any]) -> Executable:
    rows = select(func.count()).select_from(chain).scalar_subquery()
    return select(rows.label("rows"), json_list(nodes.subquery("node")).label("items"))
