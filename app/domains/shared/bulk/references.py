"""Resolves the references of a batch: checks ids, and replaces keys with ids."""

from collections.abc import Awaitable, Callable
from typing import Any

from app.core.database import RegisterSession
from app.domains.shared.bulk.conflicts import Batch
from app.domains.shared.bulk.items import (
    Item,
    Key,
    collect_key_references,
    collect_referenced_ids,
    folded_key,
    read_key,
    referenced_ids,
)
from app.domains.shared.bulk.statements import (
    find_references,
    referenced_models,
)
from app.domains.shared.collection import Collection, cycle_key, foreign_keys, self_references
from app.domains.shared.models import RegisterObject
from app.utils.validation import json_pointer


class References:
    """Resolves the references in the items of a batch. `pause` is awaited after each item."""

    def __init__(
        self,
        session: RegisterSession,
        collection: Collection,
        batch: Batch,
        pause: Callable[[Item], Awaitable[None]],
    ) -> None:
        self._session = session
        self._collection = collection
        self._model = collection.model
        self._columns = foreign_keys(collection.model)
        self._batch = batch
        self._pause = pause

    async def resolve(self) -> None:
        """Replace references by key with ids, and reject references to objects that do not exist."""
        items = self._batch.items
        lookups: dict[type[RegisterObject], dict[str, set[Any]]] = {
            model: {"id": set(), "code": set(), "external_id": set()}
            for model in referenced_models(self._model, self._collection.links)
        }
        columns = {name: lookups[model]["id"] for name, model in self._columns.items()}
        links = [(link, lookups[link.target_model]["id"]) for link in self._collection.links]
        for item in items:
            collect_referenced_ids(item, columns, links)
            collect_key_references(item, self._columns, self._collection.links)
            await self._pause(item)
            for reference in item.references:
                column, value = reference.key
                if column in lookups[reference.model]:
                    lookups[reference.model][column].add(value)
        new = [item for item in items if item.creates]
        if not new and not any(values for keys in lookups.values() for values in keys.values()):
            # Only references to other items of the batch are left, and those need no statement.
            self._fill_in({}, {})
            return
        arrays = {
            f"{model.__tablename__}_{column}s": list(values)
            for model, keys in lookups.items()
            for column, values in keys.items()
        }
        with_names = any(reference.name is not None for item in items for reference in item.references)
        statement = find_references(self._model, self._collection.links)
        values = {"new": len(new), "with_names": with_names, **arrays}
        rows = (await self._session.execute(statement, values)).all()
        new_ids = sorted(row[1] for row in rows if row[0] is None)
        for item, new_id in zip(new, new_ids, strict=True):
            item.id = new_id
        known: dict[tuple[str, str, Any], int] = {}
        names: dict[tuple[str, int], str] = {}
        for kind, object_id, code, external_id, name in rows:
            if kind is not None:
                keys = {"id": object_id, "code": code, "external_id": external_id}
                known |= {(kind, column, value): object_id for column, value in keys.items()}
                if with_names:
                    names[kind, object_id] = name
        self._fill_in(known, names)
        unknown = {
            model: ids
            for model, keys in lookups.items()
            if (ids := {key for key in keys["id"] if (model.__tablename__, "id", key) not in known})
        }
        if unknown:
            await self._reject_unknown(unknown)

    async def _reject_unknown(self, unknown: dict[type[RegisterObject], set[int]]) -> None:
        for item in self._batch.items:
            resolved = {reference.container[reference.slot] for reference in item.references}
            for model, key, location in referenced_ids(item, self._columns, self._collection.links):
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

    def _fill_in(self, known: dict[tuple[str, str, Any], int], names: dict[tuple[str, int], str]) -> None:
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
                found = other.id if other is not None else known.get((reference.model.__tablename__, *reference.key))
                if found is None:
                    item.add_fault(reference.pointer, "unknown_reference")
                    continue
                reference.container[reference.slot] = found
                if reference.name is not None and reference.name != names[reference.model.__tablename__, found]:
                    item.add_fault(reference.pointer, "other_name")
                if other is not None and not _already_has_key(other, reference.key):
                    item.depends_on.append((reference.pointer, other))


def _already_has_key(item: Item, key: Key) -> bool:
    """Return whether the item's object has the key already, even if the item fails."""
    column, value = key
    current = item.current.get(column) if item.current is not None else None
    return current is not None and folded_key(column, current) == (column, value)
