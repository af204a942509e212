"""What the list of roles can be filtered and sorted by, and what it can be counted by."""

from typing import Annotated

from fastapi import Depends

from app.domains.role.models import Role, RoleHolder
from app.domains.role.schemas import RoleRead
from app.domains.shared.lists import (
    OBJECT_FILTERS,
    OBJECT_SORTS,
    ListDeclaration,
    ListQuery,
    RepresentationQuery,
    StatsQuery,
    below,
    grouped_by_reference,
    identifier,
    linked,
    list_parameters,
    list_query,
    representation_parameters,
    stats_parameters,
)

RoleListQuery = list_query(
    "RoleListQuery",
    ListDeclaration(
        filters=(
            *OBJECT_FILTERS,
            *identifier("department_id"),
            *below("department_id", Role),
            *linked(RoleHolder, "role_id", "user_id"),
        ),
        sorts=OBJECT_SORTS,
        groups=grouped_by_reference("department"),
    ),
    RoleRead,
)

RoleListParameters = Annotated[ListQuery, Depends(list_parameters(RoleListQuery))]
RoleStatsParameters = Annotated[StatsQuery, Depends(stats_parameters(RoleListQuery))]
RoleRepresentation = Annotated[RepresentationQuery, Depends(representation_parameters(RoleRead))]
