"""Health checks and metrics."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from app.core.http.routing import StrictRoute
from app.core.permissions import PUBLIC, requires
from app.domains.shared.responses import ANYWHERE, problems
from app.utils.exceptions import ServiceUnavailable

router = APIRouter(tags=["operations"], generate_unique_id_function=lambda route: route.name, responses=ANYWHERE)

REQUIRES_NOTHING = requires(PUBLIC)


class Health(BaseModel):
    """The service is healthy; otherwise the response is a problem document."""

    status: Literal["ok"]


@router.get("/health/live", openapi_extra=REQUIRES_NOTHING)
async def check_live() -> Health:
    """Check that the process responds.

    Does not check the database, which a restart of the process would not repair.
    """
    return Health(status="ok")


@router.get("/health/ready", responses=problems(ServiceUnavailable), openapi_extra=REQUIRES_NOTHING)
async def check_ready(request: Request) -> Health:
    """Check that the service can handle requests.

    Returns 503 if the database is unavailable, its schema has another revision, or the service is stopping.
    """
    await request.app.state.readiness.check()
    return Health(status="ok")


@router.get("/health", responses=problems(ServiceUnavailable), openapi_extra=REQUIRES_NOTHING)
async def check_health(request: Request) -> Health:
    """Check that the service can handle requests (alias of `/health/ready`)."""
    await request.app.state.readiness.check()
    return Health(status="ok")


def metrics_router(access: Literal["public", "admin"]) -> APIRouter:
    """Return the router of `/metrics`, public or for administrators."""
    metrics = APIRouter(
        tags=["operations"],
        route_class=StrictRoute,
        generate_unique_id_function=lambda route: route.name,
        responses=ANYWHERE,
    )

    @metrics.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {
                "description": "Metrics in the Prometheus text format.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            }
        },
        openapi_extra=requires("operations:read" if access == "admin" else PUBLIC),
    )
    async def get_metrics(request: Request) -> Response:
        """Get the metrics in Prometheus format."""
        return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return metrics
