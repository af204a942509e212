"""What the list of users can be filtered and sorted by, and what it can be counted by."""

from app.core.permissions import AccessLevel
from app.domains.shared.field_filters import choice, flag, identifier, text
from app.domains.shared.groups import grouped, grouped_by_reference
from app.domains.shared.link_filters import below
from app.domains.shared.lists import OBJECT_FILTERS, ListDeclaration, list_query
from app.domains.shared.orders import OBJECT_SORTS, sorted_by
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
