"""Lists: their declarations, their query parameters, and their pages.

Keyset pagination: a cursor holds the sort keys of the first or last row of a page. Therefore every page costs the
same, and rows that are inserted or deleted in the meantime do not shift the pages.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, create_model, field_validator, model_validator

from app.core.database import RegisterSession
from app.core.http.hints import listed_name_hint
from app.core.http.streaming import Streams
from app.core.prepared import FastStatement
from app.core.tokens import Tokens
from app.domains.shared.models import Base
from app.domains.shared.query.field_filters import identifier, instant, number, own_id, text
from app.domains.shared.query.filters import (
    Digits,
    Filter,
    FixedLink,
    IntegerParameter,
    Parameter,
    Selection,
    build_selection,
)
from app.domains.shared.query.formats import Format
from app.domains.shared.query.groups import Grouping
from app.domains.shared.query.orders import OBJECT_SORTS, Order, SortKey, Start
from app.domains.shared.query.reference_parameters import keys_of
from app.domains.shared.query.representations import RepresentationQuery, representation
from app.domains.shared.query.search import SEARCH
from app.domains.shared.texts import DESCRIPTION_LENGTH, comparable_code
from app.utils.exceptions import BadRequest
from app.utils.fault_codes import described_pattern, invalid
from app.utils.wording import counted

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
MAX_OFFSET = 10_000
MAX_SORT_FIELDS = 4


def object_filters(model: type[Base]) -> Iterable[Filter]:
    """Yield the filters of every collection; `model` is that of its objects."""
    yield from own_id(model)
    yield from text("code", partial=True, ignore_case=True, is_key=True, whole=comparable_code, part=comparable_code)
    yield from text("external_id", partial=True, is_key=True)
    yield from text("name", partial=True, nullable=False)
    yield from text("description", partial=True, length=DESCRIPTION_LENGTH, multiline=True)
    yield from instant("created_at")
    yield from instant("updated_at")
    yield from identifier("created_by_id", model)
    yield from identifier("updated_by_id", model)
    yield from number("version", IntegerParameter)
    yield SEARCH


@dataclass(frozen=True, eq=False)
class ListDeclaration:
    """The filters and sort fields of a list, and the groupings of its statistics."""

    filters: tuple[Filter, ...]
    sorts: Mapping[str, SortKey]
    groups: Mapping[str, Grouping] = field(default_factory=dict)

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters of all filters, by name."""
        return {parameter.name: parameter for filter_ in self.filters for parameter in filter_.parameters}

    @property
    def fields(self) -> dict[str, Any]:
        """The parameters as fields, for `create_model`."""
        return {name: parameter.field for name, parameter in self.parameters.items()}

    @cached_property
    def dependent(self) -> tuple[Parameter, ...]:
        """The parameters that require another parameter."""
        return tuple(parameter for parameter in self.parameters.values() if parameter.requires)

    @cached_property
    def reads(self) -> dict[str, str]:
        """The parameters whose conditions read another collection, with its name."""
        return {name: parameter.reads for name, parameter in self.parameters.items() if parameter.reads}


@dataclass(frozen=True, slots=True)
class Position:
    """A position in a list: the sort keys of a row, as text, and whether the page lies after or before that row."""

    start: Literal["after", "before"]
    keys: tuple[str, ...]

    def arguments(self) -> dict[str, str]:
        """Return the arguments of `Order.keyset_condition`."""
        return {f"key_{number}": key for number, key in enumerate(self.keys)}


@dataclass(frozen=True, slots=True)
class Origin:
    """The path of a list's request, the services that its response needs, and whether the method is HEAD."""

    path: str
    tokens: Tokens
    streams: Streams
    is_head: bool


class PageQuery(BaseModel):
    """The parameters of every list."""

    # Not `strict`: query parameters are text. `defer_build`: see `FilterQuery`.
    model_config = ConfigDict(defer_build=True, extra="forbid")

    limit: Annotated[int, Digits] = Field(
        DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Maximum number of objects to return."
    )
    offset: Annotated[int, Digits] = Field(0, ge=0, le=MAX_OFFSET, description="Number of objects to skip.")
    count: Literal["exact"] | None = Field(
        None, description="`exact` returns the number of objects in the whole list as `total`."
    )
    cursor: str | None = Field(
        None, description="Position in the list, from `next` or `prev`; cannot be combined with `offset`."
    )
    _origin: Origin | None = PrivateAttr(default=None)
    # The content of the cursor, once its seal is verified.
    _position: Position | None = PrivateAttr(default=None)

    @property
    def origin(self) -> Origin:
        """The origin, which `ListParameters` has set."""
        assert self._origin is not None
        return self._origin

    def set_origin(self, origin: Origin) -> None:
        self._origin = origin

    @property
    def position(self) -> Position | None:
        return self._position

    def set_position(self, position: Position) -> None:
        self._position = position

    @property
    def start(self) -> Start:
        """Where the page begins: at the beginning of the list, or after or before the position."""
        return "first" if self._position is None else self._position.start

    @model_validator(mode="after")
    def _check_cursor_and_offset(self) -> Self:
        if self.cursor is not None and self.offset:
            raise invalid("two_places", member="offset")
        return self


class ExportQuery(PageQuery):
    """The parameters of a list that can also be streamed as a whole."""

    csv: Literal["raw"] | None = Field(
        None, description="`raw` leaves CSV cells unescaped, even those that a spreadsheet would evaluate as formulas."
    )
    # The format negotiated by `Accept`.
    _format: Format = PrivateAttr(default="json")

    @property
    def format(self) -> Format:
        return self._format

    def set_format(self, format_: Format) -> None:
        self._format = format_

    def export_arguments(self) -> dict[str, Any]:
        """Return the arguments of the statement of an export: the position and the limit.

        Raises `BadRequest` for a position before which the list would be read.
        """
        if self.start == "before":
            raise BadRequest("An export cannot be read backwards. Take the cursor from `next`.")
        position = self.position.arguments() if self.position else {}
        # The default limit of pages does not apply to exports.
        limit = self.limit if "limit" in self.model_fields_set else None
        return {"limit": limit, "offset": self.offset, **position}


class FilterQuery(BaseModel):
    """The parameters that select objects: those of the filters of a declaration."""

    # Not `strict`: query parameters are text.
    # `defer_build`: each collection has several models of nearly a hundred fields, which take 5 MB of memory in all.
    model_config = ConfigDict(defer_build=True, extra="forbid")

    declaration: ClassVar[ListDeclaration] = ListDeclaration((), OBJECT_SORTS)

    def selection(
        self, fixed_link: FixedLink | None = None, *, without: Sequence[str] = ()
    ) -> tuple[Selection | None, dict[str, Any]]:
        """Return the selection for the filters and the fixed link, None if there are neither, and its arguments.

        The parameters `without` are left out.
        """
        names = self.model_fields_set & self.declaration.parameters.keys()
        values = {name: getattr(self, name) for name in names.difference(without)}
        # A shortcut: most lists use none of the hundred parameters.
        return build_selection(self.declaration.filters, values, fixed_link) if values or fixed_link else (None, {})

    @property
    def reads(self) -> list[str]:
        """The collections that the filters read."""
        given = self.model_fields_set
        return [collection for name, collection in self.declaration.reads.items() if name in given]

    @property
    def keyed(self) -> dict[str, str]:
        """The arguments of the selection that have keys, with the collection of their objects."""
        parameters = [self.declaration.parameters.get(name) for name in self.model_fields_set]
        return {
            parameter.argument: parameter.target
            for parameter in parameters
            if parameter and parameter.target and keys_of(getattr(self, parameter.name))
        }

    @model_validator(mode="after")
    def _check_required_parameters(self) -> Self:
        given = self.model_fields_set
        for parameter in self.declaration.dependent:
            name, needed = parameter.name, parameter.requires
            if name in given and needed not in given and getattr(self, name) != parameter.independent:
                raise invalid("parameter_missing", member=name, needed=needed)
        return self


class ListQuery(FilterQuery, ExportQuery, RepresentationQuery):
    """The parameters of the list of a collection; `list_query` adds those of its declaration."""

    sort: str | None = None

    @property
    def order(self) -> Order:
        return Order(self.sort or "id", self.declaration)

    @property
    def is_search(self) -> bool:
        """Whether the request has `q`."""
        return getattr(self, "q", None) is not None

    @field_validator("sort")
    @classmethod
    def _check_sort(cls, value: str | None) -> str | None:
        if value is None:
            return None
        names = [name.removeprefix("-") for name in value.split(",")]
        if len(names) > MAX_SORT_FIELDS:
            raise invalid("too_many_sorts", fields=counted(MAX_SORT_FIELDS, "field"))
        sorts = tuple(cls.declaration.sorts)
        for place, name in enumerate(names, 1):
            if name not in sorts:
                raise invalid("unknown_sort", place=place, hint=listed_name_hint(name, sorts, "fields"))
        if len(set(names)) < len(names):
            raise invalid("repeated_sort")
        return value


def list_query(name: str, declaration: ListDeclaration, read_schema: type[BaseModel]) -> type[ListQuery]:
    """Return the model of a list's parameters; `read_schema` is that of its objects."""
    names = "|".join(declaration.sorts)
    pattern = f"^-?({names})(,-?({names})){{0,{MAX_SORT_FIELDS - 1}}}$"
    sort = Field(
        None,
        description=f"Comma-separated sort fields (at most {MAX_SORT_FIELDS}); prefix `-` for descending order.",
        examples=["name", "-updated_at,name"],
        # For OpenAPI only: `_check_sort` validates, and suggests the nearest name.
        json_schema_extra={"pattern": described_pattern(pattern, "Must be sort fields, separated by commas.")},
    )
    fields: dict[str, Any] = declaration.fields | {"sort": (str | None, sort)} | representation(read_schema)
    model = create_model(name, __base__=ListQuery, **fields)
    model.declaration = declaration
    model.read_schema = read_schema
    return model


@dataclass(frozen=True, slots=True)
class Listing:
    """One page: its objects as a JSON array in bytes, the sort keys at both ends, and the total if requested."""

    items: bytes
    total: int | None
    # Whether more rows follow in the direction of reading.
    has_more: bool
    # The sort keys of the first and the last object; None if the page is empty.
    edges: tuple[tuple[str, ...], tuple[str, ...]] | None = None


async def fetch_page(
    session: RegisterSession, page: FastStatement, count: FastStatement, query: PageQuery, values: dict[str, Any]
) -> Listing:
    """Return one page of a list.

    `page` returns one row: `rows`, one more than `limit` if more follow; `items`, a JSON array in bytes; and `edges`,
    the sort keys of the first and the last object as JSON. `count` returns the `total`.
    """
    position = query.position.arguments() if query.position else {}
    row = await session.fetch(page, limit=query.limit, offset=query.offset, **position, **values)
    assert row is not None  # an aggregate always has a row
    total = await fetch_total(session, count, values) if query.count == "exact" else None
    first, last = json.loads(row["edges"])
    keys = None if first is None else (tuple(first), tuple(last))
    return Listing(row["items"], total, has_more=row["rows"] > query.limit, edges=keys)


async def fetch_total(session: RegisterSession, count: FastStatement, values: dict[str, Any]) -> int:
    """Return the `total` of a statement."""
    row = await session.fetch(count, **values)
    assert row is not None
    total: int = row["total"]
    return total
