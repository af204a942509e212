"""The only list of routers, in the order of the documentation."""

from copy import copy

from fastapi import FastAPI
from fastapi.routing import APIRoute, request_response
from starlette.routing import BaseRoute

from app.api import health, problems
from app.core.config import Settings
from app.core.http.routing import StrictRoute, UndeclaredPermissionError, declared_permission, reject_other_methods
from app.core.permissions import PUBLIC
from app.domains.auth import router as auth
from app.domains.change import router as change
from app.domains.collections import COLLECTIONS
from app.domains.process import router as process
from app.domains.search import router as search
from app.domains.user import router as user
from app.utils.oauth_errors import OAUTH

ROUTERS = (
    *(entry.router for entry in COLLECTIONS if entry.router is not user.router),
    auth.me,  # before the users, whose routes would match `me` as a user
    user.router,
    auth.users,
    process.related_processes,
    search.router,
    change.router,
    auth.router,
    auth.api_tokens,
    problems.router,
    health.router,
)

TAGS = [
    *({"name": entry.name, "description": entry.description} for entry in COLLECTIONS),
    {"name": "search", "description": "Search in all collections."},
    {"name": "changes", "description": "The history of all objects: each change with its actor and time."},
    {"name": "auth", "description": "Signing in and out, and sessions."},
    {"name": "me", "description": "The caller and the caller's credentials."},
    {"name": "api tokens", "description": "The API tokens of all users, with which programs authenticate."},
    {"name": "problems", "description": "Explanations of the kinds of errors."},
    {"name": "operations", "description": "Health and metrics."},
]


def include_routers(app: FastAPI, settings: Settings) -> None:
    """Add all routes. Raises `UndeclaredPermissionError` if a route declares no permission or does not enforce it."""
    routes = [route for router in ROUTERS for route in router.routes]
    app.router.routes.extend(_bind(route, app) for route in reject_other_methods(routes))
    if settings.metrics_access != "off":
        metrics = health.metrics_router(settings.metrics_access)
        app.router.routes.extend(_bind(route, app) for route in metrics.routes)
    api_routes = [route for route in app.routes if isinstance(route, APIRoute)]
    app.state.oauth_paths = {route.path for route in api_routes if OAUTH in (route.openapi_extra or {})}
    for route in api_routes:
        if declared_permission(route) != PUBLIC and not isinstance(route, StrictRoute):
            raise UndeclaredPermissionError(f"{route.path} declares a permission that nothing enforces")


def _bind(route: BaseRoute, app: FastAPI) -> BaseRoute:
    """Return the route bound to this application, so that `app.dependency_overrides` apply to it.

    `include_router` does this too, but matches every request twice, router by router; nothing else of it is needed.
    """
    if not isinstance(route, APIRoute):
        return route
    bound = copy(route)
    bound.dependency_overrides_provider = app
    bound.app = request_response(bound.get_route_handler())
    return bound
