"""Writes a batch of items of one collection, with the same number of statements for any number of items.

A batch is read, locked and checked as a whole, so that all its faults are known before anything is written; then the
valid items are written together. A constraint violation or deadlock, caused by a concurrent transaction, restarts the
batch.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.core.database_errors import IntegrityViolation
from app.core.permissions import Scope
from app.domains.shared.bulk.conflicts import Batch, find_conflicts
from app.domains.shared.bulk.fault_budget import FaultBudget
from app.domains.shared.bulk.items import (
    Item,
    ItemResult,
    read_item,
    reject_long_lists,
)
from app.domains.shared.bulk.references import References
from app.domains.shared.bulk.statements import (
    find_referrers,
    lock_objects,
)
from app.domains.shared.bulk.writer import write_items
from app.domains.shared.collection import body_links, links_by_name, values_of, writable_columns
from app.domains.shared.reading.reader import CollectionReader
from app.domains.shared.references import folded_key, read_key
from app.domains.shared.rules import LocksUnavailableError, Rules, Write
from app.domains.shared.schemas import ObjectFields
from app.domains.shared.texts import exempt_all, exempt_stored
from app.domains.shared.writing.constraints import error_for
from app.domains.shared.writing.links import read_links
from app.domains.shared.writing.unique_keys import find_key_owners, unique_keys
from app.utils.exceptions import Deadlock, RegisterError

# Returns an item, given its index, its label, the budget of faults, the schema of its data, and the value in the body.
ReadItem = Callable[[int, str, FaultBudget, type[ObjectFields], Any], Item]

ATTEMPTS = 3
# Writing a thousand long descriptions with their search index may take longer than the usual statement timeout.
STATEMENT_SECONDS = 60.0
# List entries processed before control is yielded to the event loop; an item takes as long as some entries.
_MAX_ENTRIES_PER_SLICE = 2000
_ENTRIES_PER_ITEM = 40


class _RollBackError(Exception):
    """Rolls back the savepoint of the batch."""


@dataclass(frozen=True, slots=True)
class BulkOutcome:
    """The results of the items, in their order; `is_rejected` if nothing was written because of faults."""

    items: list[ItemResult]
    is_rejected: bool
    # The scopes that the caller lacks for the items with the fault `forbidden`.
    missing_scopes: set[Scope]
    batch: Batch


async def write_batch(
    service: CollectionReader,
    raw: Sequence[Any],
    *,
    atomic: bool,
    dry_run: bool,
    label: Callable[[int], str] = "item {}".format,
    read: ReadItem = read_item,
) -> BulkOutcome:
    """Write a batch; each of `raw` is an item as in a request body, and `label` names an item in faults of others.

    `read` reads an item.

    If `atomic`, nothing is written if an item has a fault; otherwise the valid items are written. A dry run does the
    same and then rolls it back. Raises a `RegisterError` without pointers if each of `ATTEMPTS` attempts fails because
    of concurrent writers.
    """
    failures = 0
    locks: set[str] = set()
    while True:
        bulk = _Bulk(service, raw, label, locks, read, dry_run=dry_run)
        try:
            with suppress(_RollBackError):
                async with service.session.begin_nested():
                    await bulk.run(atomic=atomic)
        except LocksUnavailableError as error:
            # The savepoint's rollback released the row locks: the next attempt waits for the advisory locks first, as
            # the lock order demands.
            locks |= error.names
        except (IntegrityViolation, Deadlock) as error:
            failures += 1
            if failures == ATTEMPTS:
                raise _without_pointers(error) from error
        else:
            results = [bulk.result(item) for item in bulk.batch.items]
            return BulkOutcome(results, bulk.is_rejected, bulk.batch.missing_scopes, bulk.batch)


def _without_pointers(error: RegisterError) -> RegisterError:
    explained = error_for(error) if isinstance(error, IntegrityViolation) else error
    if explained is not None:
        # A constraint determines the member, but not the item.
        explained.errors = ()
    return explained or error


class _Bulk:
    """One attempt to write a batch."""

    def __init__(
        self,
        service: CollectionReader,
        raw: Sequence[Any],
        label: Callable[[int], str],
        locks: set[str],
        read: ReadItem,
        *,
        dry_run: bool,
    ) -> None:
        self.service = service
        self.session = service.session
        self.collection = service.collection
        self.model = service.model
        self.locks = locks
        self.raw = raw
        self.label = label
        self.read = read
        self.dry_run = dry_run
        self.entries_since_yield = 0
        self.is_rejected = False
        self.rules = Rules(service.collection.rules, service.caller, restoring=service.restoring)
        self.batch = Batch(service.model, [], service.caller.id, service.caller.readable)

    async def run(self, *, atomic: bool) -> None:
        """Check all items and write the valid ones. Raises `_RollBackError` for a rejected batch or after a dry run."""
        await self._read_items()
        await self.session.lock(*self.locks)
        await self._lock()
        await References(self.service, self.batch, self._yield_to_event_loop).resolve()
        await self._validate()
        await self._load_conflicts()
        await find_conflicts(self.batch, self.rules)
        for item in self.batch.items:
            if not item.is_valid:
                item.status = "failed"
        self.is_rejected = atomic and self.batch.failure_count > 0
        if not self.is_rejected:
            await write_items(self.service, self.batch, self.rules, with_changes=self.dry_run)
        if self.is_rejected or self.dry_run:
            raise _RollBackError

    def result(self, item: Item) -> ItemResult:
        # Ids are drawn for all new objects, but a failed item or a dry run creates none.
        has_object = not item.creates or (item.status == "created" and not self.dry_run)
        key = item.id if has_object else None
        return ItemResult(item.index, item.status, key, item.version, tuple(item.faults), item.before, item.after)

    async def _read_items(self) -> None:
        for index, raw in enumerate(self.raw):
            item = self.read(index, self.label(index), self.batch.budget, self.collection.body, raw)
            reject_long_lists(item, self.collection.links)
            self.batch.items.append(item)
            await self._yield_to_event_loop(item)

    async def _yield_to_event_loop(self, item: Item) -> None:
        """Let other requests run once the items since the last pause have enough entries."""
        entries = sum(len(value) for value in item.data.values() if isinstance(value, list))
        self.entries_since_yield += _ENTRIES_PER_ITEM + entries
        if self.entries_since_yield >= _MAX_ENTRIES_PER_SLICE:
            self.entries_since_yield = 0
            await asyncio.sleep(0)

    async def _lock(self) -> None:
        keys: dict[str, list[Any]] = {"id": [], "code": [], "external_id": []}
        for item in self.batch.items:
            if item.key is not None:
                column, value = folded_key(*item.key)
                keys[column].append(value)
        rows: dict[tuple[str, Any], dict[str, Any]] = {}
        if any(keys.values()):
            statement = lock_objects(self.model, deleting=any(item.deletes for item in self.batch.items))
            arrays = {"ids": keys["id"], "codes": keys["code"], "external_ids": keys["external_id"]}
            for row in (await self.session.execute(statement, arrays)).mappings():
                current = dict(row)
                rows |= {folded_key(column, current[column]): current for column in keys if current[column] is not None}
        new: dict[Any, Item] = {}
        for item in self.batch.items:
            if item.key is not None:
                self._match(item, rows.get(folded_key(*item.key)), new)

    def _match(self, item: Item, current: dict[str, Any] | None, new: dict[Any, Item]) -> None:
        """Set the object of an item with a key; add a fault if no object has the key, or if an earlier item has it."""
        assert item.key is not None
        column, value = item.key
        pointer = f"/{item.key_member or column}"
        if current is not None:
            item.current, item.id, item.version = current, current["id"], current["version"]
            other = self.batch.items_by_id.setdefault(current["id"], item)
            if item.expected_version is not None and item.expected_version != current["version"]:
                facts = {"noun": self.model.noun, "version": current["version"]}
                item.add_fault("/version", "precondition_failed", **facts)
        elif item.op == "upsert":
            other = new.setdefault(folded_key(column, value), item)
        else:
            item.add_fault(pointer, "not_found", noun=self.model.noun)
            return
        if other is not item:
            item.duplicate_of = other
            facts = {"other": other.label.capitalize(), "noun": self.model.noun}
            item.add_fault(pointer, "same_object", **facts)
        if item.op == "upsert":
            new_value = item.data.setdefault(column, value if current is None else current[column])
            if read_key(column, new_value) not in {None, folded_key(column, value)} or new_value is None:
                item.add_fault(f"/data/{column}", "other_key")

    async def _validate(self) -> None:
        for item in self.batch.items:
            if item.is_readable and (item.creates or item.updates):
                self._validate_one(item)
                await self._yield_to_event_loop(item)

    def _validate_one(self, item: Item) -> None:
        schema, columns = self.collection.body, writable_columns(self.model)
        values: dict[str, Any] = item.data
        if item.op != "create":
            # As in a merge patch, null stands for an empty list of links, the default.
            lists = links_by_name(self.collection.links)
            values = {name: value for name, value in values.items() if value is not None or name not in lists}
        current = item.current or {}
        values = {name: current[name] for name in columns if name in current and name not in item.data} | values
        try:
            context = exempt_all if self.service.restoring else exempt_stored(current)
            item.body = schema.model_validate(values, context=context)
        except ValidationError as error:
            item.add_validation_faults(error, "/data")
            return
        for link in self.collection.links:
            if item.creates or {link.field, link.short} & item.data.keys():
                links = body_links(item.body, link) or []
                if links or item.updates:
                    item.links[link] = links
        if item.current is not None:
            item.is_changed = any(getattr(item.body, name) != current[name] for name in columns)

    async def _load_conflicts(self) -> None:
        """Read all rows that the checks need, and take the advisory locks of the rules."""
        await self._load_key_owners()
        deleted_ids = [item.id for item in self.batch.items if item.deletes and item.id is not None]
        if deleted_ids:
            values = {"ids": deleted_ids, "batch_ids": list(self.batch.items_by_id)}
            rows = await self.session.execute(find_referrers(self.model), values)
            for key, collection in sorted(map(tuple, rows)):
                self.batch.referrers.setdefault(key, []).append(collection)
        writes = await self._build_writes()
        await self.rules.take_locks(self.session, writes, self.locks)
        await self.rules.load(self.session, writes)

    async def _build_writes(self) -> list[Write]:
        """Return the writes for the rules to check, also those of failed items with a valid body or a known object."""
        linking: list[tuple[Item, Write]] = []
        for item in self.batch.items:
            after = None
            if item.body is not None:
                after = values_of(self.model, item.body)
            elif not item.deletes or item.current is None:
                continue
            item.write = Write(self.model, item.id, item.current, after, is_rejected=not item.is_valid)
            if after is not None and item.links and self.rules.concern(after):
                linking.append((item, item.write))
        owners = [item.id for item, _ in linking if item.current is not None and item.id is not None]
        current_links = await read_links(self.session, self.collection.links, owners)
        for item, write in linking:
            for link, links in item.links.items():
                write.replace_links(link.field, current_links.get((link.field, item.id or 0), set()), set(links))
        return self.batch.writes

    async def _load_key_owners(self) -> None:
        columns = unique_keys(self.model)
        values: dict[str, list[tuple[Item, str]]] = {column: [] for column in columns}
        for item in self.batch.items:
            for column in columns:
                if item.body is not None and (value := getattr(item.body, column)) is not None:
                    values[column].append((item, value))
        if not any(values.values()):
            return
        arrays = {f"{column}_values": [value for _, value in pairs] for column, pairs in values.items()}
        for column, number, value, owner in await self.session.execute(find_key_owners(self.model), arrays):
            values[column][number - 1][0].keys[column] = value
            if owner is not None:
                self.batch.key_owners[column, value] = owner
        self._detect_upsert_races()

    def _detect_upsert_races(self) -> None:
        """Raise the `IntegrityViolation` of the insert if a concurrent transaction created the object of an upsert.

        `write_batch` then tries again, and the upsert updates that object.
        """
        for item in self.batch.items:
            if item.op == "upsert" and item.creates and item.key is not None:
                column, value = folded_key(*item.key)
                if item.keys.get(column) == value and (column, value) in self.batch.key_owners:
                    raise IntegrityViolation("23505", f"uq_{self.model.__tablename__}_{column}")
