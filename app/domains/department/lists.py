"""What the list of departments can be filtered and sorted by, and what it can be counted by."""

from typing import Annotated

from fastapi import Depends

from app.domains.department.models import Department
from app.domains.department.schemas import DepartmentRead
from app.domains.shared.lists import (
    OBJECT_FILTERS,
    OBJECT_SORTS,
    ListDeclaration,
    ListQuery,
    RepresentationQuery,
    StatsQuery,
    below,
    grouped_by_reference,
    identifier,
    list_parameters,
    list_query,
    representation_parameters,
    stats_parameters,
)

DepartmentListQuery = list_query(
    "DepartmentListQuery",
    ListDeclaration(
        filters=(*OBJECT_FILTERS, *identifier("parent_id"), *below("id", Department, "within"), *identifier("head_id")),
        sorts=OBJECT_SORTS,
        groups=grouped_by_reference("parent", "head"),
    ),
    DepartmentRead,
)

DepartmentListParameters = Annotated[ListQuery, Depends(list_parameters(DepartmentListQuery))]
DepartmentStatsParameters = Annotated[StatsQuery, Depends(stats_parameters(DepartmentListQuery))]
DepartmentRepresentation = Annotated[RepresentationQuery, Depends(representation_parameters(DepartmentRead))]
