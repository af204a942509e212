"""The route of statistics of every collection, and its answer."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from app.core.query_models import query_of
from app.core.routing import only
from app.domains.shared.http import JSON
from app.domains.shared.lists import ListQuery
from app.domains.shared.responses import INVALID
from app.domains.shared.schemas import Stats
from app.domains.shared.service import CollectionService
from app.domains.shared.stats import Counts, StatsQuery, stats_query


def add_stats(
    router: APIRouter,
    name: str,
    service_class: type[CollectionService],
    listed: type[ListQuery],
    permission: dict[str, Any],
) -> None:
    """Add `GET /stats` to the router of a collection, as the operation `count_{name}`.

    `listed` has the parameters of its list. It must come before the routes of one object.
    """

    async def count(
        service: Annotated[CollectionService, Depends(service_class.provide)],
        query: Annotated[StatsQuery, Depends(query_of(stats_query(listed)))],
    ) -> Response:
        return _answer(query, await service.stats(query))

    router.add_api_route(
        "/stats",
        count,
        name=f"count_{name}",
        description=f"Count the {name} that the filters select, by group.",
        methods=["GET"],
        response_model=Stats,
        responses=INVALID,
        openapi_extra=permission,
    )
    router.routes.append(only(f"{router.prefix}/stats", "GET", "HEAD"))


def _answer(query: StatsQuery, counts: Counts) -> Response:
    truncated = b"true" if counts.truncated else b"false"
    head = f'{{"group_by":"{query.group_by}","total":{counts.total},"groups":'.encode()
    return Response(head + counts.groups + b',"truncated":' + truncated + b"}", media_type=JSON)
