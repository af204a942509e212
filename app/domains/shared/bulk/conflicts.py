"""What can be wrong with the items of a batch together, and with the register as it is.

One bad item may make others bad: what refers to an object that is not made, what waits for a code that is not given
up, what shall be deleted but is still referred to. So what fails is followed to what depends on it; all that is looked
at was read before.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from app.core.permissions import Scope
from app.domains.shared.bulk.fault_budget import FaultBudget
from app.domains.shared.bulk.items import Item
from app.domains.shared.collection import foreign_keys
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.rules import Rules, RuleViolation, Write
from app.domains.shared.writing.constraints import duplicate_key_fault

# So many items are looked at before others have their turn.
_AT_ONCE = 500


@dataclass(slots=True)
class Batch:
    """The items, and what was read for them."""

    model: type[RegisterObject]
    items: list[Item]
    caller_id: int | None
    budget: FaultBudget = field(default_factory=FaultBudget)
    # The items about objects that exist, by their ids.
    named: dict[int, Item] = field(default_factory=dict)
    # Who has a unique key that an item wants, by column and folded value.
    key_owners: dict[tuple[str, str], int] = field(default_factory=dict)
    # The collections that refer to an object that is to be deleted, other than by objects of this batch.
    referrers: dict[int, list[str]] = field(default_factory=dict)
    # What the caller lacks for an item with the fault `forbidden`.
    missing_scope: Scope | None = None

    def valid_items(self) -> Iterator[Item]:
        return (item for item in self.items if item.is_valid)

    @property
    def failed(self) -> int:
        return sum(not item.is_valid for item in self.items)

    @property
    def writes(self) -> list[Write]:
        """What the items are about to do, as far as that is known."""
        return [item.write for item in self.items if item.write is not None]


async def find_conflicts(batch: Batch, rules: Rules) -> None:
    """Find the faults of items that depend on others, and what the rules refuse, until there is nothing new."""
    _reject_duplicate_keys(batch)
    await ConflictPropagation(batch).find(rules)


def _reject_duplicate_keys(batch: Batch) -> None:
    first: dict[tuple[str, str], Item] = {}
    for item in batch.items:
        for column, value in item.keys.items():
            other = first.setdefault((column, value), item)
            if other is not item and other is not item.duplicate_of:
                detail = f"{other.label.capitalize()} of this request has this {column}, too."
                item.add_fault(f"/data/{column}", "duplicate", detail)


def releases_key(item: Item, column: str, value: str) -> bool:
    """Return whether an item takes a key from the object that has it."""
    return item.is_valid and (item.deletes or item.keys.get(column) != value)


def _references_in(batch: Batch, item: Item) -> Iterator[int]:
    """Yield the objects of the same collection that an item's object refers to in the end."""
    if item.is_valid and item.deletes:
        return
    source: Any = item.current
    if item.is_valid:
        for name in _own_columns(batch.model):
            if (value := getattr(item.body, name)) is not None:
                yield value
    elif source is not None:
        for name in _own_columns(batch.model):
            if source[name] is not None:
                yield source[name]
    if _has_own_authors(batch.model):
        known = (source["created_by_id"], source["updated_by_id"]) if source is not None else ()
        yield from (value for value in known if value is not None)
        if item.is_valid and batch.caller_id is not None:
            yield batch.caller_id


def _own_columns(model: type[RegisterObject]) -> list[str]:
    return [name for name, target in foreign_keys(model).items() if target is model]


def _has_own_authors(model: type[RegisterObject]) -> bool:
    table = table_of(model)
    return any(key.column.table is table for key in table.c.created_by_id.foreign_keys)


class ConflictPropagation:
    """What the faults of items mean for others. Each item is looked at once, when it fails."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._failed = [item for item in batch.items if not item.is_valid]
        self._items = {item.write: item for item in batch.items if item.write is not None}
        # Who refers to an item, and where.
        self._needed: dict[Item, list[tuple[str, Item]]] = {}
        for item in batch.items:
            for pointer, other in item.depends_on:
                self._needed.setdefault(other, []).append((pointer, item))
        # Who wants a key that an item gives up, and of which column.
        self._waiting: dict[Item, list[tuple[str, Item]]] = {}

    async def find(self, rules: Rules) -> None:
        self._reject_taken_keys()
        await self._follow()
        self._reject_referenced_deletes()
        await self._follow()
        writes = self._batch.writes
        self._reject_by_rules(rules.check(writes))
        while True:
            await self._follow()
            self._reject_by_rules(rules.check_together(writes))
            if not self._failed:
                return

    def _reject_by_rules(self, refusals: Iterator[tuple[Write, RuleViolation]]) -> None:
        for write, refusal in refusals:
            self._batch.missing_scope = self._batch.missing_scope or refusal.scope
            pointer = f"/data{refusal.pointer}" if refusal.pointer else ""
            self._reject(self._items[write], pointer, refusal.error.code, refusal.detail)

    def _reject(self, item: Item, pointer: str, code: str, detail: str) -> None:
        if item.is_valid:
            self._failed.append(item)
        item.add_fault(pointer, code, detail)

    async def _follow(self) -> None:
        """Refuse what cannot be without the items that failed."""
        count = 0
        while self._failed:
            other = self._failed.pop()
            for pointer, item in self._needed.get(other, ()):
                # The items of a cycle refer to each other, but that is what is wrong with them.
                if item is not other and not any(fault.pointer == pointer for fault in item.faults):
                    detail = f"It refers to {other.label}, which cannot be written."
                    self._reject(item, pointer, "failed_reference", detail)
            for column, item in self._waiting.get(other, ()):
                self._reject_taken_key(item, column)
            self._reject_deletes_of_referenced(other)
            count += 1
            if count % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def _reject_taken_keys(self) -> None:
        for item in self._batch.items:
            for column, value in item.keys.items():
                holder = self._batch.key_owners.get((column, value))
                if holder is None or holder == item.id:
                    continue
                other = self._batch.named.get(holder)
                if other is None or not releases_key(other, column, value):
                    self._reject_taken_key(item, column)
                else:
                    self._waiting.setdefault(other, []).append((column, item))

    def _reject_taken_key(self, item: Item, column: str) -> None:
        fault = duplicate_key_fault(self._batch.model.noun, column)
        self._reject(item, f"/data{fault.pointer}", fault.code, fault.detail)

    def _reject_referenced_deletes(self) -> None:
        for item in self._batch.items:
            if item.deletes and item.id in self._batch.referrers:
                types = " and ".join(self._batch.referrers[item.id])
                detail = f"The {self._batch.model.noun} is still referred to by {types}."
                self._reject(item, "", "still_referenced", detail)
        for item in self._batch.items:
            self._reject_deletes_of_referenced(item)

    def _reject_deletes_of_referenced(self, item: Item) -> None:
        for key in _references_in(self._batch, item):
            other = self._batch.named.get(key)
            if other is not None and other.deletes and other is not item:
                detail = f"The {self._batch.model.noun} is still referred to, by the object of {item.label}."
                self._reject(other, "", "still_referenced", detail)
