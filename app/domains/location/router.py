"""Location routes."""

from fastapi import Response

from app.core.permissions import requires
from app.domains.location.lists import LocationListParameters, LocationRepresentation, LocationStatsParameters
from app.domains.location.schemas import LocationCreate, LocationPatch, LocationRead, LocationReplace
from app.domains.location.service import LocationServiceDep
from app.domains.shared import router as shared

router = shared.collection_router("locations")

REQUIRES_READ, REQUIRES_WRITE = requires("locations:read"), requires("locations:write")
FILES = shared.accepts_files()


class BulkLocations(shared.Bulk[LocationCreate]):
    """Up to 1,000 items, each of which writes one location."""


@router.get("", response_model=shared.Page[LocationRead], responses=shared.EXPORT, openapi_extra=REQUIRES_READ)
async def list_locations(service: LocationServiceDep, query: LocationListParameters) -> Response:
    """List locations."""
    return await shared.list_response(await service.page(query), query)


@router.post("", status_code=201, response_model=LocationRead, responses=shared.CREATE, openapi_extra=REQUIRES_WRITE)
async def create_location(service: LocationServiceDep, body: LocationCreate) -> Response:
    """Create a location."""
    return shared.created_response(await service.create(body), router)


@router.post(
    "/bulk", response_model=shared.BulkAnswer, responses=shared.BULK, openapi_extra=REQUIRES_WRITE | shared.LARGE_BODY
)
async def bulk_locations(
    service: LocationServiceDep, body: BulkLocations, atomic: shared.Atomic = True, dry_run: shared.DryRun = False
) -> Response:
    """Create, update, upsert and delete up to 1,000 locations in one request."""
    return shared.bulk_response(await service.bulk(body.items, atomic=atomic, dry_run=dry_run), dry_run=dry_run)


@router.get("/stats", response_model=shared.Stats, responses=shared.STATS, openapi_extra=REQUIRES_READ)
async def count_locations(service: LocationServiceDep, query: LocationStatsParameters) -> Response:
    """Count the locations that match the filters, by group."""
    return shared.stats_response(await service.stats(query))


@router.post(
    "/import", response_model=shared.ImportAnswer, responses=shared.IMPORT, openapi_extra=REQUIRES_WRITE | FILES
)
async def import_locations(service: LocationServiceDep, request: shared.ImportRequestDep) -> Response:
    """Import locations from a file, or plan the import."""
    return shared.import_response(await service.import_file(request))


@router.get("/{reference}", response_model=LocationRead, responses=shared.READ, openapi_extra=REQUIRES_READ)
async def get_location(
    service: LocationServiceDep,
    reference: shared.Reference,
    representation: LocationRepresentation,
    conditions: shared.Conditions,
) -> Response:
    """Get a location."""
    return shared.document_response(await service.get(reference, representation.members), conditions)


@router.put("/{reference}", response_model=LocationRead, responses=shared.WRITE, openapi_extra=REQUIRES_WRITE)
async def replace_location(
    service: LocationServiceDep, reference: shared.Reference, body: LocationReplace, conditions: shared.Conditions
) -> Response:
    """Replace a location."""
    return shared.updated_response(await service.replace(reference, body, conditions))


@router.patch("/{reference}", response_model=LocationRead, responses=shared.WRITE, openapi_extra=REQUIRES_WRITE)
async def update_location(
    service: LocationServiceDep, reference: shared.Reference, body: LocationPatch, conditions: shared.Conditions
) -> Response:
    """Update a location with a merge patch (RFC 7396)."""
    return shared.updated_response(await service.patch(reference, body, conditions))


@router.delete("/{reference}", status_code=204, responses=shared.DELETE, openapi_extra=REQUIRES_WRITE)
async def delete_location(
    service: LocationServiceDep, reference: shared.Reference, conditions: shared.Conditions
) -> Response:
    """Delete a location that no other object refers to."""
    await service.delete(reference, conditions)
    return shared.no_content()


@router.get(
    "/{reference}/changes",
    response_model=shared.Page[shared.ChangeRead],
    responses=shared.SUBLIST_EXPORT,
    openapi_extra=REQUIRES_READ,
)
async def list_location_changes(
    service: LocationServiceDep, reference: shared.Reference, query: shared.ChangeParameters
) -> Response:
    """List the changes of a location, newest first."""
    return await shared.list_response(await service.changes(reference, query), query)


@router.get(
    "/{reference}/tree",
    response_model=shared.Tree,
    responses=shared.TREE | shared.INVALID,
    dependencies=shared.JSON_ONLY,
    openapi_extra=REQUIRES_READ,
)
async def get_location_tree(
    service: LocationServiceDep, reference: shared.Reference, depth: shared.Depth = shared.MAX_DEPTH
) -> Response:
    """Get a location and its descendants, depth first."""
    return shared.tree_response(await service.tree(reference, depth))


@router.get(
    "/{reference}/ancestors",
    response_model=shared.Ancestors,
    responses=shared.TREE,
    dependencies=shared.JSON_ONLY,
    openapi_extra=REQUIRES_READ,
)
async def list_location_ancestors(service: LocationServiceDep, reference: shared.Reference) -> Response:
    """List the ancestors of a location, root first."""
    return shared.tree_response(await service.ancestors(reference))
