"""The routes of locations."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.domains.location.schemas import LocationCreate, LocationPatch, LocationRead, LocationReplace
from app.domains.location.service import LocationService
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

router = collection_router("locations")

Service = Annotated[LocationService, Depends(LocationService.provide)]


@router.get("", response_model=Page[LocationRead], responses=LIST)
async def list_locations(service: Service, request: Request, query: ListParameters) -> Response:
    """List the locations."""
    return listed(await service.page(query), query, request)


@router.post("", status_code=201, response_model=LocationRead, responses=CREATE)
async def create_location(service: Service, request: Request, body: LocationCreate) -> Response:
    """Register a location."""
    return created(await service.create(body), request)


@router.get("/{reference}", response_model=LocationRead, responses=READ)
async def get_location(service: Service, reference: Reference, if_none_match: IfNoneMatch = None) -> Response:
    """Return a location."""
    return found(await service.get(reference), if_none_match)


@router.put("/{reference}", response_model=LocationRead, responses=WRITE)
async def replace_location(
    service: Service, reference: Reference, body: LocationReplace, if_match: IfMatch = None
) -> Response:
    """Give a location all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=LocationRead, responses=WRITE)
async def update_location(
    service: Service, reference: Reference, body: LocationPatch, if_match: IfMatch = None
) -> Response:
    """Change some values of a location (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE)
async def delete_location(service: Service, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a location that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()


@router.get("/{reference}/tree", response_model=Tree, responses=WALK | INVALID)
async def get_location_tree(service: Service, reference: Reference, depth: Depth = DEEPEST) -> Response:
    """Return a location and what stands below it, depth first."""
    return walked(await service.tree(reference, depth))


@router.get("/{reference}/ancestors", response_model=Ancestors, responses=WALK)
async def list_location_ancestors(service: Service, reference: Reference) -> Response:
    """List what a location stands below, the root first."""
    return ancestors(await service.ancestors(reference))
