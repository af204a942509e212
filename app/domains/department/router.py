"""Department routes."""

from fastapi import Response

from app.core.permissions import requires
from app.domains.department.lists import DepartmentListParameters, DepartmentRepresentation, DepartmentStatsParameters
from app.domains.department.schemas import DepartmentCreate, DepartmentPatch, DepartmentRead, DepartmentReplace
from app.domains.department.service import DepartmentServiceDep
from app.domains.shared import router as shared

router = shared.collection_router("departments")

REQUIRES_READ, REQUIRES_WRITE = requires("departments:read"), requires("departments:write")
FILES = shared.accepts_files()


class BulkDepartments(shared.Bulk[DepartmentCreate]):
    """Up to 1,000 items, each of which writes one department."""


@router.get("", response_model=shared.Page[DepartmentRead], responses=shared.EXPORT, openapi_extra=REQUIRES_READ)
async def list_departments(service: DepartmentServiceDep, query: DepartmentListParameters) -> Response:
    """List departments."""
    return await shared.list_response(await service.page(query), query)


@router.post("", status_code=201, response_model=DepartmentRead, responses=shared.CREATE, openapi_extra=REQUIRES_WRITE)
async def create_department(service: DepartmentServiceDep, body: DepartmentCreate) -> Response:
    """Create a department."""
    return shared.created_response(await service.create(body), router)


@router.post(
    "/bulk", response_model=shared.BulkAnswer, responses=shared.BULK, openapi_extra=REQUIRES_WRITE | shared.LARGE_BODY
)
async def bulk_departments(
    service: DepartmentServiceDep, body: BulkDepartments, atomic: shared.Atomic = True, dry_run: shared.DryRun = False
) -> Response:
    """Create, update, upsert and delete up to 1,000 departments in one request."""
    return shared.bulk_response(await service.bulk(body.items, atomic=atomic, dry_run=dry_run), dry_run=dry_run)


@router.get("/stats", response_model=shared.Stats, responses=shared.STATS, openapi_extra=REQUIRES_READ)
async def count_departments(service: DepartmentServiceDep, query: DepartmentStatsParameters) -> Response:
    """Count the departments that match the filters, by group."""
    return shared.stats_response(await service.stats(query))


@router.post(
    "/import", response_model=shared.ImportAnswer, responses=shared.IMPORT, openapi_extra=REQUIRES_WRITE | FILES
)
async def import_departments(service: DepartmentServiceDep, request: shared.ImportRequestDep) -> Response:
    """Import departments from a file, or plan the import."""
    return shared.import_response(await service.import_file(request))


@router.get("/{reference}", response_model=DepartmentRead, responses=shared.READ, openapi_extra=REQUIRES_READ)
async def get_department(
    service: DepartmentServiceDep,
    reference: shared.Reference,
    representation: DepartmentRepresentation,
    conditions: shared.Conditions,
) -> Response:
    """Get a department."""
    return shared.document_response(await service.get(reference, representation.members), conditions)


@router.put("/{reference}", response_model=DepartmentRead, responses=shared.WRITE, openapi_extra=REQUIRES_WRITE)
async def replace_department(
    service: DepartmentServiceDep, reference: shared.Reference, body: DepartmentReplace, conditions: shared.Conditions
) -> Response:
    """Replace a department."""
    return shared.updated_response(await service.replace(reference, body, conditions))


@router.patch("/{reference}", response_model=DepartmentRead, responses=shared.WRITE, openapi_extra=REQUIRES_WRITE)
async def update_department(
    service: DepartmentServiceDep, reference: shared.Reference, body: DepartmentPatch, conditions: shared.Conditions
) -> Response:
    """Update a department with a merge patch (RFC 7396)."""
    return shared.updated_response(await service.patch(reference, body, conditions))


@router.delete("/{reference}", status_code=204, responses=shared.DELETE, openapi_extra=REQUIRES_WRITE)
async def delete_department(
    service: DepartmentServiceDep, reference: shared.Reference, conditions: shared.Conditions
) -> Response:
    """Delete a department that no other object refers to."""
    await service.delete(reference, conditions)
    return shared.no_content()


@router.get(
    "/{reference}/changes",
    response_model=shared.Page[shared.ChangeRead],
    responses=shared.SUBLIST_EXPORT,
    openapi_extra=REQUIRES_READ,
)
async def list_department_changes(
    service: DepartmentServiceDep, reference: shared.Reference, query: shared.ChangeParameters
) -> Response:
    """List the changes of a department, newest first."""
    return await shared.list_response(await service.changes(reference, query), query)


@router.get(
    "/{reference}/tree",
    response_model=shared.Tree,
    responses=shared.TREE | shared.INVALID,
    dependencies=shared.JSON_ONLY,
    openapi_extra=REQUIRES_READ,
)
async def get_department_tree(
    service: DepartmentServiceDep, reference: shared.Reference, depth: shared.Depth = shared.MAX_DEPTH
) -> Response:
    """Get a department and its descendants, depth first."""
    return shared.tree_response(await service.tree(reference, depth))


@router.get(
    "/{reference}/ancestors",
    response_model=shared.Ancestors,
    responses=shared.TREE,
    dependencies=shared.JSON_ONLY,
    openapi_extra=REQUIRES_READ,
)
async def list_department_ancestors(service: DepartmentServiceDep, reference: shared.Reference) -> Response:
    """List the ancestors of a department, root first."""
    return shared.tree_response(await service.ancestors(reference))
