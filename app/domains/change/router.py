"""History routes."""

from typing import Annotated

from fastapi import Depends, Response

from app.core.http.query_models import query_of
from app.core.permissions import requires
from app.domains.change.feed import FEED, Feed
from app.domains.change.feed_schemas import FeedPage, FeedQuery
from app.domains.change.schemas import ChangeQuery
from app.domains.change.service import ChangeService
from app.domains.shared.query.parameters import list_parameters
from app.domains.shared.router import EXPORT, ChangeRead, Page, collection_router, list_response

router = collection_router("changes")

Service = Annotated[ChangeService, Depends(ChangeService.provide)]


@router.get("/feed", response_model=FeedPage, responses=FEED, openapi_extra=requires("changes:read"))
async def follow_changes(
    feed: Annotated[Feed, Depends(Feed.provide)], query: Annotated[FeedQuery, Depends(query_of(FeedQuery))]
) -> Response:
    """Follow the changes of all collections.

    Returns the changes after a position, each exactly once, in the order of delivery: a change is delivered once all
    transactions that began before its own have ended. The later one of two changes of one object has the greater `id`,
    also if it is delivered first. A change has only the fields and links that differ: so either read the object after
    each change, or keep the value with the greatest `id` for each field and each link.

    Contains only changes of objects that the caller may read; changes of users and API tokens require the scope
    `admin`. With `Accept: application/x-ndjson`, each line is a change, and the last line has only `position` and
    `has_more`. Without `limit`, these are all changes that can be delivered, streamed like an export.
    """
    return await feed.read(query)


@router.get("", response_model=Page[ChangeRead], responses=EXPORT, openapi_extra=requires("changes:read"))
async def list_changes(
    service: Service, query: Annotated[ChangeQuery, Depends(list_parameters(ChangeQuery))]
) -> Response:
    """List changes of all collections, newest first.

    Contains only changes of objects that the caller may read; changes of users and API tokens require
    the scope `admin`.
    """
    return await list_response(await service.page(query), query)
