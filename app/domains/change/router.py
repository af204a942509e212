"""History routes."""

from typing import Annotated

from fastapi import Depends, Response

from app.core.permissions import requires
from app.domains.change.schemas import ChangeQuery
from app.domains.change.service import ChangeService
from app.domains.shared.query.parameters import list_parameters
from app.domains.shared.router import EXPORT, ChangeRead, Page, collection_router, list_response

router = collection_router("changes")

Service = Annotated[ChangeService, Depends(ChangeService.provide)]


@router.get("", response_model=Page[ChangeRead], responses=EXPORT, openapi_extra=requires("changes:read"))
async def list_changes(
    service: Service, query: Annotated[ChangeQuery, Depends(list_parameters(ChangeQuery))]
) -> Response:
    """List changes of all collections, newest first.

    Contains only changes of objects that the caller may read; changes of users and API tokens require
    the scope `admin`.
    """
    return await list_response(await service.page(query), query)
