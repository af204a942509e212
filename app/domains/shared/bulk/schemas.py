"""The bodies of bulk requests, derived from those of single requests, and the bodies of their responses.

The schemas of items are for OpenAPI only: the service validates items one by one, to report the faults of all.
"""

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, create_model

from app.domains.shared.bulk.items import Status
from app.domains.shared.references import MAX_ID, ObjectId
from app.domains.shared.schemas import ObjectFields, Schema, merge_patch
from app.domains.shared.texts import Code, ExternalId
from app.utils.problems import ProblemError

MAX_BULK_ITEMS = 1000

CreateT = TypeVar("CreateT", bound=ObjectFields)
ItemT = TypeVar("ItemT", bound=Schema)

Version = Annotated[int, Field(ge=1, le=MAX_ID, description="Write only if the object still has this version.")]
_UPSERT = (
    "Update the object with this key, or create it if no object has the key; exactly one of `code` and `external_id` "
    "is required."
)


class BulkDelete(Schema):
    """Delete the object with this key; exactly one of `id`, `code` and `external_id` is required."""

    op: Literal["delete"]
    id: ObjectId | None = None
    code: Code | None = None
    external_id: ExternalId | None = None
    version: Version | None = None


class BulkItemResult(Schema):
    """The result of an item; in a dry run, the result that it would have."""

    index: Annotated[int, Field(description="Index of the item in the request, from 0.")]
    status: Status
    id: Annotated[int | None, Field(description="Null if the object does not exist, such as a new one in a dry run.")]
    version: Annotated[
        int | None, Field(description="Current version of the object; null if the object does not exist.")
    ]
    before: Annotated[
        dict[str, Any] | None, Field(description="Changed fields before the change; only in a dry run.")
    ] = None
    after: Annotated[
        dict[str, Any] | None, Field(description="Changed fields after the change; only in a dry run.")
    ] = None
    errors: Annotated[
        list[ProblemError] | None, Field(description="Errors of a failed item, with pointers into the body.")
    ] = None


class BulkCounts(Schema):
    """The number of items per status."""

    created: int
    updated: int
    unchanged: int
    deleted: int
    failed: int


class BulkAnswer(Schema):
    """The results of all items, in the order of the request."""

    dry_run: bool
    counts: BulkCounts
    items: list[BulkItemResult]


class BulkLinks(Schema, Generic[ItemT]):
    """The body of requests that replace lists of links of many objects: `BulkLinks[RoleHoldersItem]`."""

    items: Annotated[list[SkipValidation[ItemT]], Field(min_length=1, max_length=MAX_BULK_ITEMS)]


class Bulk(Schema, Generic[CreateT]):
    """The body of a collection's bulk requests, derived from the body of a create request: `Bulk[DepartmentCreate]`.

    Each collection derives a class from it, whose name becomes the name of the schema.
    """

    items: list[Any]

    if not TYPE_CHECKING:

        def __class_getitem__(cls, create: type[ObjectFields]) -> type[BaseModel]:
            return _body_of(create)


@cache
def _body_of(create: type[ObjectFields]) -> type[BaseModel]:
    noun = create.__name__.removesuffix("Create")
    fields = _derived(create, f"Bulk{noun}Fields", "Fields of a new object.")
    patch = merge_patch(
        _derived(
            create, f"Bulk{noun}Patch", "Changes to an object (merge patch, RFC 7396), or the fields of a new object."
        )
    )
    key: dict[str, Any] = {"code": (Code | None, None), "external_id": (ExternalId | None, None)}
    target: dict[str, Any] = {"id": (ObjectId | None, None), **key, "version": (Version | None, None)}
    create_item = _item(f"BulkCreate{noun}", "Create an object.", Literal["create"], {}, fields)
    update_item = _item(
        f"BulkUpdate{noun}",
        "Update the object with this key; exactly one of `id`, `code` and `external_id` is required.",
        Literal["update"],
        target,
        patch,
    )
    upsert_item = _item(f"BulkUpsert{noun}", _UPSERT, Literal["upsert"], key, patch)
    item: Any = Annotated[create_item | update_item | upsert_item | BulkDelete, Field(discriminator="op")]
    limits = Field(min_length=1, max_length=MAX_BULK_ITEMS)
    # An update, because a create can be sent only once.
    example: Any = {"items": [{"op": "update", "id": 1, "data": {"description": "Reviewed in spring."}}]}
    return create_model(
        f"Bulk{noun}Body",
        __config__=Schema.model_config | ConfigDict(json_schema_extra={"examples": [example]}),
        items=(Annotated[list[SkipValidation[item]], limits], ...),
    )


def _item(name: str, doc: str, op: Any, keys: dict[str, Any], data: Any) -> Any:
    return create_model(name, __base__=Schema, __doc__=doc, op=(op, ...), **keys, data=(data, ...))


def _derived(schema: type[BaseModel], name: str, doc: str) -> type[Any]:
    """Return a copy of the schema, without its validators and examples."""
    hints = get_type_hints(schema, include_extras=True)
    fields: dict[str, Any] = {
        field: (_derived_type(hints[field]), ... if info.is_required() else info.default)
        for field, info in schema.model_fields.items()
    }
    return create_model(name, __base__=Schema, __doc__=doc, **fields)


@cache
def _derived_link(schema: type[BaseModel]) -> type[BaseModel]:
    return _derived(schema, f"Bulk{schema.__name__}", schema.__doc__ or "")


def _derived_type(annotation: Any) -> Any:
    """Return the type of a list of links with a copy of their schema, and other types as they are."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return Annotated[(_derived_type(inner), *metadata)]
    (entry,) = get_args(annotation) if get_origin(annotation) is list else (None,)
    is_link = isinstance(entry, type) and issubclass(entry, BaseModel)
    return list[_derived_link(entry)] if is_link else annotation  # type: ignore[misc]
