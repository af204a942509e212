"""The routes of users."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.domains.shared.http import (
    CREATE,
    DELETE,
    LIST,
    READ,
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
from app.domains.shared.schemas import Page
from app.domains.user.schemas import UserCreate, UserPatch, UserRead, UserReplace
from app.domains.user.service import UserService

router = collection_router("users")

Service = Annotated[UserService, Depends(UserService.provide)]


@router.get("", response_model=Page[UserRead], responses=LIST)
async def list_users(service: Service, request: Request, query: ListParameters) -> Response:
    """List the users."""
    return listed(await service.page(query), query, request)


@router.post("", status_code=201, response_model=UserRead, responses=CREATE)
async def create_user(service: Service, request: Request, body: UserCreate) -> Response:
    """Register a user."""
    return created(await service.create(body), request)


@router.get("/{reference}", response_model=UserRead, responses=READ)
async def get_user(service: Service, reference: Reference, if_none_match: IfNoneMatch = None) -> Response:
    """Return a user."""
    return found(await service.get(reference), if_none_match)


@router.put("/{reference}", response_model=UserRead, responses=WRITE)
async def replace_user(service: Service, reference: Reference, body: UserReplace, if_match: IfMatch = None) -> Response:
    """Give a user all new values."""
    return written(await service.replace(reference, body, if_match))


@router.patch("/{reference}", response_model=UserRead, responses=WRITE)
async def update_user(service: Service, reference: Reference, body: UserPatch, if_match: IfMatch = None) -> Response:
    """Change some values of a user (RFC 7396 merge patch)."""
    return written(await service.patch(reference, body, if_match))


@router.delete("/{reference}", status_code=204, responses=DELETE)
async def delete_user(service: Service, reference: Reference, if_match: IfMatch = None) -> Response:
    """Delete a user that nothing refers to."""
    await service.delete(reference, if_match)
    return no_content()
