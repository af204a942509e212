"""Filters, sorts and groups of the list of users."""

from typing import Annotated

from fastapi import Depends

from app.core.permissions import AccessLevel
from app.domains.shared import lists
from app.domains.user.models import User
from app.domains.user.schemas import UserRead
from app.utils.text.email_addresses import comparable_email, comparable_part_of_email

UserListQuery = lists.list_query(
    "UserListQuery",
    lists.ListDeclaration(
        filters=(
            *lists.object_filters(User),
            *lists.text(
                "email",
                partial=True,
                nullable=False,
                ignore_case=True,
                is_key=True,
                whole=comparable_email,
                part=comparable_part_of_email,
            ),
            *lists.identifier("department_id", User),
            *lists.subtree("department_id", User),
            *lists.identifier("manager_id", User),
            *lists.choice("access_level", AccessLevel),
            *lists.flag("is_active"),
            *lists.links("role_holders", "user_id", "role_id", "roles"),
        ),
        sorts=lists.OBJECT_SORTS | lists.text_sort("email", ignore_case=True),
        groups=lists.field_groups("access_level", "is_active") | lists.reference_groups("department", "manager"),
    ),
    UserRead,
)

UserListParameters = Annotated[lists.ListQuery, Depends(lists.list_parameters(UserListQuery))]
UserStatsParameters = Annotated[lists.StatsQuery, Depends(lists.stats_parameters(UserListQuery))]
UserRepresentation = Annotated[lists.RepresentationQuery, Depends(lists.representation_parameters(UserRead))]
