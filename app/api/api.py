"""The one list of routers, in the order of the documentation."""

from copy import copy

from fastapi import FastAPI
from fastapi.routing import APIRoute, request_response
from starlette.routing import BaseRoute

from app.api import health, problems
from app.core.config import Settings
from app.core.permissions import PUBLIC
from app.core.routing import StrictRoute, UndeclaredPermissionError, declared_permission, only
from app.domains.auth import router as auth
from app.domains.change import router as change
from app.domains.department import router as department
from app.domains.location import router as location
from app.domains.process import router as process
from app.domains.resource import router as resource
from app.domains.role import router as role
from app.domains.search import router as search
from app.domains.user import router as user

ROUTERS = (
    process.router,
    department.router,
    location.router,
    resource.router,
    role.router,
    auth.me,  # before the users: `me` would be taken for one of them
    user.router,
    auth.users,
    process.lists_of_one,
    search.router,
    change.router,
    auth.router,
    auth.api_tokens,
    problems.router,
    health.router,
)

TAGS = [
    {"name": "processes", "description": "What the organisation does: a tree, linked to all that takes part."},
    {"name": "departments", "description": "The units of the organisation: a tree."},
    {"name": "locations", "description": "Where work is done: a tree from regions down to rooms."},
    {"name": "resources", "description": "What processes need: applications, equipment, documents, suppliers."},
    {"name": "roles", "description": "Job functions (not access rights), and who holds them."},
    {"name": "users", "description": "The people of the organisation."},
    {"name": "search", "description": "All collections at once."},
    {"name": "changes", "description": "The history: who changed what, and when."},
    {"name": "auth", "description": "Signing in and out."},
    {"name": "me", "description": "The caller, and the caller's credentials."},
    {"name": "api tokens", "description": "Everybody's tokens for programs."},
    {"name": "problems", "description": "What the kinds of errors mean."},
    {"name": "operations", "description": "Health and metrics."},
]


def include_routers(app: FastAPI, settings: Settings) -> None:
    """Add all routes. Raises `UndeclaredPermissionError` when one does not say who may use it."""
    for router in ROUTERS:
        app.router.routes.extend(_bound(route, app) for route in router.routes)
        if router is auth.me:
            app.router.routes.append(only(router.prefix, "GET", "HEAD"))
    if settings.metrics_access != "off":
        metrics = health.metrics_router(settings.metrics_access)
        app.router.routes.extend(_bound(route, app) for route in metrics.routes)
    for route in app.routes:
        if isinstance(route, APIRoute) and declared_permission(route) != PUBLIC and not isinstance(route, StrictRoute):
            raise UndeclaredPermissionError(f"{route.path} declares a permission that nothing enforces")


def _bound(route: BaseRoute, app: FastAPI) -> BaseRoute:
    """Return the route as a route of this application, so that `app.dependency_overrides` hold for it.

    `include_router` does this too, but matches every request twice, router by router; our routes need nothing else of
    it.
    """
    if not isinstance(route, APIRoute):
        return route
    bound = copy(route)
    bound.dependency_overrides_provider = app
    bound.app = request_response(bound.get_route_handler())
    return bound
