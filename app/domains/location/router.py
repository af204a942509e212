"""The routes of locations."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.core.permissions import requires
from app.domains.location.lists import LocationListQuery
from app.domains.location.schemas import LocationCreate, LocationPatch, LocationRead, LocationReplace
from app.domains.location.service import LocationService
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

router = collection_router("locations")

READING, WRITING = requires("locations:read"), requires("locations:write")

Service = Annotated[LocationService, Depends(LocationService.provide)]
ListParameters = Annotated[ListQuery, Depends(list_parameters(LocationListQuery))]
Representation = Annotated[RepresentationQuery, Depends(representation_parameters(LocationRead))]


@router.get("", response_model=Page[LocationRead], responses=EXPORT, openapi_extra=READING)
async def list_locations(service: Service, request: Request, query: ListParameters) -> Response:
    """List the locations."""
    return await sent(await service.page(query), query, request)


@router.post("", status_code=201, response_model=LocationRead, responses=CREATE, openapi_extra=WRITING)
async def create_location(service: Service, request: Request, body: LocationCreate) -> Response:
    """Register a location."""
    return created(await service.create(body), request)


add_bulk(router, "locations", LocationService, LocationCreate, WRITING)
add_stats(router, "locations", LocationService, LocationListQuery, READING)
add_import(router, "locations", LocationService, WRITING)


@router.get("/{reference}", response_model=LocationRead, responses=READ, openapi_extra=READING)
async def get_location(
    service: Service, reference: Reference, shown: Representation, if_none_match: IfNoneMatch = None
) -> Response:
    """Return a location."""
    return found(await service.get(reference, shown.members), if_none_match)


@router.put("/{reference}", response_model=LocationRead, responses=WRITE, openapi_extra=WRITING)
async def replace_location(
    service: Service, reference: Reference, body: LocationReplace, if_match: IfMatch = None
) -> Response:
    """Give a location all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=LocationRead, responses=WRITE, openapi_extra=WRITING)
async def update_location(
    service: Service, reference: Reference, body: LocationPatch, if_match: IfMatch = None
) -> Response:
    """Change some values of a location (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE, openapi_extra=WRITING)
async def delete_location(service: Service, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a location that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()


@router.get("/{reference}/changes", response_model=Page[ChangeRead], responses=LIST_OF_ONE, openapi_extra=READING)
async def list_location_changes(
    service: Service, request: Request, reference: Reference, query: PageParameters
) -> Response:
    """List the changes of a location, the newest first."""
    return listed(await service.changes(reference, query), query, request)


@router.get("/{reference}/tree", response_model=Tree, responses=WALK | INVALID, openapi_extra=READING)
async def get_location_tree(service: Service, reference: Reference, depth: Depth = DEEPEST) -> Response:
    """Return a location and what stands below it, depth first."""
    return walked(await service.tree(reference, depth))


@router.get("/{reference}/ancestors", response_model=Ancestors, responses=WALK, openapi_extra=READING)
async def list_location_ancestors(service: Service, reference: Reference) -> Response:
    """List what a location stands below, the root first."""
    return ancestors(await service.ancestors(reference))
