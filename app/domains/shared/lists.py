"""Lists: which part, in which order, and the envelope around it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import ColumnElement, FromClause, func

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 200
LARGEST_OFFSET = 10_000

# Every order that is offered has its index in `models.register_table`.
SORTS: dict[str, Callable[[FromClause], ColumnElement[Any]]] = {
    "id": lambda source: source.c.id,
    "code": lambda source: func.lower(source.c.code),
    "name": lambda source: func.lower(source.c.name),
    "created_at": lambda source: source.c.created_at,
    "updated_at": lambda source: source.c.updated_at,
}
_SORT_PATTERN = f"^-?({'|'.join(SORTS)})(,-?({'|'.join(SORTS)})){{0,3}}$"


class ListQuery(BaseModel):
    """The parameters of every list."""

    # Not `strict`: what stands in an address is text.
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=LARGEST_LIMIT, description="Most objects to return.")
    offset: int = Field(0, ge=0, le=LARGEST_OFFSET, description="Objects to pass over first.")
    sort: str = Field(
        "id",
        pattern=_SORT_PATTERN,
        description="Names of what to sort by, the first first; `-` turns one round. Ties are ordered by `id`.",
        examples=["name", "-updated_at,name"],
    )
    count: Literal["exact"] | None = Field(None, description="`exact` counts the whole list into `total`.")

    @field_validator("sort")
    @classmethod
    def _each_once(cls, value: str) -> str:
        names = [name.removeprefix("-") for name in value.split(",")]
        if len(set(names)) < len(names):
            raise PydanticCustomError("repeated_sort", "A list can be sorted by each name only once")
        return value


def order_by(sort: str) -> Callable[[FromClause], Sequence[ColumnElement[Any]]]:
    """Return the ORDER BY of `sort` for a table or CTE; it always ends in the primary key.

    The key follows the last direction, so that the index of that column serves it, read backwards if need be.
    """
    names = sort.split(",")
    if not re.search(r"(^|,)-?id(,|$)", sort):
        names.append("-id" if names[-1].startswith("-") else "id")

    def order(source: FromClause) -> Sequence[ColumnElement[Any]]:
        columns = ((name, SORTS[name.removeprefix("-")](source)) for name in names)
        return [column.desc() if name.startswith("-") else column for name, column in columns]

    return order


@dataclass(frozen=True, slots=True)
class Listing:
    """One page: its objects as a JSON array in bytes, whether more follow, and the count if it was asked for."""

    items: bytes
    more: bool
    total: int | None
