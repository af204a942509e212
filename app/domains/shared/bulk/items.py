"""The items of a batch: the request, the state of the object, and the result of each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import ValidationError

from app.domains.shared.bulk.fault_budget import FaultBudget
from app.domains.shared.collection import LinkSet, links_by_name
from app.domains.shared.models import RegisterObject
from app.domains.shared.references import (
    MAX_ID,
    MAX_LINKS,
    Key,
    KeyedPlace,
    ObjectId,
    Places,
    is_id,
    keyed_places,
    referenced_key,
)
from app.domains.shared.rules import Link, Write
from app.domains.shared.schemas import ObjectFields, Schema
from app.domains.shared.texts import Code, StoredExternalId
from app.domains.shared.writing.references import KeyReference
from app.utils.exceptions import ContentTooLarge, Fault, InvalidContent
from app.utils.fault_codes import code_of
from app.utils.unknown_members import without_surplus
from app.utils.validation import faults_of
from app.utils.wording import counted, joined

Operation = Literal["create", "update", "upsert", "delete"]
Status = Literal["created", "updated", "unchanged", "deleted", "failed"]

# The limit for all items together: a parsed link takes many times the memory of its text.
MAX_BATCH_LINKS = 200_000
KEYS = ("id", "code", "external_id")
# `{ITEM_INDEX: 3}` refers to the object of another item by that item's index. JSON cannot have this key.
ITEM_INDEX = object()
# `{ID_AND_NAME: (3, "Finance")}` refers to an object by id, and requires its name. JSON cannot have this key.
ID_AND_NAME = object()

ReferencedId = tuple[type[RegisterObject], int, tuple[str | int, ...]]


class Envelope(Schema):
    """The members that every item has around its data; `read_item` checks which of them may be combined."""

    op: Operation
    id: ObjectId | None = None
    code: Code | None = None
    external_id: StoredExternalId | None = None
    version: ObjectId | None = None
    data: dict[str, Any] | None = None


@dataclass(eq=False, slots=True)
class Item:
    """One item of a batch. `current` is the row of its object, None if there is none yet."""

    index: int
    # Names the item in faults of other items, such as "item 3".
    label: str
    budget: FaultBudget = field(default_factory=FaultBudget)
    op: Operation = "create"
    key: Key | None = None
    # The member of the item that has the key, if it is not named like the column.
    key_member: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    # Whether operation and key are valid, so that the data can be validated.
    is_readable: bool = False
    expected_version: int | None = None

    current: Mapping[str, Any] | None = None
    id: int | None = None
    references: list[KeyReference] = field(default_factory=list)
    # Ids that no object has; each stands for a reference by key until that is resolved.
    placeholder_ids: set[int] = field(default_factory=set)
    body: ObjectFields | None = None
    is_changed: bool = False
    # The links in the body, without lists that the item leaves unchanged.
    links: dict[LinkSet, list[Link]] = field(default_factory=dict)
    # The new values of the unique columns, folded as their indexes compare them.
    keys: dict[str, str] = field(default_factory=dict)
    # The first item about the same object, if that is another item.
    duplicate_of: "Item | None" = None
    # The write that the rules check, once it is known.
    write: Write | None = None
    # Other items that it refers to, with the reference.
    depends_on: list[tuple[KeyReference, "Item"]] = field(default_factory=list)

    faults: list[Fault] = field(default_factory=list)
    # The pointers and codes of the faults.
    reported: set[tuple[str, str]] = field(default_factory=set)
    status: Status | None = None
    version: int | None = None
    before: str | None = None
    after: str | None = None

    @property
    def is_valid(self) -> bool:
        return not self.faults

    @property
    def creates(self) -> bool:
        return self.current is None and self.op in {"create", "upsert"}

    @property
    def updates(self) -> bool:
        return self.current is not None and self.op != "delete"

    @property
    def deletes(self) -> bool:
        return self.op == "delete"

    def add_fault(self, pointer: str, key: str, **values: Any) -> None:
        """Add a fault with the text of `key`, unless one has the same pointer and code; mark the write as rejected."""
        if self._accepts(pointer, code_of(key)):
            self.faults.append(Fault.of(pointer, key, **values))

    def add(self, fault: Fault) -> None:
        """Add a fault, once."""
        if self._accepts(fault.pointer, fault.code):
            self.faults.append(fault)

    def _accepts(self, pointer: str, code: str) -> bool:
        """Reject the write of the item; return whether the fault is a new one and within the budget."""
        if self.write is not None:
            self.write.is_rejected = True
        if (pointer, code) in self.reported or not self.budget.allows(self.faults):
            return False
        self.reported.add((pointer, code))
        return True

    def add_validation_faults(self, error: ValidationError, below: str = "") -> None:
        """Add the faults of a validation error."""
        for fault in faults_of(error):
            if not self.budget.allows(self.faults):
                break
            pointer = below + fault.pointer
            self.reported.add((pointer, fault.code))
            self.faults.append(replace(fault, pointer=pointer))


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The result of an item; in a dry run, the result that it would have.

    `id` and `version` are those of the object, if there is one (a dry run creates none). Faults point into the item.
    In a dry run `before` and `after` are the JSON of the members that change, as the history records them.
    """

    index: int
    status: Status | None
    id: int | None
    version: int | None
    faults: tuple[Fault, ...] = ()
    before: str | None = None
    after: str | None = None


def reject_too_many_links(objects: Iterable[Any], links: tuple[LinkSet, ...]) -> None:
    """Raise `ContentTooLarge` if these objects of a request list more links than one batch may have."""
    lists = (_list(each.get(name)) for each in objects if isinstance(each, dict) for name in links_by_name(links))
    if sum(map(len, lists)) > MAX_BATCH_LINKS:
        raise ContentTooLarge(f"A batch may have at most {MAX_BATCH_LINKS:,} links.")


def read_item(index: int, label: str, budget: FaultBudget, schema: type[ObjectFields], raw: Any) -> Item:
    """Return the item of a request, with its faults; `schema` is that of its data, which is validated later."""
    item = Item(index, label, budget)
    try:
        envelope = Envelope.model_validate(_without_surplus(schema, raw, budget.limit))
    except ValidationError as error:
        item.add_validation_faults(error)
        return item
    item.op, item.expected_version = envelope.op, envelope.version
    _read_key(item, envelope)
    item.is_readable = item.op == "create" or item.key is not None
    if envelope.op == "delete":
        if envelope.data is not None:
            item.add_fault("/data", "unexpected_data")
    elif envelope.data is None:
        item.is_readable = False
        item.add_fault("/data", "missing")
    else:
        # A shallow copy; `collect_key_references` copies the lists in which it replaces references.
        item.data = dict(envelope.data)
    if envelope.version is not None and envelope.op not in {"update", "delete"}:
        item.add_fault("/version", "unexpected_version")
    return item


def _without_surplus(schema: type[ObjectFields], raw: Any, max_faults: int) -> Any:
    item = without_surplus(Envelope, raw, max_faults)
    if isinstance(item, dict) and "data" in item:
        return item | {"data": without_surplus(schema, item["data"], max_faults)}
    return item


def _read_key(item: Item, envelope: Envelope) -> None:
    members: list[tuple[str, Any]] = [(name, getattr(envelope, name)) for name in KEYS]
    keys = [(name, value) for name, value in members if value is not None]
    allowed = {"create": (), "upsert": ("code", "external_id")}.get(item.op, KEYS)
    for name, _ in keys:
        if name not in allowed:
            item.add_fault(f"/{name}", "unexpected_key", operation=item.op)
    if allowed and not keys:
        item.add_fault("", "missing_key", keys=joined(allowed, "or"))
    if len(keys) > 1:
        item.add_fault("", "several_keys")
    if keys and item.is_valid:
        item.key = keys[0]


def reject_long_lists(item: Item, links: tuple[LinkSet, ...]) -> None:
    """Reject lists with more links than an object may have, before any work is done for each link."""
    for name in links_by_name(links):
        count = len(_list(item.data.get(name)))
        if count > MAX_LINKS:
            item.add_fault(f"/data/{name}", "too_long", items=counted(MAX_LINKS, "item"))
            del item.data[name]


def collect_key_references(item: Item, places: Places, models: Mapping[str, type[RegisterObject]]) -> None:
    """Collect the references by key in an item's data; replace them with placeholder ids, in copies of their lists.

    `models` are the models that members refer to.
    """
    for place in keyed_places(item.data, places):
        try:
            item.references.append(_read_reference(place, models[str(place.location[0])]))
        except InvalidContent as error:
            for fault in error.errors:
                item.add(replace(fault, pointer=f"/data{fault.pointer}"))
        # A distinct placeholder for each reference lets the rest of the data be validated.
        placeholder = MAX_ID - len(item.placeholder_ids)
        place.replace(placeholder)
        item.placeholder_ids.add(placeholder)


def _read_reference(place: KeyedPlace, model: type[RegisterObject]) -> KeyReference:
    value = place.value
    if ITEM_INDEX in value:
        return KeyReference(place, model, ("item", value[ITEM_INDEX]))
    if ID_AND_NAME in value:
        key, name = value[ID_AND_NAME]
        return KeyReference(place, model, ("id", key), name)
    return KeyReference(place, model, referenced_key(place))


def collect_referenced_ids(
    item: Item, columns: Mapping[str, set[Any]], links: Sequence[tuple[LinkSet, set[Any]]]
) -> None:
    """Add each reference by id in an item's data to the set of its column, or of its links."""
    data = item.data
    for name, ids in columns.items():
        if is_id(value := data.get(name)):
            ids.add(value)
    for link, ids in links:
        target = link.target
        # Inlined `is_id`: a call for each of many thousand entries is measurably slower.
        ids |= {
            value
            for entry in _list(data.get(link.field))
            if isinstance(entry, dict) and type(value := entry.get(target)) is int and 1 <= value <= MAX_ID
        }
        ids |= {value for value in _list(data.get(link.short)) if is_id(value)}


def referenced_ids(
    item: Item, columns: Mapping[str, type[RegisterObject]], links: tuple[LinkSet, ...]
) -> Iterator[ReferencedId]:
    """Yield the model and id of each reference by id in an item's data, and the parts of its pointer."""
    data = item.data
    for name, model in columns.items():
        if is_id(value := data.get(name)):
            yield model, value, (name,)
    for link in links:
        model = link.target_model
        for index, entry in enumerate(_list(data.get(link.field))):
            if isinstance(entry, dict) and is_id(value := entry.get(link.target)):
                yield model, value, (link.field, index, link.target)
        for index, value in enumerate(_list(data.get(link.short))):
            if is_id(value):
                yield model, value, (link.short, index)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
