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
from app.domains.shared import lists

ProcessListQuery = lists.list_query(
    "ProcessListQuery",
    lists.ListDeclaration(
        filters=(
            *lists.OBJECT_FILTERS,
            *lists.identifier("parent_id"),
            *lists.below("id", Process, "within"),
            *lists.choice("kind", ProcessKind),
            *lists.choice("status", ProcessStatus),
            *lists.ranked_choice("criticality", lists.Criticality),
            *lists.identifier("owner_id"),
            *lists.linked(
                *(ProcessDepartment, "process_id", "department_id"),
                detail=("relation", DepartmentRelation),
                in_tree=True,
            ),
            *lists.linked(ProcessLocation, "process_id", "location_id", in_tree=True),
            *lists.linked(ProcessResource, "process_id", "resource_id", detail=("usage", ResourceUsage)),
            *lists.linked(
                *(ProcessRole, "process_id", "role_id"),
                detail=("responsibility", RoleResponsibility),
                match="role_match",
            ),
        ),
        sorts=lists.OBJECT_SORTS
        | lists.sorted_by("kind")
        | lists.sorted_by("status")
        | lists.sorted_by_rank("criticality", lists.Criticality),
        groups=(
            lists.grouped("status", "kind", "criticality")
            | lists.grouped_by_reference("owner", "parent")
            | lists.grouped_by_link(ProcessDepartment, "process_id", "department_id", detail="relation")
            | lists.grouped_by_link(ProcessLocation, "process_id", "location_id")
            | lists.grouped_by_link(ProcessResource, "process_id", "resource_id", detail="usage")
            | lists.grouped_by_link(ProcessRole, "process_id", "role_id", detail="responsibility")
        ),
    ),
    ProcessRead,
)

ProcessListParameters = Annotated[lists.ListQuery, Depends(lists.list_parameters(ProcessListQuery))]
ProcessStatsParameters = Annotated[lists.StatsQuery, Depends(lists.stats_parameters(ProcessListQuery))]
ProcessRepresentation = Annotated[lists.RepresentationQuery, Depends(lists.representation_parameters(ProcessRead))]
