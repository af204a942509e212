"""Moves of a batch that form cycles as moves are undone, by comparison with a search of the whole graph."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.caller import SYSTEM_CALLER
from app.core.database import RegisterSession
from app.domains.shared.rules import Write
from app.domains.shared.writing.cycles import Cycles, unread_chains
from app.domains.user.models import User
from app.domains.user.rules import NoCycleOfManagers
from tests.growth import assert_proportionate_async

Parents = dict[int, int | None]


def is_on_cycle(key: int, parents: Parents) -> bool:
    seen: set[int] = set()
    node = parents.get(key)
    while node is not None and node != key and node not in seen:
        seen.add(node)
        node = parents.get(node)
    return node == key


@st.composite
def batches(draw: st.DrawFn) -> tuple[Parents, Parents, list[list[int]]]:
    """Return the parents of a register, those that a batch sets, and the moves undone for other reasons, by step."""
    size = draw(st.integers(1, 14))
    keys, above = st.integers(0, size - 1), st.none() | st.integers(0, size - 1)
    # Older cycles exist, too; the last objects are created by the batch.
    stored = draw(st.integers(0, size))
    current: Parents = {key: draw(st.none() | st.integers(0, stored - 1)) for key in range(stored)}
    moved = {*draw(st.lists(keys)), *range(stored, size)}
    return current, {key: draw(above) for key in moved}, draw(st.lists(st.lists(keys, max_size=3), max_size=6))


@given(batches())
def test_same_moves_are_on_cycles_as_in_the_whole_graph(batch: tuple[Parents, Parents, list[list[int]]]) -> None:
    current, new, steps = batch
    cycles, moves = Cycles(current, new), set(new)
    for step in steps or [[]]:
        undone: Sequence[int] = step
        while True:
            moves -= set(undone)
            parents = current | {key: new[key] for key in moves}
            expected = {key for key in moves if is_on_cycle(key, parents)}
            undone = cycles.undo(undone)
            assert (set(undone), len(undone)) == (expected, len(expected))
            if not undone:
                break


@given(batches())
def test_chains_are_read_whose_end_is_known(batch: tuple[Parents, Parents, list[list[int]]]) -> None:
    parents, missing, _ = batch
    parents = {key: parent for key, parent in parents.items() if key not in missing}

    def is_unread(key: int) -> bool:
        above, seen = parents[key], {key}
        while above in parents and above not in seen:
            seen.add(above)
            above = parents[above]
        return above is not None and above not in parents

    assert unread_chains(parents, [*parents, -1]) == {key for key in parents if is_unread(key)}


# --- The work ---


def chain(*keys: int) -> Parents:
    """Return the parents of objects, each of which is below the next one."""
    return dict(zip(keys, [*keys[1:], None], strict=True))


def one_cycle_after_another(size: int) -> tuple[Parents, Parents, list[list[int]]]:
    # The upper half of a long chain moves below its start, and each undone move closes the next cycle.
    start, moved = range(size), range(size, 2 * size)
    return chain(*start, *moved), {key: number for number, key in enumerate(moved)}, []


def cycles_below_a_chain(size: int) -> tuple[Parents, Parents, list[list[int]]]:
    # Each cycle consists of two moves: one goes back below a long chain of moves, the other closes the next cycle.
    above, first, second = range(size), range(size, 2 * size), range(2 * size, 3 * size)
    current = dict.fromkeys(above) | dict.fromkeys(first, 0) | chain(*second)
    current |= {key: key - size + 1 for key in second[:-1]}
    new = chain(*above) | chain(*reversed(second)) | {second[0]: first[0]}
    return current, new | {key: key + size for key in first}, []


def moves_undone_one_by_one(size: int) -> tuple[Parents, Parents, list[list[int]]]:
    # Each returns below a long chain of moves, and has others below it.
    above, nested = range(size), range(size, 2 * size)
    current = dict.fromkeys(above) | dict.fromkeys(nested, 0)
    return current, chain(*above) | chain(*nested), [[key] for key in reversed(nested)]


@pytest.mark.parametrize("shape", [one_cycle_after_another, cycles_below_a_chain, moves_undone_one_by_one])
async def test_moves_are_checked_in_proportion_to_their_number(
    shape: Callable[[int], tuple[Parents, Parents, list[list[int]]]],
) -> None:
    async def check(size: int) -> None:
        current, new, steps = shape(size)
        rows = [SimpleNamespace(id=key, parent_id=parent) for key, parent in current.items()]
        writes = [Write(User, key, {"manager_id": current.get(key)}, {"manager_id": new[key]}) for key in new]
        by_id = {write.id: write for write in writes}
        rule = NoCycleOfManagers(SYSTEM_CALLER)
        await rule.load(cast("RegisterSession", Register(rows)), writes)
        found = [write.id for step in [[], *steps] for write, _ in rule.check_together([by_id[key] for key in step])]
        assert len(found) == (0 if steps else len([key for key in new if new[key] is not None and key >= size]))

    await assert_proportionate_async(check, 400)


class Register:
    """A session that returns these rows."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    async def execute(self, _statement: Any, _values: Any) -> list[Any]:
        return self._rows
