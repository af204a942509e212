"""The service of processes."""

from typing import Annotated

from fastapi import Depends

from app.domains.process.models import (
    Process,
    ProcessDepartment,
    ProcessLocation,
    ProcessResource,
    ProcessRole,
)
from app.domains.process.schemas import ProcessCreate, ProcessRead
from app.domains.shared.trees import Collection, LinkSet, MaxDepth, NoCycle, TreeService

OWNER = "process_id"
DEPARTMENTS = LinkSet("departments", ProcessDepartment, OWNER, "department_id", "relation", "participant")
LOCATIONS = LinkSet("locations", ProcessLocation, OWNER, "location_id")
RESOURCES = LinkSet("resources", ProcessResource, OWNER, "resource_id", "usage", "uses")
ROLES = LinkSet("roles", ProcessRole, OWNER, "role_id", "responsibility", "responsible")


class ProcessService(TreeService):
    collection = Collection(
        Process,
        ProcessRead,
        ProcessCreate,
        links=(DEPARTMENTS, LOCATIONS, RESOURCES, ROLES),
        rules=(NoCycle, MaxDepth),
    )


ProcessServiceDep = Annotated[ProcessService, Depends(ProcessService.provide)]
