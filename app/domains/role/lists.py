"""What the list of roles can be filtered and sorted by, and what it can be counted by."""

from app.domains.role.models import Role, RoleHolder
from app.domains.role.schemas import RoleRead
from app.domains.shared.field_filters import identifier
from app.domains.shared.groups import grouped_by_reference
from app.domains.shared.link_filters import below, linked
from app.domains.shared.lists import OBJECT_FILTERS, ListDeclaration, list_query
from app.domains.shared.orders import OBJECT_SORTS

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
