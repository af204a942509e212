"""Request and response schemas of the search in all collections."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from app.domains.collections import NAMES
from app.domains.shared.query.filters import Digits, TextParameter
from app.domains.shared.query.pages import PageQuery
from app.domains.shared.query.search import Q
from app.domains.shared.schemas import Brief, Schema

TYPES = NAMES
if TYPE_CHECKING:
    SearchType = str
else:
    SearchType = Literal[TYPES]
MAX_RESULTS = 50


class SearchQuery(PageQuery):
    """The parameters of the search in all collections."""

    q: TextParameter = Field(description=Q.description, examples=["supplier invoice"])
    type: Annotated[list[SearchType], Field(max_length=len(TYPES))] | None = Field(
        None, description="Collections to search; by default all that the caller may read."
    )
    limit: Annotated[int, Digits] = Field(20, ge=1, le=MAX_RESULTS, description="Maximum number of objects to return.")


class SnippetPart(Schema):
    """A piece of the original text, without escapes or markup."""

    text: str
    match: Annotated[bool, Field(description="Whether the piece matches a word of `q` or is similar to one.")]


class Found(Schema):
    """A search result."""

    type: SearchType
    object: Brief
    rank: Annotated[
        int,
        Field(
            ge=1,
            le=5,
            description="Rank of the match: 1 code or name equals `q`, 2 code or name begins with `q`, 3 all words in "
            "code and name, 4 all words in code, name and description, 5 similar words.",
        ),
    ]
    snippet: Annotated[
        list[SnippetPart],
        Field(description="The matching text (name, code or part of the description) in pieces."),
    ]
