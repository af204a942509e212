"""Objects that become too deep as the moves of a batch are undone, by comparison with a check of the whole tree."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domains.shared.writing import tree_depths as tree_depths_module
from app.domains.shared.writing.tree_depths import TreeDepths

MAX_DEPTH = 3
Parents = dict[int, int | None]


def path_of(key: int, parents: Parents) -> list[int]:
    """Return an object and its ancestors, up to the first one that is repeated."""
    path, node = [key], parents[key]
    while node is not None and node not in path:
        path.append(node)
        node = parents[node]
    return path


def depth_of(key: int, parents: Parents) -> int:
    return len(path_of(key, parents)) - 1


class WholeTree:
    """Checks every object after each step, and finds the placed object at or above each one that is too deep."""

    def __init__(self, current: Parents, moves: Parents) -> None:
        self.current, self.parents = current, current | moves
        self.placed = {key for key, parent in moves.items() if parent is not None}

    def undo(self, moves: set[int]) -> set[int]:
        self.parents |= {key: self.current[key] for key in moves}
        self.placed -= moves
        too_deep = [key for key in self.parents if depth_of(key, self.parents) > MAX_DEPTH]
        paths = [path_of(key, self.parents) for key in too_deep]
        found = {next((key for key in path if key in self.placed), None) for path in paths} - {None}
        self.placed -= found
        return {key for key in found if key is not None}

    def on_cycles(self, moves: set[int]) -> set[int]:
        """Return the moves that form a cycle once others are undone, which another rule rejects."""
        parents = self.parents | {key: self.current[key] for key in moves}
        return {key for key in self.parents if any(parents[each] == key for each in path_of(key, parents))}


def tree_depths(current: Parents, moves: Parents) -> TreeDepths:
    """Return what a batch makes: it reads only the moved objects, their new parents, and the ancestors of these."""
    concerned = {*moves, *(parent for parent in moves.values() if parent is not None)}
    known = {key: current[key] for start in concerned for key in path_of(start, current)}
    heights = dict.fromkeys(moves, 0)
    for key in current:
        path = path_of(key, current)
        leaving = next((distance for distance, each in enumerate(path) if each in moves), None)
        if leaving is not None:
            heights[path[leaving]] = max(heights[path[leaving]], leaving)
    return TreeDepths(known, moves, heights, MAX_DEPTH)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Parents, Parents, list[int]]:
    """Return the parents of a register, the moves of a batch, and those undone for other reasons, in their order."""
    size = draw(st.integers(2, 14))
    # Deeper trees than the maximum exist, too.
    current: Parents = {key: draw(st.none() | st.integers(0, key - 1)) if key else None for key in range(size)}
    keys = draw(st.lists(st.integers(0, size - 1), min_size=1, unique=True))
    parents = {key: draw(st.none() | st.integers(0, size - 1)) for key in keys}
    moves: Parents = {key: None if parent == key else parent for key, parent in parents.items()}
    return current, moves, draw(st.permutations(keys))


@given(batches())
def test_same_objects_are_too_deep_as_in_the_whole_tree(batch: tuple[Parents, Parents, list[int]]) -> None:
    current, moves, order = batch
    whole, depths = WholeTree(current, moves), tree_depths(current, moves)
    left, undone = set(moves), set[int]()
    for key in [None, *order]:
        undone |= {key} & left if key is not None else set()
        while True:
            while cycles := (whole.on_cycles(undone) & left) - undone:
                undone |= cycles
            found = whole.undo(undone)
            assert set(depths.undo(undone)) == found
            left -= undone
            undone = found
            if not found:
                break


def lines_of(work: Callable[..., object], *arguments: Any) -> int:
    """Return the number of lines of the tested module that are executed."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line" and frame.f_code.co_filename == tree_depths_module.__file__
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work(*arguments)
    finally:
        sys.settrace(before)
    return count


LEVELS = 8


def lines_to_undo_all(fan: int) -> int:
    """Return the lines that undo moves one by one, each of which changes the depths of `fan` placed objects."""
    moves: Parents = {}
    current: Parents = {0: None}
    # The object `10 * n` is below `10 * n + 10`, and moves below a chain of objects that are to move, too.
    for group in range(1, LEVELS + 1):
        for number in range(10):
            key = 10 * group + number
            current[key] = 0 if number else 10 * group + 10
            moves[key] = key + 1 if number < 9 else None
    current[10 * LEVELS + 10] = None
    fans = range(1000, 1000 + fan)
    tree = TreeDepths(current | dict.fromkeys(fans), moves | dict.fromkeys(fans, 10), {}, 100)
    assert tree.undo([]) == []
    order = [10 * group + number for group in range(1, LEVELS + 1) for number in reversed(range(10))]
    return sum(lines_of(tree.undo, [key]) for key in order)


def test_undoing_does_not_look_at_all_objects_below() -> None:
    assert lines_to_undo_all(1000) == lines_to_undo_all(10)


@pytest.mark.parametrize("limit", [10, 20])
def test_each_object_is_found_once(limit: int) -> None:
    # Each object is a child of the one before it and moves to the limit. The last one stays.
    size, top = 1000, 10_000
    chain: Parents = {top + level: top + level - 1 if level else None for level in range(limit)}
    current: Parents = {key: key - 1 or None for key in range(1, size + 1)}
    tree = TreeDepths(current | chain, dict.fromkeys(current, top + limit - 1), {}, limit)
    assert tree.undo([]) == []
    undone, found = [size], []
    while undone := tree.undo(undone):
        found += undone
    assert found == list(range(size - 1, 0, -1))


# The new parent of the object `n`, by the shape of the tree that a batch makes.
SHAPES: dict[str, Callable[[int, int], int | None]] = {
    "chain": lambda n, _size: n - 1 or None,
    "chain from its end": lambda n, size: n + 1 if n < size else None,
    "chains of the limit": lambda n, _size: n - 1 if n % 100 else None,
    "chains of the limit from their ends": lambda n, size: n + 1 if n % 100 and n < size else None,
    "binary tree": lambda n, _size: n // 2 or None,
    "children of one": lambda n, _size: 1 if n > 1 else None,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_work_of_one_step_is_proportionate(shape: str) -> None:
    lines = []
    for size in (500, 5000):
        moves = {key: SHAPES[shape](key, size) for key in range(1, size + 1)}
        tree = TreeDepths(dict.fromkeys(moves), moves, {}, 100)
        lines.append([lines_of(tree.undo, []), lines_of(tree.undo, moves)])
    small, large = lines
    assert [each <= 12 * other for each, other in zip(large, small, strict=True)] == [True, True]
