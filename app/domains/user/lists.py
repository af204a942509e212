"""What the list of users can be filtered and sorted by, and what it can be counted by."""

from typing import Annotated

from fastapi import Depends

from app.core.permissions import AccessLevel
from app.domains.shared.lists import (
    OBJECT_FILTERS,
    OBJECT_SORTS,
    ListDeclaration,
    ListQuery,
    RepresentationQuery,
    StatsQuery,
    below,
    choice,
    flag,
    grouped,
    grouped_by_reference,
    identifier,
    list_parameters,
    list_query,
    representation_parameters,
    sorted_by,
    stats_parameters,
    text,
)
from app.domains.user.models import User
from app.domains.user.schemas import UserRead

UserListQuery = list_query(
    "UserListQuery",
    ListDeclaration(
        filters=(
            *OBJECT_FILTERS,
            *text("email", nullable=False, ignoring_case=True),
            *identifier("department_id"),
            *below("department_id", User),
            *identifier("manager_id"),
            *choice("access_level", AccessLevel),
            *flag("is_active"),
        ),
        sorts=OBJECT_SORTS | sorted_by("email", ignoring_case=True),
        groups=grouped("access_level", "is_active") | grouped_by_reference("department", "manager"),
    ),
    UserRead,
)

UserListParameters = Annotated[ListQuery, Depends(list_parameters(UserListQuery))]
UserStatsParameters = Annotated[StatsQuery, Depends(stats_parameters(UserListQuery))]
UserRepresentation = Annotated[RepresentationQuery, Depends(representation_parameters(UserRead))]
