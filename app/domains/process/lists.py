"""What the list of processes can be filtered and sorted by, and what it can be counted by."""

from typing import Annotated

from fastapi import Depends

from app.domains.process.models import (
    DepartmentRelation,
    Process,
    ProcessDepartment,
    ProcessKind,
    ProcessLocation,
    ProcessResource,
    ProcessRole,
    ProcessStatus,
    ResourceUsage,
    RoleResponsibility,
)
from app.domains.process.schemas import ProcessRead
from app.domains.shared.lists import (
    OBJECT_FILTERS,
    OBJECT_SORTS,
    Criticality,
    ListDeclaration,
    ListQuery,
    RepresentationQuery,
    StatsQuery,
    below,
    choice,
    grouped,
    grouped_by_link,
    grouped_by_reference,
    identifier,
    linked,
    list_parameters,
    list_query,
    ranked_choice,
    representation_parameters,
    sorted_by,
    sorted_by_rank,
    stats_parameters,
)

ProcessListQuery = list_query(
    "ProcessListQuery",
    ListDeclaration(
        filters=(
            *OBJECT_FILTERS,
            *identifier("parent_id"),
            *below("id", Process, "within"),
            *choice("kind", ProcessKind),
            *choice("status", ProcessStatus),
            *ranked_choice("criticality", Criticality),
            *identifier("owner_id"),
            *linked(
                *(ProcessDepartment, "process_id", "department_id"),
                detail=("relation", DepartmentRelation),
                in_tree=True,
            ),
            *linked(ProcessLocation, "process_id", "location_id", in_tree=True),
            *linked(ProcessResource, "process_id", "resource_id", detail=("usage", ResourceUsage)),
            *linked(
                *(ProcessRole, "process_id", "role_id"),
                detail=("responsibility", RoleResponsibility),
                match="role_match",
            ),
        ),
        sorts=OBJECT_SORTS | sorted_by("kind") | sorted_by("status") | sorted_by_rank("criticality", Criticality),
        groups=(
            grouped("status", "kind", "criticality")
            | grouped_by_reference("owner", "parent")
            | grouped_by_link(ProcessDepartment, "process_id", "department_id", detail="relation")
            | grouped_by_link(ProcessLocation, "process_id", "location_id")
            | grouped_by_link(ProcessResource, "process_id", "resource_id", detail="usage")
            | grouped_by_link(ProcessRole, "process_id", "role_id", detail="responsibility")
        ),
    ),
    ProcessRead,
)

ProcessListParameters = Annotated[ListQuery, Depends(list_parameters(ProcessListQuery))]
ProcessStatsParameters = Annotated[StatsQuery, Depends(stats_parameters(ProcessListQuery))]
ProcessRepresentation = Annotated[RepresentationQuery, Depends(representation_parameters(ProcessRead))]
