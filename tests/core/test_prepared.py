"""Statements of the fast path are built and compiled in a thread, once, and the caches of statements are bounded."""

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Executable, text

from app.core import prepared
from app.core.http.authorisation import authorise
from app.core.prepared import MAX_WAITING, FastStatement, Prepared
from app.domains.collections import COLLECTIONS, prepare_common_statements
from app.domains.role.lists import RoleListQuery
from app.domains.role.service import RoleService
from app.domains.search import service as search
from app.domains.shared.query import ranking
from app.domains.shared.reading import history_pages, stats
from app.domains.shared.reading.documents import Documents
from app.domains.shared.writing import single_statement
from app.main import create_app
from app.utils.exceptions import CallerBusy, DatabaseBusy
from tests.api.conftest import assert_problem
from tests.conftest import Committed, client_of, settings_for
from tests.core.users import as_user, requests_of
from tests.waiting import HANG_TIMEOUT, until

CLIENTS = 20


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The text of each statement compiled so far, and the thread."""
    seen: list[tuple[str, int]] = []
    prepare = prepared.prepare

    def recording(statement: Executable) -> prepared.Prepared:
        result = prepare(statement)
        seen.append((result.sql, threading.get_ident()))
        return result

    monkeypatch.setattr(prepared, "prepare", recording)
    for cached in (
        *CACHES.values(),
        search._page,
        search._count,
        single_statement.insert_object,
        single_statement.update_object,
    ):
        cached.cache_clear()
    return seen


# The statements whose text depends on the parameters of requests.
CACHES: dict[str, Any] = {
    "objects": Documents.single_object,
    "pages": Documents.page,
    "exports": Documents.export,
    "totals": Documents.count,
    "statistics": stats._counts,
    "histories": history_pages._page,
    "totals of histories": history_pages._count,
    "exports of histories": history_pages._export,
}


@pytest.mark.parametrize(
    ("path", "accept", "statements"),
    [
        ("/processes?fields=id,code&sort=-name", "*/*", 1),
        ("/processes?q=invoice&sort=name&code=A&count=exact", "*/*", 2),
        ("/departments?name__sw=A&fields=name", "text/csv", 1),
        ("/resources?fields=name&kind=equipment", "application/x-ndjson", 1),
        ("/processes/stats?group_by=owner&name__sw=A", "*/*", 1),
        ("/changes?type=roles&count=exact", "*/*", 2),
        ("/roles/code:absent?fields=id", "*/*", 1),
        ("/search?q=invoice&type=roles&type=users", "*/*", 1),
        ("/search?q=invoice&type=roles&type=locations&count=exact", "*/*", 2),
    ],
)
async def test_new_statement_is_compiled_once_outside_of_the_event_loop(
    committed: Committed, compiled: list[tuple[str, int]], path: str, accept: str, statements: int
) -> None:
    get = committed.client.get
    responses = await asyncio.gather(*(get(path, headers={"Accept": accept}) for _ in range(CLIENTS)))
    statuses = Counter(response.status_code for response in responses)
    # A process runs only a few exports at a time, and not all of them for one user.
    assert statuses.keys() <= ({200, 404} if accept == "*/*" else {200, 429}), responses[0].text
    assert [count for count in Counter(sql for sql, _ in compiled).values() if count > 1] == []
    assert len(compiled) == statements
    assert threading.get_ident() not in {thread for _, thread in compiled}
    await get(path, headers={"Accept": accept})
    assert len(compiled) == statements


async def test_first_write_is_compiled_outside_of_the_event_loop(
    committed: Committed, compiled: list[tuple[str, int]]
) -> None:
    bodies = [{"name": f"Role {number}"} for number in range(CLIENTS)]
    responses = await asyncio.gather(*(committed.client.post("/roles", json=body) for body in bodies))
    assert {response.status_code for response in responses} == {201}
    assert len(compiled) == 1
    assert threading.get_ident() not in {thread for _, thread in compiled}


@pytest.mark.parametrize("name", CACHES)
def test_caches_of_statements_are_bounded(name: str) -> None:
    assert CACHES[name].cache_info().maxsize in range(1, 513)


def test_orders_of_searches_are_not_kept() -> None:
    # There are tens of thousands of values of `sort`.
    assert not hasattr(ranking.search_order, "cache_info")


async def test_cancelled_request_does_not_end_the_compilation_for_others() -> None:
    ready = threading.Event()

    def build() -> Executable:
        ready.wait()
        return text("SELECT 1")

    statement = FastStatement(build)
    first, second = (asyncio.create_task(statement.prepare()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    ready.set()
    assert (await second).sql == "SELECT 1"


async def test_failed_compilation_is_tried_again() -> None:
    attempts = iter([MemoryError(), None])

    def build() -> Executable:
        if (error := next(attempts)) is not None:
            raise error
        return text("SELECT 1")

    statement = FastStatement(build)
    with pytest.raises(MemoryError):
        await statement.prepare()
    assert (await statement.prepare()).sql == "SELECT 1"


class Builds:
    """Statements whose building waits for `ready`; `users` are those of the statements built so far."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.users: list[int | None] = []

    def start(self, user: int | None, count: int = 1) -> list[asyncio.Task[Prepared]]:
        def build() -> Executable:
            self.users.append(user)
            self.ready.wait()
            return text("SELECT 1")

        with requests_of(user):
            return [asyncio.create_task(FastStatement(build).prepare()) for _ in range(count)]


@pytest.fixture
async def builds() -> AsyncIterator[Builds]:
    """Builds of which the first one, of no user, has begun."""
    builds = Builds()
    first = builds.start(None)
    await until_true(lambda: builds.users == [None])
    yield builds
    builds.ready.set()
    await asyncio.gather(*first)


async def until_true(condition: Callable[[], bool]) -> None:
    async def is_true() -> bool:
        return condition()

    await until(is_true)


async def test_number_of_waiting_compilations_is_limited(builds: Builds) -> None:
    waiting = builds.start(None, MAX_WAITING)
    (rejected,) = builds.start(7)
    with pytest.raises(DatabaseBusy):
        await rejected
    builds.ready.set()
    await asyncio.gather(*waiting)
    assert len(builds.users) == 1 + MAX_WAITING
    await asyncio.gather(*builds.start(7))


async def test_one_user_takes_at_most_half_of_the_waiting_compilations(builds: Builds) -> None:
    waiting = builds.start(1, MAX_WAITING // 2)
    for rejected in builds.start(1, 3):
        with pytest.raises(CallerBusy):
            await rejected
    waiting += builds.start(2, MAX_WAITING // 2)
    builds.ready.set()
    await asyncio.gather(*waiting)
    await asyncio.gather(*builds.start(1))


async def test_users_take_turns_to_have_statements_compiled(builds: Builds) -> None:
    waiting = builds.start(1, 20)
    await asyncio.sleep(0)
    waiting += builds.start(2, 3) + builds.start(3)
    await asyncio.sleep(0)
    builds.ready.set()
    await asyncio.gather(*waiting)
    assert builds.users == [None, 1, 2, 3, 1, 2, 1, 2, *[1] * 17]


async def test_wait_for_a_compilation_is_limited_and_its_result_is_kept(builds: Builds) -> None:
    built = 0

    def build() -> Executable:
        nonlocal built
        built += 1
        return text("SELECT 1")

    statement = FastStatement(build)
    for _ in range(2):
        with pytest.raises(DatabaseBusy):
            await statement.prepare(0.01)
    builds.ready.set()
    assert (await statement.prepare()).sql == "SELECT 1"
    assert built == 1


UNFINISHED_COMPILATIONS = """
import asyncio, threading
from app.core.prepared import MAX_WAITING, FastStatement
from app.utils.exceptions import DatabaseBusy

async def main():
    waiting = [FastStatement(threading.Event().wait).prepare(0.01) for _ in range(MAX_WAITING)]
    return await asyncio.gather(*waiting, return_exceptions=True)

assert {type(each) for each in asyncio.run(main())} == {DatabaseBusy}
"""


def test_process_exits_without_the_compilations_that_wait(root: Path) -> None:
    command = [sys.executable, "-c", UNFINISHED_COMPILATIONS]
    assert subprocess.run(command, cwd=root, timeout=HANG_TIMEOUT, check=False).returncode == 0


async def test_statements_of_ordinary_requests_are_compiled_at_start(
    committed: Committed, compiled: list[tuple[str, int]]
) -> None:
    app = committed.app
    async with app.router.lifespan_context(app):
        await until_true(lambda: len(compiled) >= 5 * len(COLLECTIONS))
        await prepare_common_statements()  # waits for the last one
        count = len(compiled)
        for entry in COLLECTIONS:
            await send_ordinary_requests(committed.client, f"/{entry.name}")
    assert len(compiled) == count
    assert threading.get_ident() not in {thread for _, thread in compiled}


async def send_ordinary_requests(client: httpx.AsyncClient, path: str) -> None:
    body: dict[str, Any] = {"name": "Ordinary", "code": "ordinary"}
    if path == "/users":
        body |= {"email": "ordinary@register.example"}
    assert (await client.get(path)).status_code == 200
    made = await client.post(path, json=body)
    assert made.status_code == 201, made.text
    one = f"{path}/{made.json()['id']}"
    for response in (
        await client.put(one, json=body | {"name": "Replaced"}),
        await client.patch(one, json={"name": "Patched"}),
        await client.get(one),
        await client.get(f"{path}/code:ordinary"),
    ):
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/roles?fields=description&sort=-name,code", "application/json"),
        ("/roles?fields=description&sort=-name,code", "application/x-ndjson"),
        ("/roles/1?fields=description,id", "application/json"),
    ],
)
async def test_new_combinations_of_one_user_do_not_stop_others(
    committed: Committed, compiled: list[tuple[str, int]], builds: Builds, path: str, accept: str
) -> None:
    for statement in RoleService.common_statements(RoleListQuery()):
        statement.prepared = prepared.prepare(statement._build())
    count = len(compiled)
    app = create_app(settings_for(committed.url, pool_timeout=0.05))
    app.dependency_overrides[authorise] = as_user
    waiting = builds.start(1, MAX_WAITING // 2)
    await asyncio.sleep(0)
    async with client_of(app) as client:
        one, other = ({"X-User": user, "Accept": accept} for user in "12")
        assert_problem(await client.get(path, headers=one), "caller_busy")
        assert_problem(await client.get(path, headers=other), "database_busy")
        assert (await client.get("/roles", headers={"X-User": "2"})).status_code == 200
        builds.ready.set()
        await asyncio.gather(*waiting)
        assert (await client.get(path, headers=other)).status_code in {200, 404}
    assert len(compiled) == count + 2 + len(waiting)
    await app.state.database.dispose()
