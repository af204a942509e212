"""The routes of users."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.core.permissions import requires
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
from app.domains.user.lists import UserListQuery
from app.domains.user.schemas import UserCreate, UserPatch, UserRead, UserReplace
from app.domains.user.service import UserService

router = collection_router("users")

READING, WRITING = requires("users:read"), requires("users:write")

Service = Annotated[UserService, Depends(UserService.provide)]
ListParameters = Annotated[ListQuery, Depends(list_parameters(UserListQuery))]
Representation = Annotated[RepresentationQuery, Depends(representation_parameters(UserRead))]


@router.get("", response_model=Page[UserRead], responses=EXPORT, openapi_extra=READING)
async def list_users(service: Service, request: Request, query: ListParameters) -> Response:
    """List the users."""
    return await sent(await service.page(query), query, request)


@router.post("", status_code=201, response_model=UserRead, responses=CREATE, openapi_extra=WRITING)
async def create_user(service: Service, request: Request, body: UserCreate) -> Response:
    """Register a user."""
    return created(await service.create(body), request)


add_bulk(router, "users", UserService, UserCreate, WRITING)
add_stats(router, "users", UserService, UserListQuery, READING)
add_import(router, "users", UserService, WRITING)


@router.get("/{reference}", response_model=UserRead, responses=READ, openapi_extra=READING)
async def get_user(
    service: Service, reference: Reference, shown: Representation, if_none_match: IfNoneMatch = None
) -> Response:
    """Return a user."""
    return found(await service.get(reference, shown.members), if_none_match)


@router.put("/{reference}", response_model=UserRead, responses=WRITE, openapi_extra=WRITING)
async def replace_user(service: Service, reference: Reference, body: UserReplace, if_match: IfMatch = None) -> Response:
    """Give a user all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=UserRead, responses=WRITE, openapi_extra=WRITING)
async def update_user(service: Service, reference: Reference, body: UserPatch, if_match: IfMatch = None) -> Response:
    """Change some values of a user (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE, openapi_extra=WRITING)
async def delete_user(service: Service, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a user that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()


@router.get(
    "/{reference}/changes", response_model=Page[ChangeRead], responses=LIST_OF_ONE, openapi_extra=requires("admin")
)
async def list_user_changes(
    service: Service, request: Request, reference: Reference, query: PageParameters
) -> Response:
    """List the changes of a user, the newest first."""
    return listed(await service.changes(reference, query), query, request)
