"""What the list of locations can be filtered and sorted by, and what it can be counted by."""

from app.domains.location.models import ADDRESS_LENGTH, Location, LocationKind
from app.domains.location.schemas import LocationRead
from app.domains.shared.field_filters import choice, identifier, number, text
from app.domains.shared.groups import grouped, grouped_by_reference
from app.domains.shared.link_filters import below
from app.domains.shared.lists import OBJECT_FILTERS, ListDeclaration, list_query
from app.domains.shared.orders import OBJECT_SORTS, sorted_by

LocationListQuery = list_query(
    "LocationListQuery",
    ListDeclaration(
        filters=(
            *OBJECT_FILTERS,
            *identifier("parent_id"),
            *below("id", Location, "within"),
            *choice("kind", LocationKind),
            *text("address", length=ADDRESS_LENGTH, several_lines=True),
            *text("country"),
            *text("timezone"),
            *number("latitude", nullable=True),
            *number("longitude", nullable=True),
        ),
        sorts=OBJECT_SORTS | sorted_by("kind"),
        groups=grouped("kind", "country") | grouped_by_reference("parent"),
    ),
    LocationRead,
)
