"""The route of the search in all collections."""

from typing import Annotated

from fastapi import Depends, Response

from app.core.permissions import AUTHENTICATED, requires
from app.domains.search.schemas import Found, SearchQuery
from app.domains.search.service import SearchService
from app.domains.shared.query.parameters import list_parameters
from app.domains.shared.router import LIST, Page, api_router, page_response, problems
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
    service: Service, query: Annotated[SearchQuery, Depends(list_parameters(SearchQuery))]
) -> Response:
    """Search the collections that the caller may read, best matches first."""
    return page_response(await service.page(query), query)
