"""The route of the search in all collections."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.core.permissions import AUTHENTICATED, requires
from app.core.query_models import query_of
from app.domains.search.schemas import Found, SearchQuery
from app.domains.search.service import SearchService
from app.domains.shared.http import api_router, listed, read_cursor
from app.domains.shared.responses import LIST, problems
from app.domains.shared.schemas import Page
from app.utils.exceptions import Forbidden

router = api_router(tags=["search"])

Service = Annotated[SearchService, Depends(SearchService.provide)]


@router.get(
    "/search",
    response_model=Page[Found],
    responses=LIST | problems(Forbidden),
    openapi_extra=requires(AUTHENTICATED),
)
async def search_objects(
    service: Service, request: Request, query: Annotated[SearchQuery, Depends(query_of(SearchQuery))]
) -> Response:
    """Search all collections that the caller may read, the best first."""
    read_cursor(query, request)
    return listed(await service.page(query), query, request)
