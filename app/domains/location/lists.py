"""What the list of locations can be filtered and sorted by, and what it can be counted by."""

from typing import Annotated

from fastapi import Depends

from app.domains.location.models import ADDRESS_LENGTH, Location, LocationKind
from app.domains.location.schemas import LocationRead
from app.domains.shared.lists import (
    OBJECT_FILTERS,
    OBJECT_SORTS,
    ListDeclaration,
    ListQuery,
    RepresentationQuery,
    StatsQuery,
    below,
    choice,
    grouped,
    grouped_by_reference,
    identifier,
    list_parameters,
    list_query,
    number,
    representation_parameters,
    sorted_by,
    stats_parameters,
    text,
)

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

LocationListParameters = Annotated[ListQuery, Depends(list_parameters(LocationListQuery))]
LocationStatsParameters = Annotated[StatsQuery, Depends(stats_parameters(LocationListQuery))]
LocationRepresentation = Annotated[RepresentationQuery, Depends(representation_parameters(LocationRead))]
