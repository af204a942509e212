"""Resolves the references of a batch: checks ids, and replaces keys with ids."""

from collections.abc import Awaitable, Callable
from typing import Any

from app.domains.shared.bulk.conflicts import Batch
from app.domains.shared.bulk.items import Item, collect_key_references, collect_referenced_ids, referenced_ids
from app.domains.shared.collection import cycle_key, foreign_keys, reference_models, self_references
from app.domains.shared.models import RegisterObject
from app.domains.shared.reading.reader import CollectionReader
from app.domains.shared.references import Key, folded_key, read_key, reference_places
from app.domains.shared.writing.references import ReferenceLookup, unreadable_keys
from app.utils.validation import json_pointer


class References:
    """Resolves the references in the items of a batch. `pause` is awaited after each item."""

    def __init__(self, service: CollectionReader, batch: Batch, pause: Callable[[Item], Awaitable[None]]) -> None:
        self._caller = service.caller
        self._model = service.model
        self._links = service.collection.links
        self._places = reference_places(service.collection.body)
        self._models = reference_models(self._model, self._links)
        self._columns = foreign_keys(self._model)
        self._lookup = ReferenceLookup(service.session, self._model, self._links)
        self._batch = batch
        self._pause = pause

    async def resolve(self) -> None:
        """Replace references by key with ids, and reject references to objects that do not exist."""
        items, lookup = self._batch.items, self._lookup
        columns = {name: lookup.ids(model) for name, model in self._columns.items()}
        links = [(link, lookup.ids(link.target_model)) for link in self._links]
        for item in items:
            collect_referenced_ids(item, columns, links)
            collect_key_references(item, self._places, self._models)
            self._reject_unreadable(item)
            await self._pause(item)
            for reference in item.references:
                if reference.key[0] != "item":
                    lookup.add(reference.model, reference.key)
        new = [item for item in items if item.creates]
        # References to other items of the batch need no statement.
        if new or not lookup.is_empty:
            with_names = any(reference.name is not None for item in items for reference in item.references)
            await lookup.run(new=len(new), with_names=with_names)
        for item, new_id in zip(new, lookup.new_ids, strict=True):
            item.id = new_id
        await self._fill_in()
        unknown = lookup.unknown_ids()
        if unknown:
            await self._reject_unknown(unknown)

    def _reject_unreadable(self, item: Item) -> None:
        violations = unreadable_keys(self._caller, item.references)
        if violations:
            item.references = [each for each in item.references if each not in violations]
            self._batch.missing_scopes.update(*(violation.scopes for violation in violations.values()))
            for reference, violation in violations.items():
                if item.budget.is_spent(item.faults):
                    break
                item.add(violation.as_fault(f"/data{reference.pointer}"))

    async def _reject_unknown(self, unknown: dict[type[RegisterObject], set[int]]) -> None:
        for item in self._batch.items:
            resolved = {reference.place.value for reference in item.references}
            for model, key, location in referenced_ids(item, self._columns, self._links):
                # Ids that replace references by key were not sent by the client.
                if key in unknown.get(model, ()) and key not in item.placeholder_ids and key not in resolved:
                    if item.budget.is_spent(item.faults):
                        break
                    column = str(location[0])
                    # As in a single creation, a new object that guesses its own id refers to itself.
                    is_cycle = key == item.id and column in self_references(self._model)
                    text = cycle_key(column) if is_cycle else "unknown_reference"
                    item.add_fault("/data" + json_pointer(location), text, noun=self._model.noun)
            await self._pause(item)

    async def _fill_in(self) -> None:
        # A key of an item takes precedence over the object that had the key before this batch.
        items: dict[Any, Item] = {}
        for item in self._batch.items:
            items["item", item.index] = item
            for column in ("code", "external_id"):
                key = read_key(column, item.data.get(column))
                if key is not None and item.id is not None and not item.deletes:
                    items.setdefault(key, item)
        for item in self._batch.items:
            for reference in item.references:
                other = items.get(reference.key) if reference.model is self._model else None
                found = other.id if other is not None else self._lookup.find(reference.model, reference.key)
                if found is None:
                    item.add_fault(f"/data{reference.pointer}", "unknown_reference")
                    continue
                reference.place.replace(found)
                if reference.name is not None and reference.name != self._lookup.names[reference.model, found]:
                    item.add_fault(f"/data{reference.pointer}", "other_name")
                if other is not None and not _already_has_key(other, reference.key):
                    item.depends_on.append((reference, other))
            await self._pause(item)


def _already_has_key(item: Item, key: Key) -> bool:
    """Return whether the item's object has the key already, even if the item fails."""
    column, value = key
    current = item.current.get(column) if item.current is not None else None
    return current is not None and folded_key(column, current) == (column, value)
