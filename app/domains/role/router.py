"""Role routes."""

from fastapi import Response

from app.core.permissions import requires
from app.domains.role.lists import RoleListParameters, RoleRepresentation, RoleStatsParameters
from app.domains.role.schemas import RoleCreate, RoleHolders, RoleHoldersItem, RolePatch, RoleRead, RoleReplace
from app.domains.role.service import HOLDERS, RoleServiceDep
from app.domains.shared import router as shared
from app.domains.user.lists import UserListParameters
from app.domains.user.schemas import UserRead
from app.domains.user.service import UserServiceDep

router = shared.collection_router("roles")

REQUIRES_READ, REQUIRES_WRITE = requires("roles:read"), requires("roles:write")
FILES = shared.accepts_files()
# The list of holders returns whole users.
REQUIRES_USERS_READ = requires("users:read")


class BulkRoles(shared.Bulk[RoleCreate]):
    """Up to 1,000 items, each of which writes one role."""


class BulkRoleHolders(shared.BulkLinks[RoleHoldersItem]):
    """Up to 1,000 items, each of which replaces the holders of one role; up to 200,000 holders in all."""

    model_config = shared.example(items=[{"role_id": 1, "user_ids": [1, 2]}])


@router.get("", response_model=shared.Page[RoleRead], responses=shared.EXPORT, openapi_extra=REQUIRES_READ)
async def list_roles(service: RoleServiceDep, query: RoleListParameters) -> Response:
    """List roles."""
    return await shared.list_response(await service.page(query), query)


@router.post("", status_code=201, response_model=RoleRead, responses=shared.CREATE, openapi_extra=REQUIRES_WRITE)
async def create_role(service: RoleServiceDep, body: RoleCreate) -> Response:
    """Create a role."""
    return shared.created_response(await service.create(body), router)


@router.post(
    "/bulk", response_model=shared.BulkAnswer, responses=shared.BULK, openapi_extra=REQUIRES_WRITE | shared.LARGE_BODY
)
async def bulk_roles(
    service: RoleServiceDep, body: BulkRoles, atomic: shared.Atomic = True, dry_run: shared.DryRun = False
) -> Response:
    """Create, update, upsert and delete up to 1,000 roles in one request."""
    return shared.bulk_response(await service.bulk(body.items, atomic=atomic, dry_run=dry_run), dry_run=dry_run)


@router.post(
    "/holders/bulk",
    response_model=shared.BulkAnswer,
    responses=shared.BULK,
    openapi_extra=REQUIRES_WRITE | shared.LARGE_BODY,
)
async def bulk_role_holders(
    service: RoleServiceDep, body: BulkRoleHolders, atomic: shared.Atomic = True, dry_run: shared.DryRun = False
) -> Response:
    """Replace all holders of up to 1,000 roles in one request.

    A dry run shows the holders, and therefore also requires the scope `users:read`.
    """
    outcome = await service.bulk_links(HOLDERS, body.items, atomic=atomic, dry_run=dry_run)
    return shared.bulk_response(outcome, dry_run=dry_run)


@router.get("/stats", response_model=shared.Stats, responses=shared.STATS, openapi_extra=REQUIRES_READ)
async def count_roles(service: RoleServiceDep, query: RoleStatsParameters) -> Response:
    """Count the roles that match the filters, by group."""
    return shared.stats_response(await service.stats(query))


@router.post(
    "/import", response_model=shared.ImportAnswer, responses=shared.IMPORT, openapi_extra=REQUIRES_WRITE | FILES
)
async def import_roles(service: RoleServiceDep, request: shared.ImportRequestDep) -> Response:
    """Import roles from a file, or plan the import."""
    return shared.import_response(await service.import_file(request))


@router.get("/{reference}", response_model=RoleRead, responses=shared.READ, openapi_extra=REQUIRES_READ)
async def get_role(
    service: RoleServiceDep,
    reference: shared.Reference,
    representation: RoleRepresentation,
    conditions: shared.Conditions,
) -> Response:
    """Get a role."""
    return shared.document_response(await service.get(reference, representation.members), conditions)


@router.put("/{reference}", response_model=RoleRead, responses=shared.WRITE, openapi_extra=REQUIRES_WRITE)
async def replace_role(
    service: RoleServiceDep, reference: shared.Reference, body: RoleReplace, conditions: shared.Conditions
) -> Response:
    """Replace a role."""
    return shared.updated_response(await service.replace(reference, body, conditions))


@router.patch("/{reference}", response_model=RoleRead, responses=shared.WRITE, openapi_extra=REQUIRES_WRITE)
async def update_role(
    service: RoleServiceDep, reference: shared.Reference, body: RolePatch, conditions: shared.Conditions
) -> Response:
    """Update a role with a merge patch (RFC 7396)."""
    return shared.updated_response(await service.patch(reference, body, conditions))


@router.delete("/{reference}", status_code=204, responses=shared.DELETE, openapi_extra=REQUIRES_WRITE)
async def delete_role(service: RoleServiceDep, reference: shared.Reference, conditions: shared.Conditions) -> Response:
    """Delete a role that no other object refers to."""
    await service.delete(reference, conditions)
    return shared.no_content()


@router.get(
    "/{reference}/changes",
    response_model=shared.Page[shared.ChangeRead],
    responses=shared.SUBLIST_EXPORT,
    openapi_extra=REQUIRES_READ,
)
async def list_role_changes(
    service: RoleServiceDep, reference: shared.Reference, query: shared.ChangeParameters
) -> Response:
    """List the changes of a role, newest first."""
    return await shared.list_response(await service.changes(reference, query), query)


@router.get(
    "/{reference}/holders",
    response_model=shared.Page[UserRead],
    responses=shared.SUBLIST_EXPORT,
    openapi_extra=REQUIRES_USERS_READ,
)
async def list_role_holders(users: UserServiceDep, reference: shared.Reference, query: UserListParameters) -> Response:
    """List the holders of a role."""
    return await shared.list_response(await users.page_linked(HOLDERS, HOLDERS.target, reference, query), query)


@router.put("/{reference}/holders", status_code=204, responses=shared.SET_LINKS, openapi_extra=REQUIRES_WRITE)
async def replace_role_holders(
    service: RoleServiceDep, reference: shared.Reference, body: RoleHolders, conditions: shared.Conditions
) -> Response:
    """Replace all holders of a role."""
    return shared.links_response(await service.set_links(HOLDERS, reference, body, conditions))


@router.put("/{reference}/holders/{user}", status_code=204, responses=shared.LINK, openapi_extra=REQUIRES_WRITE)
async def add_role_holder(
    service: RoleServiceDep,
    reference: shared.Reference,
    user: shared.Reference,
    conditions: shared.Conditions,
    body: shared.NoFields = shared.NO_FIELDS,  # noqa: ARG001 - the body may be an empty object
) -> Response:
    """Assign a role to a user."""
    await service.link(HOLDERS, reference, user, conditions)
    return shared.no_content()


@router.delete("/{reference}/holders/{user}", status_code=204, responses=shared.UNLINK, openapi_extra=REQUIRES_WRITE)
async def remove_role_holder(
    service: RoleServiceDep, reference: shared.Reference, user: shared.Reference, conditions: shared.Conditions
) -> Response:
    """Remove a role from a user."""
    await service.unlink(HOLDERS, reference, user, conditions)
    return shared.no_content()
