"""How a checked batch is written: each step of it with one statement, in the order that constraints ask for."""

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


async def write_items(service: CollectionReader, batch: Batch, rules: Rules, *, shown: bool) -> None:
    """Write the good items of a batch and their history, and tell each what became of it.

    If `shown`, each learns what the history says of it, too.
    """
    await _Writer(service, batch, shown).run()
    await rules.apply(service.session, [item.write for item in batch.valid_items() if item.write is not None])


@dataclass(frozen=True, slots=True)
class _Writer:
    service: CollectionReader
    batch: Batch
    shown: bool

    async def run(self) -> None:
        good = list(self.batch.valid_items())
        made = [item for item in good if item.creates]
        kept = [item for item in good if item.updates]
        gone = [item for item in good if item.deletes]
        befores = await self._read_befores([item for item in kept if item.changed or item.wanted] + gone)
        await self._release_keys()
        if made:
            await self._execute(
                insert_objects(self.batch.model), rows=self._rows(made), **self.service.caller.signature()
            )
            for item in made:
                item.status, item.version = "created", 1
        for item in kept:
            item.status = "unchanged"
        touched = await self._write_links(made, kept)
        changed = [item for item in kept if item.changed or item.id in touched]
        if changed:
            rows = await self._execute(
                update_objects(self.batch.model), rows=self._rows(changed), **self.service.caller.signature()
            )
            versions = {row.id: row.version for row in rows}
            for item in changed:
                item.status, item.version = "updated", versions[item.id]
        for item in gone:
            item.status, item.version = "deleted", None
        await self._record([item for item in good if item.status != "unchanged"], befores)
        if gone:
            await self._execute(delete_objects(self.batch.model), ids=[item.id for item in gone])

    async def _read_befores(self, items: list[Item]) -> dict[int, str]:
        if not items:
            return {}
        rows = await self._execute(read_documents(self.service.documents), ids=[item.id for item in items])
        return {row.id: row.document for row in rows}

    async def _release_keys(self) -> None:
        """Take keys from objects of the batch that others of it are to have."""
        released = set()
        for item in self.batch.valid_items():
            for key in item.keys.items():
                holder = self.batch.key_owners.get(key)
                if holder is not None and holder != item.id and releases_key(self.batch.named[holder], *key):
                    released.add(holder)
        if released:
            await self._execute(release_keys(self.batch.model), ids=sorted(released))

    def _rows(self, items: list[Item]) -> str:
        model = self.batch.model
        return json.dumps([{"id": item.id} | values_of(model, item.body) for item in items])

    async def _write_links(self, made: list[Item], kept: list[Item]) -> set[int]:
        """Bring the links to what is wanted. Returns which of the objects that there were got or lost one."""
        links = self.service.collection.links
        arguments: dict[str, list[Any]] = {}
        for link in links:
            owners = [item for item in kept if link in item.wanted]
            arguments[f"{link.field}_owners"] = [item.id for item in owners]
            arguments |= self._arrays(link, [*made, *owners])
        touched: set[int] = set()
        if any(arguments[f"{link.field}_owners"] for link in links):
            touched |= {row.id for row in await self._execute(remove_links(links), **arguments)}
        if any(arguments[f"{link.field}_{link.owner}"] for link in links):
            touched |= {row.id for row in await self._execute(add_links(links), **arguments)}
        return touched

    def _arrays(self, link: LinkSet, owners: list[Item]) -> dict[str, list[Any]]:
        """Return the arrays of all wanted links, sorted and without repetitions, as `LinkSet.arguments` does."""
        arrays: dict[str, list[Any]] = {f"{link.field}_{name}": [] for name in (link.owner, *link.columns)}
        for item in sorted(owners, key=lambda item: item.id or 0):
            own = link.arguments(item.wanted.get(link, ()))
            own[f"{link.field}_{link.owner}"] = [item.id] * len(own[f"{link.field}_{link.target}"])
            for name, values in own.items():
                arrays[name] += values
        return arrays

    async def _record(self, items: list[Item], befores: dict[int, str]) -> None:
        if not items:
            return
        rows = await self._execute(
            record_changes(self.service.documents, shown=self.shown),
            ids=[item.id for item in items],
            actions=[item.status for item in items],
            befores=[befores.get(item.id or 0) for item in items],
            **self.service.caller.signature(),
        )
        if self.shown:
            shown = {row.id: row for row in rows}
            for item in items:
                item.before, item.after = shown[item.id].before, shown[item.id].after

    async def _execute(self, statement: Executable, **values: Any) -> Result[*tuple[Any, ...]]:
        return await self.service.session.execute(statement, values)
