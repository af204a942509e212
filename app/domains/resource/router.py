"""The routes of resources."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.core.permissions import requires
from app.domains.resource.lists import ResourceListQuery
from app.domains.resource.schemas import ResourceCreate, ResourcePatch, ResourceRead, ResourceReplace
from app.domains.resource.service import ResourceService
from app.domains.shared.bulk_routes import add_bulk
from app.domains.shared.http import (
    IfMatch,
    IfNoneMatch,
    PageParameters,
    Reference,
    collection_router,
    created,
    found,
    list_parameters,
    listed,
    no_content,
    representation_parameters,
    sent,
    written,
)
from app.domains.shared.import_routes import add_import
from app.domains.shared.lists import ListQuery
from app.domains.shared.representations import RepresentationQuery
from app.domains.shared.responses import CREATE, DELETE, EXPORT, LIST_OF_ONE, READ, WRITE
from app.domains.shared.schemas import ChangeRead, Page
from app.domains.shared.stats_routes import add_stats

router = collection_router("resources")

READING, WRITING = requires("resources:read"), requires("resources:write")

Service = Annotated[ResourceService, Depends(ResourceService.provide)]
ListParameters = Annotated[ListQuery, Depends(list_parameters(ResourceListQuery))]
Representation = Annotated[RepresentationQuery, Depends(representation_parameters(ResourceRead))]


@router.get("", response_model=Page[ResourceRead], responses=EXPORT, openapi_extra=READING)
async def list_resources(service: Service, request: Request, query: ListParameters) -> Response:
    """List the resources."""
    return await sent(await service.page(query), query, request)


@router.post("", status_code=201, response_model=ResourceRead, responses=CREATE, openapi_extra=WRITING)
async def create_resource(service: Service, request: Request, body: ResourceCreate) -> Response:
    """Register a resource."""
    return created(await service.create(body), request)


add_bulk(router, "resources", ResourceService, ResourceCreate, WRITING)
add_stats(router, "resources", ResourceService, ResourceListQuery, READING)
add_import(router, "resources", ResourceService, WRITING)


@router.get("/{reference}", response_model=ResourceRead, responses=READ, openapi_extra=READING)
async def get_resource(
    service: Service, reference: Reference, shown: Representation, if_none_match: IfNoneMatch = None
) -> Response:
    """Return a resource."""
    return found(await service.get(reference, shown.members), if_none_match)


@router.put("/{reference}", response_model=ResourceRead, responses=WRITE, openapi_extra=WRITING)
async def replace_resource(
    service: Service, reference: Reference, body: ResourceReplace, if_match: IfMatch = None
) -> Response:
    """Give a resource all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=ResourceRead, responses=WRITE, openapi_extra=WRITING)
async def update_resource(
    service: Service, reference: Reference, body: ResourcePatch, if_match: IfMatch = None
) -> Response:
    """Change some values of a resource (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE, openapi_extra=WRITING)
async def delete_resource(service: Service, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a resource that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()


@router.get("/{reference}/changes", response_model=Page[ChangeRead], responses=LIST_OF_ONE, openapi_extra=READING)
async def list_resource_changes(
    service: Service, request: Request, reference: Reference, query: PageParameters
) -> Response:
    """List the changes of a resource, the newest first."""
    return listed(await service.changes(reference, query), query, request)
