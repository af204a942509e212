"""The list of collections.

The list determines the routers, tags, types of search and history, the order of exports and the collections of the
tests. A test compares the list with the scopes in `core/permissions.py`.
"""

from dataclasses import dataclass

from fastapi import APIRouter

from app.core.permissions import Scope
from app.domains.department import router as department
from app.domains.department.lists import DepartmentListQuery
from app.domains.department.service import DepartmentService
from app.domains.location import router as location
from app.domains.location.lists import LocationListQuery
from app.domains.location.service import LocationService
from app.domains.process import router as process
from app.domains.process.lists import ProcessListQuery
from app.domains.process.service import ProcessService
from app.domains.resource import router as resource
from app.domains.resource.lists import ResourceListQuery
from app.domains.resource.service import ResourceService
from app.domains.role import router as role
from app.domains.role.lists import RoleListQuery
from app.domains.role.service import RoleService
from app.domains.shared.collection import Collection, foreign_keys
from app.domains.shared.lists import ListQuery
from app.domains.shared.service import CollectionService
from app.domains.user import router as user
from app.domains.user.lists import UserListQuery
from app.domains.user.service import UserService


@dataclass(frozen=True, slots=True)
class Entry:
    """A collection in the list. `description` is the description of its OpenAPI tag."""

    service: type[CollectionService]
    router: APIRouter
    list_query: type[ListQuery]
    description: str
    # The scope that is required to read the history, if it is not the scope to read the objects.
    history_scope: Scope | None = None

    @property
    def collection(self) -> Collection:
        return self.service.collection

    @property
    def name(self) -> str:
        return self.collection.name

    @property
    def scope_to_read(self) -> Scope:
        return f"{self.name}:read"


# In the order of the documentation, which is also the order of search results of equal rank.
COLLECTIONS = (
    Entry(
        ProcessService,
        process.router,
        ProcessListQuery,
        "The processes of the organisation: a tree, with links to departments, locations, resources and roles.",
    ),
    Entry(DepartmentService, department.router, DepartmentListQuery, "The units of the organisation: a tree."),
    Entry(
        LocationService, location.router, LocationListQuery, "The places of work: a tree, from regions down to rooms."
    ),
    Entry(
        ResourceService,
        resource.router,
        ResourceListQuery,
        "The resources of processes: applications, equipment, documents, suppliers.",
    ),
    Entry(RoleService, role.router, RoleListQuery, "Job functions (not access rights) and their holders."),
    Entry(UserService, user.router, UserListQuery, "The people of the organisation.", history_scope="admin"),
)
NAMES = tuple(entry.name for entry in COLLECTIONS)


async def prepare_common_statements() -> None:
    """Prepare the statements of requests without parameters, one after the other, before requests need them.

    Otherwise these requests would wait behind those that choose new combinations of parameters.
    """
    for entry in COLLECTIONS:
        for statement in entry.service.common_statements(entry.list_query()):
            await statement.prepare()


def in_reference_order() -> list[Entry]:
    """Return the collections in topological order: each after those that it refers or links to, except in cycles.

    Exports write and imports read their files in this order, so that the targets of links exist already.
    """
    entries = {entry.collection.model: entry for entry in COLLECTIONS}
    ordered: list[Entry] = []
    visited: set[str] = set()

    def visit(entry: Entry) -> None:
        if entry.name in visited:
            return
        visited.add(entry.name)
        links = (link.target_model for link in entry.collection.links)
        for model in (*foreign_keys(entry.collection.model).values(), *links):
            visit(entries[model])
        ordered.append(entry)

    for entry in COLLECTIONS:
        visit(entry)
    return ordered
