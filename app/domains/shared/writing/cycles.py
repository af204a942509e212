"""Finds the moves of a batch that form cycles, while moves are undone.

A batch may undo its moves one after another, and each may be below any number of objects. So no step walks along all of
these: objects that no longer move are skipped, and a link-cut tree finds whether a cycle closes. The work for a whole
batch is O(n log n).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from app.domains.shared.writing.link_cut import Node, cut, link, root_of


class Cycles:
    """The references of objects to a parent, before and after the moves of a batch.

    `new_parents` has the new parent of each object that the batch moves or creates, `current_parents` those of all
    objects above these, as far as they exist.
    """

    def __init__(self, current_parents: Mapping[Any, Any], new_parents: Mapping[Any, Any]) -> None:
        self._current_parents = current_parents
        self._new_parents = new_parents
        self._moves = set(new_parents)
        # For each object without a move: its parent or another object above it, with no move between.
        self._above = {key: parent for key, parent in current_parents.items() if key not in new_parents}
        # The tree of moves: each below the next move above it. Empty before the first call of `undo`.
        self._nodes: dict[Any, Node] = {}
        # Undone moves that are not in the tree yet, because each closes a cycle.
        self._closing: list[Any] = []

    def undo(self, moves: Iterable[Any]) -> list[Any]:
        """Undo the moves of these objects; return all moves that are on a cycle now, which must be undone next.

        Moves that are already undone are ignored, and so are cycles without moves.
        """
        undone = [key for key in dict.fromkeys(moves) if key in self._moves]
        self._moves.difference_update(undone)
        self._above |= {key: self._current_parents.get(key) for key in undone}
        if not self._nodes:
            return self._first_cycles()
        for key in undone:
            cut(self._nodes[key])
        return self._place([*self._closing, *undone])

    def _first_cycles(self) -> list[Any]:
        """Build the tree of all moves that are on no cycle; return the others."""
        self._nodes = {key: Node() for key in self._new_parents}
        above = {key: self._next_move(self._new_parents[key]) for key in self._moves}
        cycles: dict[Any, None] = {}
        visited: set[Any] = set()
        for start in self._moves:
            path: dict[Any, None] = {}
            key = start
            while key is not None and key not in visited:
                visited.add(key)
                path[key] = None
                key = above[key]
            if key in path:
                cycles |= dict.fromkeys(self._cycle(key))
        for key, parent in above.items():
            if parent is not None and key not in cycles:
                link(self._nodes[key], self._nodes[parent])
        return list(cycles)

    def _place(self, undone: Iterable[Any]) -> list[Any]:
        """Add undone moves to the tree, below the next move; return the moves of all cycles that this would close."""
        self._closing, cycles = [], []
        for key in undone:
            above = self._next_move(self._current_parents.get(key))
            if above is None:
                continue
            if root_of(self._nodes[above]) is self._nodes[key]:
                self._closing.append(key)
                cycles += self._cycle(above)
            else:
                link(self._nodes[key], self._nodes[above])
        return cycles

    def _next_move(self, key: Any) -> Any:
        """Return the nearest object with a move, from this object upwards, or None."""
        path: dict[Any, None] = {}
        while key is not None and key not in self._moves and key not in path:
            path[key] = None
            key = self._above.get(key)
        # A cycle without moves stays for ever.
        nearest = None if key in path else key
        self._above |= dict.fromkeys(path, nearest)
        return nearest

    def _cycle(self, start: Any) -> list[Any]:
        """Return the moves on the cycle of a move."""
        cycle, key = [start], self._next_move(self._new_parents[start])
        while key != start:
            cycle.append(key)
            key = self._next_move(self._new_parents[key])
        return cycle


def unread_chains(parents: Mapping[Any, Any], starts: Iterable[Any]) -> set[Any]:
    """Return the objects at or above `starts` above which an object is missing in `parents`."""
    is_unread: dict[Any, bool] = {}
    for start in starts:
        path: dict[Any, None] = {}
        node = start
        while node in parents and node not in is_unread and node not in path:
            path[node] = None
            node = parents[node]
        ends_early = is_unread.get(node, bool(path) and node is not None and node not in path)
        is_unread |= dict.fromkeys(path, ends_early)
    return {key for key, ends_early in is_unread.items() if ends_early}
