"""What the list of departments can be filtered and sorted by, and what it can be counted by."""

from app.domains.department.models import Department
from app.domains.department.schemas import DepartmentRead
from app.domains.shared.field_filters import identifier
from app.domains.shared.groups import grouped_by_reference
from app.domains.shared.link_filters import below
from app.domains.shared.lists import OBJECT_FILTERS, ListDeclaration, list_query
from app.domains.shared.orders import OBJECT_SORTS

DepartmentListQuery = list_query(
    "DepartmentListQuery",
    ListDeclaration(
        filters=(*OBJECT_FILTERS, *identifier("parent_id"), *below("id", Department, "within"), *identifier("head_id")),
        sorts=OBJECT_SORTS,
        groups=grouped_by_reference("parent", "head"),
    ),
    DepartmentRead,
)
