"""The routes of locations."""

from fastapi import Response

from app.core.permissions import requires
from app.domains.location.lists import LocationListParameters, LocationRepresentation, LocationStatsParameters
from app.domains.location.schemas import LocationCreate, LocationPatch, LocationRead, LocationReplace
from app.domains.location.service import LocationServiceDep
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

router = collection_router("locations")

READING, WRITING = requires("locations:read"), requires("locations:write")
FILES = takes_files()


class BulkLocations(Bulk[LocationCreate]):
    """Up to 1,000 objects to write at once."""


@router.get("", response_model=Page[LocationRead], responses=EXPORT, openapi_extra=READING)
async def list_locations(service: LocationServiceDep, query: LocationListParameters) -> Response:
    """List the locations."""
    return await sent(await service.page(query), query)


@router.post("", status_code=201, response_model=LocationRead, responses=CREATE, openapi_extra=WRITING)
async def create_location(service: LocationServiceDep, body: LocationCreate) -> Response:
    """Register a location."""
    return created(await service.create(body), router)


@router.post("/bulk", response_model=BulkAnswer, responses=BULK, openapi_extra=WRITING | LARGE_BODY)
async def bulk_locations(
    service: LocationServiceDep, body: BulkLocations, atomic: Atomic = True, dry_run: DryRun = False
) -> Response:
    """Create, update, upsert and delete up to 1,000 locations at once."""
    return bulk_answer(await service.bulk(body.items, atomic=atomic, dry_run=dry_run), dry_run=dry_run)


@router.get("/stats", response_model=Stats, responses=INVALID, openapi_extra=READING)
async def count_locations(service: LocationServiceDep, query: LocationStatsParameters) -> Response:
    """Count the locations that the filters select, by group."""
    return counted(await service.stats(query))


@router.post("/import", response_model=ImportAnswer, responses=IMPORT, openapi_extra=WRITING | FILES)
async def import_locations(service: LocationServiceDep, request: ImportRequestDep) -> Response:
    """Create and change locations from a file, or plan that."""
    return import_answer(await service.import_file(request))


@router.get("/{reference}", response_model=LocationRead, responses=READ, openapi_extra=READING)
async def get_location(
    service: LocationServiceDep, reference: Reference, shown: LocationRepresentation, if_none_match: IfNoneMatch = None
) -> Response:
    """Return a location."""
    return found(await service.get(reference, shown.members), if_none_match)


@router.put("/{reference}", response_model=LocationRead, responses=WRITE, openapi_extra=WRITING)
async def replace_location(
    service: LocationServiceDep, reference: Reference, body: LocationReplace, if_match: IfMatch = None
) -> Response:
    """Give a location all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=LocationRead, responses=WRITE, openapi_extra=WRITING)
async def update_location(
    service: LocationServiceDep, reference: Reference, body: LocationPatch, if_match: IfMatch = None
) -> Response:
    """Change some values of a location (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE, openapi_extra=WRITING)
async def delete_location(service: LocationServiceDep, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a location that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()


@router.get("/{reference}/changes", response_model=Page[ChangeRead], responses=LIST_OF_ONE, openapi_extra=READING)
async def list_location_changes(service: LocationServiceDep, reference: Reference, query: PageParameters) -> Response:
    """List the changes of a location, the newest first."""
    return listed(await service.changes(reference, query), query)


@router.get("/{reference}/tree", response_model=Tree, responses=WALK | INVALID, openapi_extra=READING)
async def get_location_tree(service: LocationServiceDep, reference: Reference, depth: Depth = DEEPEST) -> Response:
    """Return a location and what stands below it, depth first."""
    return walked(await service.tree(reference, depth))


@router.get("/{reference}/ancestors", response_model=Ancestors, responses=WALK, openapi_extra=READING)
async def list_location_ancestors(service: LocationServiceDep, reference: Reference) -> Response:
    """List what a location stands below, the root first."""
    return ancestors(await service.ancestors(reference))
