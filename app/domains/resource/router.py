"""Resource routes."""

from fastapi import Response

from app.core.permissions import requires
from app.domains.resource.lists import ResourceListParameters, ResourceRepresentation, ResourceStatsParameters
from app.domains.resource.schemas import ResourceCreate, ResourcePatch, ResourceRead, ResourceReplace
from app.domains.resource.service import ResourceServiceDep
from app.domains.shared import router as shared

router = shared.collection_router("resources")

REQUIRES_READ, REQUIRES_WRITE = requires("resources:read"), requires("resources:write")
FILES = shared.accepts_files()


class BulkResources(shared.Bulk[ResourceCreate]):
    """Up to 1,000 items, each of which writes one resource."""


@router.get("", response_model=shared.Page[ResourceRead], responses=shared.EXPORT, openapi_extra=REQUIRES_READ)
async def list_resources(service: ResourceServiceDep, query: ResourceListParameters) -> Response:
    """List resources."""
    return await shared.list_response(await service.page(query), query)


@router.post("", status_code=201, response_model=ResourceRead, responses=shared.CREATE, openapi_extra=REQUIRES_WRITE)
async def create_resource(service: ResourceServiceDep, body: ResourceCreate) -> Response:
    """Create a resource."""
    return shared.created_response(await service.create(body), router)


@router.post(
    "/bulk", response_model=shared.BulkAnswer, responses=shared.BULK, openapi_extra=REQUIRES_WRITE | shared.LARGE_BODY
)
async def bulk_resources(
    service: ResourceServiceDep, body: BulkResources, atomic: shared.Atomic = True, dry_run: shared.DryRun = False
) -> Response:
    """Create, update, upsert and delete up to 1,000 resources in one request."""
    return shared.bulk_response(await service.bulk(body.items, atomic=atomic, dry_run=dry_run), dry_run=dry_run)


@router.get("/stats", response_model=shared.Stats, responses=shared.STATS, openapi_extra=REQUIRES_READ)
async def count_resources(service: ResourceServiceDep, query: ResourceStatsParameters) -> Response:
    """Count the resources that match the filters, by group."""
    return shared.stats_response(await service.stats(query))


@router.post(
    "/import", response_model=shared.ImportAnswer, responses=shared.IMPORT, openapi_extra=REQUIRES_WRITE | FILES
)
async def import_resources(service: ResourceServiceDep, request: shared.ImportRequestDep) -> Response:
    """Import resources from a file, or plan the import."""
    return shared.import_response(await service.import_file(request))


@router.get("/{reference}", response_model=ResourceRead, responses=shared.READ, openapi_extra=REQUIRES_READ)
async def get_resource(
    service: ResourceServiceDep,
    reference: shared.Reference,
    representation: ResourceRepresentation,
    conditions: shared.Conditions,
) -> Response:
    """Get a resource."""
    return shared.document_response(await service.get(reference, representation.members), conditions)


@router.put("/{reference}", response_model=ResourceRead, responses=shared.WRITE, openapi_extra=REQUIRES_WRITE)
async def replace_resource(
    service: ResourceServiceDep, reference: shared.Reference, body: ResourceReplace, conditions: shared.Conditions
) -> Response:
    """Replace a resource."""
    return shared.updated_response(await service.replace(reference, body, conditions))


@router.patch("/{reference}", response_model=ResourceRead, responses=shared.WRITE, openapi_extra=REQUIRES_WRITE)
async def update_resource(
    service: ResourceServiceDep, reference: shared.Reference, body: ResourcePatch, conditions: shared.Conditions
) -> Response:
    """Update a resource with a merge patch (RFC 7396)."""
    return shared.updated_response(await service.patch(reference, body, conditions))


@router.delete("/{reference}", status_code=204, responses=shared.DELETE, openapi_extra=REQUIRES_WRITE)
async def delete_resource(
    service: ResourceServiceDep, reference: shared.Reference, conditions: shared.Conditions
) -> Response:
    """Delete a resource that no other object refers to."""
    await service.delete(reference, conditions)
    return shared.no_content()


@router.get(
    "/{reference}/changes",
    response_model=shared.Page[shared.ChangeRead],
    responses=shared.SUBLIST_EXPORT,
    openapi_extra=REQUIRES_READ,
)
async def list_resource_changes(
    service: ResourceServiceDep, reference: shared.Reference, query: shared.ChangeParameters
) -> Response:
    """List the changes of a resource, newest first."""
    return await shared.list_response(await service.changes(reference, query), query)
