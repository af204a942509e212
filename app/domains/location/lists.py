"""Filters, sorts and groups of the list of locations."""

from typing import Annotated

from fastapi import Depends

from app.domains.location.models import ADDRESS_LENGTH, Location, LocationKind
from app.domains.location.schemas import LocationRead
from app.domains.shared import lists

LocationListQuery = lists.list_query(
    "LocationListQuery",
    lists.ListDeclaration(
        filters=(
            *lists.object_filters(Location),
            *lists.identifier("parent_id", Location),
            *lists.tree(Location),
            *lists.choice("kind", LocationKind),
            *lists.text("address", partial=True, length=ADDRESS_LENGTH, multiline=True),
            *lists.text("country", partial=True),
            *lists.text("timezone", partial=True),
            *lists.number("latitude", nullable=True),
            *lists.number("longitude", nullable=True),
            *lists.links(
                *("process_locations", "location_id", "process_id", "processes"),
                in_tree=True,
                reads="processes",
            ),
        ),
        sorts=lists.OBJECT_SORTS | lists.text_sort("kind"),
        groups=lists.field_groups("kind", "country") | lists.reference_groups("parent"),
    ),
    LocationRead,
)

LocationListParameters = Annotated[lists.ListQuery, Depends(lists.list_parameters(LocationListQuery))]
LocationStatsParameters = Annotated[lists.StatsQuery, Depends(lists.stats_parameters(LocationListQuery))]
LocationRepresentation = Annotated[lists.RepresentationQuery, Depends(lists.representation_parameters(LocationRead))]
