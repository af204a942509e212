"""The route of the history."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.core.permissions import requires
from app.core.query_models import query_of
from app.domains.change.schemas import ChangeQuery
from app.domains.change.service import ChangeService
from app.domains.shared.http import collection_router, listed
from app.domains.shared.responses import LIST
from app.domains.shared.schemas import ChangeRead, Page

router = collection_router("changes")

Service = Annotated[ChangeService, Depends(ChangeService.provide)]


@router.get("", response_model=Page[ChangeRead], responses=LIST, openapi_extra=requires("changes:read"))
async def list_changes(
    service: Service, request: Request, query: Annotated[ChangeQuery, Depends(query_of(ChangeQuery))]
) -> Response:
    """List what was changed, by whom and when, the newest first."""
    return listed(await service.page(query), query, request)
