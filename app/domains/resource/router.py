"""The routes of resources."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.domains.resource.schemas import ResourceCreate, ResourcePatch, ResourceRead, ResourceReplace
from app.domains.resource.service import ResourceService
from app.domains.shared.http import (
    CREATE,
    DELETE,
    LIST,
    READ,
    WRITE,
    IfMatch,
    IfNoneMatch,
    ListParameters,
    Reference,
    collection_router,
    created,
    found,
    listed,
    no_content,
    written,
)
from app.domains.shared.schemas import Page

router = collection_router("resources")

Service = Annotated[ResourceService, Depends(ResourceService.provide)]


@router.get("", response_model=Page[ResourceRead], responses=LIST)
async def list_resources(service: Service, request: Request, query: ListParameters) -> Response:
    """List the resources."""
    return listed(await service.page(query), query, request)


@router.post("", status_code=201, response_model=ResourceRead, responses=CREATE)
async def create_resource(service: Service, request: Request, body: ResourceCreate) -> Response:
    """Register a resource."""
    return created(await service.create(body), request)


@router.get("/{reference}", response_model=ResourceRead, responses=READ)
async def get_resource(service: Service, reference: Reference, if_none_match: IfNoneMatch = None) -> Response:
    """Return a resource."""
    return found(await service.get(reference), if_none_match)


@router.put("/{reference}", response_model=ResourceRead, responses=WRITE)
async def replace_resource(
    service: Service, reference: Reference, body: ResourceReplace, if_match: IfMatch = None
) -> Response:
    """Give a resource all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=ResourceRead, responses=WRITE)
async def update_resource(
    service: Service, reference: Reference, body: ResourcePatch, if_match: IfMatch = None
) -> Response:
    """Change some values of a resource (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE)
async def delete_resource(service: Service, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a resource that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()
