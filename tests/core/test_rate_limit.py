"""The limit of requests per caller."""

import math
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from throttled import utils

from app.core.caller import Caller
from app.core.engine import FairPool
from app.core.http import rate_limit
from app.core.http.authorisation import Authenticator
from app.core.http.rate_limit import METRICS, PROBES, RateLimitMiddleware
from app.domains.auth.callers import Callers
from app.main import create_app
from app.utils.exceptions import Unauthorized
from tests.api.conftest import assert_problem
from tests.builders import admin_session, token_with
from tests.conftest import ADMIN_TOKEN, Committed, settings_for
from tests.domains.auth.conftest import client_from, make_account, sign_in, sql

RATE = "60/minute burst 3"  # a further request each second
ROOT = "http://register.test"


class Clock:
    """The clock of the limiter."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(utils, "now_mono_f", clock)
    return clock


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens that were looked up."""
    lookups: list[str] = []
    find = Callers.find

    async def recording(self: Callers, token: str) -> Any:
        lookups.append(token)
        return await find(self, token)

    monkeypatch.setattr(Callers, "find", recording)
    return lookups


@asynccontextmanager
async def limited(committed: Committed, **settings: Any) -> AsyncIterator[FastAPI]:
    app = create_app(settings_for(committed.url, **{"rate_limit": RATE} | settings))
    try:
        yield app
    finally:
        await app.state.database.dispose()


async def statuses(client: httpx.AsyncClient, count: int, path: str = "/users/me", **request: Any) -> list[int]:
    return [(await client.get(path, **request)).status_code for _ in range(count)]


def test_rate_is_not_limited_by_default() -> None:
    app = create_app(settings_for(None))
    assert "RateLimitMiddleware" not in str(app.user_middleware)
    app = create_app(settings_for(None, rate_limit="1/day"))
    assert "RateLimitMiddleware" in str(app.user_middleware)


async def test_caller_beyond_the_rate_waits_for_the_time_in_the_header(committed: Committed, clock: Clock) -> None:
    async with limited(committed) as app, client_from(app, token=ADMIN_TOKEN) as client:
        # The first request with a token counts for the address.
        assert await statuses(client, 4) == [200] * 4
        for _ in range(2):  # a rejected request does not count
            response = await client.get("/users/me")
            assert_problem(response, "rate_limited")
            assert response.headers["retry-after"] == "1"
        clock.now += 1
        assert await statuses(client, 2) == [200, 429]
        clock.now += 3600
        assert await statuses(client, 4) == [200] * 3 + [429]


@pytest.mark.usefixtures("clock")
async def test_tokens_and_sessions_of_a_user_share_the_rate(committed: Committed) -> None:
    tokens = [await token_with(committed.client, "roles:read"), await admin_session(committed.client)]
    other = await sign_in(committed.app, (await make_account(committed.app))["email"])
    async with limited(committed) as app:
        clients = [client_from(app, f"192.0.2.{number}", **headers) for number, headers in enumerate(tokens)]
        # The first request with an API token counts for the address.
        for client in clients:
            assert await statuses(client, 1, "/roles") == [200]
        assert [(await client.get("/roles")).status_code for client in clients * 2] == [200, 200, 429, 429]
        async with client_from(app, "192.0.2.0", other["access_token"]) as client:
            assert await statuses(client, 4) == [200] * 3 + [429]
        for client in clients:
            await client.aclose()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/problems/conflict", {}, 404),
        (f"{ROOT}/problems/conflict", {}, 200),
        (f"{ROOT}/docs", {}, 200),
        (f"{ROOT}/openapi.json", {}, 200),
        (f"{ROOT}/nowhere", {}, 404),
        (f"{ROOT}/healthy", {}, 404),
        ("/users/me", {}, 401),
        ("/roles", {"Authorization": "Bearer prt_guess"}, 401),
        ("/roles", {"Authorization": "Basic Og=="}, 401),
    ],
)
async def test_anonymous_requests_count_for_their_address(
    committed: Committed, path: str, headers: dict[str, str], status: int
) -> None:
    async with limited(committed) as app, client_from(app, "2001:db8:1:2::1", **headers) as client:
        assert await statuses(client, 4, path) == [status] * 3 + [429]
        assert (await client.head(path)).status_code == 429
        # The network of an address belongs to one customer.
        async with client_from(app, "2001:db8:1:2:3::4", **headers) as neighbour:
            assert_problem(await neighbour.get(path), "rate_limited")
        async with client_from(app, "2001:db8:1:3::1", **headers) as stranger:
            assert await statuses(stranger, 1, path) == [status]
        # A user at the same address can use the service, once a request with the token was authenticated.
        async with client_from(app, "192.0.2.1", ADMIN_TOKEN) as user:
            assert await statuses(user, 1) == [200]
        async with client_from(app, "2001:db8:1:2::1", ADMIN_TOKEN) as user:
            assert await statuses(user, 3) == [200] * 3


@pytest.mark.usefixtures("clock")
async def test_guessed_tokens_are_looked_up_only_within_the_rate(committed: Committed, lookups: list[str]) -> None:
    async with limited(committed) as app, client_from(app) as client:
        responses = [
            await client.get("/roles", headers={"Authorization": f"Bearer prt_{number}"}) for number in range(10)
        ]
    assert [response.status_code for response in responses] == [401] * 3 + [429] * 7
    assert lookups == ["prt_0", "prt_1", "prt_2"]


@pytest.mark.usefixtures("clock")
async def test_rejected_request_takes_no_connection_and_its_body_is_not_read(
    committed: Committed, lookups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"{}"

    async with limited(committed) as app, client_from(app, token=ADMIN_TOKEN) as client:
        assert await statuses(client, 4) == [200] * 4

        def fail(*_: Any, **__: Any) -> Any:
            raise AssertionError("a connection was taken")

        del lookups[:]
        monkeypatch.setattr(FairPool, "_do_get", fail)
        for method in ("POST", "PUT", "PATCH"):
            response = await client.request(method, "/roles/1", content=body())
            assert_problem(response, "rate_limited")
        assert (lookups, read) == ([], [])


@pytest.mark.usefixtures("clock")
async def test_probes_are_never_limited(committed: Committed) -> None:
    async with limited(committed) as app, client_from(app) as client:
        for probe in PROBES:
            assert await statuses(client, 10, f"{ROOT}{probe}") == [200] * 10
            assert await statuses(client, 2, f"{ROOT}{probe}/", headers={"Authorization": "Bearer x"}) == [200] * 2
        # They use up nothing of the rate of their callers.
        assert await statuses(client, 3, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}) == [200] * 3


@pytest.mark.usefixtures("clock")
async def test_session_is_usable_at_an_address_beyond_the_rate(committed: Committed, lookups: list[str]) -> None:
    access_token = (await sign_in(committed.app, (await make_account(committed.app))["email"]))["access_token"]
    async with limited(committed) as app, client_from(app) as stranger:
        assert await statuses(stranger, 4) == [401] * 3 + [429]
        del lookups[:]
        # The user of an API token is unknown until a look-up, which requests beyond the rate do not get.
        assert await statuses(stranger, 1, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}) == [429]
        assert lookups == []
        for token in (access_token[:-4] + "AAAA", access_token.rpartition(".")[0] + ".", access_token + "A"):
            assert await statuses(stranger, 1, headers={"Authorization": f"Bearer {token}"}) == [429]
        async with client_from(app, token=access_token) as user:
            assert await statuses(user, 4) == [200] * 3 + [429]
        assert set(lookups) == {access_token}


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("known", [True, False])
async def test_token_of_an_ended_session_uses_up_nothing_of_its_user(committed: Committed, *, known: bool) -> None:
    email = (await make_account(committed.app))["email"]
    stolen, owned = [(await sign_in(committed.app, email))["access_token"] for _ in range(2)]
    async with limited(committed) as app:
        async with client_from(app, "192.0.2.1", stolen) as thief:
            if known:
                assert await statuses(thief, 1) == [200]
            async with client_from(committed.app, token=stolen) as owner:
                assert (await owner.post("/auth/logout")).status_code == 204
            app.state.authenticator.forget(stolen)
            # The first rejection counts for the user, the others for the address.
            assert await statuses(thief, 5) == [401] * 4 + [429]
        async with client_from(app, "192.0.2.2", owned) as owner:
            assert await statuses(owner, 3) == [200] * (1 if known else 2) + [429] * (2 if known else 1)


@pytest.mark.usefixtures("clock")
async def test_revoked_token_uses_up_nothing_of_its_user(committed: Committed) -> None:
    revoked = await token_with(committed.client, "roles:read")
    async with limited(committed) as app:
        async with client_from(app, "192.0.2.1", **revoked) as thief:
            assert await statuses(thief, 1, "/roles") == [200]
            await sql(app, "DELETE FROM api_tokens WHERE name = 'Narrow'")
            # The first rejection counted for the user.
            assert await statuses(thief, 5, "/roles") == [401] * 3 + [429] * 2
        async with client_from(app, "192.0.2.2", ADMIN_TOKEN) as owner:
            assert await statuses(owner, 4) == [200] * 3 + [429]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("path", "status"), [("/auth/token", 405), (f"{ROOT}/problems/conflict", 200), ("/roles/1/nowhere", 404)]
)
async def test_token_counts_for_its_user_only_while_its_requests_are_authenticated(
    committed: Committed, path: str, status: int
) -> None:
    revoked = await token_with(committed.client, "roles:read")
    async with limited(committed) as app:
        async with client_from(app, "192.0.2.1", **revoked) as thief:
            assert await statuses(thief, 1, "/roles") == [200]
            await sql(app, "DELETE FROM api_tokens WHERE name = 'Narrow'")
            # Only the first of the requests, none of which looks the token up, counts for the user.
            assert await statuses(thief, 5, path) == [status] * 3 + [429] * 2
        async with client_from(app, "192.0.2.2", ADMIN_TOKEN) as owner:
            assert await statuses(owner, 4) == [200] * 3 + [429]


@pytest.mark.usefixtures("clock")
async def test_token_counts_for_its_user_again_once_a_request_is_authenticated(committed: Committed) -> None:
    async with limited(committed) as app, client_from(app, token=ADMIN_TOKEN) as client:
        # The address, the user, the address, and the user.
        assert await statuses(client, 1) == [200]
        assert await statuses(client, 1, "/nowhere") == [404]
        assert await statuses(client, 1) == [200]
        assert await statuses(client, 3) == [200, 200, 429]


@pytest.mark.parametrize(("expires_at", "user"), [(math.inf, 7), (1, None)])
async def test_expired_token_counts_for_no_user(expires_at: float, user: int | None) -> None:
    async def find(_token: str) -> Caller:
        return Caller(7, "User", "admin", frozenset(), expires_at=expires_at)

    authenticator = Authenticator(find, lambda _token: None, cache_seconds=0)
    with pytest.raises(Unauthorized):  # for a lack of scopes, or because of the expiry
        await authenticator.admit(Request({"type": "http", "headers": [(b"authorization", b"Bearer token")]}))
    assert authenticator.known_user("token") == user


@pytest.mark.parametrize("access", ["public", "admin"])
async def test_scrapes_have_a_limit_of_their_own(committed: Committed, clock: Clock, access: str) -> None:
    token = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    scraper = token if access == "admin" else {}
    async with limited(committed, metrics_access=access) as app, client_from(app, **scraper) as client:
        path = f"{ROOT}{METRICS}"
        # Of administrators, the first request with the token counts for the address.
        burst = 10 + len(scraper)
        assert await statuses(client, burst + 1, path) == [200] * burst + [429]
        clock.now += 1
        assert await statuses(client, 2, path) == [200, 429]
        # Scrapes use up nothing of the rate of other requests.
        assert await statuses(client, 3, headers=token) == [200] * 3


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("access", "status"), [("public", 200), ("admin", 401)])
async def test_scrapes_without_a_valid_token_count_for_their_address(
    committed: Committed, access: str, status: int
) -> None:
    path = f"{ROOT}{METRICS}"
    async with limited(committed, metrics_access=access) as app, client_from(app, token=ADMIN_TOKEN) as scraper:
        assert await statuses(scraper, 1, path) == [200]
        guesses = [{"Authorization": f"Bearer prt_{number}"} for number in range(10)]
        responses = [await scraper.get(path, headers=guess) for guess in guesses]
        assert [response.status_code for response in responses] == [status] * 9 + [429]
        # They keep neither a known scraper nor another address from scraping.
        if access == "admin":
            assert await statuses(scraper, 1, path) == [200]
        async with client_from(app, "192.0.2.9") as other:
            assert await statuses(other, 1, path) == [status]


@pytest.mark.usefixtures("clock")
async def test_pages_of_configured_origins_can_read_the_rejection(committed: Committed) -> None:
    origin = {"Origin": "https://app.example"}
    async with limited(committed, cors_origins=("https://app.example",)) as app, client_from(app) as client:
        preflight = origin | {"Access-Control-Request-Method": "GET"}
        answers = [await client.options("/roles", headers=preflight) for _ in range(10)]
        assert {response.status_code for response in answers} == {200}  # the browser sends them unasked
        assert await statuses(client, 3, headers=origin) == [401] * 3
        response = await client.get("/users/me", headers=origin)
        assert_problem(response, "rate_limited")
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        assert "Retry-After" in response.headers["access-control-expose-headers"]
        metrics = (await client.get(f"{ROOT}{METRICS}")).text
        assert 'register_errors_total{error="RateLimited"} 1.0' in metrics


@pytest.mark.usefixtures("clock")
async def test_only_the_last_callers_are_remembered(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_CALLERS", 2)
    async with limited(committed) as app:

        async def count(address: str, requests: int) -> list[int]:
            async with client_from(app, address) as client:
                return await statuses(client, requests)

        assert await count("192.0.2.1", 4) == [401] * 3 + [429]
        assert await count("192.0.2.2", 4) == [401] * 3 + [429]
        assert await count("192.0.2.1", 1) == [429]
        assert await count("192.0.2.3", 1) == [401]
        assert await count("192.0.2.1", 1) == [429]
        assert await count("192.0.2.2", 1) == [401]


def calls_of(work: Callable[[], object]) -> int:
    """Return the number of calls of Python functions."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_work_for_a_request_does_not_grow_with_the_callers() -> None:
    middleware = RateLimitMiddleware(create_app(settings_for(None)), "1/day", None)  # type: ignore[arg-type]
    limit = middleware._limiter.limit
    limit("user 0")
    few = calls_of(lambda: limit("user 1"))
    for number in range(2 * rate_limit.MAX_CALLERS):
        limit(f"address {number}")
    assert calls_of(lambda: limit("user 2")) <= few + 5
