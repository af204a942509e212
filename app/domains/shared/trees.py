"""Collections whose objects form a tree, by `parent_id`."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Executable, any_, bindparam, select

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.reading.keys import not_found, parse_key
from app.domains.shared.reading.tree_queries import MAX_DEPTH, MAX_NODES, Subtree, select_ancestors, select_tree
from app.domains.shared.rules import Rule, RuleViolation, Write
from app.domains.shared.service import Collection, CollectionService, LinkSet
from app.utils.exceptions import Cycle
from app.utils.fault_codes import text_of

__all__ = ["MAX_DEPTH", "MAX_NODES", "Collection", "LinkSet", "NoCycle", "Subtree", "TreeService"]


class TreeService(CollectionService):
    """A collection that is a tree. Its rules must include `NoCycle`."""

    async def tree(self, reference: str, depth: int) -> Subtree:
        """Return the object and its descendants down to `depth` levels, depth first, siblings by name."""
        key = parse_key(reference, self.model)
        values = {"key": key.value, "depth": depth}
        row = (await self.session.execute(select_tree(self.model, key.condition), values)).one()
        if not row.rows:
            raise not_found(self.model)
        return Subtree(row.items, truncated=row.rows > MAX_NODES)

    async def ancestors(self, reference: str) -> bytes:
        """Return the ancestors of the object, the root first: a JSON array of briefs in bytes."""
        key = parse_key(reference, self.model)
        row = (await self.session.execute(select_ancestors(self.model, key.condition), {"key": key.value})).one()
        if not row.rows:
            raise not_found(self.model)
        items: bytes = row.items
        return items


class NoCycle(Rule):
    """The rule that no object is its own ancestor."""

    watches = ("parent_id",)
    applies_to_restores = True

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller)
        # The parent of each object that could be part of a new cycle: in the database, and after all writes that are
        # not rejected.
        self._current_parents: dict[Any, Any] = {}
        self._new_parents: dict[Any, Any] = {}
        self._moves: dict[Any, Write] = {}
        # The objects from which cycles are still to be searched, because their parent has changed.
        self._unchecked: list[Any] = []

    def lock(self, write: Write) -> str | None:
        # Two valid moves can form a cycle together, so moves within one tree are serialised.
        is_move = write.changes("parent_id") and write.after is not None and write.after["parent_id"] is not None
        return f"tree of {write.model.__tablename__}" if is_move else None

    async def load(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        writes = [write for write in writes if not write.is_rejected]
        self._moves = {write.id: write for write in writes if _parent(write) is not None and _is_move(write)}
        if any(write.before is not None for write in self._moves.values()):
            model = next(iter(self._moves.values())).model
            ids = list({_parent(write) for write in self._moves.values()})
            rows = await session.execute(_select_ancestors(model), {"ids": ids})
            self._current_parents = {row.id: row.parent_id for row in rows}
        new_parents = {write.id: _parent(write) for write in writes if write.after is not None}
        self._new_parents = self._current_parents | new_parents
        self._unchecked = list(self._moves)

    def check_together(self, writes: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:
        del writes  # `load` has selected the moves among them
        self._undo_moves([key for key, write in self._moves.items() if write.is_rejected])
        while self._unchecked:
            starts, self._unchecked = self._unchecked, []
            for key in self._cycles(starts):
                write = self._moves.get(key)
                if write is not None and not write.is_rejected:
                    detail = text_of("cycle", noun=write.model.noun)
                    yield write, RuleViolation(Cycle, detail, "/parent_id")
                    self._undo_moves([key])

    def _undo_moves(self, keys: Sequence[Any]) -> None:
        """Reset the parents of objects whose write is rejected."""
        for key in keys:
            del self._moves[key]
            self._new_parents[key] = self._current_parents.get(key)
            self._unchecked.append(key)

    def _cycles(self, starts: Sequence[Any]) -> list[Any]:
        """Return the objects on all cycles that can be reached from `starts`, as every new cycle can."""
        cycles: list[Any] = []
        visited: set[Any] = set()
        for start in starts:
            path: dict[Any, None] = {}
            node = start
            while node is not None and node not in visited and node not in path:
                path[node] = None
                node = self._new_parents.get(node)
            if node in path:
                nodes = list(path)
                cycles += nodes[nodes.index(node) :]
            visited.update(path)
        return cycles


def _parent(write: Write) -> Any:
    return None if write.after is None else write.after["parent_id"]


def _is_move(write: Write) -> bool:
    return write.before is None or write.changes("parent_id")


@cache
def _select_ancestors(model: type[RegisterObject]) -> Executable:
    """Return the statement of `id` and `parent_id` of the objects with `ids` and of all their ancestors."""
    table = table_of(model)
    start = select(table.c.id, table.c.parent_id).where(table.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger))))
    chain = start.cte("chain", recursive=True)
    # UNION discards duplicate rows, so the recursion ends even in a cycle.
    chain = chain.union(select(table.c.id, table.c.parent_id).where(table.c.id == chain.c.parent_id))
    return select(chain.c.id, chain.c.parent_id)
