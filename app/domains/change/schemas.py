"""Query parameters of the history."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from app.domains.collections import COLLECTIONS, NAMES
from app.domains.shared.query.changes import ObjectChangeQuery
from app.domains.shared.query.filters import Digits, InstantParameter, TextParameter
from app.domains.shared.query.reference_parameters import ReferenceParameter, keys_of
from app.domains.shared.references import ObjectId
from app.utils.fault_codes import invalid

# API tokens are the only credentials with their own type; the others are recorded as changes of users.
CHANGE_TYPES = (*NAMES, "api_tokens")
if TYPE_CHECKING:
    ChangeType = str
else:
    ChangeType = Literal[CHANGE_TYPES]

# The members that changes of each type may have in `before` and `after`.
MEMBERS: dict[ChangeType, tuple[str, ...]] = {
    **{entry.name: entry.collection.recorded_members for entry in COLLECTIONS},
    "api_tokens": ("name", "scopes", "expires_at", "user"),
}

# The id of a change in a query string.
Id = Annotated[ObjectId, Digits]


class ChangeQuery(ObjectChangeQuery):
    """The parameters of the list of all changes."""

    type: ChangeType | None = Field(None, description="Only changes of this collection.")
    object_id: ReferenceParameter | None = Field(None, description="Only changes of this object; requires `type`.")
    code: TextParameter | None = Field(
        None, description="Only changes of objects that had this code at that time, ignoring case."
    )
    actor_id: ReferenceParameter | None = Field(None, description="Only changes made by this user.")
    since: InstantParameter | None = Field(None, description="Only changes at or after this instant.")

    before_id: Id | None = Field(None, description="Only changes with an `id` less than this.")

    @model_validator(mode="after")
    def _require_type(self) -> Self:
        if self.object_id is not None and self.type is None:
            raise invalid("type_missing", member="type")
        if self.type not in NAMES and keys_of(self.object_id):
            raise invalid("bad_reference:id", member="object_id")
        return self

    @property
    def keyed(self) -> dict[str, str]:
        """The parameters that have keys, with the collection of their objects."""
        targets = {"object_id": self.type, "actor_id": "users"}
        return {name: target for name, target in targets.items() if target and keys_of(getattr(self, name))}
