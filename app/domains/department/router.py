"""The routes of departments."""

from fastapi import Response

from app.core.permissions import requires
from app.domains.department.lists import DepartmentListParameters, DepartmentRepresentation, DepartmentStatsParameters
from app.domains.department.schemas import DepartmentCreate, DepartmentPatch, DepartmentRead, DepartmentReplace
from app.domains.department.service import DepartmentServiceDep
from app.domains.shared.router import (
    BULK,
    CREATE,
    DEEPEST,
    DELETE,
    EXPORT,
    IMPORT,
    INVALID,
    LARGE_BODY,
    LIST_OF_ONE,
    READ,
    WALK,
    WRITE,
    Ancestors,
    Atomic,
    Bulk,
    BulkAnswer,
    ChangeRead,
    Depth,
    DryRun,
    IfMatch,
    IfNoneMatch,
    ImportAnswer,
    ImportRequestDep,
    Page,
    PageParameters,
    Reference,
    Stats,
    Tree,
    ancestors,
    bulk_answer,
    collection_router,
    counted,
    created,
    found,
    import_answer,
    listed,
    no_content,
    sent,
    takes_files,
    walked,
    written,
)

router = collection_router("departments")

READING, WRITING = requires("departments:read"), requires("departments:write")
FILES = takes_files()


class BulkDepartments(Bulk[DepartmentCreate]):
    """Up to 1,000 objects to write at once."""


@router.get("", response_model=Page[DepartmentRead], responses=EXPORT, openapi_extra=READING)
async def list_departments(service: DepartmentServiceDep, query: DepartmentListParameters) -> Response:
    """List the departments."""
    return await sent(await service.page(query), query)


@router.post("", status_code=201, response_model=DepartmentRead, responses=CREATE, openapi_extra=WRITING)
async def create_department(service: DepartmentServiceDep, body: DepartmentCreate) -> Response:
    """Register a department."""
    return created(await service.create(body), router)


@router.post("/bulk", response_model=BulkAnswer, responses=BULK, openapi_extra=WRITING | LARGE_BODY)
async def bulk_departments(
    service: DepartmentServiceDep, body: BulkDepartments, atomic: Atomic = True, dry_run: DryRun = False
) -> Response:
    """Create, update, upsert and delete up to 1,000 departments at once."""
    return bulk_answer(await service.bulk(body.items, atomic=atomic, dry_run=dry_run), dry_run=dry_run)


@router.get("/stats", response_model=Stats, responses=INVALID, openapi_extra=READING)
async def count_departments(service: DepartmentServiceDep, query: DepartmentStatsParameters) -> Response:
    """Count the departments that the filters select, by group."""
    return counted(await service.stats(query))


@router.post("/import", response_model=ImportAnswer, responses=IMPORT, openapi_extra=WRITING | FILES)
async def import_departments(service: DepartmentServiceDep, request: ImportRequestDep) -> Response:
    """Create and change departments from a file, or plan that."""
    return import_answer(await service.import_file(request))


@router.get("/{reference}", response_model=DepartmentRead, responses=READ, openapi_extra=READING)
async def get_department(
    service: DepartmentServiceDep,
    reference: Reference,
    shown: DepartmentRepresentation,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return a department."""
    return found(await service.get(reference, shown.members), if_none_match)


@router.put("/{reference}", response_model=DepartmentRead, responses=WRITE, openapi_extra=WRITING)
async def replace_department(
    service: DepartmentServiceDep, reference: Reference, body: DepartmentReplace, if_match: IfMatch = None
) -> Response:
    """Give a department all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=DepartmentRead, responses=WRITE, openapi_extra=WRITING)
async def update_department(
    service: DepartmentServiceDep, reference: Reference, body: DepartmentPatch, if_match: IfMatch = None
) -> Response:
    """Change some values of a department (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE, openapi_extra=WRITING)
async def delete_department(service: DepartmentServiceDep, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a department that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()


@router.get("/{reference}/changes", response_model=Page[ChangeRead], responses=LIST_OF_ONE, openapi_extra=READING)
async def list_department_changes(
    service: DepartmentServiceDep, reference: Reference, query: PageParameters
) -> Response:
    """List the changes of a department, the newest first."""
    return listed(await service.changes(reference, query), query)


@router.get("/{reference}/tree", response_model=Tree, responses=WALK | INVALID, openapi_extra=READING)
async def get_department_tree(service: DepartmentServiceDep, reference: Reference, depth: Depth = DEEPEST) -> Response:
    """Return a department and what stands below it, depth first."""
    return walked(await service.tree(reference, depth))


@router.get("/{reference}/ancestors", response_model=Ancestors, responses=WALK, openapi_extra=READING)
async def list_department_ancestors(service: DepartmentServiceDep, reference: Reference) -> Response:
    """List what a department stands below, the root first."""
    return ancestors(await service.ancestors(reference))
