"""Query parameters of the history."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from app.domains.collections import NAMES
from app.domains.shared.query.filters import Digits, InstantParameter
from app.domains.shared.query.pages import PageQuery
from app.domains.shared.references import ObjectId
from app.utils.fault_codes import invalid

# API tokens are the only credentials with their own type; the others are recorded as changes of users.
CHANGE_TYPES = (*NAMES, "api_tokens")
if TYPE_CHECKING:
    ChangeType = str
else:
    ChangeType = Literal[CHANGE_TYPES]

# The id of an object in a query string.
Id = Annotated[ObjectId, Digits]


class ChangeQuery(PageQuery):
    """The parameters of the list of all changes."""

    type: ChangeType | None = Field(None, description="Only changes of this collection.")
    object_id: Id | None = Field(None, description="Only changes of the object with this `id`; requires `type`.")
    actor_id: Id | None = Field(None, description="Only changes made by the user with this `id`.")
    since: InstantParameter | None = Field(None, description="Only changes at or after this instant.")

    before_id: Id | None = Field(
        None, description="Only changes with an `id` less than this, to continue beyond the maximum `offset`."
    )

    @model_validator(mode="after")
    def _require_type(self) -> Self:
        if self.object_id is not None and self.type is None:
            raise invalid("type_missing", member="type")
        return self
