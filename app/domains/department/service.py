"""The service of departments."""

from typing import Annotated

from fastapi import Depends

from app.domains.department.models import Department
from app.domains.department.schemas import DepartmentCreate, DepartmentRead
from app.domains.shared.trees import Collection, MaxDepth, NoCycle, TreeService


class DepartmentService(TreeService):
    collection = Collection(Department, DepartmentRead, DepartmentCreate, rules=(NoCycle, MaxDepth))


DepartmentServiceDep = Annotated[DepartmentService, Depends(DepartmentService.provide)]
