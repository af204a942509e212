"""The references of a batch: found by key or id, and replaced by ids."""

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
from app.domains.shared.collection import Collection, foreign_keys
from app.domains.shared.models import RegisterObject
from app.utils.validation import json_pointer


class References:
    """The references in the items of a batch. `pause` is called after each item that was looked at."""

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
        """Replace references by key with ids, and refuse those that name nothing."""
        items = self._batch.items
        wanted: dict[type[RegisterObject], dict[str, set[Any]]] = {
            model: {"id": set(), "code": set(), "external_id": set()}
            for model in referenced_models(self._model, self._collection.links)
        }
        columns = {name: wanted[model]["id"] for name, model in self._columns.items()}
        links = [(link, wanted[link.target_model]["id"]) for link in self._collection.links]
        for item in items:
            collect_referenced_ids(item, columns, links)
            collect_key_references(item, self._columns, self._collection.links)
            await self._pause(item)
            for reference in item.references:
                column, value = reference.key
                if column in wanted[reference.model]:
                    wanted[reference.model][column].add(value)
        new = [item for item in items if item.creates]
        if not new and not any(values for named in wanted.values() for values in named.values()):
            # What refers to other items of the batch needs nothing else.
            self._fill_in({}, {})
            return
        arrays = {
            f"{model.__tablename__}_{column}s": list(values)
            for model, named in wanted.items()
            for column, values in named.items()
        }
        with_names = any(reference.name is not None for item in items for reference in item.references)
        statement = find_references(self._model, self._collection.links)
        values = {"new": len(new), "with_names": with_names, **arrays}
        rows = (await self._session.execute(statement, values)).all()
        drawn = sorted(row[1] for row in rows if row[0] is None)
        for item, made in zip(new, drawn, strict=True):
            item.id = made
        known: dict[tuple[str, str, Any], int] = {}
        names: dict[tuple[str, int], str] = {}
        for kind, found, code, external_id, name in rows:
            if kind is not None:
                keys = {"id": found, "code": code, "external_id": external_id}
                known |= {(kind, column, value): found for column, value in keys.items()}
                if with_names:
                    names[kind, found] = name
        self._fill_in(known, names)
        unknown = {
            model: ids
            for model, named in wanted.items()
            if (ids := {key for key in named["id"] if (model.__tablename__, "id", key) not in known})
        }
        if unknown:
            await self._reject_unknown(unknown)

    async def _reject_unknown(self, unknown: dict[type[RegisterObject], set[int]]) -> None:
        for item in self._batch.items:
            ours = {reference.container[reference.place] for reference in item.references}
            for model, key, place in referenced_ids(item, self._columns, self._collection.links):
                # What references by key became is not what the client sent.
                if key in unknown.get(model, ()) and key not in item.placeholder_ids and key not in ours:
                    pointer = "/data" + json_pointer(place)
                    item.add_fault(pointer, "unknown_reference", "No such object is registered.")
            await self._pause(item)

    def _fill_in(self, known: dict[tuple[str, str, Any], int], names: dict[tuple[str, int], str]) -> None:
        # An object that this batch makes or names so goes before one that was called so before it.
        ours: dict[Any, Item] = {}
        for item in self._batch.items:
            ours["item", item.index] = item
            for column in ("code", "external_id"):
                named = read_key(column, item.data.get(column))
                if named is not None and item.id is not None and not item.deletes:
                    ours.setdefault(named, item)
        for item in self._batch.items:
            for reference in item.references:
                other = ours.get(reference.key) if reference.model is self._model else None
                found = other.id if other is not None else known.get((reference.model.__tablename__, *reference.key))
                if found is None:
                    item.add_fault(reference.pointer, "unknown_reference", "No such object is registered.")
                    continue
                reference.container[reference.place] = found
                if reference.name is not None and reference.name != names[reference.model.__tablename__, found]:
                    detail = "The object with this id has another name here: refer to it by a key, or by the id alone."
                    item.add_fault(reference.pointer, "other_name", detail)
                if other is not None and not _already_has_key(other, reference.key):
                    item.depends_on.append((reference.pointer, other))


def _already_has_key(item: Item, key: Key) -> bool:
    """Whether an item's object is called so whatever becomes of the item."""
    column, value = key
    current = item.current.get(column) if item.current is not None else None
    return current is not None and folded_key(column, current) == (column, value)
