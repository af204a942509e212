"""The query parameters of the lists of changes."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends
from pydantic import Field

from app.core.http.hints import name_hint
from app.domains.shared.models import ChangeAction
from app.domains.shared.query.filters import MAX_VALUES
from app.domains.shared.query.pages import ExportQuery
from app.domains.shared.query.parameters import list_parameters
from app.utils.exceptions import Fault, InvalidContent
from app.utils.fault_codes import described_pattern

_MEMBER_NAME = {"pattern": described_pattern("^[a-z_]+$", "Must be the name of a field.")}


class ObjectChangeQuery(ExportQuery):
    """The parameters of the list of the changes of one object."""

    action: Annotated[list[ChangeAction], Field(max_length=MAX_VALUES)] | None = Field(
        None, description="Only changes with one of these actions."
    )
    member: (
        Annotated[list[Annotated[str, Field(json_schema_extra=_MEMBER_NAME)]], Field(max_length=MAX_VALUES)] | None
    ) = Field(None, description="Only changes with one of these fields in `before` or `after`.")

    def check_members(self, known: Sequence[str]) -> None:
        """Raise `InvalidContent` for values of `member` that are not among the known names."""
        faults = [
            Fault.of(f"/member/{index}", "unknown_member", source="query", hint=name_hint(name, known, "fields"))
            for index, name in enumerate(self.member or ())
            if name not in known
        ]
        if faults:
            raise InvalidContent(errors=faults)


ChangeParameters = Annotated[ObjectChangeQuery, Depends(list_parameters(ObjectChangeQuery))]
