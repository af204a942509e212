"""Filters, sorts and groups of the list of resources."""

from typing import Annotated

from fastapi import Depends

from app.domains.resource.models import Resource, ResourceKind, ResourceUsage
from app.domains.resource.schemas import ResourceRead
from app.domains.shared import lists

ResourceListQuery = lists.list_query(
    "ResourceListQuery",
    lists.ListDeclaration(
        filters=(
            *lists.object_filters(Resource),
            *lists.choice("kind", ResourceKind),
            *lists.identifier("owner_department_id", Resource),
            *lists.subtree("owner_department_id", Resource),
            *lists.identifier("location_id", Resource),
            *lists.subtree("location_id", Resource),
            *lists.ranked_choice("criticality", lists.Criticality),
            *lists.text("url", partial=True, length=lists.URL_LENGTH),
            *lists.links(
                *("process_resources", "resource_id", "process_id", "processes"),
                detail=("usage", ResourceUsage),
                in_tree=True,
                reads="processes",
            ),
        ),
        sorts=lists.OBJECT_SORTS | lists.text_sort("kind") | lists.rank_sort("criticality", lists.Criticality),
        groups=lists.field_groups("kind", "criticality") | lists.reference_groups("owner_department", "location"),
    ),
    ResourceRead,
)

ResourceListParameters = Annotated[lists.ListQuery, Depends(lists.list_parameters(ResourceListQuery))]
ResourceStatsParameters = Annotated[lists.StatsQuery, Depends(lists.stats_parameters(ResourceListQuery))]
ResourceRepresentation = Annotated[lists.RepresentationQuery, Depends(lists.representation_parameters(ResourceRead))]
