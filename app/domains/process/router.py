"""Process routes."""

from typing import Annotated

from fastapi import Query, Response

from app.core.permissions import requires
from app.domains.process.lists import ProcessListParameters, ProcessRepresentation, ProcessStatsParameters
from app.domains.process.schemas import (
    DepartmentLinkFields,
    ProcessCreate,
    ProcessPatch,
    ProcessRead,
    ProcessReplace,
    ResourceLinkFields,
    RoleLinkFields,
)
from app.domains.process.service import DEPARTMENTS, LOCATIONS, OWNER, RESOURCES, ROLES, ProcessServiceDep
from app.domains.role.models import RoleResponsibility
from app.domains.shared import router as shared

router = shared.collection_router("processes")

REQUIRES_READ, REQUIRES_WRITE = requires("processes:read"), requires("processes:write")
FILES = shared.accepts_files()
# Lists of processes below the paths of other collections, whose domains must not import `process`.
related_processes = shared.api_router()

# The defaults of a link that is set without a body.
DEPARTMENT_LINK_DEFAULTS = DepartmentLinkFields()
RESOURCE_LINK_DEFAULTS = ResourceLinkFields()
ROLE_LINK_DEFAULTS = RoleLinkFields()

Responsibility = Annotated[
    RoleResponsibility | None, Query(description="The responsibility to remove; by default all of the role.")
]


class BulkProcesses(shared.Bulk[ProcessCreate]):
    """Up to 1,000 items, each of which writes one process."""


@router.get("", response_model=shared.Page[ProcessRead], responses=shared.EXPORT, openapi_extra=REQUIRES_READ)
async def list_processes(service: ProcessServiceDep, query: ProcessListParameters) -> Response:
    """List processes."""
    return await shared.list_response(await service.page(query), query)


@router.post("", status_code=201, response_model=ProcessRead, responses=shared.CREATE, openapi_extra=REQUIRES_WRITE)
async def create_process(service: ProcessServiceDep, body: ProcessCreate) -> Response:
    """Create a process."""
    return shared.created_response(await service.create(body), router)


@router.post(
    "/bulk", response_model=shared.BulkAnswer, responses=shared.BULK, openapi_extra=REQUIRES_WRITE | shared.LARGE_BODY
)
async def bulk_processes(
    service: ProcessServiceDep, body: BulkProcesses, atomic: shared.Atomic = True, dry_run: shared.DryRun = False
) -> Response:
    """Create, update, upsert and delete up to 1,000 processes in one request."""
    return shared.bulk_response(await service.bulk(body.items, atomic=atomic, dry_run=dry_run), dry_run=dry_run)


@router.get("/stats", response_model=shared.Stats, responses=shared.STATS, openapi_extra=REQUIRES_READ)
async def count_processes(service: ProcessServiceDep, query: ProcessStatsParameters) -> Response:
    """Count the processes that match the filters, by group."""
    return shared.stats_response(await service.stats(query))


@router.post(
    "/import", response_model=shared.ImportAnswer, responses=shared.IMPORT, openapi_extra=REQUIRES_WRITE | FILES
)
async def import_processes(service: ProcessServiceDep, request: shared.ImportRequestDep) -> Response:
    """Import processes from a file, or plan the import."""
    return shared.import_response(await service.import_file(request))


@router.get("/{reference}", response_model=ProcessRead, responses=shared.READ, openapi_extra=REQUIRES_READ)
async def get_process(
    service: ProcessServiceDep,
    reference: shared.Reference,
    representation: ProcessRepresentation,
    conditions: shared.Conditions,
) -> Response:
    """Get a process with its links."""
    return shared.document_response(await service.get(reference, representation.members), conditions)


@router.put("/{reference}", response_model=ProcessRead, responses=shared.WRITE, openapi_extra=REQUIRES_WRITE)
async def replace_process(
    service: ProcessServiceDep, reference: shared.Reference, body: ProcessReplace, conditions: shared.Conditions
) -> Response:
    """Replace a process."""
    return shared.updated_response(await service.replace(reference, body, conditions))


@router.patch("/{reference}", response_model=ProcessRead, responses=shared.WRITE, openapi_extra=REQUIRES_WRITE)
async def update_process(
    service: ProcessServiceDep, reference: shared.Reference, body: ProcessPatch, conditions: shared.Conditions
) -> Response:
    """Update a process with a merge patch (RFC 7396)."""
    return shared.updated_response(await service.patch(reference, body, conditions))


@router.delete("/{reference}", status_code=204, responses=shared.DELETE, openapi_extra=REQUIRES_WRITE)
async def delete_process(
    service: ProcessServiceDep, reference: shared.Reference, conditions: shared.Conditions
) -> Response:
    """Delete a process that no other object refers to."""
    await service.delete(reference, conditions)
    return shared.no_content()


@router.get(
    "/{reference}/changes",
    response_model=shared.Page[shared.ChangeRead],
    responses=shared.SUBLIST_EXPORT,
    openapi_extra=REQUIRES_READ,
)
async def list_process_changes(
    service: ProcessServiceDep, reference: shared.Reference, query: shared.ChangeParameters
) -> Response:
    """List the changes of a process, newest first."""
    return await shared.list_response(await service.changes(reference, query), query)


@router.get(
    "/{reference}/tree",
    response_model=shared.Tree,
    responses=shared.TREE | shared.INVALID,
    dependencies=shared.JSON_ONLY,
    openapi_extra=REQUIRES_READ,
)
async def get_process_tree(
    service: ProcessServiceDep, reference: shared.Reference, depth: shared.Depth = shared.MAX_DEPTH
) -> Response:
    """Get a process and its descendants, depth first."""
    return shared.tree_response(await service.tree(reference, depth))


@router.get(
    "/{reference}/ancestors",
    response_model=shared.Ancestors,
    responses=shared.TREE,
    dependencies=shared.JSON_ONLY,
    openapi_extra=REQUIRES_READ,
)
async def list_process_ancestors(service: ProcessServiceDep, reference: shared.Reference) -> Response:
    """List the ancestors of a process, root first."""
    return shared.tree_response(await service.ancestors(reference))


@router.put(
    "/{reference}/departments/{department}", status_code=204, responses=shared.LINK, openapi_extra=REQUIRES_WRITE
)
async def link_process_department(
    service: ProcessServiceDep,
    reference: shared.Reference,
    department: shared.Reference,
    conditions: shared.Conditions,
    body: DepartmentLinkFields = DEPARTMENT_LINK_DEFAULTS,
) -> Response:
    """Link a department to a process, or change the relation."""
    await service.link(DEPARTMENTS, reference, department, conditions, body.relation)
    return shared.no_content()


@router.delete(
    "/{reference}/departments/{department}", status_code=204, responses=shared.UNLINK, openapi_extra=REQUIRES_WRITE
)
async def unlink_process_department(
    service: ProcessServiceDep,
    reference: shared.Reference,
    department: shared.Reference,
    conditions: shared.Conditions,
) -> Response:
    """Remove a department from a process."""
    await service.unlink(DEPARTMENTS, reference, department, conditions)
    return shared.no_content()


@router.put("/{reference}/locations/{location}", status_code=204, responses=shared.LINK, openapi_extra=REQUIRES_WRITE)
async def link_process_location(
    service: ProcessServiceDep,
    reference: shared.Reference,
    location: shared.Reference,
    conditions: shared.Conditions,
    body: shared.NoFields = shared.NO_FIELDS,  # noqa: ARG001 - the body may be an empty object
) -> Response:
    """Link a location to a process."""
    await service.link(LOCATIONS, reference, location, conditions)
    return shared.no_content()


@router.delete(
    "/{reference}/locations/{location}", status_code=204, responses=shared.UNLINK, openapi_extra=REQUIRES_WRITE
)
async def unlink_process_location(
    service: ProcessServiceDep,
    reference: shared.Reference,
    location: shared.Reference,
    conditions: shared.Conditions,
) -> Response:
    """Remove a location from a process."""
    await service.unlink(LOCATIONS, reference, location, conditions)
    return shared.no_content()


@router.put("/{reference}/resources/{resource}", status_code=204, responses=shared.LINK, openapi_extra=REQUIRES_WRITE)
async def link_process_resource(
    service: ProcessServiceDep,
    reference: shared.Reference,
    resource: shared.Reference,
    conditions: shared.Conditions,
    body: ResourceLinkFields = RESOURCE_LINK_DEFAULTS,
) -> Response:
    """Link a resource to a process, or change the usage."""
    await service.link(RESOURCES, reference, resource, conditions, body.usage)
    return shared.no_content()


@router.delete(
    "/{reference}/resources/{resource}", status_code=204, responses=shared.UNLINK, openapi_extra=REQUIRES_WRITE
)
async def unlink_process_resource(
    service: ProcessServiceDep,
    reference: shared.Reference,
    resource: shared.Reference,
    conditions: shared.Conditions,
) -> Response:
    """Remove a resource from a process."""
    await service.unlink(RESOURCES, reference, resource, conditions)
    return shared.no_content()


@router.put("/{reference}/roles/{role}", status_code=204, responses=shared.LINK, openapi_extra=REQUIRES_WRITE)
async def link_process_role(
    service: ProcessServiceDep,
    reference: shared.Reference,
    role: shared.Reference,
    conditions: shared.Conditions,
    body: RoleLinkFields = ROLE_LINK_DEFAULTS,
) -> Response:
    """Add a responsibility of a role to a process.

    Keeps the other responsibilities of the role.
    """
    await service.link(ROLES, reference, role, conditions, body.responsibility)
    return shared.no_content()


@router.delete(
    "/{reference}/roles/{role}", status_code=204, responses=shared.UNLINK | shared.INVALID, openapi_extra=REQUIRES_WRITE
)
async def unlink_process_role(
    service: ProcessServiceDep,
    reference: shared.Reference,
    role: shared.Reference,
    conditions: shared.Conditions,
    responsibility: Responsibility = None,
) -> Response:
    """Remove a role from a process.

    Removes all responsibilities of the role, or only the one named by `responsibility`.
    """
    await service.unlink(ROLES, reference, role, conditions, responsibility)
    return shared.no_content()


@related_processes.get(
    "/departments/{reference}/processes",
    tags=["departments"],
    response_model=shared.Page[ProcessRead],
    responses=shared.SUBLIST_EXPORT,
    openapi_extra=REQUIRES_READ,
)
async def list_department_processes(
    service: ProcessServiceDep, reference: shared.Reference, query: ProcessListParameters
) -> Response:
    """List the processes that a department takes part in."""
    return await shared.list_response(await service.page_linked(DEPARTMENTS, OWNER, reference, query), query)


@related_processes.get(
    "/locations/{reference}/processes",
    tags=["locations"],
    response_model=shared.Page[ProcessRead],
    responses=shared.SUBLIST_EXPORT,
    openapi_extra=REQUIRES_READ,
)
async def list_location_processes(
    service: ProcessServiceDep, reference: shared.Reference, query: ProcessListParameters
) -> Response:
    """List the processes that take place at a location."""
    return await shared.list_response(await service.page_linked(LOCATIONS, OWNER, reference, query), query)


@related_processes.get(
    "/resources/{reference}/processes",
    tags=["resources"],
    response_model=shared.Page[ProcessRead],
    responses=shared.SUBLIST_EXPORT,
    openapi_extra=REQUIRES_READ,
)
async def list_resource_processes(
    service: ProcessServiceDep, reference: shared.Reference, query: ProcessListParameters
) -> Response:
    """List the processes that use a resource."""
    return await shared.list_response(await service.page_linked(RESOURCES, OWNER, reference, query), query)


@related_processes.get(
    "/roles/{reference}/processes",
    tags=["roles"],
    response_model=shared.Page[ProcessRead],
    responses=shared.SUBLIST_EXPORT,
    openapi_extra=REQUIRES_READ,
)
async def list_role_processes(
    service: ProcessServiceDep, reference: shared.Reference, query: ProcessListParameters
) -> Response:
    """List the processes in which a role has a responsibility."""
    return await shared.list_response(await service.page_linked(ROLES, OWNER, reference, query), query)
