"""References to objects in bodies: an id, or an object with one key in place of the id.

The schemas of bodies validate ids only. A body with keys becomes a `KeyedBody`, which the service validates once it
has found the objects.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from app.domains.shared.texts import Code, ExternalId, StoredExternalId
from app.utils.exceptions import Fault, InvalidContent
from app.utils.fault_codes import text_of
from app.utils.text.folding import fold
from app.utils.validation import faults_of, json_pointer

MAX_ID = 2**63 - 1
# The maximum number of links of one kind of one object.
MAX_LINKS = 1000

# A column and a value, folded as the column's index compares it.
Key = tuple[str, int | str]


def is_id(value: Any) -> TypeGuard[int]:
    """Return whether an object can have this id."""
    return type(value) is int and 1 <= value <= MAX_ID


class CodeReference(BaseModel):
    """A reference by code, ignoring case; in a batch, also to an object of the same request."""

    model_config = ConfigDict(extra="forbid")

    code: Code


class ExternalIdReference(BaseModel):
    """A reference by external id; requires the permission to read the collection of the object."""

    model_config = ConfigDict(extra="forbid")

    external_id: ExternalId


class _TakesKeys:
    """Marks the type of references: adds the keys to its JSON schema, and an error that names them to values."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        ids = handler(source)
        integers = core_schema.custom_error_schema(
            core_schema.int_schema(),
            custom_error_type="bad_reference",
            custom_error_message="{text}",
            custom_error_context={"text": text_of("bad_reference")},
        )
        keys = (handler.generate_schema(model) for model in (CodeReference, ExternalIdReference))
        # Bodies are validated as Python values; only the JSON schema is that of JSON texts.
        as_json, ids_only = core_schema.union_schema([ids, *keys]), core_schema.simple_ser_schema("int")
        validated = core_schema.chain_schema([integers, ids])
        return core_schema.json_or_python_schema(as_json, validated, serialization=ids_only)


_TAKES_KEYS = _TakesKeys()
ObjectId = Annotated[int, Field(ge=1, le=MAX_ID, description="`id` of an object.", examples=[1])]
Reference = Annotated[
    int,
    Field(ge=1, le=MAX_ID),
    _TAKES_KEYS,
    Field(description="`id` of an object, or an object with its `code` or `external_id`.", examples=[1]),
]


class Places(NamedTuple):
    """The members of a body that have references."""

    # A reference.
    members: Sequence[str]
    # A list of references.
    lists: Sequence[str]
    # A list of objects, with the member of each that is a reference.
    links: Mapping[str, str]


@cache
def reference_places(schema: type[BaseModel]) -> Places:
    """Return the members of a schema that have the type `Reference`."""
    members: list[str] = []
    lists: list[str] = []
    links: dict[str, str] = {}
    for name, field in schema.model_fields.items():
        annotation: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        entry = _entry_type(annotation)
        if _is_reference(annotation):
            members.append(name)
        elif _is_reference(entry):
            lists.append(name)
        elif isinstance(entry, type) and issubclass(entry, BaseModel) and (found := reference_places(entry).members):
            links[name] = found[0]
    return Places(members, lists, links)


def _is_reference(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated and _TAKES_KEYS in get_args(annotation):
        return True
    return any(map(_is_reference, _choices(annotation)))


def _entry_type(annotation: Any) -> Any:
    """Return the type of the entries of a list, or None."""
    if get_origin(annotation) is list:
        return get_args(annotation)[0]
    return next((entry for each in _choices(annotation) if (entry := _entry_type(each)) is not None), None)


def _choices(annotation: Any) -> Sequence[Any]:
    """Return the types of which an annotation is a union, or which it annotates."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[:1]
    return get_args(annotation) if get_origin(annotation) in {Union, UnionType} else ()


@dataclass(frozen=True, slots=True)
class KeyedPlace:
    """A place in a body with an object in place of an id: `container[slot]`."""

    location: tuple[str | int, ...]
    container: Any
    slot: Any

    @property
    def value(self) -> Any:
        """The object, or the id that replaced it."""
        return self.container[self.slot]

    @property
    def pointer(self) -> str:
        """The JSON pointer. It takes long to make for each of many thousand places: for faults only."""
        return json_pointer(self.location)

    def replace(self, object_id: int) -> None:
        """Replace the object by an id."""
        self.container[self.slot] = object_id


@dataclass(frozen=True, slots=True)
class KeyedBody:
    """A body for `schema` with references by key, not validated yet."""

    schema: type[Any]
    data: dict[str, Any]
    places: list[KeyedPlace]


def keyed_body(schema: type[BaseModel], values: Mapping[str, Any]) -> KeyedBody | None:
    """Return a body with references by key, or None if it has none."""
    data = dict(values)
    places = list(keyed_places(data, reference_places(schema)))
    return KeyedBody(schema, data, places) if places else None


def keyed_places(data: dict[str, Any], places: Places) -> Iterator[KeyedPlace]:
    """Yield the places in `data` with an object in place of an id, in copies of their lists.

    Lists with more than `MAX_LINKS` entries are left as they are, for the schema to reject.
    """
    for name in places.members:
        if isinstance(data.get(name), dict):
            yield KeyedPlace((name,), data, name)
    for name, member in places.links.items():
        yield from _keyed_links(data, name, member)
    for name in places.lists:
        entries = _short_list(data.get(name))
        if any(isinstance(entry, dict) for entry in entries):
            data[name] = copies = list(entries)
            for index, entry in enumerate(entries):
                if isinstance(entry, dict):
                    yield KeyedPlace((name, index), copies, index)


def _keyed_links(data: dict[str, Any], name: str, member: str) -> Iterator[KeyedPlace]:
    entries = _short_list(data.get(name))
    if any(isinstance(_member(entry, member), dict) for entry in entries):
        data[name] = copies = [dict(entry) if isinstance(entry, dict) else entry for entry in entries]
        for index, entry in enumerate(copies):
            if isinstance(_member(entry, member), dict):
                yield KeyedPlace((name, index, member), entry, member)


def _short_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) and len(value) <= MAX_LINKS else []


def _member(entry: Any, name: str) -> Any:
    return entry.get(name) if isinstance(entry, dict) else None


_KEY_TYPES: dict[str, TypeAdapter[Any]] = {"code": TypeAdapter(Code), "external_id": TypeAdapter(StoredExternalId)}


def folded_key(column: str, value: Any) -> Key:
    """Return a key, folded as its index compares it."""
    return column, fold(value) if column == "code" else value


def read_key(column: str, value: Any) -> Key | None:
    """Return the key that a member of a body has, or None if the value is not a valid key."""
    try:
        return folded_key(column, _KEY_TYPES[column].validate_python(value, strict=True))
    except ValidationError:
        return None


def referenced_key(place: KeyedPlace) -> Key:
    """Return the key in an object in place of an id. Raises `InvalidContent`, with pointers into the body."""
    value = place.value
    column = next(iter(value), None) if len(value) == 1 else None
    if column not in _KEY_TYPES:
        raise InvalidContent(errors=[Fault.of(place.pointer, "bad_reference")])
    try:
        return folded_key(column, _KEY_TYPES[column].validate_python(value[column], strict=True))
    except ValidationError as error:
        start = f"{place.pointer}/{column}"
        faults = [replace(fault, pointer=start + fault.pointer) for fault in faults_of(error)]
        raise InvalidContent(errors=faults) from error
