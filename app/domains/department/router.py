"""The routes of departments."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.core.permissions import requires
from app.domains.department.lists import DepartmentListQuery
from app.domains.department.schemas import DepartmentCreate, DepartmentPatch, DepartmentRead, DepartmentReplace
from app.domains.department.service import DepartmentService
from app.domains.shared.bulk_routes import add_bulk
from app.domains.shared.http import (
    Depth,
    IfMatch,
    IfNoneMatch,
    PageParameters,
    Reference,
    ancestors,
    collection_router,
    created,
    found,
    list_parameters,
    listed,
    no_content,
    representation_parameters,
    sent,
    walked,
    written,
)
from app.domains.shared.import_routes import add_import
from app.domains.shared.lists import ListQuery
from app.domains.shared.representations import RepresentationQuery
from app.domains.shared.responses import CREATE, DELETE, EXPORT, INVALID, LIST_OF_ONE, READ, WALK, WRITE
from app.domains.shared.schemas import Ancestors, ChangeRead, Page, Tree
from app.domains.shared.stats_routes import add_stats
from app.domains.shared.trees import DEEPEST

router = collection_router("departments")

READING, WRITING = requires("departments:read"), requires("departments:write")

Service = Annotated[DepartmentService, Depends(DepartmentService.provide)]
ListParameters = Annotated[ListQuery, Depends(list_parameters(DepartmentListQuery))]
Representation = Annotated[RepresentationQuery, Depends(representation_parameters(DepartmentRead))]


@router.get("", response_model=Page[DepartmentRead], responses=EXPORT, openapi_extra=READING)
async def list_departments(service: Service, request: Request, query: ListParameters) -> Response:
    """List the departments."""
    return await sent(await service.page(query), query, request)


@router.post("", status_code=201, response_model=DepartmentRead, responses=CREATE, openapi_extra=WRITING)
async def create_department(service: Service, request: Request, body: DepartmentCreate) -> Response:
    """Register a department."""
    return created(await service.create(body), request)


add_bulk(router, "departments", DepartmentService, DepartmentCreate, WRITING)
add_stats(router, "departments", DepartmentService, DepartmentListQuery, READING)
add_import(router, "departments", DepartmentService, WRITING)


@router.get("/{reference}", response_model=DepartmentRead, responses=READ, openapi_extra=READING)
async def get_department(
    service: Service, reference: Reference, shown: Representation, if_none_match: IfNoneMatch = None
) -> Response:
    """Return a department."""
    return found(await service.get(reference, shown.members), if_none_match)


@router.put("/{reference}", response_model=DepartmentRead, responses=WRITE, openapi_extra=WRITING)
async def replace_department(
    service: Service, reference: Reference, body: DepartmentReplace, if_match: IfMatch = None
) -> Response:
    """Give a department all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=DepartmentRead, responses=WRITE, openapi_extra=WRITING)
async def update_department(
    service: Service, reference: Reference, body: DepartmentPatch, if_match: IfMatch = None
) -> Response:
    """Change some values of a department (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE, openapi_extra=WRITING)
async def delete_department(service: Service, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a department that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()


@router.get("/{reference}/changes", response_model=Page[ChangeRead], responses=LIST_OF_ONE, openapi_extra=READING)
async def list_department_changes(
    service: Service, request: Request, reference: Reference, query: PageParameters
) -> Response:
    """List the changes of a department, the newest first."""
    return listed(await service.changes(reference, query), query, request)


@router.get("/{reference}/tree", response_model=Tree, responses=WALK | INVALID, openapi_extra=READING)
async def get_department_tree(service: Service, reference: Reference, depth: Depth = DEEPEST) -> Response:
    """Return a department and what stands below it, depth first."""
    return walked(await service.tree(reference, depth))


@router.get("/{reference}/ancestors", response_model=Ancestors, responses=WALK, openapi_extra=READING)
async def list_department_ancestors(service: Service, reference: Reference) -> Response:
    """List what a department stands below, the root first."""
    return ancestors(await service.ancestors(reference))
