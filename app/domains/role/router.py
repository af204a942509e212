"""The routes of roles."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.domains.role.schemas import RoleCreate, RolePatch, RoleRead, RoleReplace
from app.domains.role.service import HOLDERS, RoleService
from app.domains.shared.http import (
    CREATE,
    DELETE,
    LINK,
    LIST,
    LIST_OF_ONE,
    READ,
    UNLINK,
    WRITE,
    IfMatch,
    IfNoneMatch,
    ListParameters,
    Reference,
    collection_router,
    created,
    found,
    listed,
    no_content,
    written,
)
from app.domains.shared.schemas import NO_FIELDS, NoFields, Page
from app.domains.user.schemas import UserRead
from app.domains.user.service import UserService

router = collection_router("roles")

Service = Annotated[RoleService, Depends(RoleService.provide)]
Users = Annotated[UserService, Depends(UserService.provide)]


@router.get("", response_model=Page[RoleRead], responses=LIST)
async def list_roles(service: Service, request: Request, query: ListParameters) -> Response:
    """List the roles."""
    return listed(await service.page(query), query, request)


@router.post("", status_code=201, response_model=RoleRead, responses=CREATE)
async def create_role(service: Service, request: Request, body: RoleCreate) -> Response:
    """Register a role."""
    return created(await service.create(body), request)


@router.get("/{reference}", response_model=RoleRead, responses=READ)
async def get_role(service: Service, reference: Reference, if_none_match: IfNoneMatch = None) -> Response:
    """Return a role."""
    return found(await service.get(reference), if_none_match)


@router.put("/{reference}", response_model=RoleRead, responses=WRITE)
async def replace_role(service: Service, reference: Reference, body: RoleReplace, if_match: IfMatch = None) -> Response:
    """Give a role all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=RoleRead, responses=WRITE)
async def update_role(service: Service, reference: Reference, body: RolePatch, if_match: IfMatch = None) -> Response:
    """Change some values of a role (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE)
async def delete_role(service: Service, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a role that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()


@router.get("/{reference}/holders", response_model=Page[UserRead], responses=LIST_OF_ONE)
async def list_role_holders(users: Users, request: Request, reference: Reference, query: ListParameters) -> Response:
    """List the users who hold a role."""
    return listed(await users.page_linked(HOLDERS, HOLDERS.target, reference, query), query, request)


@router.put("/{reference}/holders/{user}", status_code=204, responses=LINK)
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


@router.delete("/{reference}/holders/{user}", status_code=204, responses=UNLINK)
async def remove_role_holder(
    service: Service, reference: Reference, user: Reference, if_match: IfMatch = None
) -> Response:
    """Take a role from a user."""
    await service.unlink(HOLDERS, reference, user, if_match)
    return no_content()
