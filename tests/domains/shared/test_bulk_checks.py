"""Conflicts in a batch are found in linear time, however its items depend on each other."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from app.core.caller import SYSTEM_CALLER, Caller
from app.core.database import RegisterSession
from app.domains.department.models import Department
from app.domains.department.schemas import DepartmentCreate
from app.domains.shared.bulk import conflicts
from app.domains.shared.bulk.conflicts import Batch, find_conflicts
from app.domains.shared.bulk.items import Item
from app.domains.shared.rules import Rule, Rules, RuleViolation, Write
from app.domains.shared.trees import MAX_DEPTH, MaxDepth, NoCycle
from app.utils.exceptions import Conflict

ITEMS = 2000
MAX_CALLS = 200 * ITEMS


class CountingRule(Rule):
    """Rejects nothing, and counts the calls of `check_together`."""

    times: ClassVar[int] = 0

    def check_together(self, rejected: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:
        del rejected
        CountingRule.times += 1
        yield from ()


class OneByOne(Rule):
    """Rejects one write at each call of `check_together`, and counts the writes that it is given."""

    given: ClassVar[int] = 0

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller)
        self._left: list[Write] = []

    async def load(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        del session
        self._left = list(writes)

    def check_together(self, rejected: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:
        OneByOne.given += len(rejected)
        if self._left:
            yield self._left.pop(), RuleViolation(Conflict, "Rejected.")


class TreeSession:
    """A session of a register in which each department is a child of the one before it."""

    def __init__(self, parents: dict[int, int | None]) -> None:
        self._parents = parents

    async def execute(self, _statement: Any, _values: Any) -> list[SimpleNamespace]:
        return [SimpleNamespace(id=key, parent_id=parent, height=0) for key, parent in self._parents.items()]


def department(index: int, parent: int | None, new_parent: int | None) -> Item:
    """Return the item that sets the parent of the department with the id `index`."""
    item = Item(index, f"item {index}", op="update", id=index)
    item.current = {"parent_id": parent, "head_id": None, "created_by_id": None, "updated_by_id": None}
    item.body = DepartmentCreate(name="Department", parent_id=new_parent or None)
    item.write = Write(Department, index, item.current, {"parent_id": item.body.parent_id})
    return item


async def count_calls(
    batch: Batch, parents: dict[int, int | None] | None = None, *tree_rules: type[Rule]
) -> tuple[int, int]:
    """Find the conflicts of a batch; return the number of function calls, and of calls of the rules."""
    batch.items_by_id = {item.index: item for item in batch.items}
    rules, calls = Rules((*(tree_rules or (NoCycle,)), CountingRule), SYSTEM_CALLER), 0
    CountingRule.times = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        await rules.load(cast("RegisterSession", TreeSession(parents or {})), batch.writes)
        await find_conflicts(batch, rules)
    finally:
        sys.setprofile(before)
    return calls, CountingRule.times


def codes(batch: Batch) -> list[list[str]]:
    return [[fault.code for fault in item.faults] for item in batch.items]


@pytest.mark.parametrize("owner", [None, ITEMS + 1])
async def test_codes_that_are_passed_on(owner: int | None) -> None:
    items = [department(index, None, None) for index in range(ITEMS)]
    batch = Batch(Department, items, None)
    for index, item in enumerate(items):
        # Each takes the code of the next one; the code of the last one is free, or belongs to another object.
        item.keys = {"code": f"c{index + 1}"}
        batch.key_owners["code", f"c{index}"] = index
    if owner is not None:
        batch.key_owners["code", f"c{ITEMS}"] = owner
    calls, checks = await count_calls(batch)
    assert codes(batch) == [[] if owner is None else ["duplicate"]] * ITEMS
    assert (calls < MAX_CALLS, checks <= 2) == (True, True)


@pytest.mark.parametrize("fails", [False, True])
async def test_tree_that_is_inverted(fails: bool) -> None:
    # Each of the departments 1, 2, 3, … is a child of the one before it, and moves below the one after it.
    items = [
        department(index, index - 1 or None, index + 1 if index < ITEMS else None) for index in range(1, ITEMS + 1)
    ]
    batch = Batch(Department, items, None)
    if fails:
        items[-1].add_fault("/data/name", "too_long", items="1 item")
    calls, checks = await count_calls(batch, {index: index - 1 or None for index in range(1, ITEMS + 1)})
    assert codes(batch) == ([["cycle"]] * (ITEMS - 1) + [["too_long"]] if fails else [[]] * ITEMS)
    assert (calls < MAX_CALLS, checks <= 2) == (True, True)


@pytest.mark.parametrize("fails", [False, True])
async def test_depths_of_a_long_chain(fails: bool) -> None:
    # Each of the departments 1, 2, 3, … moves below the one before it.
    items = [department(index, None, index - 1) for index in range(1, ITEMS + 1)]
    batch = Batch(Department, items, None)
    if fails:
        # This one stays a root, so that the chain begins anew.
        items[150].add_fault("/data/name", "too_long", items="1 item")
    calls, checks = await count_calls(batch, dict.fromkeys(range(1, ITEMS + 1)), MaxDepth)
    expected = [["too_deep"] if index > MAX_DEPTH else [] for index in range(ITEMS)]
    if fails:
        expected[150] = ["too_long"]
        expected[151 : 151 + MAX_DEPTH] = [[]] * MAX_DEPTH
    assert codes(batch) == expected
    assert (calls < MAX_CALLS, checks <= 3) == (True, True)


async def test_moves_that_fail_one_after_another_are_checked_in_linear_time() -> None:
    # Each department is a child of the one before it and becomes a root, below which the next but one moves.
    parents = {index: index - 1 or None for index in range(1, ITEMS + 1)}
    items = [department(index, index - 1 or None, index // 2 if index % 2 else None) for index in range(1, ITEMS + 1)]
    batch = Batch(Department, items, None)
    items[1].add_fault("/data/name", "too_long", items="1 item")
    calls, _ = await count_calls(batch, parents, MaxDepth)
    assert calls < MAX_CALLS


def nested_moves(levels: int, others: int) -> tuple[Batch, dict[int, int | None]]:
    """Return a batch that moves each of some nested departments to the limit, and others below a root.

    The lowest of the nested ones fails for another reason.
    """
    limit = range(1, MAX_DEPTH + 1)
    nested = range(MAX_DEPTH + 1, MAX_DEPTH + levels + 1)
    free = range(nested.stop, nested.stop + others)
    parents = {key: key - 1 or None for key in limit} | {key: key - 1 for key in nested} | dict.fromkeys(free)
    parents[nested.start] = None
    moves = [*((key, MAX_DEPTH) for key in nested), *((key, 1) for key in free)]
    items = [department(key, parents[key], new_parent) for key, new_parent in moves]
    items[levels - 1].keys = {"code": "occupied"}
    return Batch(Department, items, None, key_owners={("code", "occupied"): 0}), parents


@pytest.mark.parametrize("levels", [2, 12, 90])
async def test_moves_without_relation_to_the_failing_ones_are_valid(levels: int) -> None:
    batch, parents = nested_moves(levels, ITEMS)
    calls, checks = await count_calls(batch, parents, NoCycle, MaxDepth)
    assert codes(batch) == [["too_deep"]] * (levels - 1) + [["duplicate"]] + [[]] * ITEMS
    assert (calls < MAX_CALLS, checks) == (True, levels)


async def test_rules_are_given_each_rejected_write_once() -> None:
    batch = Batch(Department, [department(index, None, ITEMS + 1) for index in range(1, ITEMS + 1)], None)
    OneByOne.given = 0
    calls, checks = await count_calls(batch, {ITEMS + 1: None}, NoCycle, MaxDepth, OneByOne)
    assert codes(batch) == [["conflict"]] * ITEMS
    assert (calls < MAX_CALLS, checks, OneByOne.given) == (True, ITEMS + 1, ITEMS)


@contextmanager
def turns_of_others() -> Iterator[list[None]]:
    """Yield a list that gets an entry whenever another request would have a turn."""
    turns: list[None] = []

    async def others() -> None:
        while True:
            turns.append(None)
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    try:
        yield turns
    finally:
        task.cancel()


async def test_writes_that_are_rejected_one_by_one_leave_time_to_other_requests() -> None:
    batch = Batch(Department, [department(index, None, ITEMS + 1) for index in range(1, ITEMS + 1)], None)
    with turns_of_others() as turns:
        await count_calls(batch, {ITEMS + 1: None}, OneByOne)
    assert len(turns) >= ITEMS // conflicts._MAX_ITEMS_PER_SLICE


async def test_cycles_leave_time_to_other_requests() -> None:
    # The departments of each pair move below each other.
    items = [department(index, None, index + 1 if index % 2 else index - 1) for index in range(1, ITEMS + 1)]
    batch = Batch(Department, items, None)
    with turns_of_others() as turns:
        await count_calls(batch, dict.fromkeys(range(1, ITEMS + 1)))
    assert codes(batch) == [["cycle"]] * ITEMS
    # One half of the turns is for the failed items.
    assert len(turns) >= 2 * ITEMS // conflicts._MAX_ITEMS_PER_SLICE


async def test_ancestors_of_a_referenced_object_are_not_deleted() -> None:
    # Each department is deleted together with its child; a user refers to the last one, which therefore stays.
    items = [department(index, index - 1 or None, None) for index in range(1, ITEMS + 1)]
    for item in items:
        item.op, item.body = "delete", None
        item.write = Write(Department, item.id, item.current, None)
    batch = Batch(Department, items, None, referrers={ITEMS: ["users"]})
    calls, checks = await count_calls(batch)
    assert codes(batch) == [["still_referenced"]] * ITEMS
    assert (calls < MAX_CALLS, checks <= 2) == (True, True)
