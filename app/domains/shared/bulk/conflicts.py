"""Finds the conflicts of the items of a batch with each other and with the register.

A failed item may make others fail: an item that refers to an object that is not created, that needs a key which is not
released, or that deletes an object which is still referred to. So each failure is propagated to the items that depend
on it. All rows have been read before, so no statement runs here.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from app.core.permissions import Scope
from app.domains.shared.bulk.fault_budget import FaultBudget
from app.domains.shared.bulk.items import Item
from app.domains.shared.collection import self_references
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.rules import Rules, RuleViolation, Write
from app.domains.shared.writing.constraints import duplicate_key_fault
from app.domains.shared.writing.dependants import UNREADABLE_OBJECTS
from app.domains.shared.writing.references import KeyReference
from app.utils.exceptions import Fault
from app.utils.wording import joined

# Failed items processed before control is yielded to the event loop.
_MAX_ITEMS_PER_SLICE = 500


@dataclass(slots=True)
class Batch:
    """The items, and the rows that were read for them."""

    model: type[RegisterObject]
    items: list[Item]
    caller_id: int | None
    # The names of the collections that the caller may read.
    readable: frozenset[str] = frozenset()
    budget: FaultBudget = field(default_factory=FaultBudget)
    # The items about existing objects, by the object's id; the first if there are several.
    items_by_id: dict[int, Item] = field(default_factory=dict)
    # The ids of the objects that have a unique key of an item, by column and folded value.
    key_owners: dict[tuple[str, str], int] = field(default_factory=dict)
    # The collections of the objects outside this batch that refer to an object to be deleted, by its id.
    referrers: dict[int, list[str]] = field(default_factory=dict)
    # The scopes that the caller lacks for the items with the fault `forbidden`.
    missing_scopes: set[Scope] = field(default_factory=set)

    def valid_items(self) -> Iterator[Item]:
        return (item for item in self.items if item.is_valid)

    @property
    def failure_count(self) -> int:
        return sum(not item.is_valid for item in self.items)

    @property
    def writes(self) -> list[Write]:
        """The writes of all items that have one."""
        return [item.write for item in self.items if item.write is not None]


async def find_conflicts(batch: Batch, rules: Rules) -> None:
    """Add the faults of items that depend on other items, and the violations of rules, until there are no new ones."""
    _reject_duplicate_keys(batch)
    await ConflictPropagation(batch).find(rules)


def _reject_duplicate_keys(batch: Batch) -> None:
    first: dict[tuple[str, str], Item] = {}
    for item in batch.items:
        for column, value in item.keys.items():
            other = first.setdefault((column, value), item)
            if other is not item and other is not item.duplicate_of:
                item.add_fault(f"/data/{column}", "duplicate:item", other=other.label.capitalize(), field=column)


def releases_key(item: Item, column: str, value: str) -> bool:
    """Return whether an item releases a key of its object."""
    return item.is_valid and (item.deletes or item.keys.get(column) != value)


def _final_references(batch: Batch, item: Item) -> Iterator[int]:
    """Yield the ids in the same collection that an item's object refers to once the batch is written."""
    if item.is_valid and item.deletes:
        return
    source: Any = item.current
    if item.is_valid:
        for name in self_references(batch.model):
            if (value := getattr(item.body, name)) is not None:
                yield value
    elif source is not None:
        for name in self_references(batch.model):
            if source[name] is not None:
                yield source[name]
    if _refers_to_authors(batch.model):
        authors = (source["created_by_id"], source["updated_by_id"]) if source is not None else ()
        yield from (value for value in authors if value is not None)
        if item.is_valid and batch.caller_id is not None:
            yield batch.caller_id


def _refers_to_authors(model: type[RegisterObject]) -> bool:
    table = table_of(model)
    return any(key.column.table is table for key in table.c.created_by_id.foreign_keys)


class ConflictPropagation:
    """Propagates the failure of items to the items that depend on them. Each item is processed once, when it fails."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._failed = [item for item in batch.items if not item.is_valid]
        self._items = {item.write: item for item in batch.items if item.write is not None}
        # The items that refer to an item, with the reference.
        self._referrers: dict[Item, list[tuple[KeyReference, Item]]] = {}
        for item in batch.items:
            for reference, other in item.depends_on:
                self._referrers.setdefault(other, []).append((reference, item))
        # The items that need a key which an item releases, with the column of the key.
        self._key_waiters: dict[Item, list[tuple[str, Item]]] = {}
        # The rejected writes that the rules do not know yet.
        self._rejected: list[Write] = []
        self._processed = 0

    async def find(self, rules: Rules) -> None:
        self._reject_occupied_keys()
        await self._propagate()
        self._reject_referenced_deletes()
        await self._propagate()
        await self._reject_by_rules(rules.check(self._batch.writes))
        while True:
            await self._propagate()
            rejected, self._rejected = self._rejected, []
            await self._reject_by_rules(rules.check_together(rejected))
            if not self._failed:
                return

    async def _reject_by_rules(self, violations: Iterator[tuple[Write, RuleViolation]]) -> None:
        for number, (write, violation) in enumerate(violations, start=1):
            self._batch.missing_scopes.update(violation.scopes)
            pointer = f"/data{violation.pointer}" if violation.pointer else ""
            self._reject(self._items[write], violation.as_fault(pointer))
            if number % _MAX_ITEMS_PER_SLICE == 0:
                await asyncio.sleep(0)

    def _reject(self, item: Item, fault: Fault) -> None:
        if item.is_valid:
            self._failed.append(item)
        item.add(fault)

    async def _propagate(self) -> None:
        """Reject the items that depend on failed items, directly or through other items."""
        while self._failed:
            other = self._failed.pop()
            if other.write is not None:
                self._rejected.append(other.write)
            for reference, item in self._referrers.get(other, ()):
                pointer = f"/data{reference.pointer}"
                # The items of a cycle refer to each other, but already have the fault of the cycle.
                if item is not other and not any(fault.pointer == pointer for fault in item.faults):
                    self._reject(item, Fault.of(pointer, "failed_reference", other=other.label))
            for column, item in self._key_waiters.get(other, ()):
                self._reject_occupied_key(item, column)
            self._reject_deletes_of_referenced(other)
            self._processed += 1
            if self._processed % _MAX_ITEMS_PER_SLICE == 0:
                await asyncio.sleep(0)

    def _reject_occupied_keys(self) -> None:
        for item in self._batch.items:
            for column, value in item.keys.items():
                owner = self._batch.key_owners.get((column, value))
                if owner is None or owner == item.id:
                    continue
                other = self._batch.items_by_id.get(owner)
                if other is None or not releases_key(other, column, value):
                    self._reject_occupied_key(item, column)
                else:
                    self._key_waiters.setdefault(other, []).append((column, item))

    def _reject_occupied_key(self, item: Item, column: str) -> None:
        fault = duplicate_key_fault(self._batch.model.noun, column)
        self._reject(item, replace(fault, pointer=f"/data{fault.pointer}"))

    def _reject_referenced_deletes(self) -> None:
        for item in self._batch.items:
            if item.deletes and item.id in self._batch.referrers:
                referrers = self._batch.referrers[item.id]
                names = [name for name in referrers if name in self._batch.readable]
                self._reject_delete(item, joined(names if names == referrers else [*names, UNREADABLE_OBJECTS]))
        for item in self._batch.items:
            self._reject_deletes_of_referenced(item)

    def _reject_deletes_of_referenced(self, item: Item) -> None:
        for key in _final_references(self._batch, item):
            other = self._batch.items_by_id.get(key)
            if other is not None and other.deletes and other is not item:
                self._reject_delete(other, f"the object of {item.label}")

    def _reject_delete(self, item: Item, referrers: str) -> None:
        fault = Fault.of("", "still_referenced", noun=self._batch.model.noun, referrers=referrers)
        self._reject(item, fault)
