"""Query parameters and response of the feed of changes."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.domains.change.schemas import ChangeType
from app.domains.shared.models import ChangeAction
from app.domains.shared.query.filters import MAX_VALUES, Digits
from app.domains.shared.schemas import ChangeRead, Schema

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
MAX_WAIT_SECONDS = 30


class FeedQuery(BaseModel):
    """The parameters of the feed."""

    # Not `strict`: query parameters are text.
    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(
        None,
        description="Position to continue from, from `position` or `next`; `now` returns only later changes. Without "
        "it, the feed begins with the oldest change that is kept.",
    )
    limit: Annotated[int, Digits] = Field(
        DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Maximum number of changes to return."
    )
    type: Annotated[list[ChangeType], Field(max_length=MAX_VALUES)] | None = Field(
        None, description="Only changes of these collections."
    )
    action: Annotated[list[ChangeAction], Field(max_length=MAX_VALUES)] | None = Field(
        None, description="Only these kinds of changes."
    )
    wait: Annotated[int, Digits] = Field(
        0, ge=0, le=MAX_WAIT_SECONDS, description="Maximum number of seconds to wait for a change if there is none."
    )


class FeedChange(ChangeRead):
    """A change, and its position in the feed."""

    position: Annotated[str, Field(description="Position after this change, for `after`.")]


class FeedPage(Schema):
    """Changes in the order of delivery, and where to continue."""

    items: list[FeedChange]
    position: Annotated[str, Field(description="Position after this page, for `after`.")]
    next: Annotated[str, Field(description="Relative URL of the next page.")]
    has_more: Annotated[
        bool, Field(description="Whether the next page can be requested at once; if false, it would be empty now.")
    ]
