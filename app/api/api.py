"""The one list of routers, in the order of the documentation."""

from fastapi import FastAPI

from app.api import health, problems
from app.domains.department import router as department
from app.domains.location import router as location
from app.domains.process import router as process
from app.domains.resource import router as resource
from app.domains.role import router as role
from app.domains.user import router as user

ROUTERS = (
    process.router,
    department.router,
    location.router,
    resource.router,
    role.router,
    user.router,
    process.lists_of_one,
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
    {"name": "problems", "description": "What the kinds of errors mean."},
    {"name": "operations", "description": "Health and metrics."},
]


def include_routers(app: FastAPI) -> None:
    for router in ROUTERS:
        app.include_router(router)
