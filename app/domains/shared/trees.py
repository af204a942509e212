"""Collections whose objects stand below one another, by `parent_id`."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Executable, any_, bindparam, select

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.reading.keys import not_found, parse_key
from app.domains.shared.reading.tree_walks import MAX_DEPTH, MAX_NODES, Subtree, select_ancestors, select_tree
from app.domains.shared.rules import Rule, RuleViolation, Write
from app.domains.shared.service import Collection, CollectionService, LinkSet
from app.utils.exceptions import Cycle

__all__ = ["MAX_DEPTH", "MAX_NODES", "Collection", "LinkSet", "NoCycle", "Subtree", "TreeService"]


class TreeService(CollectionService):
    """A collection that is a tree. `NoCycle` is among its rules."""

    async def tree(self, reference: str, depth: int) -> Subtree:
        """Return the object and what stands up to `depth` levels below it, depth first, siblings by name."""
        key = parse_key(reference, self.model)
        values = {"key": key.value, "depth": depth}
        row = (await self.session.execute(select_tree(self.model, key.condition), values)).one()
        if not row.rows:
            raise not_found(self.model)
        return Subtree(row.items, truncated=row.rows > MAX_NODES)

    async def ancestors(self, reference: str) -> bytes:
        """Return what the object stands below, the root first, as briefs in a JSON array."""
        key = parse_key(reference, self.model)
        row = (await self.session.execute(select_ancestors(self.model, key.condition), {"key": key.value})).one()
        if not row.rows:
            raise not_found(self.model)
        items: bytes = row.items
        return items


class NoCycle(Rule):
    """No object stands below itself."""

    watches = ("parent_id",)
    applies_to_restores = True

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller)
        # The parent of each object that a new cycle could lead through: as it is, and if all writes are done that are
        # not refused.
        self._known: dict[Any, Any] = {}
        self._parents: dict[Any, Any] = {}
        self._moved: dict[Any, Write] = {}
        # The objects at which no cycle was looked for since they came to stand where they stand.
        self._unchecked: list[Any] = []

    def lock(self, write: Write) -> str | None:
        # Two moves that are each harmless can form a cycle together, so one waits for the other.
        is_move = write.changes("parent_id") and write.after is not None and write.after["parent_id"] is not None
        return f"tree of {write.model.__tablename__}" if is_move else None

    async def load(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        writes = [write for write in writes if not write.is_rejected]
        self._moved = {write.id: write for write in writes if _parent(write) is not None and _moves(write)}
        if any(write.before is not None for write in self._moved.values()):
            model = next(iter(self._moved.values())).model
            ids = list({_parent(write) for write in self._moved.values()})
            rows = await session.execute(_select_ancestors(model), {"ids": ids})
            self._known = {row.id: row.parent_id for row in rows}
        self._parents = self._known | {write.id: _parent(write) for write in writes if write.after is not None}
        self._unchecked = list(self._moved)

    def check_together(self, writes: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:
        del writes  # `load` has chosen those that matter
        self._put_back([key for key, write in self._moved.items() if write.is_rejected])
        while self._unchecked:
            starts, self._unchecked = self._unchecked, []
            for key in self._cycles(starts):
                write = self._moved.get(key)
                if write is not None and not write.is_rejected:
                    yield write, RuleViolation(Cycle, f"A {write.model.noun} cannot stand below itself.", "/parent_id")
                    self._put_back([key])

    def _put_back(self, keys: Sequence[Any]) -> None:
        """Let what is refused stand where it stood."""
        for key in keys:
            del self._moved[key]
            self._parents[key] = self._known.get(key)
            self._unchecked.append(key)

    def _cycles(self, starts: Sequence[Any]) -> list[Any]:
        """Return the objects on cycles that lead through one of these: a new cycle must."""
        found: list[Any] = []
        done: set[Any] = set()
        for start in starts:
            path: dict[Any, None] = {}
            node = start
            while node is not None and node not in done and node not in path:
                path[node] = None
                node = self._parents.get(node)
            if node in path:
                walked = list(path)
                found += walked[walked.index(node) :]
            done.update(path)
        return found


def _parent(write: Write) -> Any:
    return None if write.after is None else write.after["parent_id"]


def _moves(write: Write) -> bool:
    return write.before is None or write.changes("parent_id")


@cache
def _select_ancestors(model: type[RegisterObject]) -> Executable:
    """Return the statement of `id` and `parent_id` of the objects with `ids`, and of all that they stand below."""
    table = table_of(model)
    start = select(table.c.id, table.c.parent_id).where(table.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger))))
    chain = start.cte("chain", recursive=True)
    # UNION drops the rows it has seen, so that even a cycle would end.
    chain = chain.union(select(table.c.id, table.c.parent_id).where(table.c.id == chain.c.parent_id))
    return select(chain.c.id, chain.c.parent_id)
