"""The common types and base classes of schemas.

Bodies are strict: a string is not a number, an unknown member is an error, and text is trimmed, normalised to Unicode
NFC and free of control characters. Blanks and characters that are displayed as nothing are trimmed; a key has none of
the latter at all.

The validation context of a body, if it has one, is a function that returns whether a text of a field is exempt from the
rule for characters that are displayed as nothing, because it comes from the register or from an export of one and may
be older than the rule. `exempt_stored` and `exempt_all` are such functions.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from datetime import datetime
from functools import cache
from types import NoneType
from typing import Annotated, Any, Generic, Self, TypeGuard, TypeVar, get_args, get_origin

from pydantic import (
    MISSING,
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    ModelWrapValidatorHandler,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.fields import FieldInfo

from app.domains.shared.models import (
    CODE_LENGTH,
    EXTERNAL_ID_LENGTH,
    NAME_LENGTH,
    URL_LENGTH,
    ChangeAction,
)
from app.domains.shared.models import (
    Criticality as Criticality,  # noqa: PLC0414 - for the schemas of domains
)
from app.utils.fault_codes import described_pattern, invalid, text_of
from app.utils.invisible import has_ignorable, is_visible, trimmed
from app.utils.normalisation import MAX_COMBINING_MARKS, TextTooLongError, TooManyMarksError, to_nfc
from app.utils.wording import counted

MAX_ID = 2**63 - 1
# URL parsers ignore white space and control characters, which would then be stored.
URL_PATTERN = described_pattern(r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s\x00-\x1f\x7f-\x9f]+$", text_of("url"))
DESCRIPTION_LENGTH = 20_000
# The maximum number of links of one kind of one object.
MAX_LINKS = 1000
CODE_PATTERN = described_pattern(
    rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{CODE_LENGTH - 1}}}$",
    f"A code has 1 to {CODE_LENGTH} letters A to Z, digits, dots, underscores and hyphens, and begins with a letter or "
    "digit.",
)

# Includes surrogates, which UTF-8 cannot encode and PostgreSQL cannot store.
_LINE_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TEXT_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# A character that PostgreSQL can neither store nor compare.
UNSTORABLE_CHARACTER = re.compile(r"[\x00\ud800-\udfff]")


def is_id(value: Any) -> TypeGuard[int]:
    """Return whether an object can have this id."""
    return type(value) is int and 1 <= value <= MAX_ID


def normalised(text: str, max_length: int) -> str:
    """Return a text in Unicode NFC. Raises the error of a validator if normalising it could take long."""
    try:
        return to_nfc(text, max_length)
    except TextTooLongError as error:
        raise invalid("string_too_long", characters=counted(max_length, "character")) from error
    except TooManyMarksError as error:
        raise invalid("too_many_combining_marks", marks=MAX_COMBINING_MARKS) from error


def _reject_line_controls(value: str) -> str:
    if _LINE_CONTROL.search(value):
        raise invalid("control_character")
    return value


def _check_line(value: str) -> str:
    _reject_line_controls(value)
    if not is_visible(value):
        raise invalid("invisible_text")
    return value


def reject_ignorable(value: str, info: ValidationInfo) -> str:
    """Return a key. Raises the error of a validator if it is a new one with characters displayed as nothing."""
    if has_ignorable(value) and not _is_exempt(value, info):
        raise invalid("invisible_text:key")
    return value


def _reject_ignorable_code(value: object) -> object:
    # The pattern permits none of these characters, but its error does not name them.
    if isinstance(value, str) and has_ignorable(value):
        raise invalid("invisible_text:key")
    return value


def _is_exempt(text: str, info: ValidationInfo) -> bool:
    return info.context is not None and info.context(info.field_name, text)


def exempt_stored(current: Mapping[str, Any]) -> Callable[[str, str], bool]:
    """Return the validation context of a body that changes an object with these values."""
    return lambda name, text: current.get(name) == text


def exempt_all(_name: str, _text: str) -> bool:
    """Exempt every text: the validation context of an export, and of a body whose object is not yet known."""
    return True


def _check_lines(value: str) -> str:
    if _TEXT_CONTROL.search(value):
        raise invalid("control_character:lines")
    return value


def _check_http_url(value: str) -> str:
    try:
        _URL.validate_python(value)
    except ValidationError as error:
        raise invalid("url") from error
    return value


_URL = TypeAdapter(Annotated[str, Field(pattern=URL_PATTERN), AfterValidator(HttpUrl)])


def _trim_line(value: str) -> str:
    # Invisible text is left for the check, which has a better error than for text that is too short.
    return trimmed(value) or value


def _text(
    max_length: int,
    check: Callable[[str], str],
    trim: Callable[[str], str] | None,
    *,
    min_length: int | None = 1,
    **field: Any,
) -> tuple[Any, ...]:
    def normalise(value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value  # left for Pydantic to reject
        if trim is None:
            return normalised(value, max_length)
        text = normalised(value.strip(), max_length)
        if text.isascii() or (clean := trim(text)) == text:
            return text
        return text if _is_exempt(text, info) else clean

    # Normalisation runs first: a Before validator wraps the validators on its left.
    return (
        Field(min_length=min_length, max_length=max_length, **field),
        BeforeValidator(normalise),
        AfterValidator(check),
    )


def single_line(max_length: int, **field: Any) -> tuple[Any, ...]:
    """Return the metadata of text of one line; `max_length` is in characters of the normalised text."""
    return _text(max_length, _check_line, _trim_line, **field)


def key_text(max_length: int, **field: Any) -> tuple[Any, ...]:
    """Return the metadata of text that a key is compared with: only blanks are trimmed. See `single_line`."""
    return _text(max_length, _check_line, str.strip, **field)


def comparable_code(text: str) -> str:
    """Return a text to compare codes with. A text that is not ASCII becomes one that no code equals or contains.

    Codes are ASCII, but the folded form of other characters may be, too.
    """
    return text if text.isascii() else "\ufffd"


def multiple_lines(max_length: int, **field: Any) -> tuple[Any, ...]:
    """Return the metadata of text of several lines; see `single_line`."""
    return _text(max_length, _check_lines, trimmed, **field)


def part_of_line(max_length: int) -> tuple[Any, ...]:
    """Return the metadata of a part of text: blanks at its ends count, and it needs no visible character."""
    return _text(max_length, _reject_line_controls, None)


def part_of_lines(max_length: int) -> tuple[Any, ...]:
    """Return the metadata of a part of text of several lines; see `part_of_line`."""
    return _text(max_length, _check_lines, None)


Name = Annotated[str, *single_line(NAME_LENGTH, description="Display name.", examples=["Accounts payable"])]
Description = Annotated[
    str, *multiple_lines(DESCRIPTION_LENGTH, min_length=None, description="Free text, which may have several lines.")
]
Code = Annotated[
    str,
    Field(
        pattern=CODE_PATTERN,
        description="Human-readable key, unique in the collection ignoring case.",
        examples=["FIN-01"],
    ),
    BeforeValidator(_reject_ignorable_code),
]
# The external id by which an existing object is found, and which may be older than `reject_ignorable`.
StoredExternalId = Annotated[
    str,
    *key_text(EXTERNAL_ID_LENGTH, description="Key of the object in its source system, unique in the collection."),
]
ExternalId = Annotated[StoredExternalId, AfterValidator(reject_ignorable)]
Reference = Annotated[int, Field(ge=1, le=MAX_ID, description="`id` of an object.", examples=[1])]
HttpAddress = Annotated[
    str,
    # The URL parser drops or encodes control characters, but the original text is stored.
    *single_line(URL_LENGTH, min_length=None),
    AfterValidator(_check_http_url),
    WithJsonSchema({"type": "string", "format": "uri", "pattern": URL_PATTERN, "maxLength": URL_LENGTH}),
]


def _format_as_postgresql(instant: datetime) -> str:
    text = instant.isoformat()
    return text[:-6].rstrip("0") + text[-6:] if instant.microsecond else text


# For responses that PostgreSQL does not format itself.
Instant = Annotated[
    datetime,
    PlainSerializer(_format_as_postgresql, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class Schema(BaseModel):
    """The base of all schemas: strict types, and no unknown members."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def example(**members: Any) -> ConfigDict:
    """Return the configuration with an example body, which must be valid for the demo data."""
    return ConfigDict(json_schema_extra={"examples": [members]})


class ObjectFields(Schema):
    """The members that bodies of every collection share."""

    code: Code | None = None
    external_id: ExternalId | None = None
    name: Name
    description: Description | None = None


class ChangeFields(Schema):
    """The base of bodies that change an object, and may repeat texts that are older than the rules for texts.

    Such a text is left for the service, which knows the values of the object, unless the body has other errors.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _leave_ignorable(cls, values: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if info.context is None and isinstance(values, dict) and has_ignorable_text(values):
            with suppress(ValidationError):
                return cls.model_validate(values, context=exempt_all)
        return handler(values)


def has_ignorable_text(values: Mapping[str, Any]) -> bool:
    """Return whether one of these values is a text with a character that is displayed as nothing."""
    # A generator would take longer, for each body.
    for value in values.values():  # noqa: SIM110
        if isinstance(value, str) and not value.isascii() and has_ignorable(value):
            return True
    return False


class TreeFields(ObjectFields):
    """The members of a body of an object in a tree."""

    parent_id: Reference | None = None


class Brief(Schema):
    """A reference to an object, with its code and name."""

    id: int
    code: str | None
    name: str


class NoFields(Schema):
    """A link without fields of its own."""


NO_FIELDS = NoFields()


class ObjectRead(Schema):
    """The members that responses of every collection share."""

    id: Annotated[int, Field(description="64-bit integer assigned by the register.", examples=[1])]
    code: str | None
    external_id: str | None
    name: str
    description: str | None
    created_at: datetime
    updated_at: datetime
    created_by: Annotated[Brief | None, Field(description="Null only for the first administrator.")]
    updated_by: Annotated[Brief | None, Field(description="Null only for the first administrator.")]
    version: Annotated[int, Field(description="Increases by one with each change of the object or its links.")]


ReadT = TypeVar("ReadT", bound=BaseModel)
SchemaT = TypeVar("SchemaT", bound=BaseModel)


class Page(Schema, Generic[ReadT]):
    # The docstring of a generic class is not inherited by its specialisations.
    model_config = ConfigDict(
        json_schema_extra={"description": "A page of a list, with the URLs of the next and previous page."}
    )

    items: list[ReadT]
    next: Annotated[str | None, Field(description="Relative URL of the next page; null on the last page.")]
    prev: Annotated[str | None, Field(description="Relative URL of the previous page; null on the first page.")]
    total: Annotated[int | None, Field(description="Number of objects in the whole list; null without `count=exact`.")]

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{params[0].__name__.removesuffix('Read')}Page"


class Actor(Schema):
    """The user who made a change, with the name at that time."""

    id: int
    name: str


class ChangeRead(Schema):
    """A change of an object.

    `before` and `after` contain the changed fields: references with the code and name of their objects, and of lists of
    links only the removed or added entries.
    """

    id: int
    at: datetime
    actor: Annotated[Actor | None, Field(description="Null for changes by the register itself.")]
    request_id: str | None
    message: Annotated[str | None, Field(description="Value of `X-Change-Message`.")]
    type: Annotated[str, Field(description="Collection of the object.", examples=["departments"])]
    object: Annotated[Brief, Field(description="The object, with the code and name at that time.")]
    action: ChangeAction
    before: Annotated[
        dict[str, Any] | None, Field(description="Null if the object or link did not exist before the change.")
    ]
    after: Annotated[
        dict[str, Any] | None, Field(description="Null if the object or link does not exist after the change.")
    ]


class TreeNode(Brief):
    """An object of a tree."""

    parent_id: int | None
    depth: Annotated[int, Field(description="Number of levels below the requested object.")]
    children: Annotated[int, Field(description="Number of all direct children, including those beyond `depth`.")]


class Tree(Schema):
    """An object and its descendants, depth first, siblings by name."""

    items: list[TreeNode]
    truncated: Annotated[
        bool, Field(description="Whether nodes are missing because there are more than 10,000 nodes or 100 levels.")
    ]


class Ancestors(Schema):
    """The nearest ancestors of an object, root first."""

    items: list[Brief]
    truncated: Annotated[bool, Field(description="Whether ancestors are missing because there are more than 100.")]


class StatsGroup(Schema):
    """A group of objects and its size."""

    key: Annotated[
        str | None,
        Field(description="Filter value that selects this group, as text; null for the objects without a value."),
    ]
    object: Annotated[Brief | None, Field(description="The object whose `id` is `key`; null if `key` is not an `id`.")]
    count: int


class Stats(Schema):
    """The number of objects per group, largest group first."""

    group_by: str
    total: Annotated[int, Field(description="Number of counted objects, each counted once.")]
    groups: list[StatsGroup]
    truncated: Annotated[bool, Field(description="Whether groups are missing because there are more than 1,000.")]


def takes_null(field: FieldInfo) -> bool:
    """Return whether null clears a field of a body: it can be stored as NULL, or is a list of links."""
    return NoneType in get_args(field.annotation) or get_origin(field.annotation) is list


def merge_patch(schema: type[SchemaT]) -> type[SchemaT]:
    """Convert the schema of a body into that of its merge patch (RFC 7396): all members are optional, null clears them.

    Null is invalid for a member that is never stored as NULL, because no value means its absence.
    """
    for name, field in schema.model_fields.items():
        new_field = copy(field)
        if takes_null(field):
            # The constraints apply to the value, not to null.
            value: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            new_field.annotation, new_field.metadata = value | None, []
        _make_optional(schema, name, new_field)
    schema.model_rebuild(force=True)
    return schema


def keep_omitted(*names: str) -> Callable[[type[SchemaT]], type[SchemaT]]:
    """Declare fields of a body of PUT that an object keeps if the body omits them; others are reset to their defaults.

    For fields whose reset is a change of permissions, which a client that does not know the field must not cause.
    """

    def convert(schema: type[SchemaT]) -> type[SchemaT]:
        for name in names:
            _make_optional(schema, name, copy(schema.model_fields[name]))
        schema.model_rebuild(force=True)
        return schema

    return convert


def _make_optional(schema: type[BaseModel], name: str, field: FieldInfo) -> None:
    field.default, field.default_factory = MISSING, None
    schema.model_fields[name] = field


@cache
def kept_fields(schema: type[BaseModel]) -> frozenset[str]:
    """Return the fields that `keep_omitted` declares."""
    return frozenset(name for name, field in schema.model_fields.items() if field.default is MISSING)
