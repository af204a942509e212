"""Filters, sorts and groups of the list of departments."""

from typing import Annotated

from fastapi import Depends

from app.domains.department.models import Department, DepartmentRelation
from app.domains.department.schemas import DepartmentRead
from app.domains.shared import lists

DepartmentListQuery = lists.list_query(
    "DepartmentListQuery",
    lists.ListDeclaration(
        filters=(
            *lists.object_filters(Department),
            *lists.identifier("parent_id", Department),
            *lists.tree(Department),
            *lists.identifier("head_id", Department),
            *lists.links(
                *("process_departments", "department_id", "process_id", "processes"),
                detail=("relation", DepartmentRelation),
                in_tree=True,
                reads="processes",
            ),
        ),
        sorts=lists.OBJECT_SORTS,
        groups=lists.reference_groups("parent", "head"),
    ),
    DepartmentRead,
)

DepartmentListParameters = Annotated[lists.ListQuery, Depends(lists.list_parameters(DepartmentListQuery))]
DepartmentStatsParameters = Annotated[lists.StatsQuery, Depends(lists.stats_parameters(DepartmentListQuery))]
DepartmentRepresentation = Annotated[
    lists.RepresentationQuery, Depends(lists.representation_parameters(DepartmentRead))
]
