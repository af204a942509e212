"""The routes of users."""

from fastapi import Response

from app.core.permissions import requires
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
from app.domains.user.lists import UserListParameters, UserRepresentation, UserStatsParameters
from app.domains.user.schemas import UserCreate, UserPatch, UserRead, UserReplace
from app.domains.user.service import UserServiceDep

router = collection_router("users")

READING, WRITING = requires("users:read"), requires("users:write")
# Users sign in with their address, which other objects do not have.
FILES = takes_files("code,name,email\r\nE-1,Ada Example,ada@register.example\r\n")


class BulkUsers(Bulk[UserCreate]):
    """Up to 1,000 objects to write at once."""


@router.get("", response_model=Page[UserRead], responses=EXPORT, openapi_extra=READING)
async def list_users(service: UserServiceDep, query: UserListParameters) -> Response:
    """List the users."""
    return await sent(await service.page(query), query)


@router.post("", status_code=201, response_model=UserRead, responses=CREATE, openapi_extra=WRITING)
async def create_user(service: UserServiceDep, body: UserCreate) -> Response:
    """Register a user."""
    return created(await service.create(body), router)


@router.post("/bulk", response_model=BulkAnswer, responses=BULK, openapi_extra=WRITING | LARGE_BODY)
async def bulk_users(
    service: UserServiceDep, body: BulkUsers, atomic: Atomic = True, dry_run: DryRun = False
) -> Response:
    """Create, update, upsert and delete up to 1,000 users at once."""
    return bulk_answer(await service.bulk(body.items, atomic=atomic, dry_run=dry_run), dry_run=dry_run)


@router.get("/stats", response_model=Stats, responses=INVALID, openapi_extra=READING)
async def count_users(service: UserServiceDep, query: UserStatsParameters) -> Response:
    """Count the users that the filters select, by group."""
    return counted(await service.stats(query))


@router.post("/import", response_model=ImportAnswer, responses=IMPORT, openapi_extra=WRITING | FILES)
async def import_users(service: UserServiceDep, request: ImportRequestDep) -> Response:
    """Create and change users from a file, or plan that."""
    return import_answer(await service.import_file(request))


@router.get("/{reference}", response_model=UserRead, responses=READ, openapi_extra=READING)
async def get_user(
    service: UserServiceDep, reference: Reference, shown: UserRepresentation, if_none_match: IfNoneMatch = None
) -> Response:
    """Return a user."""
    return found(await service.get(reference, shown.members), if_none_match)


@router.put("/{reference}", response_model=UserRead, responses=WRITE, openapi_extra=WRITING)
async def replace_user(
    service: UserServiceDep, reference: Reference, body: UserReplace, if_match: IfMatch = None
) -> Response:
    """Give a user all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=UserRead, responses=WRITE, openapi_extra=WRITING)
async def update_user(
    service: UserServiceDep, reference: Reference, body: UserPatch, if_match: IfMatch = None
) -> Response:
    """Change some values of a user (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE, openapi_extra=WRITING)
async def delete_user(service: UserServiceDep, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a user that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()


@router.get(
    "/{reference}/changes", response_model=Page[ChangeRead], responses=LIST_OF_ONE, openapi_extra=requires("admin")
)
async def list_user_changes(service: UserServiceDep, reference: Reference, query: PageParameters) -> Response:
    """List the changes of a user, the newest first."""
    return listed(await service.changes(reference, query), query)
