"""Filters, sorts and groups of the list of processes."""

from typing import Annotated

from fastapi import Depends

from app.domains.department.models import DepartmentRelation
from app.domains.process.models import (
    Process,
    ProcessDepartment,
    ProcessKind,
    ProcessLocation,
    ProcessResource,
    ProcessRole,
    ProcessStatus,
)
from app.domains.process.schemas import ProcessRead
from app.domains.resource.models import ResourceUsage
from app.domains.role.models import RoleResponsibility
from app.domains.shared import lists

ProcessListQuery = lists.list_query(
    "ProcessListQuery",
    lists.ListDeclaration(
        filters=(
            *lists.object_filters(Process),
            *lists.identifier("parent_id", Process),
            *lists.tree(Process),
            *lists.choice("kind", ProcessKind),
            *lists.choice("status", ProcessStatus),
            *lists.ranked_choice("criticality", lists.Criticality),
            *lists.identifier("owner_id", Process),
            *lists.links(
                *(ProcessDepartment, "process_id", "department_id", "departments"),
                detail=("relation", DepartmentRelation),
                in_tree=True,
            ),
            *lists.links(ProcessLocation, "process_id", "location_id", "locations", in_tree=True),
            *lists.links(
                *(ProcessResource, "process_id", "resource_id", "resources"),
                detail=("usage", ResourceUsage),
            ),
            *lists.links(
                *(ProcessRole, "process_id", "role_id", "roles"),
                detail=("responsibility", RoleResponsibility),
                repeatable=True,
            ),
        ),
        sorts=lists.OBJECT_SORTS
        | lists.text_sort("kind")
        | lists.text_sort("status")
        | lists.rank_sort("criticality", lists.Criticality),
        groups=(
            lists.field_groups("status", "kind", "criticality")
            | lists.reference_groups("owner", "parent")
            | lists.link_groups(ProcessDepartment, "process_id", "department_id", detail="relation")
            | lists.link_groups(ProcessLocation, "process_id", "location_id")
            | lists.link_groups(ProcessResource, "process_id", "resource_id", detail="usage")
            | lists.link_groups(ProcessRole, "process_id", "role_id", detail="responsibility")
        ),
    ),
    ProcessRead,
)

ProcessListParameters = Annotated[lists.ListQuery, Depends(lists.list_parameters(ProcessListQuery))]
ProcessStatsParameters = Annotated[lists.StatsQuery, Depends(lists.stats_parameters(ProcessListQuery))]
ProcessRepresentation = Annotated[lists.RepresentationQuery, Depends(lists.representation_parameters(ProcessRead))]
