"""The routes of departments."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.domains.department.schemas import DepartmentCreate, DepartmentPatch, DepartmentRead, DepartmentReplace
from app.domains.department.service import DepartmentService
from app.domains.shared.http import (
    CREATE,
    DELETE,
    INVALID,
    LIST,
    READ,
    WALK,
    WRITE,
    Depth,
    IfMatch,
    IfNoneMatch,
    ListParameters,
    Reference,
    ancestors,
    collection_router,
    created,
    found,
    listed,
    no_content,
    walked,
    written,
)
from app.domains.shared.schemas import Ancestors, Page, Tree
from app.domains.shared.trees import DEEPEST

router = collection_router("departments")

Service = Annotated[DepartmentService, Depends(DepartmentService.provide)]


@router.get("", response_model=Page[DepartmentRead], responses=LIST)
async def list_departments(service: Service, request: Request, query: ListParameters) -> Response:
    """List the departments."""
    return listed(await service.page(query), query, request)


@router.post("", status_code=201, response_model=DepartmentRead, responses=CREATE)
async def create_department(service: Service, request: Request, body: DepartmentCreate) -> Response:
    """Register a department."""
    return created(await service.create(body), request)


@router.get("/{reference}", response_model=DepartmentRead, responses=READ)
async def get_department(service: Service, reference: Reference, if_none_match: IfNoneMatch = None) -> Response:
    """Return a department."""
    return found(await service.get(reference), if_none_match)


@router.put("/{reference}", response_model=DepartmentRead, responses=WRITE)
async def replace_department(
    service: Service, reference: Reference, body: DepartmentReplace, if_match: IfMatch = None
) -> Response:
    """Give a department all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=DepartmentRead, responses=WRITE)
async def update_department(
    service: Service, reference: Reference, body: DepartmentPatch, if_match: IfMatch = None
) -> Response:
    """Change some values of a department (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE)
async def delete_department(service: Service, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a department that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()


@router.get("/{reference}/tree", response_model=Tree, responses=WALK | INVALID)
async def get_department_tree(service: Service, reference: Reference, depth: Depth = DEEPEST) -> Response:
    """Return a department and what stands below it, depth first."""
    return walked(await service.tree(reference, depth))


@router.get("/{reference}/ancestors", response_model=Ancestors, responses=WALK)
async def list_department_ancestors(service: Service, reference: Reference) -> Response:
    """List what a department stands below, the root first."""
    return ancestors(await service.ancestors(reference))
