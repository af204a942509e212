"""Writes a checked batch: one statement for each step, in the order that the constraints require."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Executable
from sqlalchemy.engine import Result

from app.domains.shared.bulk.conflicts import Batch, releases_key
from app.domains.shared.bulk.items import Item
from app.domains.shared.bulk.statements import (
    add_links,
    delete_objects,
    insert_objects,
    read_documents,
    record_changes,
    release_keys,
    remove_links,
    update_objects,
)
from app.domains.shared.collection import LinkSet, values_of
from app.domains.shared.reading.reader import CollectionReader
from app.domains.shared.rules import Rules
from app.utils.exceptions import CallerDeleted


async def write_items(service: CollectionReader, batch: Batch, rules: Rules, *, with_changes: bool) -> None:
    """Write the valid items of a batch and their history, and set their `status` and `version`.

    If `with_changes`, also set their `before` and `after`, as the history records them.
    """
    await _Writer(service, batch, with_changes).run()
    await rules.apply(service.session, [item.write for item in batch.valid_items() if item.write is not None])


@dataclass(frozen=True, slots=True)
class _Writer:
    service: CollectionReader
    batch: Batch
    with_changes: bool

    async def run(self) -> None:
        items = list(self.batch.valid_items())
        creates = [item for item in items if item.creates]
        updates = [item for item in items if item.updates]
        deletes = [item for item in items if item.deletes]
        befores = await self._read_befores([item for item in updates if item.is_changed or item.links] + deletes)
        await self._release_keys()
        if creates:
            await self._execute(
                insert_objects(self.batch.model), rows=self._rows(creates), **self.service.caller.signature()
            )
            for item in creates:
                item.status, item.version = "created", 1
        for item in updates:
            item.status = "unchanged"
        relinked_ids = await self._write_links(creates, updates)
        changed = [item for item in updates if item.is_changed or item.id in relinked_ids]
        if changed:
            rows = await self._execute(
                update_objects(self.batch.model), rows=self._rows(changed), **self.service.caller.signature()
            )
            versions = {row.id: row.version for row in rows}
            for item in changed:
                item.status, item.version = "updated", versions[item.id]
        for item in deletes:
            item.status, item.version = "deleted", None
        await self._record([item for item in items if item.status != "unchanged"], befores)
        if deletes:
            ids, caller_id = [item.id for item in deletes], self.service.caller.id
            deleted = await self._execute(delete_objects(self.batch.model), ids=ids, caller_id=caller_id)
            if deleted.first() is None:
                raise CallerDeleted

    async def _read_befores(self, items: list[Item]) -> dict[int, str]:
        if not items:
            return {}
        rows = await self._execute(read_documents(self.service.documents), ids=[item.id for item in items])
        return {row.id: row.document for row in rows}

    async def _release_keys(self) -> None:
        """Clear the keys of objects of the batch that other items of the batch take over."""
        released = set()
        for item in self.batch.valid_items():
            for key in item.keys.items():
                owner = self.batch.key_owners.get(key)
                if owner is not None and owner != item.id and releases_key(self.batch.items_by_id[owner], *key):
                    released.add(owner)
        if released:
            await self._execute(release_keys(self.batch.model), ids=sorted(released))

    def _rows(self, items: list[Item]) -> str:
        model = self.batch.model
        return json.dumps([{"id": item.id} | values_of(model, item.body) for item in items])

    async def _write_links(self, creates: list[Item], updates: list[Item]) -> set[int]:
        """Add and remove links as the items list them. Return the ids of existing objects that gained or lost one."""
        links = self.service.collection.links
        arguments: dict[str, list[Any]] = {}
        for link in links:
            owners = [item for item in updates if link in item.links]
            arguments[f"{link.field}_owners"] = [item.id for item in owners]
            arguments |= self._arrays(link, [*creates, *owners])
        owner_ids: set[int] = set()
        if any(arguments[f"{link.field}_owners"] for link in links):
            owner_ids |= {row.id for row in await self._execute(remove_links(links), **arguments)}
        if any(arguments[f"{link.field}_{link.owner}"] for link in links):
            owner_ids |= {row.id for row in await self._execute(add_links(links), **arguments)}
        return owner_ids

    def _arrays(self, link: LinkSet, owners: list[Item]) -> dict[str, list[Any]]:
        """Return the arrays of the owners' links, sorted and without duplicates, as `LinkSet.arguments` does."""
        arrays: dict[str, list[Any]] = {f"{link.field}_{name}": [] for name in (link.owner, *link.columns)}
        for item in sorted(owners, key=lambda item: item.id or 0):
            arguments = link.arguments(item.links.get(link, ()))
            arguments[f"{link.field}_{link.owner}"] = [item.id] * len(arguments[f"{link.field}_{link.target}"])
            for name, values in arguments.items():
                arrays[name] += values
        return arrays

    async def _record(self, items: list[Item], befores: dict[int, str]) -> None:
        if not items:
            return
        rows = await self._execute(
            record_changes(self.service.documents, with_changes=self.with_changes),
            ids=[item.id for item in items],
            actions=[item.status for item in items],
            befores=[befores.get(item.id or 0) for item in items],
            **self.service.caller.signature(),
        )
        if self.with_changes:
            changes = {row.id: row for row in rows}
            for item in items:
                item.before, item.after = changes[item.id].before, changes[item.id].after

    async def _execute(self, statement: Executable, **values: Any) -> Result[*tuple[Any, ...]]:
        return await self.service.session.execute(statement, values)
