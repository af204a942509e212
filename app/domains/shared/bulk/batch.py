"""Many writes of one collection at once, in a number of statements that does not depend on how many they are.

A batch is read, locked and checked as a whole, so that every fault of it is known before anything is written; then all
that is good is written together. What only the database can see, because it happened meanwhile, makes it begin anew.
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
from app.domains.shared.bulk.items import (
    Item,
    ItemResult,
    folded_key,
    read_item,
    read_key,
    reject_long_lists,
)
from app.domains.shared.bulk.references import References
from app.domains.shared.bulk.statements import (
    find_referrers,
    lock_objects,
)
from app.domains.shared.bulk.writer import write_items
from app.domains.shared.collection import body_links, values_of, writable_columns
from app.domains.shared.reading.reader import CollectionReader
from app.domains.shared.rules import LocksUnavailableError, Rules, Write
from app.domains.shared.writing.constraints import error_for
from app.domains.shared.writing.links import read_links
from app.domains.shared.writing.unique_keys import find_key_owners, unique_keys
from app.utils.exceptions import Deadlock, RegisterError

ATTEMPTS = 3
# A thousand long descriptions, and the words to find them by, take longer than the statements of other requests may.
STATEMENT_SECONDS = 60.0
# So many entries of lists are looked at before other requests can run; an item takes as long as some of them.
_AT_ONCE = 2000
_ENTRIES_OF_ITEM = 40


class _RollBackError(Exception):
    """Nothing of the batch is to stay."""


@dataclass(frozen=True, slots=True)
class BulkOutcome:
    """What became of each item, in their order; `refused` when nothing was written because of faults."""

    items: list[ItemResult]
    refused: bool
    # What the caller lacks for an item with the fault `forbidden`.
    missing_scope: Scope | None
    # What was found out on the way.
    batch: Batch


async def write_batch(
    service: CollectionReader,
    raw: Sequence[Any],
    *,
    atomic: bool,
    dry_run: bool,
    label: Callable[[int], str] = "item {}".format,
) -> BulkOutcome:
    """Write a batch; each of `raw` is an item as in a request, which faults of others call as `called` has it.

    If `atomic`, nothing is written when an item has a fault; otherwise the good ones are. A dry run does all the same
    and undoes it. Raises a `RegisterError` without pointers when others keep changing what the batch is about.
    """
    failures = 0
    locks: set[str] = set()
    while True:
        bulk = _Bulk(service, raw, label, locks, dry_run=dry_run)
        try:
            with suppress(_RollBackError):
                async with service.session.begin_nested():
                    await bulk.run(atomic=atomic)
        except LocksUnavailableError as taken:
            locks |= taken.names
        except (IntegrityViolation, Deadlock) as error:
            failures += 1
            if failures == ATTEMPTS:
                raise _without_pointers(error) from error
        else:
            results = [bulk.result(item) for item in bulk.batch.items]
            return BulkOutcome(results, bulk.refused, bulk.batch.missing_scope, bulk.batch)


def _without_pointers(error: RegisterError) -> RegisterError:
    explained = error_for(error) if isinstance(error, IntegrityViolation) else error
    if explained is not None:
        # The constraint tells the member, but not the item.
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
        self.dry_run = dry_run
        # How much was done since other requests could run.
        self.done = 0
        # Whether faults kept it from writing anything.
        self.refused = False
        self.rules = Rules(service.collection.rules, service.caller, restoring=service.restoring)
        self.batch = Batch(service.model, [], service.caller.id)

    async def run(self, *, atomic: bool) -> None:
        """Check everything and write what may be written. Raises `_RollBackError` when nothing of it is to stay."""
        await self._read_items()
        await self.session.lock(*self.locks)
        await self._lock()
        await References(self.session, self.collection, self.batch, self._yield_to_event_loop).resolve()
        await self._validate()
        await self._load_conflicts()
        await find_conflicts(self.batch, self.rules)
        for item in self.batch.items:
            if not item.is_valid:
                item.status = "failed"
        self.refused = atomic and self.batch.failed > 0
        if not self.refused:
            await write_items(self.service, self.batch, self.rules, shown=self.dry_run)
        if self.refused or self.dry_run:
            raise _RollBackError

    def result(self, item: Item) -> ItemResult:
        # Ids are drawn before it is known what is made, and what a dry run made is gone again.
        is_there = not item.creates or (item.status == "created" and not self.dry_run)
        key = item.id if is_there else None
        return ItemResult(item.index, item.status, key, item.version, tuple(item.faults), item.before, item.after)

    async def _read_items(self) -> None:
        for index, raw in enumerate(self.raw):
            item = read_item(index, self.label(index), self.batch.budget, raw)
            reject_long_lists(item, self.collection.links)
            self.batch.items.append(item)
            await self._yield_to_event_loop(item)

    async def _yield_to_event_loop(self, item: Item) -> None:
        """Let other requests run, if much was done for this item and those before it."""
        self.done += _ENTRIES_OF_ITEM + sum(len(value) for value in item.data.values() if isinstance(value, list))
        if self.done >= _AT_ONCE:
            self.done = 0
            await asyncio.sleep(0)

    async def _lock(self) -> None:
        keys: dict[str, list[Any]] = {"id": [], "code": [], "external_id": []}
        for item in self.batch.items:
            if item.key is not None:
                column, value = folded_key(*item.key)
                keys[column].append(value)
        found: dict[tuple[str, Any], dict[str, Any]] = {}
        if any(keys.values()):
            statement = lock_objects(self.model, deleting=any(item.deletes for item in self.batch.items))
            arrays = {"ids": keys["id"], "codes": keys["code"], "external_ids": keys["external_id"]}
            for row in (await self.session.execute(statement, arrays)).mappings():
                current = dict(row)
                found |= {
                    folded_key(column, current[column]): current for column in keys if current[column] is not None
                }
        new: dict[Any, Item] = {}
        for item in self.batch.items:
            if item.key is not None:
                self._match(item, found.get(folded_key(*item.key)), new)

    def _match(self, item: Item, current: dict[str, Any] | None, new: dict[Any, Item]) -> None:
        """Tell an item which object it is about."""
        assert item.key is not None  # items without one make new objects
        column, value = item.key
        if current is not None:
            item.current, item.id, item.version = current, current["id"], current["version"]
            other = self.batch.named.setdefault(current["id"], item)
            if item.expected_version is not None and item.expected_version != current["version"]:
                detail = f"The {self.model.noun} was changed in the meantime: its version is {current['version']}."
                item.add_fault("/version", "precondition_failed", detail)
        elif item.op == "upsert":
            other = new.setdefault(folded_key(column, value), item)
        else:
            item.add_fault(f"/{column}", "not_found", f"There is no such {self.model.noun}.")
            return
        if other is not item:
            item.duplicate_of = other
            detail = f"{other.label.capitalize()} of this request is about the same {self.model.noun}."
            item.add_fault(f"/{column}", "same_object", detail)
        if item.op == "upsert":
            given = item.data.setdefault(column, value if current is None else current[column])
            if read_key(column, given) not in {None, folded_key(column, value)} or given is None:
                detail = "An object that is found or made by a key keeps it: say the same, or nothing."
                item.add_fault(f"/data/{column}", "other_key", detail)

    async def _validate(self) -> None:
        for item in self.batch.items:
            if item.readable and (item.creates or item.updates):
                self._validate_one(item)
                await self._yield_to_event_loop(item)

    def _validate_one(self, item: Item) -> None:
        schema, columns = self.collection.body, writable_columns(self.model)
        values: dict[str, Any] = item.data
        if item.op != "create":
            # Null clears, as in a merge patch; what can't be cleared takes none, which the schema says.
            values = {
                name: value
                for name, value in values.items()
                if value is not None or name not in schema.model_fields or schema.model_fields[name].is_required()
            }
        if item.current is not None:
            kept = {name: item.current[name] for name in columns if name not in item.data}
            values = {name: value for name, value in kept.items() if value is not None} | values
        try:
            item.body = schema.model_validate(values)
        except ValidationError as error:
            item.add_validation_faults(error, "/data")
            return
        for link in self.collection.links:
            if item.creates or {link.field, link.short} & item.data.keys():
                links = body_links(item.body, link) or []
                if links or item.updates:
                    item.wanted[link] = links
        current = item.current
        if current is not None:
            item.changed = any(getattr(item.body, name) != current[name] for name in columns)

    async def _load_conflicts(self) -> None:
        """Read what the checks need to know of the register."""
        await self._load_key_owners()
        gone = [item.id for item in self.batch.items if item.deletes and item.id is not None]
        if gone:
            values = {"ids": gone, "others": list(self.batch.named)}
            rows = await self.session.execute(find_referrers(self.model), values)
            for key, kind in sorted(map(tuple, rows)):
                self.batch.referrers.setdefault(key, []).append(kind)
        writes = await self._describe_writes()
        await self.rules.take_locks(self.session, writes, self.locks)
        await self.rules.load(self.session, writes)

    async def _describe_writes(self) -> list[Write]:
        """Return what the items are about to do, for the rules: as far as that is known, also of those that failed."""
        concerned: list[tuple[Item, Write]] = []
        for item in self.batch.items:
            after = None
            if item.body is not None:
                after = values_of(self.model, item.body)
            elif not item.deletes or item.current is None:
                continue
            item.write = Write(self.model, item.id, item.current, after, is_rejected=not item.is_valid)
            if after is not None and item.wanted and self.rules.concern(after):
                concerned.append((item, item.write))
        owners = [item.id for item, _ in concerned if item.current is not None and item.id is not None]
        present = await read_links(self.session, self.collection.links, owners)
        for item, planned in concerned:
            for link, links in item.wanted.items():
                planned.replace_links(link.field, present.get((link.field, item.id or 0), set()), set(links))
        return self.batch.writes

    async def _load_key_owners(self) -> None:
        columns = unique_keys(self.model)
        wanted: dict[str, list[tuple[Item, str]]] = {column: [] for column in columns}
        for item in self.batch.items:
            for column in columns:
                if item.body is not None and (value := getattr(item.body, column)) is not None:
                    wanted[column].append((item, value))
        if not any(wanted.values()):
            return
        arrays = {f"{column}_values": [value for _, value in pairs] for column, pairs in wanted.items()}
        for column, place, value, holder in await self.session.execute(find_key_owners(self.model), arrays):
            wanted[column][place - 1][0].keys[column] = value
            if holder is not None:
                self.batch.key_owners[column, value] = holder
        self._notice_overtaken_upserts()

    def _notice_overtaken_upserts(self) -> None:
        """Raise what the insert would, if somebody has registered by now what an upsert did not find."""
        for item in self.batch.items:
            if item.op == "upsert" and item.creates and item.key is not None:
                column, value = folded_key(*item.key)
                if item.keys.get(column) == value and (column, value) in self.batch.key_owners:
                    raise IntegrityViolation("23505", f"uq_{self.model.__tablename__}_{column}")
