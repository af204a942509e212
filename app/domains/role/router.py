"""The routes of roles."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.core.permissions import requires
from app.domains.role.lists import RoleListQuery
from app.domains.role.schemas import RoleCreate, RolePatch, RoleRead, RoleReplace
from app.domains.role.service import HOLDERS, RoleService
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
from app.domains.shared.responses import CREATE, DELETE, EXPORT, EXPORT_OF_ONE, LINK, LIST_OF_ONE, READ, UNLINK, WRITE
from app.domains.shared.schemas import NO_FIELDS, ChangeRead, NoFields, Page
from app.domains.shared.stats_routes import add_stats
from app.domains.user.lists import UserListQuery
from app.domains.user.schemas import UserRead
from app.domains.user.service import UserService

router = collection_router("roles")

READING, WRITING = requires("roles:read"), requires("roles:write")
# Holders are users, with all that is known of them.
READING_USERS = requires("users:read")

Service = Annotated[RoleService, Depends(RoleService.provide)]
ListParameters = Annotated[ListQuery, Depends(list_parameters(RoleListQuery))]
Representation = Annotated[RepresentationQuery, Depends(representation_parameters(RoleRead))]
UserListParameters = Annotated[ListQuery, Depends(list_parameters(UserListQuery))]
Users = Annotated[UserService, Depends(UserService.provide)]


@router.get("", response_model=Page[RoleRead], responses=EXPORT, openapi_extra=READING)
async def list_roles(service: Service, request: Request, query: ListParameters) -> Response:
    """List the roles."""
    return await sent(await service.page(query), query, request)


@router.post("", status_code=201, response_model=RoleRead, responses=CREATE, openapi_extra=WRITING)
async def create_role(service: Service, request: Request, body: RoleCreate) -> Response:
    """Register a role."""
    return created(await service.create(body), request)


add_bulk(router, "roles", RoleService, RoleCreate, WRITING)
add_stats(router, "roles", RoleService, RoleListQuery, READING)
add_import(router, "roles", RoleService, WRITING)


@router.get("/{reference}", response_model=RoleRead, responses=READ, openapi_extra=READING)
async def get_role(
    service: Service, reference: Reference, shown: Representation, if_none_match: IfNoneMatch = None
) -> Response:
    """Return a role."""
    return found(await service.get(reference, shown.members), if_none_match)


@router.put("/{reference}", response_model=RoleRead, responses=WRITE, openapi_extra=WRITING)
async def replace_role(service: Service, reference: Reference, body: RoleReplace, if_match: IfMatch = None) -> Response:
    """Give a role all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=RoleRead, responses=WRITE, openapi_extra=WRITING)
async def update_role(service: Service, reference: Reference, body: RolePatch, if_match: IfMatch = None) -> Response:
    """Change some values of a role (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE, openapi_extra=WRITING)
async def delete_role(service: Service, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a role that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()


@router.get("/{reference}/changes", response_model=Page[ChangeRead], responses=LIST_OF_ONE, openapi_extra=READING)
async def list_role_changes(
    service: Service, request: Request, reference: Reference, query: PageParameters
) -> Response:
    """List the changes of a role, the newest first."""
    return listed(await service.changes(reference, query), query, request)


@router.get("/{reference}/holders", response_model=Page[UserRead], responses=EXPORT_OF_ONE, openapi_extra=READING_USERS)
async def list_role_holders(
    users: Users, request: Request, reference: Reference, query: UserListParameters
) -> Response:
    """List the users who hold a role."""
    return await sent(await users.page_linked(HOLDERS, HOLDERS.target, reference, query), query, request)


@router.put("/{reference}/holders/{user}", status_code=204, responses=LINK, openapi_extra=WRITING)
async def add_role_holder(
    service: Service,
    reference: Reference,
    user: Reference,
    body: NoFields = NO_FIELDS,  # noqa: ARG001 - a body may come, but not with members
    if_match: IfMatch = None,
) -> Response:
    """Give a role to a user."""
    await service.link(HOLDERS, reference, user, if_match)
    return no_content()


@router.delete("/{reference}/holders/{user}", status_code=204, responses=UNLINK, openapi_extra=WRITING)
async def remove_role_holder(
    service: Service, reference: Reference, user: Reference, if_match: IfMatch = None
) -> Response:
    """Take a role from a user."""
    await service.unlink(HOLDERS, reference, user, if_match)
    return no_content()
