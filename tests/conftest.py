"""The database, the application and the client of every test.

Tests run on a real PostgreSQL: that of `DATABASE_URL`, or a private one. Each test has one outer transaction that is
rolled back; the application's own session dependency runs inside it, on savepoints. Tests that must commit use
`committed`, which has a separate database.
"""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from pydantic import SecretStr
from sqlalchemy import URL, event, make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core import database, local_postgres, readiness
from app.core.config import Settings
from app.core.database import Database
from app.core.http import routing, streaming
from app.core.local_postgres import EmbeddedPostgres
from app.core.permissions import SCOPES
from app.core.tokens import API_TOKEN, Tokens, new_token
from app.main import create_app
from app.utils.db_init import initialise
from app.utils.logging_service import configure_logging
from tests.waiting import HANG_TIMEOUT, until, wait_until_ready

# Generated input is the same in every run, so a failure can be reproduced.
settings.register_profile(
    "steady",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")

# As in development, unexpected errors are logged with a plain traceback.
configure_logging("WARNING", as_json=False)

ADMIN_PASSWORD = "the administrator of all tests"  # noqa: S105
ADMIN_TOKEN = new_token(API_TOKEN)

FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
PREPARING = {"max_prepared_transactions": "5"}
# With the time limits of production, requests would fail on a slow machine. Tests of a limit set it themselves.
LONG_TIMEOUTS = dict.fromkeys(
    (
        *("pool_timeout", "connect_timeout", "statement_timeout", "lock_timeout"),
        *("idle_in_transaction_timeout", "export_stall_seconds", "request_stall_seconds"),
    ),
    HANG_TIMEOUT,
)
# The same limits for subprocesses, and a command that also lifts the limit of readiness, which is not a setting.
LONG_TIMEOUT_ENV = {name.upper(): str(seconds) for name, seconds in LONG_TIMEOUTS.items()}
LONG_TIMEOUT_APP = (
    *(sys.executable, "-c"),
    (
        f"from app.cli import main; from app.core import readiness; readiness.PROBE_TIMEOUT_SECONDS = {HANG_TIMEOUT}; "
        "main()"
    ),
)
# The environment of commands: without the coverage of this run, which would take minutes, and without pytest's options.
# The tools are in the environment of the tests, whether or not it is activated.
COMMAND_ENV = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST"))} | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
}
TRANSACTION_CONTROL = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE")


@pytest.fixture(scope="session", autouse=True)
def long_timeouts() -> Iterator[None]:
    """Lift the time limits that are constants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readiness, "PROBE_TIMEOUT_SECONDS", HANG_TIMEOUT)
        patch.setattr(database, "_TIMEOUT_MARGIN", HANG_TIMEOUT)
        patch.setattr(routing, "RECHECK_SECONDS", HANG_TIMEOUT)
        patch.setattr(streaming, "RECHECK_SECONDS", HANG_TIMEOUT)
        patch.setattr(streaming, "MAX_UNCHECKED_SECONDS", HANG_TIMEOUT)
        patch.setattr(local_postgres, "START_SECONDS", HANG_TIMEOUT)
        steps = [(number, HANG_TIMEOUT) for number, _ in local_postgres.STOP_STEPS]
        patch.setattr(local_postgres, "STOP_STEPS", steps)
        yield


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """A PostgreSQL server on which tests may create databases."""
    if given := os.environ.get("DATABASE_URL"):
        yield make_url(given)
        return
    with EmbeddedPostgres(tmp_path_factory.mktemp("server"), report=lambda _: None, settings=FAST | PREPARING) as url:
        yield make_url(url)


def text_of(url: URL) -> str:
    """Return a URL in the form for the driver and for environment variables."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@asynccontextmanager
async def borrowed(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Hold a connection of the pool, as a statement of the fast path does."""
    pooled = await database.engine.raw_connection()
    try:
        yield pooled.driver_connection
    finally:
        pooled.close()


@asynccontextmanager
async def connected(url: URL) -> AsyncIterator[asyncpg.Connection]:
    """A connection that bypasses the application."""
    connection = await asyncpg.connect(text_of(url), timeout=HANG_TIMEOUT)
    try:
        yield connection
    finally:
        await connection.close()


async def until_sql(url: URL, condition: str) -> None:
    """Return once an SQL condition is true in a database."""
    async with connected(url) as connection:
        await until(lambda: connection.fetchval(f"SELECT {condition}"))


async def until_lock_wait(url: URL) -> None:
    """Return once a statement waits for a lock in a database."""
    waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await until_sql(url, f"EXISTS ({waits})")


@asynccontextmanager
async def new_database(server: URL, template: str | None = None) -> AsyncIterator[URL]:
    """Create a database, as a copy of `template` if given, and drop it afterwards."""
    name = f"test_{uuid4().hex}"
    async with connected(server) as admin:

        async def run(statement: str) -> bool:
            # PostgreSQL fails after 5 s if the process of a closed session has not ended yet.
            with suppress(asyncpg.ObjectInUseError):
                await admin.execute(statement)
                return True
            return False

        await until(lambda: run(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else "")))
        try:
            yield server.set(database=name)
        finally:
            await until(lambda: run(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def empty(server_url: URL) -> AsyncIterator[URL]:
    """A database without a schema."""
    async with new_database(server_url) as url:
        yield url


def settings_for(url: URL | None, **changes: Any) -> Settings:
    text = url and url.render_as_string(hide_password=False)
    # Callers are not cached, so each request runs the same statements and sees the changes of the previous one.
    chosen: dict[str, Any] = {"caller_cache_seconds": 0, "first_admin_password": SecretStr(ADMIN_PASSWORD)}
    return Settings(_env_file=None, env="test", database_url=text, **LONG_TIMEOUTS | chosen | changes)


async def give_admin_token(url: URL) -> None:
    """Give the first administrator of a database `ADMIN_TOKEN`, an API token with every scope."""
    async with connected(url) as connection:
        await connection.execute(
            """
            INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at)
            SELECT min(id), 'Tests', $1, $2, now() + interval '1 day' FROM users
            """,
            Tokens(settings_for(url)).api_token_hashes(ADMIN_TOKEN)[0],
            sorted(SCOPES),
        )


@pytest.fixture(scope="session")
async def template(server_url: URL) -> AsyncIterator[URL]:
    """The template of other databases, with the schema and the first administrator, who has `ADMIN_TOKEN`."""
    async with new_database(server_url) as url:
        await initialise(settings_for(url), url, lambda _: None, demo_data=False)
        await give_admin_token(url)
        yield url


@pytest.fixture(scope="session")
async def app(server_url: URL, template: URL) -> AsyncIterator[FastAPI]:
    async with new_database(server_url, template.database) as url:
        app = create_app(settings_for(url))
        yield app
        await app.state.database.dispose()


@asynccontextmanager
async def undone(app: FastAPI) -> AsyncIterator[AsyncConnection]:
    """Let the application use one connection, whose transaction is rolled back afterwards."""
    database: Database = app.state.database
    async with database.engine.connect() as connection:
        transaction = await connection.begin()
        await connection.exec_driver_sql("SELECT")  # SQLAlchemy sends BEGIN with the first statement only
        database.bind = connection
        try:
            yield connection
        finally:
            database.bind = None
            await transaction.rollback()


@pytest.fixture
async def connection(app: FastAPI) -> AsyncIterator[AsyncConnection]:
    """The only connection of a test, in a transaction that is rolled back."""
    async with undone(app) as connection:
        yield connection


def client_of(app: FastAPI, token: str | None = ADMIN_TOKEN) -> httpx.AsyncClient:
    """Return a client of an application in this process; without a token it is anonymous."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(transport=transport, base_url="http://register.test/api/v1", headers=headers)


@pytest.fixture
async def client(
    app: FastAPI,
    connection: AsyncConnection,  # noqa: ARG001 - rolls back the requests of the client
) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


@dataclass
class Committed:
    """An application on a separate database, where transactions are committed."""

    app: FastAPI
    url: URL
    client: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = client_of(self.app)


@asynccontextmanager
async def register_like(server_url: URL, template: URL) -> AsyncIterator[Committed]:
    """An application on a new database, which is a copy of `template`."""
    async with new_database(server_url, template.database) as url:
        register = Committed(create_app(settings_for(url)), url)
        try:
            yield register
        finally:
            await register.client.aclose()
            await register.app.state.database.dispose()


@pytest.fixture
async def committed(server_url: URL, template: URL) -> AsyncIterator[Committed]:
    async with register_like(server_url, template) as register:
        yield register


class Statements(list[str]):
    """The SQL statements of a test so far, without those that begin and end transactions."""

    @contextmanager
    def counted(self) -> Iterator["Statements"]:
        """Collect the statements of a block."""
        self.clear()
        seen = Statements()
        yield seen
        seen += self


@pytest.fixture
async def statements(app: FastAPI, connection: AsyncConnection) -> AsyncIterator[Statements]:
    statements = Statements()

    def add(sql: str) -> None:
        if not sql.upper().startswith(TRANSACTION_CONTROL):
            statements.append(sql)

    def on_execute(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        add(statement)

    def on_query(query: Any) -> None:
        add(query.query)

    engine = app.state.database.engine.sync_engine
    driver: Any = (await connection.get_raw_connection()).driver_connection
    # The driver looks up the types of arrays once per connection.
    await driver.fetch("SELECT $1::bigint[], $2::varchar[], $3::text[]", [], [], [])
    event.listen(engine, "before_cursor_execute", on_execute)
    driver.add_query_logger(on_query)
    yield statements
    driver.remove_query_logger(on_query)
    event.remove(engine, "before_cursor_execute", on_execute)


@pytest.fixture(scope="module")
async def served_database(server_url: URL, template: URL) -> AsyncIterator[URL]:
    async with new_database(server_url, template.database) as url:
        yield url


@pytest.fixture(scope="module")
def live_server(served_database: URL, root: Path) -> Iterator[str]:
    """The address of a real server process with the demo data. Each module has a separate database."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = served_database.render_as_string(hide_password=False)
    given = {"ENV": "test", "DATABASE_URL": text, "PORT": str(port), "LOG_LEVEL": "WARNING"}
    environment = os.environ | LONG_TIMEOUT_ENV | given
    subprocess.run([*LONG_TIMEOUT_APP, "seed"], cwd=root, env=environment, check=True, capture_output=True)
    with subprocess.Popen([*LONG_TIMEOUT_APP, "serve"], cwd=root, env=environment) as server:
        try:
            yield wait_until_ready(f"http://127.0.0.1:{port}", server.poll)
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).parents[1]
