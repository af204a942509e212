"""Requests that wait for the next change."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import URL

from app.core.http.long_polls import LongPolls
from app.main import create_app
from tests.api.conftest import assert_problem
from tests.builders import make_department, make_role, make_user, token_with
from tests.conftest import ADMIN_TOKEN, LONG_TIMEOUT_APP, Committed, connected, settings_for, text_of
from tests.domains.change.feed import NDJSON, lines_and_end, names, position_now, read
from tests.services import started
from tests.waiting import HANG_TIMEOUT, until

Step = Callable[[], Awaitable[object]]


@pytest.fixture
async def start(committed: Committed) -> str:
    return await position_now(committed.client)


def at_pauses(register: Committed, *steps: Step) -> list[float]:
    """Replace the pauses of waiting requests by these steps, and later ones by nothing; return their lengths."""
    remaining: Iterator[Step] = iter(steps)
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        with suppress(StopIteration):
            await next(remaining)()

    polls: LongPolls = register.app.state.long_polls
    polls.pause = pause
    return pauses


async def nothing() -> None:
    pass


async def test_change_ends_the_wait(committed: Committed, start: str) -> None:
    client = committed.client
    other, expected = lambda: make_department(client), lambda: make_role(client, name="Awaited")
    pauses = at_pauses(committed, nothing, other, expected)
    page = await read(client, after=start, wait=30, type="roles")
    assert (names(page["items"]), pauses) == (["Awaited"], [1.0] * 3)
    # Without a change, the response is an empty page once the time is over.
    pauses.clear()
    page = await read(client, after=page["position"], wait=7, type="roles")
    assert (page["items"], page["has_more"], len(pauses)) == ([], False, 7)
    assert "wait=7" in page["next"]
    # A change that exists is not waited for.
    pauses.clear()
    assert names((await read(client, after=start, wait=30, type="roles"))["items"]) == ["Awaited"]
    assert pauses == []


async def test_stream_waits_for_its_first_change(committed: Committed, start: str) -> None:
    for after in (start, "now"):
        for query in ("wait=30", "wait=30&limit=1"):
            at_pauses(committed, nothing, lambda: make_role(committed.client, name="Awaited"))
            response = await committed.client.get(f"/changes/feed?after={after}&{query}", headers=NDJSON)
            assert names(lines_and_end(response)[0])[-1:] == ["Awaited"]


async def test_waiting_request_holds_no_connection(committed: Committed, start: str) -> None:
    pool = committed.app.state.database.engine.pool
    held = []

    async def look() -> None:
        held.append(pool.checkedout())

    at_pauses(committed, look, look)
    await read(committed.client, after=start, wait=2)
    assert held == [0, 0]


NARROWED = "UPDATE api_tokens SET scopes = '{changes:read,roles:read}' WHERE name = 'Narrow'"


async def change_permission(register: Committed, statement: str) -> None:
    """Make changes of roles and of departments, and change the permission of the waiting caller."""
    await make_role(register.client, name="Role")
    await make_department(register.client, name="Department")
    async with connected(register.url) as connection:
        await connection.execute(statement)


@pytest.mark.parametrize("headers", [{}, NDJSON], ids=["page", "stream"])
async def test_page_after_a_wait_has_only_the_types_that_the_caller_may_still_read(
    committed: Committed, start: str, headers: dict[str, str]
) -> None:
    token = await token_with(committed.client, "changes:read", "roles:read", "departments:read")
    at_pauses(committed, lambda: change_permission(committed, NARROWED))
    parameters: dict[str, str | int] = {"after": start, "wait": 30}
    response = await committed.client.get("/changes/feed", params=parameters, headers=token | headers)
    assert names(lines_and_end(response)[0] if headers else response.json()["items"]) == ["Role"]


@pytest.mark.parametrize("headers", [{}, NDJSON], ids=["page", "stream"])
@pytest.mark.parametrize(
    ("statement", "code"),
    [
        (NARROWED.replace("changes:read,", ""), "forbidden"),
        ("DELETE FROM api_tokens WHERE name = 'Narrow'", "unauthorized"),
        ("UPDATE users SET is_active = false", "unauthorized"),
    ],
)
async def test_caller_is_authorised_again_after_the_wait(
    committed: Committed, start: str, statement: str, code: str, headers: dict[str, str]
) -> None:
    token = await token_with(committed.client, "changes:read", "roles:read")
    at_pauses(committed, lambda: change_permission(committed, statement))
    parameters: dict[str, str | int] = {"after": start, "wait": 30}
    assert_problem(await committed.client.get("/changes/feed", params=parameters, headers=token | headers), code)


async def test_places_for_waiting_requests_are_shared(committed: Committed) -> None:
    app = create_app(settings_for(committed.url, wait_concurrency=2))
    register = Committed(app, committed.url)
    async with register.client as client:
        user = await make_user(client, access_level="viewer")
        async with connected(committed.url) as connection:
            await connection.execute(
                "WITH t AS (SELECT * FROM api_tokens WHERE name = 'Tests') "
                "INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at) "
                "SELECT $1, 'Other', $2, scopes, expires_at FROM t",
                *(user["id"], app.state.tokens.api_token_hashes(f"{ADMIN_TOKEN}x")[0]),
            )
        start = await position_now(client)
        responses: list[httpx.Response] = []

        async def ask(**headers: str) -> None:
            responses.append(await client.get("/changes/feed", params={"after": start, "wait": 1}, headers=headers))

        at_pauses(register, ask, lambda: ask(**NDJSON))
        await read(client, after=start, wait=2)
        assert [assert_problem(each, "caller_busy")["status"] for each in responses] == [429, 429]
        assert app.state.long_polls.places.free == 2
    await app.state.database.dispose()


async def test_wait_ends_when_the_service_stops(committed: Committed, start: str) -> None:
    readiness = committed.app.state.readiness

    async def stop() -> None:
        readiness.stopping = True

    pauses = at_pauses(committed, nothing, stop)
    assert (await read(committed.client, after=start, wait=30))["items"] == []
    assert len(pauses) == 2
    assert (await read(committed.client, after=start, wait=30))["items"] == []
    assert len(pauses) == 2


async def test_wait_ends_when_the_client_leaves(committed: Committed, start: str) -> None:
    pauses = at_pauses(committed)
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": b""}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/api/v1/changes/feed",
        "raw_path": b"/api/v1/changes/feed",
        "root_path": "",
        "query_string": f"after={start}&wait=30".encode(),
        "headers": [(b"host", b"register.test"), (b"authorization", f"Bearer {ADMIN_TOKEN}".encode())],
    }
    await committed.app(scope, receive, send)
    assert sent[0]["status"] == 200
    assert len(pauses) == 1


HAS_READ = """
    SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%feed_state%' AND query_start > $1 AND state = 'idle'
                      AND pid <> pg_backend_pid())
"""


@pytest.mark.parametrize(
    ("signals", "settings"),
    [
        ([signal.SIGTERM], {"DRAIN_SECONDS": "0"}),
        ([signal.SIGTERM], {"DRAIN_SECONDS": "1"}),
        ([signal.SIGTERM, signal.SIGTERM], {"DRAIN_SECONDS": str(HANG_TIMEOUT)}),
        ([signal.SIGTERM, signal.SIGINT], {"DRAIN_SECONDS": str(HANG_TIMEOUT)}),
        ([signal.SIGINT], {"DRAIN_SECONDS": str(HANG_TIMEOUT)}),
        ([signal.SIGINT], {"WORKERS": "2"}),
        ([signal.SIGKILL], {"WORKERS": "2", "DRAIN_SECONDS": str(HANG_TIMEOUT)}),
    ],
    ids=lambda value: ",".join(each.name for each in value) if isinstance(value, list) else ",".join(value.values()),
)
def test_stop_of_a_real_service_ends_its_waits(
    root: Path, tmp_path: Path, served_database: URL, signals: list[signal.Signals], settings: dict[str, str]
) -> None:
    # Otherwise the server would cancel the requests after its time for running requests, with 503.
    settings = settings | {"DATABASE_URL": text_of(served_database), "GRACEFUL_STOP_SECONDS": "20"}
    with started(root, tmp_path / "log", *LONG_TIMEOUT_APP, "serve", **settings) as service:
        service.wait_until_ready()
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}

        async def wait_and_stop() -> httpx.Response:
            async with httpx.AsyncClient(base_url=service.address, headers=headers, timeout=HANG_TIMEOUT) as client:
                position = (await client.get("/api/v1/changes/feed?after=now")).json()["position"]
                parameters: dict[str, str | int] = {"after": position, "wait": 30}
                async with connected(served_database) as connection:
                    now = await connection.fetchval("SELECT clock_timestamp()")
                    waiting = asyncio.create_task(client.get("/api/v1/changes/feed", params=parameters))
                    await until(lambda: connection.fetchval(HAS_READ, now))
                for each in signals:
                    service.process.send_signal(each)
                    await asyncio.sleep(0.1)  # otherwise the process may handle two signals as one
                return await asyncio.wait_for(waiting, HANG_TIMEOUT)

        response = asyncio.run(wait_and_stop())
        assert (response.status_code, response.json().get("items")) == (200, [])
        assert service.exit_status() == (-signal.SIGKILL if signal.SIGKILL in signals else 0)
