"""Loads the demo data, an invented organisation, through the services, so that all rules apply to it."""

import csv
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.core.passwords import Passwords
from app.domains.auth.credentials import store_password
from app.domains.department.schemas import DepartmentCreate, DepartmentPatch
from app.domains.department.service import DepartmentService
from app.domains.location.schemas import LocationCreate
from app.domains.location.service import LocationService
from app.domains.process.schemas import ProcessCreate
from app.domains.process.service import ProcessService
from app.domains.resource.schemas import ResourceCreate
from app.domains.resource.service import ResourceService
from app.domains.role.schemas import RoleCreate
from app.domains.role.service import HOLDERS, RoleService
from app.domains.shared.reading.preconditions import UNCONDITIONAL
from app.domains.user.models import User
from app.domains.user.schemas import UserCreate, UserPatch
from app.domains.user.service import UserService

DEMO_FILES = Path(__file__).with_name("demo")
# One user of each access level: viewer, editor, admin.
DEMO_USERS = ("helena.marsh@tarnbeck.example", "amara.okafor@tarnbeck.example", "owen.tarrant@tarnbeck.example")
DEMO_PASSWORD = "try-the-register"  # noqa: S105 - published in the documentation


async def load_demo_data(session: RegisterSession, caller: Caller, *, with_passwords: bool) -> None:
    """Create the organisation in `demo/` through the services.

    With `with_passwords`, which is not for production, one user of each access level can sign in with `DEMO_PASSWORD`.
    Raises the errors of the services, such as `Duplicate` if the demo data is loaded already.
    """
    await _DemoLoader(session, caller).load()
    if with_passwords:
        password_hash = await Passwords(1).hash(DEMO_PASSWORD)
        for email in DEMO_USERS:
            user_id = await session.scalar(select(User.id).where(User.email == email))
            assert user_id is not None
            await store_password(session, caller, user_id, password_hash)


class _DemoLoader:
    """Reads the files in an order in which references can be resolved, and keeps the ids by code."""

    def __init__(self, session: RegisterSession, caller: Caller) -> None:
        self._ids: dict[tuple[str, str], int] = {}
        self._departments = DepartmentService(session, caller)
        self._locations = LocationService(session, caller)
        self._resources = ResourceService(session, caller)
        self._roles = RoleService(session, caller)
        self._users = UserService(session, caller)
        self._processes = ProcessService(session, caller)

    async def load(self) -> None:
        for row in _rows("departments"):
            body = DepartmentCreate(**_plain_members(row), parent_id=self._id("departments", row["parent"]))
            await self._add("departments", row, self._departments.create(body))
        await self._load_users()
        for row in _rows("departments"):
            if head_id := self._id("users", row["head"]):
                await self._departments.patch(
                    f"code:{row['code']}", DepartmentPatch.model_validate({"head_id": head_id}), UNCONDITIONAL
                )
        await self._load_locations()
        await self._load_resources()
        await self._load_roles()
        await self._load_processes()

    async def _load_users(self) -> None:
        for row in _rows("users"):
            body = UserCreate(
                **_plain_members(row, "email", "access_level"),
                is_active=row["is_active"] == "true",
                department_id=self._id("departments", row["department"]),
            )
            await self._add("users", row, self._users.create(body))
        for row in _rows("users"):
            if manager_id := self._id("users", row["manager"]):
                await self._users.patch(
                    f"code:{row['code']}", UserPatch.model_validate({"manager_id": manager_id}), UNCONDITIONAL
                )

    async def _load_locations(self) -> None:
        for row in _rows("locations"):
            body = LocationCreate(
                **_plain_members(row, "kind", "address", "country", "timezone"),
                parent_id=self._id("locations", row["parent"]),
                latitude=float(row["latitude"]) if row["latitude"] else None,
                longitude=float(row["longitude"]) if row["longitude"] else None,
            )
            await self._add("locations", row, self._locations.create(body))

    async def _load_resources(self) -> None:
        for row in _rows("resources"):
            body = ResourceCreate(
                **_plain_members(row, "kind", "criticality", "url"),
                owner_department_id=self._id("departments", row["owner_department"]),
                location_id=self._id("locations", row["location"]),
            )
            await self._add("resources", row, self._resources.create(body))

    async def _load_roles(self) -> None:
        for row in _rows("roles"):
            body = RoleCreate(**_plain_members(row), department_id=self._id("departments", row["department"]))
            await self._add("roles", row, self._roles.create(body))
            for holder in row["holders"].split():
                await self._roles.link(HOLDERS, f"code:{row['code']}", f"code:{holder}", UNCONDITIONAL)

    async def _load_processes(self) -> None:
        for row in _rows("processes"):
            links = {
                "departments": self._links(row, "departments", "department_id", "relation"),
                "locations": self._links(row, "locations", "location_id"),
                "resources": self._links(row, "resources", "resource_id", "usage"),
                "roles": self._links(row, "roles", "role_id", "responsibility"),
            }
            body = ProcessCreate.model_validate(
                _plain_members(row, "kind", "status", "criticality")
                | {"parent_id": self._id("processes", row["parent"]), "owner_id": self._id("users", row["owner"])}
                | links
            )
            await self._add("processes", row, self._processes.create(body))

    async def _add(self, collection: str, row: dict[str, str], creation: Awaitable[Any]) -> None:
        self._ids[collection, row["code"]] = (await creation).id

    def _id(self, collection: str, code: str) -> int | None:
        return self._ids[collection, code] if code else None

    def _links(self, row: dict[str, str], collection: str, target: str, detail: str | None = None) -> list[Any]:
        entries = (entry.partition(":") for entry in row.get(collection, "").split())
        return [
            {target: self._ids[collection, code]} | ({detail: value} if detail else {}) for code, _, value in entries
        ]


def _rows(collection: str) -> Iterator[dict[str, str]]:
    with (DEMO_FILES / f"{collection}.csv").open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _plain_members(row: dict[str, str], *names: str) -> dict[str, Any]:
    """Return the cells that are members of the body without conversion; an empty cell is an omitted member."""
    return {name: row[name] for name in ("code", "name", "description", *names) if row[name]}
