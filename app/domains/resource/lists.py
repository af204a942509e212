"""What the list of resources can be filtered and sorted by, and what it can be counted by."""

from app.domains.resource.models import Resource, ResourceKind
from app.domains.resource.schemas import ResourceRead
from app.domains.shared.field_filters import choice, identifier, ranked_choice, text
from app.domains.shared.groups import grouped, grouped_by_reference
from app.domains.shared.link_filters import below
from app.domains.shared.lists import OBJECT_FILTERS, ListDeclaration, list_query
from app.domains.shared.models import URL_LENGTH, Criticality
from app.domains.shared.orders import OBJECT_SORTS, sorted_by, sorted_by_rank

ResourceListQuery = list_query(
    "ResourceListQuery",
    ListDeclaration(
        filters=(
            *OBJECT_FILTERS,
            *choice("kind", ResourceKind),
            *identifier("owner_department_id"),
            *below("owner_department_id", Resource),
            *identifier("location_id"),
            *below("location_id", Resource),
            *ranked_choice("criticality", Criticality),
            *text("url", length=URL_LENGTH),
        ),
        sorts=OBJECT_SORTS | sorted_by("kind") | sorted_by_rank("criticality", Criticality),
        groups=grouped("kind", "criticality") | grouped_by_reference("owner_department", "location"),
    ),
    ResourceRead,
)
