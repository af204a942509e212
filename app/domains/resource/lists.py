"""What the list of resources can be filtered and sorted by, and what it can be counted by."""

from typing import Annotated

from fastapi import Depends

from app.domains.resource.models import Resource, ResourceKind
from app.domains.resource.schemas import ResourceRead
from app.domains.shared.lists import (
    OBJECT_FILTERS,
    OBJECT_SORTS,
    URL_LENGTH,
    Criticality,
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
    ranked_choice,
    representation_parameters,
    sorted_by,
    sorted_by_rank,
    stats_parameters,
    text,
)

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

ResourceListParameters = Annotated[ListQuery, Depends(list_parameters(ResourceListQuery))]
ResourceStatsParameters = Annotated[StatsQuery, Depends(stats_parameters(ResourceListQuery))]
ResourceRepresentation = Annotated[RepresentationQuery, Depends(representation_parameters(ResourceRead))]
