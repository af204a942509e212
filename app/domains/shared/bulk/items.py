"""The items of a batch: what is asked for, what is known of each, and what became of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from app.domains.shared.bulk.fault_budget import FaultBudget
from app.domains.shared.collection import LinkSet
from app.domains.shared.models import RegisterObject
from app.domains.shared.rules import Link, Write
from app.domains.shared.schemas import MAX_ID, MAX_LINKS, Code, ExternalId, ObjectFields, Reference, Schema, is_id
from app.utils.exceptions import ContentTooLarge, Fault
from app.utils.validation import invalid_content

Operation = Literal["create", "update", "upsert", "delete"]
Status = Literal["created", "updated", "unchanged", "deleted", "failed"]

# Of all items together: each takes many times its text in memory.
MAX_BATCH_LINKS = 200_000
KEYS = ("id", "code", "external_id")
# What refers to the object of another item by that one's index, `{ITEM: 3}`. No client can say so: it is no text.
ITEM = object()
# What refers to an object by id and by the name that it must have, `{NAMED: (3, "Finance")}`; likewise.
NAMED = object()

# A column and a value of it, as its index compares it.
Key = tuple[str, int | str]
Place = tuple[type[RegisterObject], int, tuple[str | int, ...]]


class Envelope(Schema):
    """What every item has around its data; which members go together is checked by `read_item`."""

    op: Operation
    id: Reference | None = None
    code: Code | None = None
    external_id: ExternalId | None = None
    version: Reference | None = None
    data: dict[str, Any] | None = None


@dataclass(slots=True)
class NamedReference:
    """A reference by key: where it stands, and what it names."""

    pointer: str
    model: type[RegisterObject]
    key: Key
    container: Any
    place: Any
    # What the object must be called, if that was said.
    name: Any = None


@dataclass(eq=False, slots=True)
class Item:
    """One item on its way through a batch. `current` is the row of its object, None when there is none yet."""

    index: int
    # What a client calls it.
    label: str
    budget: FaultBudget = field(default_factory=FaultBudget)
    op: Operation = "create"
    key: Key | None = None
    data: dict[str, Any] = field(default_factory=dict)
    # Whether it can be told what the data is for.
    readable: bool = False
    expected_version: int | None = None

    current: Mapping[str, Any] | None = None
    id: int | None = None
    references: list[NamedReference] = field(default_factory=list)
    # Ids that no object has, each in the place of a reference by key until that is found.
    placeholder_ids: set[int] = field(default_factory=set)
    body: ObjectFields | None = None
    changed: bool = False
    wanted: dict[LinkSet, list[Link]] = field(default_factory=dict)
    # What its object is to have in the unique columns, as their indexes compare it.
    keys: dict[str, str] = field(default_factory=dict)
    # The first item about the same object, if that is another one.
    duplicate_of: "Item | None" = None
    # What it is about to do, once that is known; the rules are asked of that.
    write: Write | None = None
    # Other items that it refers to, and where.
    depends_on: list[tuple[str, "Item"]] = field(default_factory=list)

    faults: list[Fault] = field(default_factory=list)
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

    def add_fault(self, pointer: str, code: str, detail: str) -> None:
        """Add a fault, once."""
        known = any(fault.pointer == pointer and fault.code == code for fault in self.faults)
        if not known and self.budget.allows(self.faults):
            self.faults.append(Fault(pointer, code, detail))
        if self.write is not None:
            self.write.is_rejected = True

    def add_validation_faults(self, error: ValidationError, below: str = "") -> None:
        """Add the faults that a schema found."""
        for fault in invalid_content(error).errors:
            if self.budget.allows(self.faults):
                self.faults.append(replace(fault, pointer=below + fault.pointer))


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of an item; of a dry run, what would have.

    `id` and `version` are those of the object, if there is one (a dry run makes none). Faults point into the item.
    Of a dry run `before` and `after` are the JSON of the members that change, as the history has them.
    """

    index: int
    status: Status | None
    id: int | None
    version: int | None
    faults: tuple[Fault, ...] = ()
    before: str | None = None
    after: str | None = None


def folded_key(column: str, value: Any) -> Key:
    """Return a key as its index compares it."""
    return column, value.lower() if column == "code" else value


def reject_too_many_links(items: Sequence[Any]) -> None:
    """Raise `ContentTooLarge` if a client sends more links than one batch may have."""
    given = (item.get("data") for item in items if isinstance(item, dict))
    members = (value for data in given if isinstance(data, dict) for value in data.values())
    if sum(len(value) for value in members if isinstance(value, list)) > MAX_BATCH_LINKS:
        raise ContentTooLarge(f"A batch may have at most {MAX_BATCH_LINKS} links.")


def read_item(index: int, label: str, budget: FaultBudget, raw: Any) -> Item:
    """Return the item that a client describes, with its faults."""
    item = Item(index, label, budget)
    try:
        envelope = Envelope.model_validate(raw)
    except ValidationError as error:
        item.add_validation_faults(error)
        return item
    item.op, item.expected_version = envelope.op, envelope.version
    _read_key(item, envelope)
    item.readable = item.op == "create" or item.key is not None
    if envelope.op == "delete":
        if envelope.data is not None:
            item.add_fault("/data", "unexpected_data", "An object that is deleted takes no data.")
    elif envelope.data is None:
        item.readable = False
        item.add_fault("/data", "missing", "Field required")
    else:
        # Shallow: what references by key are replaced in is copied when there are any.
        item.data = dict(envelope.data)
    if envelope.version is not None and envelope.op not in {"update", "delete"}:
        item.add_fault("/version", "unexpected_version", "Only `update` and `delete` take a version.")
    return item


def _read_key(item: Item, envelope: Envelope) -> None:
    given: list[tuple[str, Any]] = [(name, getattr(envelope, name)) for name in KEYS]
    given = [(name, value) for name, value in given if value is not None]
    allowed = {"create": (), "upsert": ("code", "external_id")}.get(item.op, KEYS)
    for name, _ in given:
        if name not in allowed:
            item.add_fault(f"/{name}", "unexpected_key", f"`{item.op}` does not take this member.")
    if allowed and not given:
        item.add_fault("", "missing_key", f"Name the object by one of {', '.join(allowed)}.")
    if len(given) > 1:
        item.add_fault("", "several_keys", "Name the object by one of its keys only.")
    if given and item.is_valid:
        item.key = given[0]


_KEY_TYPES: dict[str, TypeAdapter[Any]] = {"code": TypeAdapter(Code), "external_id": TypeAdapter(ExternalId)}


def read_key(column: str, value: Any) -> Key | None:
    """Return the key that a member of data gives, or None when it gives none, or no valid one."""
    try:
        return folded_key(column, _KEY_TYPES[column].validate_python(value, strict=True))
    except ValidationError:
        return None


def reject_long_lists(item: Item, links: tuple[LinkSet, ...]) -> None:
    """Refuse more links than an object may have, before anything is done for each of them."""
    for name in (name for link in links for name in (link.field, link.short)):
        count = len(_list(item.data.get(name)))
        if count > MAX_LINKS:
            detail = f"List should have at most {MAX_LINKS} items after validation, not {count}"
            item.add_fault(f"/data/{name}", "too_long", detail)
            del item.data[name]


def collect_key_references(item: Item, columns: Mapping[str, type[RegisterObject]], links: tuple[LinkSet, ...]) -> None:
    """Find the references by key in an item's data; what they stand in is the item's own from then on."""
    data = item.data
    for name, model in columns.items():
        if isinstance(data.get(name), dict):
            _name(item, f"/data/{name}", model, data, name)
    for link in links:
        entries, ids, target = data.get(link.field), data.get(link.short), link.target
        if isinstance(entries, list) and any(isinstance(e, dict) and isinstance(e.get(target), dict) for e in entries):
            data[link.field] = copied = [dict(entry) if isinstance(entry, dict) else entry for entry in entries]
            for place, entry in enumerate(copied):
                if isinstance(_target(entry, link), dict):
                    _name(item, f"/data/{link.field}/{place}/{link.target}", link.target_model, entry, link.target)
        if isinstance(ids, list) and any(isinstance(entry, dict) for entry in ids):
            data[link.short] = ids = list(ids)
            for place, entry in enumerate(ids):
                if isinstance(entry, dict):
                    _name(item, f"/data/{link.short}/{place}", link.target_model, ids, place)


def _target(entry: Any, link: LinkSet) -> Any:
    return entry.get(link.target) if isinstance(entry, dict) else None


def _name(item: Item, pointer: str, model: type[RegisterObject], container: Any, place: Any) -> None:
    value = container[place]
    # Each time another one, so that all else can be checked.
    container[place] = stand_in = MAX_ID - len(item.placeholder_ids)
    item.placeholder_ids.add(stand_in)
    name = next(iter(value), None) if len(value) == 1 else None
    if name is ITEM:
        item.references.append(NamedReference(pointer, model, ("item", value[ITEM]), container, place))
        return
    if name is NAMED:
        key, label = value[NAMED]
        item.references.append(NamedReference(pointer, model, ("id", key), container, place, label))
        return
    if name not in _KEY_TYPES:
        item.add_fault(pointer, "bad_reference", 'Refer by an id, {"code": …} or {"external_id": …}.')
        return
    try:
        key = folded_key(name, _KEY_TYPES[name].validate_python(value[name], strict=True))
    except ValidationError as error:
        item.add_validation_faults(error, f"{pointer}/{name}")
    else:
        item.references.append(NamedReference(pointer, model, key, container, place))


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
        # Of many thousand entries a call for each would be felt.
        ids |= {
            value
            for entry in _list(data.get(link.field))
            if isinstance(entry, dict) and type(value := entry.get(target)) is int and 1 <= value <= MAX_ID
        }
        ids |= {value for value in _list(data.get(link.short)) if is_id(value)}


def referenced_ids(
    item: Item, columns: Mapping[str, type[RegisterObject]], links: tuple[LinkSet, ...]
) -> Iterator[Place]:
    """Yield model and id of each reference by id in an item's data, and the parts of its pointer."""
    data = item.data
    for name, model in columns.items():
        if is_id(value := data.get(name)):
            yield model, value, (name,)
    for link in links:
        model = link.target_model
        for place, entry in enumerate(_list(data.get(link.field))):
            if is_id(value := _target(entry, link)):
                yield model, value, (link.field, place, link.target)
        for place, value in enumerate(_list(data.get(link.short))):
            if is_id(value):
                yield model, value, (link.short, place)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
