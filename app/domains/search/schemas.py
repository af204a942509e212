"""Request and response schemas of the search in all collections."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from app.domains.collections import NAMES
from app.domains.shared.query.filters import Digits, TextParameter
from app.domains.shared.query.pages import CursorQuery
from app.domains.shared.query.search import Q
from app.domains.shared.schemas import Brief, Schema

TYPES = NAMES
if TYPE_CHECKING:
    SearchType = str
else:
    SearchType = Literal[TYPES]
MAX_RESULTS = 50


class SearchQuery(CursorQuery):
    """The parameters of the search in all collections."""

    q: TextParameter = Field(description=Q.description, examples=["supplier invoice"])
    type: Annotated[list[SearchType], Field(max_length=len(TYPES))] | None = Field(
        None, description="Only of these collections; without it, of all that the caller may read."
    )
    limit: Annotated[int, Digits] = Field(20, ge=1, le=MAX_RESULTS, description="Most objects to return.")


class SnippetPart(Schema):
    """A piece of text as it stands in the object: not escaped, without markup."""

    text: str
    match: Annotated[bool, Field(description="Whether it is what was asked for, or similar to it.")]


class Found(Schema):
    """An object that was found."""

    type: SearchType
    object: Brief
    rank: Annotated[
        int,
        Field(
            ge=1,
            le=5,
            description="How it was found: 1 by its code or whole name, 2 by their beginnings, 3 by the words of code "
            "and name, 4 by the description too, 5 by similar words.",
        ),
    ]
    snippet: Annotated[
        list[SnippetPart],
        Field(description="Where it was found: the name, the code, or a part of the description, in pieces."),
    ]
