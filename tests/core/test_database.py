"""Translation of database errors, contents of prepared statements, and the places that end transactions."""

import ast
import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import BigInteger, String, bindparam, column, func, literal, select, table, text

from app.core.database import Database, advisory_key
from app.core.database_errors import IntegrityViolation, translate
from app.core.prepared import FastStatement, prepare
from app.domains.department.service import DepartmentService
from app.utils.exceptions import (
    CallerDeleted,
    ConnectionLost,
    DatabaseBusy,
    DatabaseReadOnly,
    Deadlock,
    RegisterError,
    SchemaChanged,
    SerializationFailure,
    ServiceUnavailable,
    UnstorableValue,
)
from tests.builders import make_department
from tests.conftest import Committed, borrowed, settings_for
from tests.utils.conftest import configured_log

LOST = [
    asyncpg.PostgresConnectionError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.ConnectionFailureError,
    asyncpg.ConnectionRejectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    OSError,
    ConnectionRefusedError,
    ConnectionResetError,
    TimeoutError,
]
BUSY = [
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
]
STARVED = [
    asyncpg.InsufficientResourcesError,
    asyncpg.DiskFullError,
    asyncpg.OutOfMemoryError,
    asyncpg.PostgresSystemError,
    asyncpg.PostgresIOError,
]
UNAVAILABLE = [
    *((error, ConnectionLost, "2") for error in LOST),
    *((error, DatabaseBusy, "1") for error in BUSY),
    (asyncpg.DeadlockDetectedError, Deadlock, "1"),
    (asyncpg.SerializationError, SerializationFailure, "1"),
    (asyncpg.InvalidCachedStatementError, SchemaChanged, "1"),
    *((error, ServiceUnavailable, "2") for error in STARVED),
    (asyncpg.ReadOnlySQLTransactionError, DatabaseReadOnly, "5"),
]
INTEGRITY = {
    asyncpg.UniqueViolationError: "23505",
    asyncpg.ForeignKeyViolationError: "23503",
    asyncpg.RestrictViolationError: "23001",
    asyncpg.CheckViolationError: "23514",
    asyncpg.NotNullViolationError: "23502",
    asyncpg.ExclusionViolationError: "23P01",
}
UNSTORABLE = [
    asyncpg.DataError,
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.NumericValueOutOfRangeError,
    asyncpg.StringDataRightTruncationError,
    asyncpg.InvalidTextRepresentationError,
]
BUGS = [
    asyncpg.PostgresSyntaxError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.InterfaceError,
    ValueError,
    KeyError,
]


def wrapped(error: Exception) -> Exception:
    """Return the error as SQLAlchemy's adapter passes it on."""
    adapter = RuntimeError("adapter")
    adapter.__cause__ = error
    return adapter


@pytest.mark.parametrize(("error", "expected", "seconds"), UNAVAILABLE, ids=str)
def test_database_that_cannot_answer_now_is_unavailable(
    error: type[Exception], expected: type[ServiceUnavailable], seconds: str
) -> None:
    for raised in (error("secret"), wrapped(error("secret"))):
        translated = translate(raised)
        assert type(translated) is expected
        assert translated.headers == {"Retry-After": seconds}
        assert "secret" not in translated.detail


async def test_drivers_interface_errors_are_distinguished(committed: Committed) -> None:
    closed = translate(asyncpg.InterfaceError("connection is closed"))
    assert type(closed) is ConnectionLost
    too_large = FastStatement(lambda: select(bindparam("key", type_=BigInteger)))
    async with committed.app.state.database.transaction() as session:
        with pytest.raises(UnstorableValue):
            await session.fetch(too_large, key=2**63)


@pytest.mark.parametrize(("error", "sqlstate"), INTEGRITY.items(), ids=str)
def test_refused_constraint_is_known_by_state_and_name(error: type[Any], sqlstate: str) -> None:
    raised = error("secret")
    raised.constraint_name = "uq_users_email"
    for each in (raised, wrapped(raised)):
        translated = translate(each)
        assert isinstance(translated, IntegrityViolation)
        assert (translated.sqlstate, translated.constraint) == (sqlstate, "uq_users_email")
        assert translated.is_reference == (sqlstate in {"23503", "23001"})
    unnamed = translate(error("secret"))
    assert isinstance(unnamed, IntegrityViolation)
    assert unnamed.constraint == ""


IN_VAIN = "Schlüssel (created_by_id)=(7) ist nicht in Tabelle »users« vorhanden."


@pytest.mark.parametrize("error", INTEGRITY, ids=str)
@pytest.mark.parametrize("constraint", ["uq_departments_external_id", "fk_departments_parent_id", "", None])
def test_detail_of_a_violation_is_no_text_of_the_service(error: type[Any], constraint: str | None) -> None:
    raised = error("secret")
    raised.detail, raised.constraint_name = IN_VAIN, constraint
    assert isinstance(translate(raised), IntegrityViolation)


@pytest.mark.parametrize("column", ["created_by_id", "updated_by_id"])
def test_absent_author_is_known_by_foreign_key_and_column(column: str) -> None:
    raised: Any = asyncpg.ForeignKeyViolationError("secret")
    raised.constraint_name = f"fk_access_points_{column}"
    raised.detail = IN_VAIN.replace("created_by_id", column)
    for each in (raised, wrapped(raised)):
        assert type(translate(each)) is CallerDeleted
    raised.detail = 'Key (id)=(7) is still referenced from table "access_points".'
    assert isinstance(translate(raised), IntegrityViolation)


@pytest.mark.parametrize("error", UNSTORABLE, ids=lambda error: error.__name__)
def test_unstorable_value_is_an_error_of_the_client(error: type[Exception]) -> None:
    for raised in (error("secret"), wrapped(error("secret"))):
        translated = translate(raised)
        assert type(translated) is UnstorableValue
        assert "secret" not in translated.detail


@pytest.mark.parametrize("error", BUGS, ids=lambda error: error.__name__)
def test_other_errors_are_bugs(error: type[Exception]) -> None:
    raised = error("secret")
    assert translate(raised) is raised
    assert not isinstance(translate(wrapped(error("secret"))), RegisterError)


THINGS = table("things", column("id", BigInteger), column("name", String))


@pytest.mark.parametrize(
    "statement",
    [
        select(THINGS.c.id).where(THINGS.c.id == 5),
        select(THINGS.c.id).where(THINGS.c.name.in_(["a"])),
        select(literal("a")),
        select(THINGS.c.id).limit(5),
        select(func.coalesce(THINGS.c.name, "a")),
        select(THINGS.c.id).where(THINGS.c.id == bindparam("key", 5)),
    ],
    ids=str,
)
def test_statement_with_a_literal_value_is_not_prepared(statement: Any) -> None:
    with pytest.raises(ValueError, match="values inside a prepared statement"):
        prepare(statement)


def test_statement_takes_its_values_in_the_order_of_the_driver() -> None:
    statement = prepare(
        select(THINGS.c.id).where(
            THINGS.c.name == bindparam("name", type_=String), THINGS.c.id > bindparam("key", type_=BigInteger)
        )
    )
    assert statement.sql == (
        "SELECT things.id \nFROM things \nWHERE things.name = $1::VARCHAR AND things.id > $2::BIGINT"
    )
    assert statement.names == ("name", "key")
    assert statement.arguments({"key": 1, "name": "a", "other": 0}) == ("a", 1)
    with pytest.raises(KeyError):
        statement.arguments({"key": 1})


def test_key_of_a_lock_is_the_same_in_every_process() -> None:
    assert advisory_key("tree of departments") == 8487387684319538940
    keys = {advisory_key(str(number)) for number in range(1000)}
    assert len(keys) == 1000
    assert all(-(2**63) <= key < 2**63 for key in keys)


async def _begin_to_write(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(select(1))


async def _begin_to_stream(database: Database) -> None:
    async with database.snapshot(1):
        pass


@pytest.mark.parametrize("begin", [_begin_to_write, _begin_to_stream])
async def test_cancelled_begin_leaves_no_transaction(
    committed: Committed, begin: Callable[[Database], Coroutine[Any, Any, None]]
) -> None:
    database = Database(committed.url, settings_for(committed.url, pool_size=1))
    one = prepare(text("SELECT 1"))
    for steps in range(10):
        async with borrowed(database) as driver:
            await driver.fetchrow(one.sql)
            # The state that PostgreSQL reported after the statement.
            assert not driver.is_in_transaction()
        given_up = asyncio.create_task(begin(database))
        for _ in range(steps):
            await asyncio.sleep(0)
        given_up.cancel()
        with suppress(asyncio.CancelledError):
            await given_up
    await database.dispose()


async def test_error_after_a_write_undoes_it(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    delete = DepartmentService.delete

    async def delete_and_fail(self: DepartmentService, *args: Any) -> None:
        await delete(self, *args)
        raise RuntimeError

    kept = await make_department(committed.client)
    monkeypatch.setattr(DepartmentService, "delete", delete_and_fail)
    with configured_log():
        assert (await committed.client.delete(f"/departments/{kept['id']}")).status_code == 500
    monkeypatch.undo()
    assert [item["id"] for item in (await committed.client.get("/departments")).json()["items"]] == [kept["id"]]


@pytest.mark.parametrize(("deadlocks", "status", "names"), [(1, 201, ["Once"]), (2, 201, ["Once"]), (3, 503, [])])
async def test_victim_of_a_deadlock_runs_again(
    committed: Committed, monkeypatch: pytest.MonkeyPatch, deadlocks: int, status: int, names: list[str]
) -> None:
    create = DepartmentService.create
    runs = 0

    async def create_and_deadlock(self: DepartmentService, body: Any) -> Any:
        nonlocal runs
        await self.session.execute(select(1))  # begins a transaction
        document = await create(self, body)
        runs += 1
        if runs <= deadlocks:
            raise Deadlock
        return document

    monkeypatch.setattr(DepartmentService, "create", create_and_deadlock)
    response = await committed.client.post("/departments", json={"name": "Once"})
    assert (response.status_code, runs) == (status, min(deadlocks + 1, 3))
    assert [item["name"] for item in (await committed.client.get("/departments")).json()["items"]] == names


# House rules of the source text.

APP = Path(__file__).parents[2] / "app"
ROUTERS = {*(APP / "domains").glob("*/router.py"), APP / "api" / "health.py"} - {APP / "domains/shared/router.py"}


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text("utf-8"), str(path)))


def places(matches: Any) -> list[str]:
    """Return the file of every node for which the function holds."""
    return [
        path.relative_to(APP).as_posix() for path in sorted(APP.rglob("*.py")) for node in nodes(path) if matches(node)
    ]


# The other places that begin or end transactions, with their reasons.
MAY_END = Counter(
    {
        ("domains/auth/credentials.py", "release"): 2,  # before hashing, and so that a refusal keeps its correction
        ("domains/auth/service.py", "release"): 2,  # before hashing
        ("domains/auth/sign_in.py", "release"): 3,  # before hashing, and so that a refusal keeps the earlier writes
        ("domains/change/feed.py", "begin"): 2,  # of an epoch, not of a transaction
        ("domains/register/restore.py", "begin"): 1,  # of an import, not of a transaction
        ("domains/register/restore.py", "undo"): 1,  # after a database without a schema
        ("domains/shared/history/feed_state.py", "begin"): 1,  # of an epoch, not of a transaction
        ("domains/shared/idempotency/route.py", "undo"): 1,  # to store an error response
        ("domains/shared/reading/reader.py", "release"): 1,  # before a stream takes its own connection
        ("domains/shared/trees.py", "undo"): 2,  # of moves in a tree, not of a transaction
        ("domains/shared/writing/link_list_writer.py", "undo"): 1,  # to find all faults
        ("domains/shared/writing/locked.py", "undo"): 1,  # to wait for an advisory lock without a row lock
        ("domains/shared/writing/all_faults.py", "undo"): 1,  # to find all faults
        ("core/threads.py", "reset"): 2,  # of context variables
        ("utils/logging_middleware.py", "reset"): 1,  # of a context variable, not of a transaction
    }
)


def test_only_the_database_module_ends_transactions() -> None:
    calls = Counter(
        (path.relative_to(APP).as_posix(), node.func.attr)
        for path in sorted(APP.rglob("*.py"))
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in {"commit", "rollback", "begin", "undo", "release", "abandon", "reset", "get_transaction"}
    )
    elsewhere = Counter({call: number for call, number in calls.items() if call[0] != "core/database.py"})
    assert elsewhere - MAY_END == Counter(), "only core/database.py ends transactions, and the places in MAY_END"
    assert MAY_END - elsewhere == Counter(), "MAY_END has places that do not end transactions any more"
    assert {name for file, name in calls if file == "core/database.py"} >= {"commit", "rollback", "undo"}


def test_session_dependency_is_spelt_once() -> None:
    def depends(node: ast.AST) -> bool:
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "Depends"
            and "get_session" in ast.unparse(node)
        )

    def mentions(node: ast.AST) -> bool:
        return (isinstance(node, ast.Name) and node.id == "get_session") or (
            isinstance(node, ast.alias) and node.name == "get_session"
        )

    assert places(depends) == ["core/database.py"]
    assert set(places(mentions)) == {"core/database.py"}
    (spelling,) = [ast.unparse(node) for node in nodes(APP / "core" / "database.py") if depends(node)]
    assert spelling == "Depends(get_session, scope='function')"


def test_errors_of_the_framework_are_only_translated() -> None:
    def names(node: ast.AST) -> bool:
        return (isinstance(node, ast.Name) and node.id == "HTTPException") or (
            isinstance(node, ast.alias) and node.name == "HTTPException"
        )

    assert set(places(names)) == {"api/problems.py"}
    raised = [ast.unparse(node) for node in nodes(APP / "api" / "problems.py") if isinstance(node, ast.Raise)]
    assert not [each for each in raised if "HTTPException" in each]


def test_routers_catch_and_decide_nothing() -> None:
    assert len(ROUTERS) == 10
    for path in ROUTERS:
        kinds = {type(node) for node in nodes(path)}
        assert not kinds & {ast.Try, ast.TryStar, ast.Raise, ast.If, ast.For, ast.While, ast.ListComp}, path


def test_schema_is_created_by_migrations_only() -> None:
    def creates(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and node.attr in {"create_all", "drop_all"}

    assert places(creates) == []
