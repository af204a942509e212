"""Filters, sorts and groups of the list of roles."""

from typing import Annotated

from fastapi import Depends

from app.domains.role.models import Role, RoleHolder, RoleResponsibility
from app.domains.role.schemas import RoleRead
from app.domains.shared import lists

RoleListQuery = lists.list_query(
    "RoleListQuery",
    lists.ListDeclaration(
        filters=(
            *lists.object_filters(Role),
            *lists.identifier("department_id", Role),
            *lists.subtree("department_id", Role),
            *lists.links(RoleHolder, "role_id", "user_id", "users", reads="users"),
            *lists.links(
                *("process_roles", "role_id", "process_id", "processes"),
                detail=("responsibility", RoleResponsibility),
                repeatable=True,
                in_tree=True,
                reads="processes",
            ),
        ),
        sorts=lists.OBJECT_SORTS,
        groups=lists.reference_groups("department"),
    ),
    RoleRead,
)

RoleListParameters = Annotated[lists.ListQuery, Depends(lists.list_parameters(RoleListQuery))]
RoleStatsParameters = Annotated[lists.StatsQuery, Depends(lists.stats_parameters(RoleListQuery))]
RoleRepresentation = Annotated[lists.RepresentationQuery, Depends(lists.representation_parameters(RoleRead))]
