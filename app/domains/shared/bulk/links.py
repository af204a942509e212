"""Batches that replace one list of links of many objects, which the bodies of these objects do not have.

The list becomes a member of the objects for the batch: each item is an update of this member alone, so that a batch
reads, checks, writes and records it as the links of any body.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

from pydantic import BaseModel, ValidationError, create_model

from app.domains.shared.bulk.batch import BulkOutcome, write_batch
from app.domains.shared.bulk.fault_budget import FaultBudget
from app.domains.shared.bulk.items import Item
from app.domains.shared.collection import Collection, LinkSet
from app.domains.shared.reading.json_text import nested_schema
from app.domains.shared.reading.reader import CollectionReader
from app.domains.shared.references import KeyedPlace, referenced_key
from app.domains.shared.schemas import Reference, Schema
from app.utils.exceptions import Fault, InvalidContent
from app.utils.unknown_members import without_surplus


async def write_links(
    service: CollectionReader, link_set: LinkSet, raw: Sequence[Any], *, atomic: bool, dry_run: bool
) -> BulkOutcome:
    """Replace lists of links; each of `raw` has a reference to the owner and one to each target. See `write_batch`."""
    batch_service = _service_of(service.collection, link_set)(service.session, service.caller)
    read = partial(_read_item, link_set)
    outcome = await write_batch(batch_service, raw, atomic=atomic, dry_run=dry_run, read=read)
    for index, item in enumerate(outcome.items):
        if item.faults:
            outcome.items[index] = replace(item, faults=tuple(map(_point_into_item, item.faults)))
    return outcome


@cache
def _service_of(collection_: Collection, link_set: LinkSet) -> type[CollectionReader]:
    """Return the service of a collection whose objects have these links as a member of bodies and documents."""
    body, read = collection_.body, collection_.read
    entry = nested_schema(read.model_fields[link_set.field].annotation)
    fields: dict[str, Any] = {link_set.short: (list[Reference], [])}
    shown: dict[str, Any] = {link_set.field: (list[entry], ...)}  # type: ignore[valid-type]
    extended = replace(
        collection_,
        body=create_model(body.__name__, __base__=body, **fields),
        read=create_model(read.__name__, __base__=read, **shown),
        links=(link_set,),
    )

    class LinksService(CollectionReader):
        collection = extended

    return LinksService


@cache
def _schema_of(link_set: LinkSet) -> type[BaseModel]:
    fields: dict[str, Any] = {link_set.owner: (Reference, ...), link_set.short: (list[Any], ...)}
    return create_model("LinksItem", __base__=Schema, **fields)


def _read_item(link_set: LinkSet, index: int, label: str, budget: FaultBudget, _body: Any, raw: Any) -> Item:
    """Return the item of a request as an update of the owner, with its faults."""
    item = Item(index, label, budget, op="update", key_member=link_set.owner)
    values = without_surplus(_schema_of(link_set), raw, budget.limit)
    if isinstance(values, dict) and isinstance(values.get(link_set.owner), dict):
        place = KeyedPlace((link_set.owner,), values, link_set.owner)
        try:
            item.key = referenced_key(place)
        except InvalidContent as error:
            for fault in error.errors:
                item.add(fault)
        place.replace(1)  # a valid id, so that the other members are validated
    try:
        body = _schema_of(link_set).model_validate(values)
    except ValidationError as error:
        item.add_validation_faults(error)
    if item.is_valid:
        item.key = item.key or ("id", getattr(body, link_set.owner))
        item.data = {link_set.short: getattr(body, link_set.short)}
    item.is_readable = item.is_valid
    return item


def _point_into_item(fault: Fault) -> Fault:
    """Return a fault of an update at its place in the item, which has the members of the update's data."""
    is_in_data = fault.pointer.startswith("/data/")
    return replace(fault, pointer=fault.pointer.removeprefix("/data")) if is_in_data else fault
