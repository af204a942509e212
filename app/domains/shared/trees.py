"""Collections whose objects form a tree, by `parent_id`."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    Executable,
    Integer,
    Select,
    Table,
    any_,
    bindparam,
    column,
    func,
    literal_column,
    select,
    true,
)

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.domains.shared.collection import cycle_key
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.query.children import select_children
from app.domains.shared.reading.keys import not_found, parse_key
from app.domains.shared.reading.tree_queries import MAX_DEPTH, TreeNodes, select_ancestors, select_tree
from app.domains.shared.rules import Rule, RuleViolation, Values, Write
from app.domains.shared.service import Collection, CollectionService, LinkSet
from app.domains.shared.writing.cycles import Cycles, unread_chains
from app.domains.shared.writing.tree_depths import TreeDepths
from app.utils.exceptions import Cycle, TooDeep
from app.utils.fault_codes import text_of

__all__ = ["MAX_DEPTH", "Collection", "LinkSet", "MaxDepth", "NoCycle", "TreeNodes", "TreeService"]

# No organisation has as many levels, and a batch of many objects names most of the objects above them itself.
_ANCESTORS_PER_TARGET = 10
_ZERO = literal_column("0", Integer)


class TreeService(CollectionService):
    """A collection that is a tree. Its rules must include `NoCycle` and `MaxDepth`."""

    async def tree(self, reference: str, depth: int) -> TreeNodes:
        """Return the object and its descendants down to `depth` levels, depth first, siblings by name."""
        key = parse_key(reference, self.model)
        return await self._nodes(select_tree(self.model, key.condition), {"key": key.value, "depth": depth})

    async def ancestors(self, reference: str) -> TreeNodes:
        """Return the nearest ancestors of the object, the root first."""
        key = parse_key(reference, self.model)
        return await self._nodes(select_ancestors(self.model, key.condition), {"key": key.value})

    async def _nodes(self, statement: Executable, values: dict[str, Any]) -> TreeNodes:
        row = (await self.session.execute(statement, values)).one()
        if not row.found:
            raise not_found(self.model)
        return TreeNodes(row.items, row.truncated)


class NoCycle(Rule):
    """The rule that no object refers to itself, directly or through others, by the reference `column`.

    A cycle that is older than the rule stays until one of its references changes. A creation alone forms no cycle: the
    statement that inserts an object rejects a reference to itself.
    """

    column = "parent_id"
    watches = ("parent_id",)
    applies_to_restores = True
    # The maximum number of objects above the new targets of all writes of a unit, beside `_ANCESTORS_PER_TARGET` for
    # each target. None: another rule limits them.
    max_ancestors: int | None = None

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller)
        # The writes that move or create an object, by its id.
        self._moves: dict[Any, Write] = {}
        self._cycles = Cycles({}, {})
        # The objects above which not all objects were read, because of the limit of ancestors, and the limit.
        self._unread: set[Any] = set()
        self._limit: int | None = None

    def lock(self, write: Write) -> str | None:
        # Two valid moves can form a cycle together, so moves within one tree are serialised.
        is_move = write.changes(self.column) and _parent(write, self.column) is not None
        return f"tree of {write.model.__tablename__}" if is_move else None

    async def load(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        # A creation alone has no id yet, and forms no cycle.
        self._moves = {
            write.id: write
            for write in writes
            if not write.is_rejected and write.after is not None and write.id is not None
            if _is_move(write, self.column)
        }
        new_parents = {key: _parent(write, self.column) for key, write in self._moves.items()}
        created = {key: new_parents[key] for key, write in self._moves.items() if write.before is None}
        current_parents: dict[Any, Any] = {}
        if any(parent is not None for key, parent in new_parents.items() if key not in created):
            targets = set(new_parents.values()) - {None}
            current_parents = await self._read_ancestors(session, writes[0].model, targets)
            self._unread = unread_chains(current_parents | created, targets)
        self._cycles = Cycles(current_parents, new_parents)

    async def _read_ancestors(
        self, session: RegisterSession, model: type[RegisterObject], targets: set[Any]
    ) -> dict[Any, Any]:
        if self.max_ancestors is not None:
            self._limit = self.max_ancestors + _ANCESTORS_PER_TARGET * len(targets)
        values = {"ids": list(targets), "limit": self._limit}
        rows = await session.execute(_select_ancestors(model, self.column), values)
        return {row.id: row.parent_id for row in rows}

    def check(self, write: Write) -> Iterator[RuleViolation]:
        if write.changes(self.column) and _parent(write, self.column) in self._unread:
            detail = text_of("too_deep:chain", noun=write.model.noun, limit=self._limit)
            yield RuleViolation(TooDeep, detail, f"/{self.column}")

    def check_together(self, rejected: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:
        undone = _placed_by(self._moves, rejected)
        while undone := self._cycles.undo(undone):
            for key in undone:
                write = self._moves[key]
                detail = text_of(cycle_key(self.column), noun=write.model.noun)
                yield write, RuleViolation(Cycle, detail, f"/{self.column}")


class MaxDepth(Rule):
    """The rule that no creation or move gives an object more than `MAX_DEPTH` ancestors.

    Objects that already have more keep their place. The rule takes no lock, so that concurrent writes can exceed the
    limit a little. It does not apply to a restore: an exported register may have deeper trees.
    """

    watches = ("parent_id",)

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller)
        # The writes that create, move or delete an object, by its id, and the tree that they make.
        self._writes: dict[Any, Write] = {}
        self._tree: TreeDepths | None = None

    def concerns_new(self, values: Values) -> bool:
        return values["parent_id"] is not None

    async def load(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        writes = [write for write in writes if not write.is_rejected and (write.after is None or _is_move(write))]
        new_parents = {write.id: _parent(write) for write in writes}
        created = {write.id for write in writes if write.before is None}
        placed = {parent for parent in new_parents.values() if parent is not None}
        if not placed:
            return
        leaving = [key for key in new_parents if key not in created]
        current_parents: dict[Any, Any] = {}
        heights: dict[Any, int] = {}
        if ids := placed.difference(created).union(leaving):
            values = {"ids": list(ids), "leaving": leaving}
            rows = list(await session.execute(_select_places(writes[0].model), values))
            current_parents = {row.id: row.parent_id for row in rows}
            heights = {row.id: row.height for row in rows if row.height is not None}
        self._writes = {write.id: write for write in writes}
        self._tree = TreeDepths(current_parents, new_parents, heights, MAX_DEPTH)

    def check_together(self, rejected: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:
        if self._tree is None:
            return
        for key in self._tree.undo(_placed_by(self._writes, rejected)):
            write = self._writes[key]
            detail = text_of("too_deep", noun=write.model.noun, ancestors=MAX_DEPTH)
            yield write, RuleViolation(TooDeep, detail, "/parent_id")


def _placed_by(placing: Mapping[Any, Write], rejected: Sequence[Write]) -> list[Any]:
    """Return the ids of the objects that the rejected writes were to place.

    A batch can have several writes of one object, of which at most one is not rejected; `placing` has that one.
    """
    return [write.id for write in rejected if placing.get(write.id) is write]


def _parent(write: Write, column: str = "parent_id") -> Any:
    return None if write.after is None else write.after[column]


def _is_move(write: Write, column: str = "parent_id") -> bool:
    return write.before is None or write.changes(column)


@cache
def _select_ancestors(model: type[RegisterObject], column: str) -> Select[Any]:
    """Return the statement of `id` and `parent_id` of the objects with `ids` and of all objects above them.

    `parent_id` is the value of `column`. The statement returns, and reads, up to `limit` objects, or all for NULL.
    """
    chain = _ancestors(table_of(model), column)
    return select(chain.c.id, chain.c.parent_id).limit(bindparam("limit", type_=BigInteger))


def _ancestors(table: Table, name: str) -> CTE:
    columns = (table.c.id, table.c[name].label("parent_id"))
    start = select(*columns).where(table.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger))))
    chain = start.cte("chain", recursive=True)
    # The OFFSET keeps the planner from reading the whole table at each step.
    parent = select(*columns).where(table.c.id == chain.c.parent_id).offset(_ZERO).lateral()
    # UNION discards duplicate rows, so the recursion ends even in a cycle.
    return chain.union(select(parent.c.id, parent.c.parent_id).join_from(chain, parent, true()))


@cache
def _select_places(model: type[RegisterObject]) -> Executable:
    """Return the statement of the objects with `ids` and of all their ancestors: `id`, `parent_id` and `height`.

    Only the objects `leaving`, which are in `ids` too, have a height.

    The height is the number of levels below an object, at most `MAX_DEPTH` + 1, without the objects `leaving` and their
    subtrees: each object is counted once, however many of its ancestors leave.
    """
    table, leaving = table_of(model), bindparam("leaving", type_=ARRAY(BigInteger))
    root = func.unnest(leaving).table_valued(column("id", BigInteger)).render_derived(name="root")
    below = select(root.c.id.label("root"), root.c.id, _ZERO.label("distance")).cte("below", recursive=True)
    child = select_children(table, below.c.id, table.c.id).lateral()
    step = select(below.c.root, child.c.id, below.c.distance + literal_column("1", Integer))
    stays = child.c.id.not_in(select(func.unnest(leaving)))
    is_near = below.c.distance <= literal_column(str(MAX_DEPTH))
    below = below.union_all(step.join_from(below, child, true()).where(stays, is_near))
    heights = select(below.c.root, func.max(below.c.distance).label("height")).group_by(below.c.root).subquery()
    places = _ancestors(table, "parent_id")
    joined = places.outerjoin(heights, heights.c.root == places.c.id)
    return select(places.c.id, places.c.parent_id, heights.c.height).select_from(joined)
