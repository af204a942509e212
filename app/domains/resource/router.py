"""The routes of resources."""

from fastapi import Response

from app.core.permissions import requires
from app.domains.resource.lists import ResourceListParameters, ResourceRepresentation, ResourceStatsParameters
from app.domains.resource.schemas import ResourceCreate, ResourcePatch, ResourceRead, ResourceReplace
from app.domains.resource.service import ResourceServiceDep
from app.domains.shared.router import (
    BULK,
    CREATE,
    DELETE,
    EXPORT,
    IMPORT,
    INVALID,
    LARGE_BODY,
    LIST_OF_ONE,
    READ,
    WRITE,
    Atomic,
    Bulk,
    BulkAnswer,
    ChangeRead,
    DryRun,
    IfMatch,
    IfNoneMatch,
    ImportAnswer,
    ImportRequestDep,
    Page,
    PageParameters,
    Reference,
    Stats,
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
    written,
)

router = collection_router("resources")

READING, WRITING = requires("resources:read"), requires("resources:write")
FILES = takes_files()


class BulkResources(Bulk[ResourceCreate]):
    """Up to 1,000 objects to write at once."""


@router.get("", response_model=Page[ResourceRead], responses=EXPORT, openapi_extra=READING)
async def list_resources(service: ResourceServiceDep, query: ResourceListParameters) -> Response:
    """List the resources."""
    return await sent(await service.page(query), query)


@router.post("", status_code=201, response_model=ResourceRead, responses=CREATE, openapi_extra=WRITING)
async def create_resource(service: ResourceServiceDep, body: ResourceCreate) -> Response:
    """Register a resource."""
    return created(await service.create(body), router)


@router.post("/bulk", response_model=BulkAnswer, responses=BULK, openapi_extra=WRITING | LARGE_BODY)
async def bulk_resources(
    service: ResourceServiceDep, body: BulkResources, atomic: Atomic = True, dry_run: DryRun = False
) -> Response:
    """Create, update, upsert and delete up to 1,000 resources at once."""
    return bulk_answer(await service.bulk(body.items, atomic=atomic, dry_run=dry_run), dry_run=dry_run)


@router.get("/stats", response_model=Stats, responses=INVALID, openapi_extra=READING)
async def count_resources(service: ResourceServiceDep, query: ResourceStatsParameters) -> Response:
    """Count the resources that the filters select, by group."""
    return counted(await service.stats(query))


@router.post("/import", response_model=ImportAnswer, responses=IMPORT, openapi_extra=WRITING | FILES)
async def import_resources(service: ResourceServiceDep, request: ImportRequestDep) -> Response:
    """Create and change resources from a file, or plan that."""
    return import_answer(await service.import_file(request))


@router.get("/{reference}", response_model=ResourceRead, responses=READ, openapi_extra=READING)
async def get_resource(
    service: ResourceServiceDep, reference: Reference, shown: ResourceRepresentation, if_none_match: IfNoneMatch = None
) -> Response:
    """Return a resource."""
    return found(await service.get(reference, shown.members), if_none_match)


@router.put("/{reference}", response_model=ResourceRead, responses=WRITE, openapi_extra=WRITING)
async def replace_resource(
    service: ResourceServiceDep, reference: Reference, body: ResourceReplace, if_match: IfMatch = None
) -> Response:
    """Give a resource all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=ResourceRead, responses=WRITE, openapi_extra=WRITING)
async def update_resource(
    service: ResourceServiceDep, reference: Reference, body: ResourcePatch, if_match: IfMatch = None
) -> Response:
    """Change some values of a resource (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE, openapi_extra=WRITING)
async def delete_resource(service: ResourceServiceDep, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a resource that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()


@router.get("/{reference}/changes", response_model=Page[ChangeRead], responses=LIST_OF_ONE, openapi_extra=READING)
async def list_resource_changes(service: ResourceServiceDep, reference: Reference, query: PageParameters) -> Response:
    """List the changes of a resource, the newest first."""
    return listed(await service.changes(reference, query), query)
