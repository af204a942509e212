"""Statements of the fast path are built and compiled in a thread, once, and the caches of statements are bounded."""

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import Executable, text

from app.core import prepared
from app.core.prepared import MAX_WAITING, FastStatement
from app.domains.search import service as search
from app.domains.shared.query import ranking
from app.domains.shared.reading import history_pages, stats
from app.domains.shared.reading.documents import Documents
from app.domains.shared.writing import single_statement
from app.utils.exceptions import DatabaseBusy
from tests.conftest import Committed

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
    for cached in (*CACHES.values(), search._page, search._count, single_statement.insert_object):
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
    "filters of histories": history_pages.changes_where,
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
    # A process runs only a few exports at a time.
    assert statuses.keys() <= {200, 404, 503 if accept != "*/*" else 200}, responses[0].text
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


async def test_number_of_waiting_compilations_is_limited() -> None:
    ready = threading.Event()
    built = 0

    def build() -> Executable:
        nonlocal built
        built += 1
        ready.wait()
        return text("SELECT 1")

    waiting = [asyncio.create_task(FastStatement(build).prepare()) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(DatabaseBusy):
        await FastStatement(build).prepare()
    ready.set()
    await asyncio.gather(*waiting)
    assert built == MAX_WAITING
    assert (await FastStatement(build).prepare()).sql == "SELECT 1"
