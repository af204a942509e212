"""Concurrent uses of credentials, on separate connections. Everything is committed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text

from app.core.tokens import REFRESH_LIFETIME, REFRESH_TOKEN, new_token, token_hash
from app.domains.auth import statements
from app.main import create_app
from app.utils.exceptions import HashingBusy
from tests.conftest import ADMIN_PASSWORD, Committed, connected, settings_for, until_lock_wait
from tests.domains.auth.conftest import (
    ADMIN_EMAIL,
    NEW_PASSWORD,
    PASSWORD,
    call,
    make_account,
    make_link,
    refresh,
    sign_in,
    sql,
    status_of,
    try_to_sign_in,
    use_link,
)

ROUNDS = 10
STRANGER = "198.51.100.1"
COUNT_USES = (
    "CREATE TABLE uses (id bigint)",
    """
    CREATE FUNCTION count_use() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO uses VALUES (NEW.id); RETURN NEW; END $$
    """,
    "CREATE TRIGGER count_use AFTER UPDATE ON api_tokens FOR EACH ROW EXECUTE FUNCTION count_use()",
)


async def send_together(*requests: Awaitable[httpx.Response]) -> list[httpx.Response]:
    """Send requests together. No race may end in a server error, not even in the 503 of a deadlock."""
    responses = await asyncio.gather(*requests)
    for response in responses:
        assert response.status_code < 500, response.text
    return list(responses)


@pytest.fixture
async def app(committed: Committed) -> FastAPI:
    # Open all connections first, so that concurrent requests do not wait for them.
    await send_together(*(committed.client.get("/departments") for _ in range(10)))
    return committed.app


@asynccontextmanager
async def replicas(committed: Committed, **settings: Any) -> AsyncIterator[list[FastAPI]]:
    """Yield two applications on one database."""
    async with replicas_with(committed, settings, settings) as apps:
        yield apps


@asynccontextmanager
async def replicas_with(committed: Committed, *settings: dict[str, Any]) -> AsyncIterator[list[FastAPI]]:
    """Yield an application with each of these settings, on one database."""
    apps = [create_app(settings_for(committed.url, **each)) for each in settings]
    yield apps
    for app in apps:
        await app.state.database.dispose()


@pytest.mark.usefixtures("long_grace")
async def test_twenty_refreshes_of_one_token_get_the_same_successor(app: FastAPI) -> None:
    pair = await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD)
    for number in range(1, 4):
        responses = await send_together(*(refresh(app, pair["refresh_token"]) for _ in range(20)))
        assert [response.status_code for response in responses] == [200] * 20
        assert len({response.json()["refresh_token"] for response in responses}) == 1
        assert await sql(app, "SELECT count(*) FROM sessions") == [(1,)]
        rows = await sql(app, "SELECT spent_at IS NOT NULL AS spent FROM refresh_tokens")
        assert sorted(row.spent for row in rows) == [False] + [True] * number
        pair = responses[0].json()
    assert await status_of(app, pair["access_token"]) == 200


@pytest.mark.usefixtures("long_grace")
async def test_replicas_give_the_same_successor(committed: Committed) -> None:
    async with replicas(committed) as apps:
        pair = await sign_in(apps[0], ADMIN_EMAIL, ADMIN_PASSWORD)
        responses = await send_together(*(refresh(apps[number % 2], pair["refresh_token"]) for number in range(10)))
        assert len({response.json()["refresh_token"] for response in responses}) == 1


OLD_KEY, NEW_KEY = SecretStr("the key that is being replaced, 32"), SecretStr("the key that replaces it, 32 long")
# The settings of two replicas at the same time, in the steps of a key change.
KEY_CHANGE = {
    "added": ({"secret_key": OLD_KEY}, {"secret_key": NEW_KEY, "previous_secret_key": OLD_KEY}),
    "both": (
        {"secret_key": OLD_KEY, "previous_secret_key": NEW_KEY},
        {"secret_key": NEW_KEY, "previous_secret_key": OLD_KEY},
    ),
}


@pytest.mark.usefixtures("long_grace")
@pytest.mark.parametrize("step", KEY_CHANGE)
@pytest.mark.parametrize("first", [0, 1])
async def test_repeated_refresh_during_a_key_change_returns_the_stored_token(
    committed: Committed, step: str, first: int
) -> None:
    async with replicas_with(committed, *KEY_CHANGE[step]) as apps:
        here, there = apps[first], apps[1 - first]
        pair = await sign_in(here, ADMIN_EMAIL, ADMIN_PASSWORD)
        for _ in range(3):
            responses = [await refresh(app, pair["refresh_token"]) for app in (here, there, here)]
            assert [response.status_code for response in responses] == [200] * 3
            assert len({response.json()["refresh_token"] for response in responses}) == 1
            pair = responses[1].json()
            here, there = there, here


@pytest.mark.usefixtures("long_grace")
async def test_concurrent_refreshes_during_a_key_change_return_the_stored_token(committed: Committed) -> None:
    async with replicas_with(committed, *KEY_CHANGE["added"]) as apps:
        pair = await sign_in(apps[0], ADMIN_EMAIL, ADMIN_PASSWORD)
        for _ in range(3):
            responses = await send_together(*(refresh(apps[number % 2], pair["refresh_token"]) for number in range(10)))
            assert len({response.json()["refresh_token"] for response in responses}) == 1
            pair = responses[0].json()


@pytest.mark.usefixtures("long_grace")
@pytest.mark.parametrize("settings", [{"secret_key": NEW_KEY}, {"secret_key": NEW_KEY, "previous_secret_key": OLD_KEY}])
async def test_replica_without_the_key_hands_out_no_token_that_is_not_stored(
    committed: Committed, settings: dict[str, SecretStr]
) -> None:
    other = {"secret_key": SecretStr("a key that no other replica has, 32")}
    async with replicas_with(committed, settings, other) as (here, there):
        pair = await sign_in(here, ADMIN_EMAIL, ADMIN_PASSWORD)
        successor = (await refresh(here, pair["refresh_token"])).json()
        refused = await refresh(there, pair["refresh_token"])
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_grant")
        # The session goes on.
        assert (await refresh(there, successor["refresh_token"])).status_code == 200


async def test_reuse_of_a_stolen_token_by_many_ends_the_session_once(app: FastAPI) -> None:
    pair = await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD)
    successor = (await refresh(app, pair["refresh_token"])).json()
    await sql(app, "UPDATE refresh_tokens SET spent_at = spent_at - interval '11 s'")
    responses = await send_together(
        *(refresh(app, pair["refresh_token"]) for _ in range(10)), refresh(app, successor["refresh_token"])
    )
    assert [response.status_code for response in responses[:10]] == [401] * 10
    assert await sql(app, "SELECT id FROM sessions") == []
    assert await sql(app, "SELECT session_id FROM refresh_tokens") == []
    for each in (successor["access_token"], responses[10].json().get("access_token", successor["access_token"])):
        assert await status_of(app, each) == 401


async def test_refresh_during_sign_out_leaves_no_session(app: FastAPI) -> None:
    user = await make_account(app)
    for path in ("/auth/logout", "/auth/logout-all") * (ROUNDS // 2):
        pair = await sign_in(app, user["email"])
        refreshed, signed_out = await send_together(
            refresh(app, pair["refresh_token"]), call(app, pair["access_token"], "POST", path)
        )
        assert (refreshed.status_code in {200, 401}, signed_out.status_code) == (True, 204)
        assert await status_of(app, pair["access_token"]) == 401
        assert await sql(app, "SELECT session_id FROM refresh_tokens") == []


async def test_refreshing_while_the_password_changes_leaves_no_other_session(app: FastAPI) -> None:
    user = await make_account(app)
    passwords = [PASSWORD, NEW_PASSWORD]
    for _ in range(ROUNDS):
        here, there = [await sign_in(app, user["email"], passwords[0]) for _ in range(2)]
        body = {"old_password": passwords[0], "new_password": passwords[1]}
        changed, *_ = await send_together(
            call(app, here["access_token"], "POST", "/users/me/password", json=body),
            refresh(app, there["refresh_token"]),
            refresh(app, here["refresh_token"]),
        )
        assert changed.status_code == 204
        assert [await status_of(app, pair["access_token"]) for pair in (here, there)] == [200, 401]
        assert (await call(app, here["access_token"], "POST", "/auth/logout-all")).status_code == 204
        passwords.reverse()


async def test_signing_in_while_the_user_is_deactivated_leaves_no_valid_token(app: FastAPI) -> None:
    for _ in range(3):
        user = await make_account(app)
        token = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
        signed_in, deactivated = await send_together(
            try_to_sign_in(app, user["email"]),
            call(app, token, "PATCH", f"/users/{user['id']}", json={"is_active": False}),
        )
        assert deactivated.status_code == 200
        if signed_in.status_code == 200:
            assert await status_of(app, signed_in.json()["access_token"]) == 401
        else:
            assert signed_in.json()["code"] == "wrong_credentials"


@asynccontextmanager
async def signing_in_with(app: FastAPI, user: dict[str, Any]) -> AsyncIterator[None]:
    """Sign a user in with the stored password, and commit at the end of the block."""
    async with app.state.database.transaction() as session:
        password_hash = await session.scalar(text("SELECT password_hash FROM credentials WHERE user_id = :id"), user)
        values = {
            "user_id": user["id"],
            "password_hash": password_hash,
            "scopes": None,
            "address": "192.0.2.66",
            "user_agent": "early",
            "lifetime": REFRESH_LIFETIME,
            "token_hash": token_hash(new_token(REFRESH_TOKEN)),
            "new_hash": None,
            "keys": [],
        }
        assert len((await session.execute(statements.OPEN_SESSION, values)).all()) == 1
        yield


async def agents_of(app: FastAPI, user: dict[str, Any]) -> list[str | None]:
    return [row[0] for row in await sql(app, "SELECT user_agent FROM sessions WHERE user_id = :id", id=user["id"])]


async def test_sign_in_with_the_old_password_does_not_outlive_the_new_one(app: FastAPI) -> None:
    user = await make_account(app)
    link = await make_link(app, user)
    async with signing_in_with(app, user):
        reset = asyncio.create_task(use_link(app, link))
        await until_lock_wait(app.state.database.engine.url)
    assert (await reset).status_code == 200
    assert "early" not in await agents_of(app, user)
    pair = await sign_in(app, user["email"], NEW_PASSWORD)
    async with signing_in_with(app, user):
        body = {"old_password": NEW_PASSWORD, "new_password": PASSWORD}
        change = asyncio.create_task(call(app, pair["access_token"], "POST", "/users/me/password", json=body))
        await until_lock_wait(app.state.database.engine.url)
    assert (await change).status_code == 204
    assert "early" not in await agents_of(app, user)
    assert await status_of(app, pair["access_token"]) == 200


async def test_sign_in_does_not_outlive_the_deactivation(app: FastAPI) -> None:
    user = await make_account(app)
    token = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
    async with signing_in_with(app, user):
        path = f"/users/{user['id']}"
        deactivation = asyncio.create_task(call(app, token, "PATCH", path, json={"is_active": False}))
        await until_lock_wait(app.state.database.engine.url)
    assert (await deactivation).status_code == 200
    assert await agents_of(app, user) == []


async def test_concurrent_sign_ins_succeed_while_the_hash_is_replaced(app: FastAPI) -> None:
    user = await make_account(app)
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    async with app.state.database.transaction() as session:
        stored = {"hash": weak, "id": user["id"]}
        await session.execute(text("UPDATE credentials SET password_hash = :hash WHERE user_id = :id"), stored)
    responses = await send_together(*(try_to_sign_in(app, user["email"]) for _ in range(4)))
    assert [response.status_code for response in responses] == [200] * 4


async def test_concurrent_link_change_and_deactivation_do_not_deadlock(app: FastAPI) -> None:
    admin = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
    for _ in range(ROUNDS):
        user = await make_account(app)
        own_token = (await sign_in(app, user["email"]))["access_token"]
        link = await make_link(app, user)
        body = {"old_password": PASSWORD, "new_password": NEW_PASSWORD}
        await send_together(
            use_link(app, link),
            call(app, own_token, "POST", "/users/me/password", json=body),
            call(app, admin, "PATCH", f"/users/{user['id']}", json={"is_active": False}),
            try_to_sign_in(app, user["email"]),
        )


async def test_one_of_many_uses_of_an_api_token_is_written(app: FastAPI) -> None:
    token = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
    body = {"name": "Busy", "scopes": ["roles:read"]}
    program = (await call(app, token, "POST", "/users/me/tokens", json=body)).json()["token"]
    async with app.state.database.transaction() as session:
        for statement in COUNT_USES:
            await session.execute(text(statement))
    responses = await send_together(*(call(app, program, "GET", "/roles") for _ in range(10)))
    assert [response.status_code for response in responses] == [200] * 10
    assert len(await sql(app, "SELECT id FROM uses")) == 1


async def test_one_of_two_concurrent_uses_of_a_link_succeeds(app: FastAPI) -> None:
    user = await make_account(app)
    for number in range(ROUNDS):
        link = await make_link(app, user)
        passwords = [f"the password {number} of {name}" for name in ("one", "the other")]
        responses = await send_together(*(use_link(app, link, password) for password in passwords))
        codes = [response.json().get("code") for response in responses]
        assert sorted(codes, key=str) == [None, "spent_link"]
        winner = passwords[codes.index(None)]
        assert [(await try_to_sign_in(app, user["email"], each)).status_code for each in passwords] == [
            200 if each == winner else 401 for each in passwords
        ]


async def test_one_of_two_concurrent_changes_of_a_password_succeeds(app: FastAPI) -> None:
    user = await make_account(app)
    pairs = [await sign_in(app, user["email"]) for _ in range(2)]
    bodies = [{"old_password": PASSWORD, "new_password": f"the password of {name}"} for name in ("one", "another")]
    responses = await send_together(
        *(
            call(app, pair["access_token"], "POST", "/users/me/password", json=body)
            for pair, body in zip(pairs, bodies, strict=True)
        )
    )
    statuses = [response.status_code for response in responses]
    assert sorted(statuses) == [204, 422]
    (valid,) = await sql(app, "SELECT id FROM sessions")
    assert valid.id
    alive = [await status_of(app, pair["access_token"]) for pair in pairs]
    assert alive == [200 if status == 204 else 401 for status in statuses]


async def test_one_of_several_concurrently_created_links_is_valid(app: FastAPI) -> None:
    user = await make_account(app)
    links = await asyncio.gather(*(make_link(app, user) for _ in range(5)))
    statuses = [(await use_link(app, link)).status_code for link in links]
    assert sorted(statuses) == [200] + [422] * 4


LIMITS = {"sign_in_attempts": 3, "sign_in_attempts_per_account": 5, "sign_in_attempts_per_address": 8}


@pytest.mark.parametrize("email", [ADMIN_EMAIL, "unknown@register.example"])
async def test_concurrent_attempts_cannot_exceed_the_limit(committed: Committed, email: str) -> None:
    async with replicas(committed, **LIMITS) as apps:
        responses = await send_together(*(try_to_sign_in(apps[number % 2], email, "wrong") for number in range(12)))
        assert sorted(response.status_code for response in responses) == [401] * 3 + [429] * 9
        # Other addresses have two more attempts, counted over all replicas.
        responses = await send_together(
            *(try_to_sign_in(apps[number % 2], email, "wrong", f"198.51.100.{number % 3}") for number in range(9))
        )
        assert [response.status_code for response in responses].count(401) <= 2
        assert (await try_to_sign_in(apps[1], email, "wrong", "198.51.100.9")).status_code == 429


async def test_replicas_share_the_attempts(committed: Committed) -> None:
    async with replicas(committed, **LIMITS) as apps:
        user = await make_account(apps[0])
        statuses = [(await try_to_sign_in(apps[number % 2], user["email"], "wrong")).status_code for number in range(4)]
        assert statuses == [401, 401, 401, 429]
        for app in apps:
            assert (await try_to_sign_in(app, user["email"])).status_code == 429


async def test_concurrent_attempts_of_accounts_and_addresses_do_not_deadlock(app: FastAPI) -> None:
    users = [await make_account(app) for _ in range(4)]
    requests = [
        try_to_sign_in(app, user["email"], password, f"198.51.100.{number}")
        for user in users
        for number in range(4)
        for password in (PASSWORD, "wrong")
    ]
    responses = await send_together(*requests)
    assert [response.status_code for response in responses] == [200, 401] * 16


async def test_blocked_attempts_that_wait_hold_no_places(committed: Committed) -> None:
    async with replicas(committed, **LIMITS) as (app, _), connected(committed.url) as connection:
        user = await make_account(app)
        for _ in range(3):
            await try_to_sign_in(app, ADMIN_EMAIL, "wrong", STRANGER)
        places = app.state.passwords.places
        free = places.free
        async with connection.transaction():
            await connection.execute("SELECT FROM sign_in_attempts FOR UPDATE")
            blocked = [asyncio.create_task(try_to_sign_in(app, ADMIN_EMAIL, "wrong", STRANGER)) for _ in range(4)]
            await until_lock_wait(committed.url)
            assert places.free == free
            assert (await try_to_sign_in(app, user["email"])).status_code == 200
        assert [(await each).status_code for each in blocked] == [429] * 4


async def test_concurrent_attempts_that_find_the_queue_full_do_not_count(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = app.state.passwords.verify

    async def verify_or_be_busy(stored_hash: str, password: str, **options: Any) -> Any:
        if password == "busy":  # noqa: S105
            raise HashingBusy
        return await verify(stored_hash, password, **options)

    monkeypatch.setattr(app.state.passwords, "verify", verify_or_be_busy)
    for _ in range(3):
        tries = [try_to_sign_in(app, ADMIN_EMAIL, each, STRANGER) for each in ("busy", "wrong", "busy") * 3]
        statuses = [response.status_code for response in await asyncio.gather(*tries)]
        assert statuses == [503, 401, 503] * 3
        assert await sql(app, "SELECT attempts FROM sign_in_attempts") == [(3,)] * 3
        await sql(app, "DELETE FROM sign_in_attempts")
    # More of them than the limit: some get 429, and none blocks the next attempt.
    tries = [try_to_sign_in(app, ADMIN_EMAIL, "busy", STRANGER) for _ in range(30)]
    assert {response.status_code for response in await asyncio.gather(*tries)} <= {429, 503}
    assert await sql(app, "SELECT attempts FROM sign_in_attempts") == []
    assert (await try_to_sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD, STRANGER)).status_code == 200


@pytest.mark.parametrize("way", ["demote", "deactivate", "delete", "mixed"])
async def test_one_of_two_administrators_that_remove_each_other_stays(app: FastAPI, way: str) -> None:
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "demote": ("PATCH", {"json": {"access_level": "viewer"}}),
        "deactivate": ("PATCH", {"json": {"is_active": False}}),
        "delete": ("DELETE", {}),
    }
    first_way, second_way = ("delete", "demote") if way == "mixed" else (way, way)
    active = "SELECT id FROM users WHERE access_level = 'admin' AND is_active ORDER BY id"
    (first,) = await sql(app, active)
    for _ in range(ROUNDS):
        pair = [await make_account(app, "admin") for _ in range(2)]
        tokens = [(await sign_in(app, user["email"]))["access_token"] for user in pair]
        # The two are the only administrators, and nothing refers to them, so they can be deleted.
        await sql(app, "UPDATE users SET access_level = 'viewer' WHERE id = :id", id=first.id)
        responses = await send_together(
            *(
                call(app, token, ways[each][0], f"/users/{user['id']}", **ways[each][1])
                for token, user, each in zip(tokens, reversed(pair), (first_way, second_way), strict=True)
            )
        )
        succeeded = [response for response in responses if response.is_success]
        assert len(succeeded) == 1, [response.text for response in responses]
        (refused,) = (response for response in responses if not response.is_success)
        code = refused.json()["code"]
        assert code in {"last_administrator", "unauthorized", "forbidden", "still_referenced"}
        left = await sql(app, active)
        assert len(left) == 1
        await sql(app, "UPDATE users SET access_level = 'admin' WHERE id = :id", id=first.id)
        await sql(app, "UPDATE users SET is_active = false WHERE id = :id", id=left[0].id)
