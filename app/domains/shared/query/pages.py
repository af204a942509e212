"""Lists: what they can be filtered by, which part is asked for, and the envelope around it.

A part is found by its position, not by counting: the cursor holds the sort keys of the row at its edge, so that a deep
page costs what the first one costs, and who comes and goes meanwhile moves nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, create_model, field_validator, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import Executable

from app.core.database import RegisterSession
from app.core.http.hints import name_hint
from app.core.http.streaming import Streams
from app.core.prepared import Prepared
from app.core.tokens import Tokens
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
from app.domains.shared.query.orders import OBJECT_SORTS, Order, SortKey
from app.domains.shared.query.representations import RepresentationQuery, representation
from app.domains.shared.query.search import SEARCH
from app.domains.shared.schemas import DESCRIPTION_LENGTH

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
MAX_OFFSET = 10_000
MAX_SORT_FIELDS = 4

# What every collection can be filtered by.
OBJECT_FILTERS: tuple[Filter, ...] = (
    *own_id(),
    *text("code", partial=True, ignoring_case=True),
    *text("external_id", partial=True),
    *text("name", partial=True, nullable=False),
    *text("description", partial=True, length=DESCRIPTION_LENGTH, several_lines=True),
    *instant("created_at"),
    *instant("updated_at"),
    *identifier("created_by_id"),
    *identifier("updated_by_id"),
    *number("version", IntegerParameter),
    SEARCH,
)


@dataclass(frozen=True, eq=False)
class ListDeclaration:
    """What a list can be filtered and sorted by, and what its objects can be counted by."""

    filters: tuple[Filter, ...]
    sorts: Mapping[str, SortKey]
    groups: Mapping[str, Grouping] = field(default_factory=dict)

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters of all filters, by name."""
        return {parameter.name: parameter for each in self.filters for parameter in each.parameters}

    @property
    def fields(self) -> dict[str, Any]:
        """The parameters as fields, for `create_model`."""
        return {name: parameter.field for name, parameter in self.parameters.items()}

    @cached_property
    def needs(self) -> dict[str, str]:
        """The parameters that say nothing without another, which is their value here."""
        return {name: parameter.needs for name, parameter in self.parameters.items() if parameter.needs}


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two rows of a list: the sort keys of the row at its edge, as text, and which way to go."""

    start: Literal["after", "before"]
    keys: tuple[str, ...]

    def arguments(self) -> dict[str, str]:
        """Return the parameters of `beyond`."""
        return {f"key_{number}": key for number, key in enumerate(self.keys)}


@dataclass(frozen=True, slots=True)
class Origin:
    """What the answer to a list has to know of its request."""

    path: str
    tokens: Tokens
    streams: Streams
    is_head: bool


class PageQuery(BaseModel):
    """The parameters of a list whose order is given."""

    # Not `strict`: what stands in an address is text. Built when first needed, see `FilterQuery`.
    model_config = ConfigDict(defer_build=True, extra="forbid")

    limit: Annotated[int, Digits] = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Most objects to return.")
    offset: Annotated[int, Digits] = Field(0, ge=0, le=MAX_OFFSET, description="Objects to pass over first.")
    count: Literal["exact"] | None = Field(None, description="`exact` counts the whole list into `total`.")
    _origin: Origin | None = PrivateAttr(default=None)

    @property
    def origin(self) -> Origin:
        """Where the list was asked for."""
        assert self._origin is not None  # `ListParameters` has set it
        return self._origin

    def come_from(self, origin: Origin) -> None:
        self._origin = origin


class CursorQuery(PageQuery):
    """The parameters of a list that has cursors."""

    cursor: str | None = Field(
        None, description="Where to go on, as `next` and `prev` have it; not together with `offset`."
    )
    # What the cursor says, once it is known to be ours.
    _position: Position | None = PrivateAttr(default=None)

    @property
    def position(self) -> Position | None:
        return self._position

    def go_on_at(self, position: Position) -> None:
        self._position = position

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.cursor is not None and self.offset:
            raise PydanticCustomError("two_places", "Give a cursor or an offset, not both", {"member": "offset"})
        return self


class FilterQuery(BaseModel):
    """The parameters that select objects: those of a declaration's filters."""

    # Not `strict`: what stands in an address is text.
    # Built when first needed: each collection has several with nearly a hundred fields, 5 MB of memory in all.
    model_config = ConfigDict(defer_build=True, extra="forbid")

    declaration: ClassVar[ListDeclaration] = ListDeclaration((), OBJECT_SORTS)

    def selected(
        self, fixed: FixedLink | None = None, *, searching: bool = True
    ) -> tuple[Selection | None, dict[str, Any]]:
        """Return the condition that the filters stand for, if there are any, and the parameters of its statement.

        A `fixed` link must be there, too. Not `searching`, it is that of the others than `q`.
        """
        names = self.model_fields_set & self.declaration.parameters.keys()
        given = {name: getattr(self, name) for name in names if searching or name != "q"}
        # Most lists are not filtered, and have a hundred parameters that are not there.
        return build_selection(self.declaration.filters, given, fixed) if given or fixed else (None, {})

    @model_validator(mode="after")
    def _nothing_alone(self) -> Self:
        for name, needed in self.declaration.needs.items():
            if name in self.model_fields_set and needed not in self.model_fields_set:
                context = {"needed": needed, "member": name}
                raise PydanticCustomError("parameter_missing", "It says nothing without {needed}", context)
        return self


class ListQuery(FilterQuery, CursorQuery, RepresentationQuery):
    """The parameters of the list of a collection; `list_query` adds those of its declaration."""

    sort: str | None = None
    csv: Literal["raw"] | None = Field(
        None, description="`raw`: of `text/csv`, leave cells as they are, also those that a spreadsheet would run."
    )
    # What the client accepts.
    _format: Format = PrivateAttr(default="json")

    @property
    def format(self) -> Format:
        return self._format

    def send_as(self, format_: Format) -> None:
        self._format = format_

    @property
    def order(self) -> Order:
        return Order(self.sort or "id", self.declaration)

    @property
    def searches(self) -> bool:
        """Whether `q` is among the filters."""
        return getattr(self, "q", None) is not None

    @field_validator("sort")
    @classmethod
    def _known_and_each_once(cls, value: str | None) -> str | None:
        if value is None:
            return None
        names = [name.removeprefix("-") for name in value.split(",")]
        if len(names) > MAX_SORT_FIELDS:
            raise PydanticCustomError("too_many_sorts", f"A list can be sorted by at most {MAX_SORT_FIELDS} names")
        known = tuple(cls.declaration.sorts)
        for place, name in enumerate(names, 1):
            if name not in known:
                context = {"place": place, "hint": name_hint(name, known)}
                raise PydanticCustomError("unknown_sort", "Name {place} is none to sort by here. {hint}", context)
        if len(set(names)) < len(names):
            raise PydanticCustomError("repeated_sort", "A list can be sorted by each name only once")
        return value


def list_query(name: str, declaration: ListDeclaration, shown: type[BaseModel]) -> type[ListQuery]:
    """Return the model of the parameters of a list, made of its declaration and of the schema of what it shows."""
    names = "|".join(declaration.sorts)
    sort = Field(
        None,
        description=f"Names of what to sort by, the first first, at most {MAX_SORT_FIELDS}; `-` turns one round. Ties "
        "are ordered by `id`, downwards if the last name has a `-`. Without it, lists are ordered by `id`, and with "
        "`q` by how well that is matched.",
        examples=["name", "-updated_at,name"],
        # Checked by the query, which names the nearest; a pattern of the field itself would answer first.
        json_schema_extra={"pattern": f"^-?({names})(,-?({names})){{0,{MAX_SORT_FIELDS - 1}}}$"},
    )
    fields: dict[str, Any] = declaration.fields | {"sort": (str | None, sort)} | representation(shown)
    model = create_model(name, __base__=ListQuery, **fields)
    model.declaration = declaration
    model.shown = shown
    return model


@dataclass(frozen=True, slots=True)
class Listing:
    """One page: its objects as a JSON array in bytes, where it ends on both sides, and the count if asked for."""

    items: bytes
    total: int | None
    # Whether more follow in the direction in which the page was read.
    more: bool
    # The sort keys of the first and the last object; without them the list has no cursors.
    edges: tuple[tuple[str, ...], tuple[str, ...]] | None = None


async def fetch_page(
    session: RegisterSession, page: Prepared, count: Executable, query: PageQuery, values: dict[str, Any]
) -> Listing:
    """Return the part of a list that the query asks for, by the fast path; see `execute_page`."""
    row = await session.fetch(page, limit=query.limit, offset=query.offset, **values)
    assert row is not None  # an aggregate always has a row
    return await _listing(session, row["rows"], row["items"], row["edges"], count, query, values)


async def execute_page(
    session: RegisterSession, page: Executable, count: Executable, query: PageQuery, values: dict[str, Any]
) -> Listing:
    """Return the part of a list that the query asks for.

    `page` returns one row: `rows`, one more than `limit` when more follow, `items` as a JSON array in bytes and, unless
    the list has no cursors, `edges`, the sort keys of the first and the last object as JSON. `count` returns the total.
    """
    row = (await session.execute(page, values | {"limit": query.limit, "offset": query.offset})).one()
    return await _listing(session, row.rows, row.items, getattr(row, "edges", None), count, query, values)


async def _listing(
    session: RegisterSession,
    rows: int,
    items: bytes,
    edges: str | None,
    count: Executable,
    query: PageQuery,
    values: dict[str, Any],
) -> Listing:
    total = await session.scalar(count, values) if query.count == "exact" else None
    first, last = json.loads(edges or "[null, null]")
    keys = None if first is None else (tuple(first), tuple(last))
    return Listing(items, total, more=rows > query.limit, edges=keys)
