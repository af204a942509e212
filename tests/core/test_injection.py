"""The session, caller and service of a request, and the end of its transaction."""

import ast
import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from sqlalchemy import func, select, text

from app.core.caller import Caller
from app.core.database import Database, RegisterSession, get_session
from app.core.database_errors import IntegrityViolation
from app.core.http.authorisation import authorise
from app.core.http.routing import StrictRoute
from app.core.permissions import scopes_of
from app.domains.collections import prepare_common_statements
from app.domains.department.service import DepartmentService
from app.domains.shared.reading.documents import Document
from app.main import create_app
from app.utils.exceptions import ConnectionLost, Deadlock
from tests.api.conftest import assert_problem, openapi
from tests.builders import make, make_department
from tests.conftest import ADMIN_TOKEN, Committed, borrowed, client_of, connected, settings_for

NDJSON = {"Accept": "application/x-ndjson"}


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that end transactions, as the driver sends them."""
    sent: list[str] = []
    execute = asyncpg.Connection.execute

    async def recording(self: Any, query: str, *arguments: Any, **options: Any) -> Any:
        if query.startswith(("COMMIT", "ROLLBACK")):
            sent.append(query.strip(";").split()[0])
        return await execute(self, query, *arguments, **options)

    monkeypatch.setattr(asyncpg.Connection, "execute", recording)
    return sent


# --- Overrides ---


async def test_authorisation_can_be_overridden(app: FastAPI, client: httpx.AsyncClient) -> None:
    made = await make_department(client)

    async def as_viewer(request: Request, permission: str) -> None:
        permissions.append(permission)
        request.state.caller = Caller(1, "Caller", "viewer", scopes_of("viewer"))

    permissions: list[str] = []
    app.dependency_overrides[authorise] = as_viewer
    try:
        async with client_of(app, token=None) as anonymous:
            assert (await anonymous.get(f"/departments/{made['id']}")).status_code == 200
            assert (await anonymous.delete(f"/departments/{made['id']}")).status_code == 204
    finally:
        del app.dependency_overrides[authorise]
    assert permissions == ["departments:read", "departments:write"]
    async with client_of(app, token=None) as anonymous:
        assert (await anonymous.get("/departments")).status_code == 401


async def test_session_can_be_overridden(committed: Committed) -> None:
    database: Database = committed.app.state.database

    async def undone_session() -> AsyncIterator[RegisterSession]:
        async with RegisterSession(database) as session:
            await session.begin()
            yield session  # and never commit

    committed.app.dependency_overrides[get_session] = undone_session
    assert (await committed.client.post("/departments", json={"name": "D"})).status_code == 201
    committed.app.dependency_overrides.clear()
    assert (await committed.client.get("/departments")).json()["items"] == []


async def test_service_can_be_overridden(app: FastAPI, client: httpx.AsyncClient) -> None:
    class Stub:
        async def get(self, reference: str, _members: Any) -> Document:
            return Document(7, 1, f'{{"name":"{reference}"}}'.encode())

    app.dependency_overrides[DepartmentService.provide] = Stub
    try:
        response = await client.get("/departments/7")
    finally:
        app.dependency_overrides.clear()
    assert response.json() == {"name": "7"}
    assert (await client.get("/departments/7")).status_code == 404


async def test_body_of_an_anonymous_request_is_not_read(app: FastAPI) -> None:
    async def body() -> AsyncIterator[bytes]:
        read.append("chunk")
        yield b'{"name": "D"}'

    read: list[str] = []
    async with client_of(app, token=None) as anonymous:
        for path in ("/departments", "/departments/bulk", "/departments/import"):
            headers = {"Content-Type": "application/json"}
            response = await asgi_status(app, "POST", f"/api/v1{path}", headers, read)
            assert response == 401, path
        assert read == []
        # Signing in is public, so its body is read.
        assert await asgi_status(app, "POST", "/api/v1/auth/refresh", {"Content-Type": "application/json"}, read) == 422
        assert read == ["read"]
        assert (await anonymous.post("/departments", content=body())).status_code == 401


async def asgi_status(app: FastAPI, method: str, path: str, headers: dict[str, str], read: list[str]) -> int:
    """Return the status of a request with a body, and record in `read` each read of the body."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        read.append("read")
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in {"Host": "a", **headers}.items()],
        "client": ("127.0.0.1", 1),
        "server": ("register.test", 80),
        "root_path": "",
    }
    await app(scope, receive, send)
    return statuses[0]


# --- The end of a transaction ---


async def test_transaction_is_committed_before_the_response_is_sent(committed: Committed, ends: list[str]) -> None:
    made = await make_department(committed.client)
    del ends[:]
    order: list[str] = []
    app = committed.app

    async def recording(scope: Any, receive: Any, send: Any) -> None:
        async def send_and_record(message: Any) -> None:
            order.extend([*ends, message["type"]])
            del ends[:]
            await send(message)

        await app(scope, receive, send_and_record)

    transport = httpx.ASGITransport(app=recording)
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://register.test", headers=headers) as client:
        assert (await client.delete(f"/api/v1/departments/{made['id']}")).status_code == 204
    # The first one ends the look-up of the caller.
    assert order == ["COMMIT", "COMMIT", "http.response.start", "http.response.body"]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "once"}], ids=["plain", "with a key"])
async def test_request_that_runs_again_commits_once(
    committed: Committed, monkeypatch: pytest.MonkeyPatch, ends: list[str], headers: dict[str, str]
) -> None:
    create = DepartmentService.create
    sessions: list[RegisterSession] = []

    async def create_and_deadlock(self: DepartmentService, body: Any) -> Any:
        await self.session.execute(select(1))  # begins a transaction
        document = await create(self, body)
        sessions.append(self.session)
        if len(sessions) < 3:
            raise Deadlock
        return document

    monkeypatch.setattr(DepartmentService, "create", create_and_deadlock)
    assert (
        await committed.client.get("/departments")
    ).status_code == 200  # the first request of a connection runs more statements
    del ends[:]
    response = await committed.client.post("/departments", json={"name": "Once"}, headers=headers)
    assert response.status_code == 201
    assert ends == ["COMMIT", "ROLLBACK", "ROLLBACK", "COMMIT"]  # the first one ends the look-up of the caller
    assert len(set(map(id, sessions))) == 3
    assert not any(session.in_transaction() for session in sessions)
    assert [item["name"] for item in (await committed.client.get("/departments")).json()["items"]] == ["Once"]


async def test_statement_whose_result_a_migration_changed_runs_again(committed: Committed) -> None:
    client = committed.client
    made = await make_department(client)
    path = f"/departments/{made['id']}"
    async with connected(committed.url) as connection:
        # By ordinary statements (PATCH reads the row), and by prepared ones inside a transaction (with a key).
        for kind in ("text", "varchar"):
            for headers in ({}, {"Idempotency-Key": kind}):
                response = await client.patch(path, json={"name": kind}, headers=headers)
                assert (response.status_code, response.json()["name"]) == (200, kind)
            await connection.execute(f"ALTER TABLE departments ALTER COLUMN external_id TYPE {kind}")
        assert (await client.patch(path, json={"name": "last"})).json()["name"] == "last"


async def test_single_statement_write_joins_a_lazily_begun_transaction(committed: Committed) -> None:
    database: Database = committed.app.state.database

    async with database.transaction() as session:
        await session.connection()  # SQLAlchemy has sent no BEGIN yet
        service = DepartmentService(session, Caller(1, "Caller", "admin", scopes_of("admin")))
        await service.create(service.collection.body.model_validate({"name": "Undone"}))
        await session.undo()
    assert (await committed.client.get("/departments")).json()["items"] == []


async def test_transaction_fails_despite_a_caught_statement_error(committed: Committed) -> None:
    database: Database = committed.app.state.database
    add = text("INSERT INTO departments (name, code) VALUES (:name, 'TAKEN')")

    async def add_twice(*, savepoint: bool) -> None:
        async with database.transaction() as session:
            await session.execute(add, {"name": "first"})
            with pytest.raises(IntegrityViolation):
                async with session.begin_nested() if savepoint else nullcontext():
                    await session.execute(add, {"name": "second"})

    with pytest.raises(RuntimeError, match="A statement of this transaction failed"):
        await add_twice(savepoint=False)
    assert (await committed.client.get("/departments")).json()["items"] == []
    await add_twice(savepoint=True)
    assert [item["name"] for item in (await committed.client.get("/departments")).json()["items"]] == ["first"]


async def test_error_is_raised_even_if_the_rollback_fails(committed: Committed) -> None:
    database: Database = committed.app.state.database
    with pytest.raises(LookupError):
        await fail_on_a_dead_connection(database)
    async with database.transaction() as session:
        assert await session.scalar(select(1)) == 1


async def fail_on_a_dead_connection(database: Database) -> None:
    async with database.transaction() as session:
        connection = await session.connection()
        await session.execute(select(1))
        driver: Any = (await connection.get_raw_connection()).driver_connection
        driver.terminate()
        raise LookupError


async def test_write_without_a_connection_has_a_known_outcome(committed: Committed) -> None:
    nowhere = settings_for(committed.url.set(host="127.0.0.1", port=1, query={}))
    app = create_app(nowhere)

    async def as_administrator(request: Request, _permission: str) -> None:
        request.state.caller = Caller(1, "Caller", "admin", scopes_of("admin"))

    app.dependency_overrides[authorise] = as_administrator
    async with client_of(app) as client:
        for method, path in (("POST", "/departments"), ("PUT", "/departments/1"), ("GET", "/departments")):
            response = await client.request(method, path, json={"name": "D"})
            assert_problem(response, "service_unavailable")


async def test_statements_have_a_client_side_timeout(committed: Committed) -> None:
    """The client-side timeout covers a server that no longer responds; the limit of PostgreSQL is longer here."""
    settings = settings_for(committed.url, statement_timeout=20, pool_size=1)
    database = Database(committed.url, settings)

    async def sleep(method: str) -> None:
        async with database.transaction() as session:
            session._statement_seconds = 0.01
            await getattr(session, method)(select(func.pg_sleep(15)))

    for method in ("execute", "scalar", "scalars"):
        with pytest.raises(ConnectionLost):
            await sleep(method)
    async with database.transaction() as session:
        assert await session.scalar(select(1)) == 1
    await database.dispose()


# --- Connections ---


async def test_full_pool_is_busy_for_every_kind_of_statement(committed: Committed) -> None:
    client = committed.client
    made = await make_department(client)
    await prepare_common_statements()
    assert (await client.get("/departments/stats?group_by=parent")).status_code == 200
    settings = settings_for(committed.url, pool_size=1, pool_timeout=0.05, caller_cache_seconds=1)
    app = create_app(settings)
    database: Database = app.state.database
    path = f"/departments/{made['id']}"
    async with client_of(app) as busy:
        assert (await busy.get(path)).status_code == 200  # the caller is cached for a second
        async with borrowed(database):
            refused = [
                await busy.get(path),  # the fast path
                await busy.post("/departments", json={"name": "D"}),
                await busy.get("/departments/stats?group_by=parent"),  # `session.execute`
                await busy.get(f"{path}/tree"),
                await busy.delete(path),
                await busy.post("/departments/bulk", json={"items": [{"op": "delete", "id": made["id"]}]}),
            ]
            for response in refused:
                # After that second the caller is looked up, which needs a connection, too.
                problem = assert_problem(response, "database_busy")
                assert problem["detail"] == "All database connections are in use."
            assert (await busy.get("http://register.test/health/ready")).status_code == 200
        assert (await busy.get(path)).status_code == 200
    await database.dispose()


async def test_one_connection_is_enough_for_every_export(committed: Committed) -> None:
    client = committed.client
    process, role, user = [await make(client, name) for name in ("processes", "roles", "users")]
    lists = ["/processes", "/roles", "/users", f"/roles/{role['id']}/holders"]
    for name in ("departments", "locations", "resources", "roles"):
        other = await make(client, name)
        assert (await client.put(f"/processes/{process['id']}/{name}/{other['id']}")).status_code == 204
        lists.append(f"/{name}/{other['id']}/processes")
    assert (await client.put(f"/roles/{role['id']}/holders/{user['id']}")).status_code == 204
    app = create_app(settings_for(committed.url, pool_size=1))
    async with client_of(app) as single:
        for path in lists:
            response = await single.get(path, headers=NDJSON)
            assert (response.status_code, len(response.text.splitlines()) >= 1) == (200, True), path
    await app.state.database.dispose()


async def test_many_requests_share_a_small_pool(committed: Committed) -> None:
    app = create_app(settings_for(committed.url, pool_size=2, pool_timeout=60))
    async with client_of(app) as client:
        paths = ("/departments", "/departments/stats?group_by=parent", "/changes")
        responses = await asyncio.gather(*(client.get(path) for path in paths * 20))
    assert {response.status_code for response in responses} == {200}
    pool = app.state.database.engine.pool
    assert pool.checkedout() == 0
    await app.state.database.dispose()


# --- Parameters ---


def test_parameters_of_routes_match_the_document(app: FastAPI) -> None:
    document = openapi()
    compared = 0
    for route in app.routes:
        if isinstance(route, StrictRoute):
            (method,) = {"GET", "POST", "PUT", "PATCH", "DELETE"} & (route.methods or set())
            operation = document["paths"][route.path_format][method.lower()]
            documented = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"}
            assert set(route.parameters.repeatable) == documented, (method, route.path)
            compared += len(documented)
    assert compared > 1000


def test_every_route_supports_overrides(app: FastAPI) -> None:
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    assert len(routes) > 100
    assert {id(route.dependency_overrides_provider) for route in routes} == {id(app)}


async def test_ordinary_orm_queries_run_in_the_session(committed: Committed) -> None:
    from app.models import Department  # noqa: PLC0415 - as a service would

    made = await make_department(committed.client, code="ORM")
    async with committed.app.state.database.transaction() as session:
        (department,) = (await session.scalars(select(Department).where(Department.code == "ORM"))).all()
        department.description = "Written by the unit of work"
    async with committed.app.state.database.transaction() as session:
        found = await session.execute(text("SELECT description FROM departments WHERE id = :id"), {"id": made["id"]})
        assert found.scalar_one() == "Written by the unit of work"


# --- The frameworks ---

FRAMEWORKS = ("asyncpg", "fastapi", "sqlalchemy", "starlette")
APP = Path(__file__).parents[2] / "app"


def is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split(".")) or name.startswith("fastapi.dependencies")


def test_frameworks_are_imported_by_their_public_names() -> None:
    imported = set()
    for path in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in FRAMEWORKS:
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names if alias.name.split(".")[0] in FRAMEWORKS}
    assert len(imported) > 100
    assert {name for name in imported if is_private(name)} == set()
    assert is_private("fastapi._compat.ModelField")
    assert is_private("fastapi.dependencies.utils.solve_dependencies")


def test_one_private_method_of_a_framework_is_overridden() -> None:
    overridden = set()
    for path in set(APP.rglob("*.py")) - {APP / "__main__.py"}:
        module = importlib.import_module(".".join(path.relative_to(APP.parent).with_suffix("").parts))
        for kind in vars(module).values():
            if isinstance(kind, type) and kind.__module__ == module.__name__:
                bases = [base for base in kind.__mro__ if base.__module__.split(".")[0] in FRAMEWORKS]
                own = {name for name in vars(kind) if name.startswith("_") and not name.startswith("__")}
                overridden |= {f"{kind.__name__}.{name}" for name in own if any(name in vars(each) for each in bases)}
    # Mapped and abstract classes get attributes of these names from their metaclasses.
    assert {name for name in overridden if "._sa_" not in name and "._abc_" not in name} == {"FairPool._do_get"}
