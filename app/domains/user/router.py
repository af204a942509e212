"""User routes."""

from fastapi import Response

from app.core.permissions import requires
from app.domains.shared import router as shared
from app.domains.user.lists import UserListParameters, UserRepresentation, UserStatsParameters
from app.domains.user.schemas import UserCreate, UserPatch, UserRead, UserReplace
from app.domains.user.service import UserServiceDep

router = shared.collection_router("users")

REQUIRES_READ, REQUIRES_WRITE = requires("users:read"), requires("users:write")
# The example file has an e-mail address, which only users require.
FILES = shared.accepts_files("code,name,email\r\nE-1,Ada Example,ada@register.example\r\n")


class BulkUsers(shared.Bulk[UserCreate]):
    """Up to 1,000 items, each of which writes one user."""


@router.get("", response_model=shared.Page[UserRead], responses=shared.EXPORT, openapi_extra=REQUIRES_READ)
async def list_users(service: UserServiceDep, query: UserListParameters) -> Response:
    """List users."""
    return await shared.list_response(await service.page(query), query)


@router.post("", status_code=201, response_model=UserRead, responses=shared.CREATE, openapi_extra=REQUIRES_WRITE)
async def create_user(service: UserServiceDep, body: UserCreate) -> Response:
    """Create a user.

    To give a user a level above `viewer`, by `access_level` or `is_active`, a token needs every scope of the level.
    """
    return shared.created_response(await service.create(body), router)


@router.post(
    "/bulk", response_model=shared.BulkAnswer, responses=shared.BULK, openapi_extra=REQUIRES_WRITE | shared.LARGE_BODY
)
async def bulk_users(
    service: UserServiceDep, body: BulkUsers, atomic: shared.Atomic = True, dry_run: shared.DryRun = False
) -> Response:
    """Create, update, upsert and delete up to 1,000 users in one request.

    To give a user a level above `viewer`, by `access_level` or `is_active`, a token needs every scope of the level.
    """
    return shared.bulk_response(await service.bulk(body.items, atomic=atomic, dry_run=dry_run), dry_run=dry_run)


@router.get("/stats", response_model=shared.Stats, responses=shared.STATS, openapi_extra=REQUIRES_READ)
async def count_users(service: UserServiceDep, query: UserStatsParameters) -> Response:
    """Count the users that match the filters, by group."""
    return shared.stats_response(await service.stats(query))


@router.post(
    "/import", response_model=shared.ImportAnswer, responses=shared.IMPORT, openapi_extra=REQUIRES_WRITE | FILES
)
async def import_users(service: UserServiceDep, request: shared.ImportRequestDep) -> Response:
    """Import users from a file, or plan the import.

    To give a user a level above `viewer`, by `access_level` or `is_active`, a token needs every scope of the level.
    """
    return shared.import_response(await service.import_file(request))


@router.get("/{reference}", response_model=UserRead, responses=shared.READ, openapi_extra=REQUIRES_READ)
async def get_user(
    service: UserServiceDep,
    reference: shared.Reference,
    representation: UserRepresentation,
    conditions: shared.Conditions,
) -> Response:
    """Get a user."""
    return shared.document_response(await service.get(reference, representation.members), conditions)


@router.put("/{reference}", response_model=UserRead, responses=shared.WRITE, openapi_extra=REQUIRES_WRITE)
async def replace_user(
    service: UserServiceDep, reference: shared.Reference, body: UserReplace, conditions: shared.Conditions
) -> Response:
    """Replace a user.

    To give a user a level above `viewer`, by `access_level` or `is_active`, a token needs every scope of the level.
    """
    return shared.updated_response(await service.replace(reference, body, conditions))


@router.patch("/{reference}", response_model=UserRead, responses=shared.WRITE, openapi_extra=REQUIRES_WRITE)
async def update_user(
    service: UserServiceDep, reference: shared.Reference, body: UserPatch, conditions: shared.Conditions
) -> Response:
    """Update a user with a merge patch (RFC 7396).

    To give a user a level above `viewer`, by `access_level` or `is_active`, a token needs every scope of the level.
    """
    return shared.updated_response(await service.patch(reference, body, conditions))


@router.delete("/{reference}", status_code=204, responses=shared.DELETE, openapi_extra=REQUIRES_WRITE)
async def delete_user(service: UserServiceDep, reference: shared.Reference, conditions: shared.Conditions) -> Response:
    """Delete a user that no other object refers to."""
    await service.delete(reference, conditions)
    return shared.no_content()


@router.get(
    "/{reference}/changes",
    response_model=shared.Page[shared.ChangeRead],
    responses=shared.SUBLIST_EXPORT,
    openapi_extra=requires("admin"),
)
async def list_user_changes(
    service: UserServiceDep, reference: shared.Reference, query: shared.ChangeParameters
) -> Response:
    """List the changes of a user, newest first."""
    return await shared.list_response(await service.changes(reference, query), query)
