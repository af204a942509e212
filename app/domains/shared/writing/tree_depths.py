"""Finds the objects that have too many ancestors after the moves of a batch, while moves are undone.

A placed object is one that the batch sets below a parent. Its part of the tree is the object and those below it, down
to the next placed objects. The placed object is too deep if any object of its part has too many ancestors. If its move
is undone, its part joins the one that it comes from.

A batch may undo its moves one after another, and any number of placed objects may be below each. So no step looks at
all of these: each object knows its children by their reach, the number of levels down to the end of the lowest part
below them. Undoing a move takes a number of steps in proportion to the maximum depth.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any


class TreeDepths:
    """The ancestors of placed objects and of those that leave their place, before and after the moves of a batch.

    `new_parents` has the new parent of each object that the batch moves, creates or deletes, `heights` the number of
    levels below it, without other objects that leave their place and those below them.
    """

    def __init__(
        self,
        current_parents: Mapping[Any, Any],
        new_parents: Mapping[Any, Any],
        heights: Mapping[Any, int],
        max_depth: int,
    ) -> None:
        self._current_parents = current_parents
        self._parents = {**current_parents, **new_parents}
        self._max_depth = max_depth
        self._moved = set(new_parents)
        # The placed objects that are not too deep, and those of which this is not known yet.
        self._placed = dict.fromkeys(key for key, parent in new_parents.items() if parent is not None)
        self._unchecked = list(self._placed)
        # The number of levels of the part below each object.
        self._heights = dict(heights)
        # The parent that counts for the reach; None while an object is on its way to its current parent.
        self._attached = dict(self._parents)
        self._reaches: dict[Any, int] = {}
        self._children: dict[Any, dict[int, dict[Any, None]]] = {}

    def undo(self, moves: Iterable[Any]) -> list[Any]:
        """Undo the moves of these objects; return the placed objects that are too deep now and were not before.

        The first call returns all that are too deep. An object that was returned keeps its place until its own move is
        undone. Moves that are already undone are ignored.
        """
        undone = [key for key in dict.fromkeys(moves) if key in self._moved]
        # The order of these loops keeps a change of a reach from passing through objects that are still to change.
        for key in self._highest_first(undone):
            self._moved.remove(key)
            self._placed.pop(key, None)
            self._parents[key] = self._current_parents.get(key)
            self._attach(key, None)
        changed = [*self._unchecked, *(each for key in undone for each in self._join_parts(key))]
        self._unchecked = []
        depths = self._depths([*changed, *undone])
        too_deep = {key: depths[key] for key in changed if self._is_too_deep(key, depths[key])}
        too_deep |= self._too_deep_below(undone, depths)
        for key in too_deep:
            del self._placed[key]
        for key in reversed(self._highest_first({*changed, *too_deep})):
            self._set_reach(key)
        for key in reversed(self._highest_first(undone)):
            self._attach(key, self._parents[key])
        return list(too_deep)

    def _highest_first(self, keys: Collection[Any]) -> list[Any]:
        return sorted(keys, key=self._depths(keys).__getitem__)

    def _is_too_deep(self, key: Any, depth: int) -> bool:
        height: int = self._heights.get(key, 0)
        return key in self._placed and depth + height > self._max_depth

    def _depths(self, keys: Collection[Any]) -> dict[Any, int]:
        """Return the number of ancestors of each object, or a lower one that exceeds the maximum, too.

        Each object of a cycle in the database is counted once.
        """
        depths: dict[Any, int] = {}
        # Few objects in a deeper tree do not need the depths of all their ancestors.
        limit = self._max_depth + len(keys)
        for key in keys:
            path, node = {key: None}, self._parents.get(key)
            if key in depths:
                continue
            while node is not None and node not in depths and node not in path and len(path) <= limit:
                path[node] = None
                node = self._parents.get(node)
            if len(path) > limit:
                depths[key] = limit
                continue
            depth = depths.get(node, -1)
            for each in reversed(path):
                depth += 1
                depths[each] = depth
        return depths

    def _join_parts(self, key: Any) -> Iterable[Any]:
        """Add the part of an object to the one of its parent; yield the placed object whose part becomes higher."""
        height = self._heights.get(key, 0)
        while key not in self._placed:
            key, height = self._parents.get(key), min(height, self._max_depth) + 1
            if key is None or height <= self._heights.get(key, -1):
                return
            self._heights[key] = height
        yield key

    def _too_deep_below(self, keys: Iterable[Any], depths: Mapping[Any, int]) -> dict[Any, int]:
        """Return the placed objects below these objects that are too deep, with their depths."""
        too_deep: dict[Any, int] = {}
        nodes = [(key, depths[key]) for key in keys]
        visited: set[Any] = set()
        while nodes:
            key, depth = nodes.pop()
            if key in visited:
                continue
            visited.add(key)
            if self._is_too_deep(key, depth):
                too_deep[key] = depth
            for reach, children in self._children.get(key, {}).items():
                if depth + 1 + reach > self._max_depth:
                    nodes += [(child, depth + 1) for child in children]
        return too_deep

    def _attach(self, key: Any, parent: Any) -> None:
        reach, before = self._reaches.get(key, -1), self._attached.get(key)
        self._attached[key] = parent
        self._replace_child(before, key, reach, -1)
        self._replace_child(parent, key, -1, reach)

    def _set_reach(self, key: Any) -> None:
        before = self._reaches.get(key, -1)
        self._reaches[key] = self._reach(key)
        self._replace_child(self._attached.get(key), key, before, self._reaches[key])

    def _replace_child(self, parent: Any, child: Any, before: int, after: int) -> None:
        """Change the reach of a child, and those of all ancestors that depend on it. A reach of -1 stands for none."""
        while parent is not None and before != after:
            levels = self._children.setdefault(parent, {})
            if before >= 0:
                del levels[before][child]
                if not levels[before]:
                    del levels[before]
            if after >= 0:
                levels.setdefault(after, {})[child] = None
            child, before, after = parent, self._reaches.get(parent, -1), self._reach(parent)
            self._reaches[child] = after
            parent = self._attached.get(child)

    def _reach(self, key: Any) -> int:
        """Return the number of levels from an object to the end of the lowest part of a placed object, -1 without."""
        own = self._heights.get(key, 0) if key in self._placed else -1
        below = max(self._children.get(key, ()), default=-2) + 1
        return min(max(own, below), self._max_depth + 1)
