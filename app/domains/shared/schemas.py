"""The common types and base classes of schemas.

Bodies are strict: a string is not a number, and an unknown member is an error. `texts` has the types of text.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from types import NoneType
from typing import Annotated, Any, ClassVar, Generic, TypeVar, cast, get_args, get_origin

from pydantic import (
    MISSING,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from app.core.permissions import Scope
from app.domains.shared.models import ChangeAction
from app.domains.shared.models import (
    Criticality as Criticality,  # noqa: PLC0414 - for the schemas of domains
)
from app.domains.shared.references import (
    MAX_LINKS as MAX_LINKS,  # noqa: PLC0414 - for the schemas of domains
)
from app.domains.shared.references import (
    Reference as Reference,  # noqa: PLC0414
)
from app.domains.shared.references import keyed_body
from app.domains.shared.texts import Code, Description, ExternalId, Name, exempt_all
from app.utils.text.invisible import has_ignorable


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


class ReferringBody(Schema):
    """The base of bodies with references, which become a `KeyedBody` if some of the references are keys."""

    # Whether the body may repeat texts that are older than the rules for texts.
    repeats_texts: ClassVar[bool] = False

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by `_read`, outside the validators of all subclasses; a validator of this class would be inside."""
        schema: Any = handler(source)
        if schema.get("function", {}).get("function") == cls._read:
            return cast("CoreSchema", schema)  # of a class that is complete
        return core_schema.with_info_wrap_validator_function(cls._read, schema, ref=schema.pop("ref", None))

    @classmethod
    def _read(cls, values: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Return the body, or a `KeyedBody` if it has references by key, which the service validates."""
        # With a context, it is the service that validates.
        is_body = info.context is None and isinstance(values, dict)
        if is_body and cls.repeats_texts and has_ignorable_text(values):
            with suppress(ValidationError):
                return cls.model_validate(values, context=exempt_all)
        try:
            return handler(values)
        except ValidationError:
            if is_body and (body := keyed_body(cls, values)) is not None:
                return body
            raise


class ObjectFields(ReferringBody):
    """The members that bodies of every collection share."""

    code: Code | None = None
    external_id: ExternalId | None = None
    name: Name
    description: Description | None = None


class ChangeFields(Schema):
    """The base of bodies that change an object, and may repeat texts that are older than the rules for texts.

    Such a text is left for the service, which knows the values of the object, unless the body has other errors.
    """

    repeats_texts: ClassVar[bool] = True


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


@dataclass(frozen=True, slots=True)
class OnRequest:
    """Marks a list of links in responses that they have only if `embed` or `fields` names it, which needs the scope.

    The annotation of such a field is `list[Brief] | MISSING`, and its default `MISSING`.
    """

    scope: Scope


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
    links only the removed or added entries. Without the scope `users:read`, they contain no `holders` of roles.
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


class StatsKey(Schema):
    """The value that the objects of a group have in common."""

    key: Annotated[
        str | None,
        Field(description="Filter value that selects this group, as text; null for the objects without a value."),
    ]
    object: Annotated[Brief | None, Field(description="The object whose `id` is `key`; null if `key` is not an `id`.")]


class StatsGroup(StatsKey):
    """A group of objects and its size."""

    count: int
    second: StatsKey = Field(
        cast(Any, MISSING), description="The key of the second grouping; absent with one grouping."
    )


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
