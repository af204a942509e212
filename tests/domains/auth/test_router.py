"""Sign-in, refresh, sign-out, links, passwords, API tokens, and rules of administrators."""

import asyncio
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI

from app.core.http import authorisation as security
from app.core.passwords import Passwords
from app.core.permissions import SCOPES, scopes_of
from app.main import create_app
from app.utils.exceptions import HashingBusy
from tests.builders import make_department, make_password_link, make_user
from tests.conftest import ADMIN_PASSWORD, ADMIN_TOKEN, Committed, Statements, settings_for
from tests.domains.auth.conftest import (
    ADMIN_EMAIL,
    NEW_PASSWORD,
    PASSWORD,
    call,
    client_from,
    faults,
    full_queue,
    make_account,
    make_link,
    refresh,
    sign_in,
    sql,
    status_of,
    try_to_sign_in,
    use_link,
)
from tests.waiting import HANG_TIMEOUT

pytestmark = pytest.mark.usefixtures("connection")

# Addresses from which no user has signed in.
STRANGERS = ("198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4")
VIEWER = "changes:read departments:read locations:read processes:read resources:read roles:read users:read"


async def change_password(app: FastAPI, token: str, old: str = PASSWORD, new: str = NEW_PASSWORD) -> httpx.Response:
    body = {"old_password": old, "new_password": new}
    return await call(app, token, "POST", "/users/me/password", json=body)


async def patch_user(app: FastAPI, user: dict[str, Any], token: str = ADMIN_TOKEN, **body: Any) -> httpx.Response:
    return await call(app, token, "PATCH", f"/users/{user['id']}", json=body)


# Sign-in


async def test_sign_in_returns_a_pair_of_tokens(app: FastAPI) -> None:
    user = await make_account(app)
    response = await try_to_sign_in(app, user["email"])
    pair = response.json()
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    assert {name: pair[name] for name in ("token_type", "expires_in", "scope")} == {
        "token_type": "bearer",
        "expires_in": 600,
        "scope": VIEWER,
    }
    assert pair["refresh_token"].startswith("prr_")
    me = await call(app, pair["access_token"], "GET", "/users/me")
    assert me.json() == {
        "id": user["id"],
        "code": None,
        "name": user["name"],
        "email": user["email"],
        "access_level": "viewer",
        "scopes": VIEWER.split(),
        "department": None,
    }


async def test_caller_sees_the_own_department(app: FastAPI, client: httpx.AsyncClient) -> None:
    department = await make_department(client, code="FIN", name="Finance")
    user = await make_account(app, department_id=department["id"])
    token = (await sign_in(app, user["email"]))["access_token"]
    me = (await call(app, token, "GET", "/users/me")).json()
    assert me["department"] == {"id": department["id"], "code": "FIN", "name": "Finance"}


async def test_email_is_compared_without_regard_to_case(app: FastAPI) -> None:
    user = await make_account(app, email="Ada@register.example")
    for email in (user["email"], "ada@REGISTER.example", "ADA@register.example"):
        assert (await try_to_sign_in(app, email)).status_code == 200
    await make_account(app, email="νίκος@register.example")
    for email in ("νίκοσ@register.example", "ΝΊΚΟΣ@REGISTER.EXAMPLE"):
        assert (await try_to_sign_in(app, email)).status_code == 200


async def test_session_has_only_the_requested_scopes(app: FastAPI) -> None:
    user = await make_account(app)
    pair = await sign_in(app, user["email"], scope="processes:read processes:write")
    assert pair["scope"] == "processes:read"
    me = (await call(app, pair["access_token"], "GET", "/users/me")).json()
    assert me["scopes"] == ["processes:read"]
    refreshed = (await refresh(app, pair["refresh_token"])).json()
    assert refreshed["scope"] == "processes:read"
    # A narrowed session cannot create a token with more scopes.
    body = {"name": "More", "scopes": ["processes:read", "users:read"]}
    refused = await call(app, pair["access_token"], "POST", "/users/me/tokens", json=body)
    assert (refused.status_code, refused.json()["scope"]) == (403, "users:read")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({}, [("/password", "missing"), ("/username", "missing")]),
        ({"username": "a", "password": "b", "scope": "all"}, [("/scope", "unknown_scope")]),
        ({"username": "a", "password": "b", "grant_type": "implicit"}, [("/grant_type", "literal_error")]),
        ({"username": "a" * 255, "password": "b" * 257}, [("/password", "too_long"), ("/username", "string_too_long")]),
        ({"username": "a\0", "password": "b"}, [("/username", "control_character")]),
    ],
)
async def test_invalid_form_is_rejected(app: FastAPI, form: dict[str, str], expected: list[tuple[str, str]]) -> None:
    response = await call(
        app, None, "POST", "/auth/token", data=form, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert response.status_code == 422
    assert sorted(faults(response)) == expected


@pytest.mark.parametrize("password", ["", "\0", "\u00e9" * 256, "wrong"])
async def test_any_other_password_is_wrong(app: FastAPI, password: str) -> None:
    user = await make_account(app)
    response = await try_to_sign_in(app, user["email"], password)
    assert (
        (response.status_code, response.json()["code"]) == (401, "wrong_credentials") if password else (422, "missing")
    )


async def unknown_user(_app: FastAPI) -> str:
    return "unknown@register.example"


async def with_another_password(app: FastAPI) -> str:
    return str((await make_account(app))["email"])


async def deactivated(app: FastAPI) -> str:
    user = await make_account(app)
    assert (await patch_user(app, user, is_active=False)).status_code == 200
    return str(user["email"])


async def without_password(app: FastAPI) -> str:
    async with client_from(app, token=ADMIN_TOKEN) as client:
        return str((await make_user(client))["email"])


# Causes of failed sign-ins, each with the password that is sent.
FAILURES = (
    (unknown_user, PASSWORD),
    (with_another_password, "wrong"),
    (deactivated, PASSWORD),
    (without_password, PASSWORD),
)


def anonymised(response: httpx.Response) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return a response without the parts that differ between requests."""
    headers = {name: value for name, value in response.headers.items() if name != "x-request-id"}
    return response.status_code, response.json() | {"request_id": ""}, headers


async def test_failed_sign_ins_are_indistinguishable(
    app: FastAPI, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasher = app.state.passwords._hasher
    app.state.passwords._dummy_hash  # noqa: B018 - computed by the first attempt of the process
    verified: list[str] = []

    class Counting:
        check_needs_rehash, hash = hasher.check_needs_rehash, hasher.hash

        @staticmethod
        def verify(known: str, password: str) -> bool:
            verified.append(known)
            return bool(hasher.verify(known, password))

    monkeypatch.setattr(app.state.passwords, "_hasher", Counting)
    responses, counts = [], []
    for cause, password in FAILURES:
        email = await cause(app)
        verified.clear()
        with statements.counted() as seen:
            response = await try_to_sign_in(app, email, password)
        responses.append(anonymised(response))
        counts.append((len(seen), len(verified), verified[0][:31]))
    assert counts == [(1, 1, "$argon2id$v=19$m=19456,t=2,p=1$")] * len(FAILURES)
    assert responses == [responses[0]] * len(FAILURES)
    status, body, headers = responses[0]
    assert (status, body["code"]) == (401, "wrong_credentials")
    assert headers["www-authenticate"] == 'Bearer realm="process-register"'


async def test_failures_leave_the_same_rows_behind(app: FastAPI) -> None:
    for cause, password in FAILURES:
        email = await cause(app)
        await sql(app, "DELETE FROM sign_in_attempts")
        await try_to_sign_in(app, email, password)
        assert [row.attempts for row in await sql(app, "SELECT attempts FROM sign_in_attempts")] == [1, 1, 1]


async def test_attempts_do_not_store_the_email(app: FastAPI) -> None:
    await try_to_sign_in(app, "unknown@register.example")
    for row in await sql(app, "SELECT key FROM sign_in_attempts"):
        assert "unknown" not in row.key


async def test_weaker_hash_is_replaced_at_sign_in(app: FastAPI) -> None:
    user = await make_account(app)
    weaker = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(PASSWORD)
    stored = "SELECT password_hash FROM credentials WHERE user_id = :id"
    await sql(app, "UPDATE credentials SET password_hash = :hash WHERE user_id = :id", hash=weaker, id=user["id"])
    assert (await try_to_sign_in(app, user["email"], "wrong")).status_code == 401
    assert (await sql(app, stored, id=user["id"]))[0].password_hash == weaker
    for _ in range(2):
        assert (await try_to_sign_in(app, user["email"])).status_code == 200
    (row,) = await sql(app, stored, id=user["id"])
    assert row.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_too_many_concurrent_hashes_are_rejected_with_retry_after(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object, **__: object) -> None:
        raise HashingBusy

    monkeypatch.setattr(app.state.passwords, "verify", busy)
    responses = [await try_to_sign_in(app, email) for email in (ADMIN_EMAIL, "unknown@register.example")]
    assert [anonymised(response) for response in responses] == [anonymised(responses[0])] * 2
    assert (responses[0].status_code, responses[0].json()["code"]) == (503, "hashing_busy")
    assert responses[0].headers["retry-after"] == "2"


# Throttling


@pytest.fixture
def throttled(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The application with low limits: 3 per address and account, 5 per account, 8 per address."""
    limits = {"sign_in_attempts": 3, "sign_in_attempts_per_account": 5, "sign_in_attempts_per_address": 8}
    monkeypatch.setitem(app.state._state, "settings", app.state.settings.model_copy(update=limits))
    return app


async def fail(app: FastAPI, email: str, times: int, address: str = STRANGERS[0]) -> list[int]:
    return [(await try_to_sign_in(app, email, "wrong", address)).status_code for _ in range(times)]


async def test_too_many_attempts_get_the_same_response_for_known_and_unknown_users(throttled: FastAPI) -> None:
    user = await make_account(throttled)
    responses: list[httpx.Response] = []
    for email, address in ((user["email"], STRANGERS[0]), ("unknown@register.example", STRANGERS[1])):
        assert await fail(throttled, email, 3, address) == [401] * 3
        responses += [await try_to_sign_in(throttled, email, each, address) for each in ("wrong", PASSWORD)]
    for response in responses:
        assert (response.status_code, response.json()["code"]) == (429, "too_many_requests")
        assert 600 < int(response.headers["retry-after"]) <= 900
        response.headers["retry-after"] = ""
    assert [anonymised(response) for response in responses] == [anonymised(responses[0])] * 4


async def test_refused_attempt_hashes_nothing(throttled: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await fail(throttled, ADMIN_EMAIL, 3) == [401] * 3
    monkeypatch.setattr(throttled.state.passwords, "_hasher", None)
    assert await fail(throttled, ADMIN_EMAIL, 1) == [429]


async def attempts(app: FastAPI) -> list[int]:
    return [row.attempts for row in await sql(app, "SELECT attempts FROM sign_in_attempts ORDER BY key")]


async def test_full_queue_counts_as_no_attempt(throttled: FastAPI) -> None:
    user = await make_account(throttled)
    token = (await sign_in(throttled, user["email"]))["access_token"]
    await sql(throttled, "DELETE FROM sign_in_attempts")
    with full_queue(throttled):
        assert await fail(throttled, user["email"], 10) == [503] * 10
        busy = [await try_to_sign_in(throttled, user["email"], address=STRANGERS[0]) for _ in range(10)]
        busy += [await change_password(throttled, token) for _ in range(10)]
        assert [response.json()["code"] for response in busy] == ["hashing_busy"] * 20
        assert await attempts(throttled) == []
    assert (await change_password(throttled, token)).status_code == 204
    signed_in = await try_to_sign_in(throttled, user["email"], NEW_PASSWORD, STRANGERS[0])
    assert signed_in.status_code == 200


async def test_full_queue_takes_no_other_attempt_off(throttled: FastAPI) -> None:
    assert await fail(throttled, ADMIN_EMAIL, 2) == [401] * 2
    with full_queue(throttled):
        assert await fail(throttled, ADMIN_EMAIL, 5) == [503] * 5
    assert await attempts(throttled) == [2, 2, 2]
    assert await fail(throttled, ADMIN_EMAIL, 2) == [401, 429]


async def test_blocked_attempt_needs_no_place(throttled: FastAPI) -> None:
    user = await make_account(throttled)
    token = (await sign_in(throttled, user["email"]))["access_token"]
    assert await fail(throttled, user["email"], 3, "127.0.0.1") == [401] * 3
    with full_queue(throttled):
        assert await fail(throttled, user["email"], 2, "127.0.0.1") == [429] * 2
        assert (await change_password(throttled, token)).json()["code"] == "too_many_requests"


async def test_queue_that_fills_up_between_two_checks_counts_as_no_attempt(
    throttled: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make_account(throttled)
    other = await throttled.state.passwords.hash(PASSWORD)
    verify, checked = throttled.state.passwords.verify, []

    async def replace_the_hash(*arguments: Any, **options: Any) -> Any:
        checked.append(arguments)
        if len(checked) == 2:
            raise HashingBusy
        check = await verify(*arguments, **options)
        await sql(throttled, "UPDATE credentials SET password_hash = :hash WHERE user_id = :id", hash=other, **user)
        return check

    monkeypatch.setattr(throttled.state.passwords, "verify", replace_the_hash)
    assert (await try_to_sign_in(throttled, user["email"])).json()["code"] == "hashing_busy"
    assert await attempts(throttled) == []


async def test_one_user_or_address_cannot_fill_the_queue(throttled: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(1)
    monkeypatch.setitem(throttled.state._state, "passwords", passwords)
    one, other = await make_account(throttled), await make_account(throttled)
    tokens = [(await sign_in(throttled, user["email"]))["access_token"] for user in (one, other)]
    link = await make_link(throttled, other)
    await sql(throttled, "DELETE FROM sign_in_attempts")
    for holder in (one["id"], STRANGERS[0]):
        passwords.places.take(holder, 50)
    assert passwords.places.free == 1
    for _ in range(5):
        busy = await change_password(throttled, tokens[0])
        assert (busy.status_code, busy.json()["code"]) == (429, "caller_busy")
        busy = await try_to_sign_in(throttled, one["email"], address=STRANGERS[0])
        assert (busy.status_code, busy.json()["code"]) == (503, "hashing_busy")
        async with client_from(throttled, STRANGERS[0]) as client:
            body = {"token": link, "password": "passwordpassword"}
            busy = await client.post("/auth/set-password", json=body)
        assert (busy.status_code, busy.json()["code"]) == (503, "hashing_busy")
    assert await attempts(throttled) == []
    assert (await try_to_sign_in(throttled, one["email"], address=STRANGERS[1])).status_code == 200
    assert (await change_password(throttled, tokens[1])).status_code == 204


async def test_attempt_that_is_cancelled_while_it_is_checked_counts(
    throttled: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make_account(throttled)
    hashing, released = threading.Event(), threading.Event()

    class Blocking:
        @staticmethod
        def hash(_password: str) -> str:
            hashing.set()
            released.wait()
            return ""

        @staticmethod
        def verify(*_: str) -> bool:
            raise AssertionError

    monkeypatch.setattr(throttled.state.passwords, "_hasher", Blocking)
    monkeypatch.delattr(throttled.state.passwords, "_dummy_hash", raising=False)
    try:
        task = asyncio.create_task(try_to_sign_in(throttled, user["email"], "wrong", STRANGERS[0]))
        assert await asyncio.to_thread(hashing.wait, HANG_TIMEOUT)
        task.cancel()
        assert (await task).status_code == 503
    finally:
        released.set()
    assert await attempts(throttled) == [1, 1, 1]


async def test_attempts_are_counted_by_address(throttled: FastAPI) -> None:
    emails = [f"unknown{number}@register.example" for number in range(10)]
    statuses = [(await fail(throttled, email, 1))[0] for email in emails]
    assert statuses == [401] * 8 + [429] * 2
    assert await fail(throttled, "unknown@register.example", 1, STRANGERS[1]) == [401]


async def test_addresses_of_one_network_share_a_counter(throttled: FastAPI) -> None:
    email = "unknown@register.example"
    assert await fail(throttled, email, 2, "2001:db8::1") == [401] * 2
    assert await fail(throttled, email, 2, "2001:db8::2") == [401, 429]
    assert await fail(throttled, email, 1, "2001:db8:0:1::1") == [401]


async def test_attempts_are_counted_by_account_ignoring_case(throttled: FastAPI) -> None:
    email = "unknown@register.example"
    assert await fail(throttled, email, 2, STRANGERS[0]) == [401] * 2
    assert await fail(throttled, email.upper(), 2, STRANGERS[1]) == [401] * 2
    assert await fail(throttled, email.title(), 2, STRANGERS[2]) == [401, 429]
    assert await fail(throttled, email, 1, STRANGERS[3]) == [429]


async def test_strangers_cannot_lock_out_the_owner(throttled: FastAPI) -> None:
    home, away = "192.0.2.7", "192.0.2.8"
    user = await make_account(throttled)
    await sign_in(throttled, user["email"], address=home)
    for address in STRANGERS[:2]:
        await fail(throttled, user["email"], 4, address)
    assert (await try_to_sign_in(throttled, user["email"], PASSWORD, STRANGERS[2])).status_code == 429
    # A familiar address is not blocked. Another address becomes familiar by a password link.
    assert (await try_to_sign_in(throttled, user["email"], PASSWORD, home)).status_code == 200
    assert (await try_to_sign_in(throttled, user["email"], PASSWORD, away)).status_code == 429
    link = await make_link(throttled, user)
    async with client_from(throttled, away) as client:
        body = {"token": link, "password": NEW_PASSWORD}
        assert (await client.post("/auth/set-password", json=body)).status_code == 200
    assert (await try_to_sign_in(throttled, user["email"], NEW_PASSWORD, away)).status_code == 200


async def test_failures_at_one_address_do_not_block_other_addresses(throttled: FastAPI) -> None:
    user = await make_account(throttled)
    # Attempts that are rejected with 429 do not count for the account.
    assert await fail(throttled, user["email"], 20, STRANGERS[0]) == [401] * 3 + [429] * 17
    assert (await try_to_sign_in(throttled, user["email"], PASSWORD, STRANGERS[1])).status_code == 200


async def test_address_stays_familiar_after_signing_out(throttled: FastAPI) -> None:
    user = await make_account(throttled)
    pair = await sign_in(throttled, user["email"], address="192.0.2.7")
    assert (await call(throttled, pair["access_token"], "POST", "/auth/logout-all")).status_code == 204
    for address in STRANGERS[:2]:
        await fail(throttled, user["email"], 4, address)
    assert (await try_to_sign_in(throttled, user["email"], PASSWORD, STRANGERS[2])).status_code == 429
    assert (await try_to_sign_in(throttled, user["email"], PASSWORD, "192.0.2.7")).status_code == 200


async def test_blocked_address_adds_no_rows(throttled: FastAPI) -> None:
    limit = throttled.state.settings.sign_in_attempts_per_address
    for number in range(3 * limit):
        await try_to_sign_in(throttled, f"unknown{number}@register.example", "wrong", STRANGERS[0])
    rows = await sql(throttled, "SELECT key FROM sign_in_attempts WHERE key LIKE '1 %'")
    assert len(rows) == limit


async def test_attempts_of_a_familiar_address_are_limited(throttled: FastAPI) -> None:
    user = await make_account(throttled)
    await sign_in(throttled, user["email"], address=STRANGERS[0])
    assert await fail(throttled, user["email"], 4) == [401] * 3 + [429]
    other = await make_account(throttled)
    assert await fail(throttled, other["email"], 1) == [401]


async def test_successful_sign_in_resets_the_counters(throttled: FastAPI) -> None:
    user = await make_account(throttled)
    for _ in range(10):
        assert (await try_to_sign_in(throttled, user["email"])).status_code == 200
    assert await fail(throttled, user["email"], 2) == [401] * 2
    assert (await try_to_sign_in(throttled, user["email"], PASSWORD, STRANGERS[0])).status_code == 200
    assert await fail(throttled, user["email"], 4) == [401] * 3 + [429]


async def test_own_account_does_not_give_an_attacker_more_attempts(throttled: FastAPI) -> None:
    attacker = await make_account(throttled)
    tried = []
    for number in range(9):
        tried += await fail(throttled, f"victim{number}@register.example", 1)
        await try_to_sign_in(throttled, attacker["email"], PASSWORD, STRANGERS[0])
    assert tried == [401] * 8 + [429]


async def test_throttling_ends_with_its_window(throttled: FastAPI) -> None:
    user = await make_account(throttled)
    assert await fail(throttled, user["email"], 4) == [401] * 3 + [429]
    await sql(throttled, "UPDATE sign_in_attempts SET ends_at = clock_timestamp() + interval '700 seconds'")
    response = await try_to_sign_in(throttled, user["email"], PASSWORD, STRANGERS[0])
    assert (response.status_code, 400 < int(response.headers["retry-after"]) <= 700) == (429, True)
    await sql(throttled, "UPDATE sign_in_attempts SET ends_at = clock_timestamp()")
    # Attempts that were rejected in the window do not count any more, either.
    assert await fail(throttled, user["email"], 4) == [401] * 3 + [429]
    await sql(throttled, "UPDATE sign_in_attempts SET ends_at = clock_timestamp()")
    assert (await try_to_sign_in(throttled, user["email"], PASSWORD, STRANGERS[0])).status_code == 200


async def test_guessing_the_old_password_is_throttled(throttled: FastAPI) -> None:
    user = await make_account(throttled)
    token = (await sign_in(throttled, user["email"]))["access_token"]
    statuses = [(await change_password(throttled, token, "wrong")).status_code for _ in range(4)]
    assert statuses == [422] * 3 + [429]
    refused = await change_password(throttled, token)
    assert (refused.status_code, refused.headers.get("retry-after") is not None) == (429, True)
    # Sign-in and change of password share the counter of account and address.
    assert (await try_to_sign_in(throttled, user["email"])).status_code == 429
    await sql(throttled, "UPDATE sign_in_attempts SET ends_at = clock_timestamp()")
    assert (await change_password(throttled, token)).status_code == 204


async def test_new_password_is_estimated_after_the_old_one_is_checked(
    throttled: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make_account(throttled)
    token = (await sign_in(throttled, user["email"]))["access_token"]
    with monkeypatch.context() as patch:
        patch.setattr(throttled.state.passwords, "weakness", None)
        statuses = [(await change_password(throttled, token, "wrong", "passwordpassword")).status_code for _ in "1234"]
        assert statuses == [422] * 3 + [429]
        unknown = await use_link(throttled, "prl_" + "a" * 43, "passwordpassword")
        assert unknown.json()["code"] == "spent_link"


async def test_weak_new_password_is_no_attempt(throttled: FastAPI) -> None:
    user = await make_account(throttled)
    token = (await sign_in(throttled, user["email"]))["access_token"]
    await change_password(throttled, token, "wrong")
    for _ in range(5):
        weak = await change_password(throttled, token, PASSWORD, "passwordpassword")
        assert weak.json()["code"] == "common_password"
    assert await attempts(throttled) == [0, 1, 0]  # the account's counter is not that of a familiar address
    assert (await change_password(throttled, token)).status_code == 204


# Sessions


async def test_sessions_are_listed_with_address_and_user_agent(app: FastAPI) -> None:
    user, other = await make_account(app), await make_account(app)
    await sign_in(app, other["email"])
    async with client_from(app, "2001:db8::7", **{"User-Agent": "Phone\t" + "x" * 300}) as phone:
        await phone.post("/auth/token", data={"username": user["email"], "password": PASSWORD, "scope": "users:read"})
    token = (await sign_in(app, user["email"], address="192.0.2.7"))["access_token"]
    listed = (await call(app, token, "GET", "/auth/sessions?count=exact")).json()
    assert (listed["total"], listed["next"], listed["prev"]) == (2, None, None)
    here, there = listed["items"]
    assert (here["address"], here["scopes"], here["current"]) == ("192.0.2.7", None, True)
    assert (there["address"], there["scopes"], there["current"]) == ("2001:db8::/64", ["users:read"], False)
    assert here["user_agent"].startswith("python-httpx/")
    assert (len(there["user_agent"]), there["user_agent"].startswith("Phone")) == (199, True)
    lasts = datetime.fromisoformat(here["expires_at"]) - datetime.fromisoformat(here["created_at"])
    assert lasts == timedelta(days=30)


async def test_only_own_sessions_can_be_ended(app: FastAPI) -> None:
    user, other = await make_account(app), await make_account(app, "admin")
    own_tokens = [(await sign_in(app, user["email"]))["access_token"] for _ in range(2)]
    other_token = (await sign_in(app, other["email"]))["access_token"]
    ids = [
        next(
            each["id"] for each in (await call(app, token, "GET", "/auth/sessions")).json()["items"] if each["current"]
        )
        for token in (*own_tokens, other_token)
    ]
    assert (await call(app, own_tokens[0], "DELETE", f"/auth/sessions/{ids[2]}")).status_code == 404
    assert (await call(app, other_token, "DELETE", f"/auth/sessions/{ids[0]}")).status_code == 404
    assert [await status_of(app, token) for token in (*own_tokens, other_token)] == [200, 200, 200]
    assert (await call(app, own_tokens[0], "DELETE", f"/auth/sessions/{ids[1]}")).status_code == 204
    assert [await status_of(app, token) for token in (*own_tokens, other_token)] == [200, 401, 200]
    assert (await call(app, own_tokens[0], "DELETE", f"/auth/sessions/{ids[1]}")).status_code == 404
    for unknown in ("0", "-1", "x", str(2**63), str(2**63 - 1)):
        assert (await call(app, own_tokens[0], "DELETE", f"/auth/sessions/{unknown}")).status_code == 404


async def test_signing_out_ends_this_session_and_its_refresh_token(app: FastAPI) -> None:
    user = await make_account(app)
    here, there = await sign_in(app, user["email"]), await sign_in(app, user["email"])
    assert (await call(app, here["access_token"], "POST", "/auth/logout")).status_code == 204
    assert [await status_of(app, pair["access_token"]) for pair in (here, there)] == [401, 200]
    assert [(await refresh(app, pair["refresh_token"])).status_code for pair in (here, there)] == [401, 200]


async def test_signing_out_everywhere_ends_all_own_sessions(app: FastAPI) -> None:
    user, other = await make_account(app), await make_account(app)
    own = [await sign_in(app, user["email"]) for _ in range(3)]
    others = await sign_in(app, other["email"])
    assert (await call(app, own[0]["access_token"], "POST", "/auth/logout-all")).status_code == 204
    for pair, status in ((own[0], 401), (own[1], 401), (own[2], 401), (others, 200)):
        assert await status_of(app, pair["access_token"]) == status
        assert (await refresh(app, pair["refresh_token"])).status_code == status


async def test_deactivation_takes_effect_immediately(app: FastAPI) -> None:
    user = await make_account(app)
    pair = await sign_in(app, user["email"])
    body = {"name": "Program", "scopes": ["processes:read"]}
    program = (await call(app, pair["access_token"], "POST", "/users/me/tokens", json=body)).json()["token"]
    assert [await status_of(app, token) for token in (pair["access_token"], program)] == [200, 200]
    assert (await patch_user(app, user, is_active=False)).status_code == 200
    assert [await status_of(app, token) for token in (pair["access_token"], program)] == [401, 401]
    assert (await refresh(app, pair["refresh_token"])).status_code == 401
    assert (await try_to_sign_in(app, user["email"])).status_code == 401


async def test_reactivated_user_signs_in_again(app: FastAPI) -> None:
    user = await make_account(app)
    pair = await sign_in(app, user["email"])
    for active in (False, True):
        await patch_user(app, user, is_active=active)
    assert await status_of(app, pair["access_token"]) == 401
    assert (await refresh(app, pair["refresh_token"])).status_code == 401
    assert (await try_to_sign_in(app, user["email"])).status_code == 200


async def test_new_access_level_applies_to_existing_tokens(app: FastAPI) -> None:
    user = await make_account(app)
    pair = await sign_in(app, user["email"])
    create = {"json": {"name": "Department"}}
    assert (await call(app, pair["access_token"], "POST", "/departments", **create)).status_code == 403
    await patch_user(app, user, access_level="editor")
    assert (await call(app, pair["access_token"], "POST", "/departments", **create)).status_code == 201
    assert "departments:write" in (await refresh(app, pair["refresh_token"])).json()["scope"].split()
    await patch_user(app, user, access_level="viewer")
    assert (await call(app, pair["access_token"], "POST", "/departments", **create)).status_code == 403


async def test_deleted_user_is_signed_out(app: FastAPI) -> None:
    user = await make_account(app)
    pair = await sign_in(app, user["email"])
    assert (await call(app, ADMIN_TOKEN, "DELETE", f"/users/{user['id']}")).status_code == 204
    assert await status_of(app, pair["access_token"]) == 401
    assert (await refresh(app, pair["refresh_token"])).status_code == 401
    for table in ("sessions", "credentials", "password_links"):
        assert await sql(app, f"SELECT * FROM {table} WHERE user_id = :id", id=user["id"]) == []


# Refresh tokens


async def test_refresh_returns_a_new_pair_for_the_same_session(app: FastAPI) -> None:
    user = await make_account(app)
    first = await sign_in(app, user["email"])
    await sql(app, "UPDATE sessions SET expires_at = now() + interval '1 day', last_used_at = now() - interval '1 day'")
    response = await refresh(app, first["refresh_token"])
    second = response.json()
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    assert second.keys() == first.keys()
    assert second["refresh_token"] != first["refresh_token"]
    assert [await status_of(app, pair["access_token"]) for pair in (first, second)] == [200, 200]
    listed = (await call(app, second["access_token"], "GET", "/auth/sessions")).json()["items"]
    assert len(listed) == 1
    assert datetime.fromisoformat(listed[0]["expires_at"]) - datetime.now(UTC) > timedelta(days=29)
    assert datetime.now(UTC) - datetime.fromisoformat(listed[0]["last_used_at"]) < timedelta(hours=1)
    assert (await refresh(app, second["refresh_token"])).status_code == 200


@pytest.mark.usefixtures("long_grace")
async def test_lost_response_is_repeated_within_the_grace_period(app: FastAPI) -> None:
    first = await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD)
    responses = [(await refresh(app, first["refresh_token"])).json() for _ in range(3)]
    assert len({response["refresh_token"] for response in responses}) == 1
    await sql(
        app, "UPDATE refresh_tokens SET spent_at = clock_timestamp() - interval '30 min' WHERE spent_at IS NOT NULL"
    )
    again = await refresh(app, first["refresh_token"])
    assert again.json()["refresh_token"] == responses[0]["refresh_token"]
    # The grace period does not start again.
    await sql(app, "UPDATE refresh_tokens SET spent_at = spent_at - interval '31 min'")
    assert (await refresh(app, first["refresh_token"])).status_code == 401


async def test_reuse_of_a_spent_token_ends_the_session_for_good(committed: Committed) -> None:
    app = committed.app
    first = await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD)
    elsewhere = await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD)
    second = (await refresh(app, first["refresh_token"])).json()
    third = (await refresh(app, second["refresh_token"])).json()
    await sql(app, "UPDATE refresh_tokens SET spent_at = spent_at - interval '11 seconds'")
    refused = await refresh(app, first["refresh_token"])
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert refused.headers["www-authenticate"] == 'Bearer realm="process-register", error="invalid_token"'
    for pair in (first, second, third):
        assert await status_of(app, pair["access_token"]) == 401
        assert (await refresh(app, pair["refresh_token"])).status_code == 401
    assert await status_of(app, elsewhere["access_token"]) == 200
    assert len(await sql(app, "SELECT id FROM sessions")) == 1
    assert len(await sql(app, "SELECT session_id FROM refresh_tokens")) == 1


async def test_expired_refresh_token_is_refused(app: FastAPI) -> None:
    pair = await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD)
    (row,) = await sql(app, "SELECT expires_at - now() AS lasts FROM refresh_tokens")
    assert row.lasts == timedelta(days=30)
    await sql(app, "UPDATE refresh_tokens SET expires_at = now()")
    assert (await refresh(app, pair["refresh_token"])).status_code == 401


# Passwords and links


async def test_changing_the_password_ends_the_other_sessions(app: FastAPI) -> None:
    user = await make_account(app)
    here, there = await sign_in(app, user["email"]), await sign_in(app, user["email"])
    link = await make_link(app, user)
    assert (await change_password(app, here["access_token"])).status_code == 204
    assert [await status_of(app, pair["access_token"]) for pair in (here, there)] == [200, 401]
    assert [(await refresh(app, pair["refresh_token"])).status_code for pair in (here, there)] == [200, 401]
    statuses = [(await try_to_sign_in(app, user["email"], each)).status_code for each in (PASSWORD, NEW_PASSWORD)]
    assert statuses == [401, 200]
    assert (await use_link(app, link, "one more password")).json()["code"] == "spent_link"


async def test_changing_the_password_needs_the_old_one(app: FastAPI) -> None:
    user = await make_account(app)
    token = (await sign_in(app, user["email"]))["access_token"]
    refused = await change_password(app, token, NEW_PASSWORD)
    assert (refused.status_code, faults(refused)) == (422, [("/old_password", "wrong_password")])
    assert (await try_to_sign_in(app, user["email"])).status_code == 200


async def test_password_is_set_by_a_link_once(app: FastAPI) -> None:
    user = await make_account(app)
    before = await sign_in(app, user["email"])
    link = await make_link(app, user)
    response = await use_link(app, link)
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    assert await status_of(app, response.json()["access_token"]) == 200
    assert await status_of(app, before["access_token"]) == 401
    again = await use_link(app, link, "one more password")
    assert (again.status_code, faults(again)) == (422, [("/token", "spent_link")])
    statuses = [(await try_to_sign_in(app, user["email"], each)).status_code for each in (PASSWORD, NEW_PASSWORD)]
    assert statuses == [401, 200]


async def test_first_password_is_set_by_a_link(app: FastAPI, client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    assert (await use_link(app, await make_link(app, user))).status_code == 200
    assert (await try_to_sign_in(app, user["email"], NEW_PASSWORD)).status_code == 200


async def test_link_lasts_a_day(app: FastAPI, client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    response = await make_password_link(client, user["id"])
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    (row,) = await sql(app, "SELECT expires_at, expires_at - now() AS lasts FROM password_links")
    assert (row.lasts, row.expires_at) == (timedelta(hours=24), datetime.fromisoformat(response.json()["expires_at"]))
    await sql(app, "UPDATE password_links SET expires_at = now()")
    assert faults(await use_link(app, response.json()["token"])) == [("/token", "spent_link")]


async def test_newer_link_replaces_the_older(app: FastAPI, client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    older, newer = await make_link(app, user), await make_link(app, user)
    assert faults(await use_link(app, older)) == [("/token", "spent_link")]
    assert (await use_link(app, newer)).status_code == 200


async def test_no_link_is_created_for_an_inactive_user(app: FastAPI, client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    link = await make_link(app, user)
    await patch_user(app, user, is_active=False)
    response = await make_password_link(client, user["id"])
    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    assert faults(await use_link(app, link)) == [("/token", "spent_link")]
    assert (await make_password_link(client, "0")).status_code == 404
    assert (await make_password_link(client, "code:absent")).status_code == 404


@pytest.mark.parametrize(
    "password",
    [
        "Password1234",
        "!!!qwertyuiop!!!",
        "aaaaaaaaaaaa",
        "ada.byron@register.example",
        "ADA.BYRON@register.example",
        "ada.byron1815",
    ],
)
async def test_common_password_is_refused_and_does_not_spend_the_link(app: FastAPI, password: str) -> None:
    user = await make_account(app, email="ada.byron@register.example")
    link = await make_link(app, user)
    refused = await use_link(app, link, password)
    assert (refused.status_code, refused.json()["code"]) == (422, "common_password")
    assert faults(refused) == [("/password", "common_password")]
    token = (await sign_in(app, user["email"]))["access_token"]
    refused = await change_password(app, token, PASSWORD, password)
    assert faults(refused) == [("/new_password", "common_password")]
    assert (await use_link(app, link)).status_code == 200


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("123456789012", "This password is too common."),
        ("passwordpassword", "This password repeats the same characters."),
        ("abcdefghijklmn", "This password is a sequence, such as abc or 321."),
        ("Process Register", "This password is derived from the name or the e-mail address of the user"),
        ("Ada Byron Lovelace", "This password is derived from the name or the e-mail address of the user"),
    ],
)
async def test_rejected_password_states_the_reason(app: FastAPI, password: str, reason: str) -> None:
    user = await make_account(app, name="Ada Byron Lovelace")
    refused = (await use_link(app, await make_link(app, user), password)).json()
    assert refused["detail"].startswith(reason)
    assert refused["errors"][0]["detail"] == refused["detail"]
    assert password not in refused["detail"]


async def test_existing_weak_password_still_signs_in(app: FastAPI) -> None:
    user, weak = await make_account(app), "password1234"
    stored = {"hash": await app.state.passwords.hash(weak), "id": user["id"]}
    await sql(app, "UPDATE credentials SET password_hash = :hash WHERE user_id = :id", **stored)
    token = (await sign_in(app, user["email"], weak))["access_token"]
    assert (await change_password(app, token, weak, NEW_PASSWORD)).status_code == 204


async def test_common_password_of_the_package_is_refused(app: FastAPI, client: httpx.AsyncClient) -> None:
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # noqa: PLC0415 - large, and needed by this test only

    long = [password for password in FREQUENCY_LISTS["passwords"] if len(password) >= 12 and password.isalpha()]
    assert len(long) > 10
    user = await make_user(client)
    link = await make_link(app, user)
    for password in (long[0], long[-1].upper(), f"{long[1]}2026!"):
        assert (await use_link(app, link, password)).json()["code"] == "common_password"


# Not a common password, so that only its length can be rejected.
def of_length(length: int) -> str:
    return ("x7!Kd92#mQp0 violet anvil " * 12)[:length]


@pytest.mark.parametrize(
    ("password", "fault"),
    [
        (of_length(11), "too_short"),
        (of_length(12), None),
        (of_length(256), None),
        (of_length(257), "too_long"),
        ("\u00e9\u00fc\u00f8\u4e2d\U0001f511 and more", None),
        ("nul \0 in the middle", None),
        ("\ud800 in a long password", "surrogate"),
    ],
)
async def test_password_has_12_to_256_characters(app: FastAPI, password: str, fault: str | None) -> None:
    user = await make_account(app)
    link = await make_link(app, user)
    token = (await sign_in(app, user["email"]))["access_token"]
    json_type = {"Content-Type": "application/json"}
    quoted = json.dumps(password)
    body = f'{{"old_password": "{PASSWORD}", "new_password": {quoted}}}'
    changed = await call(app, token, "POST", "/users/me/password", content=body, headers=json_type)
    body = f'{{"token": "{link}", "password": {quoted}}}'
    if fault is None:
        assert (changed.status_code, changed.text) == (204, "")
        link = await make_link(app, user)
        body = f'{{"token": "{link}", "password": {quoted}}}'
        assert (await call(app, None, "POST", "/auth/set-password", content=body, headers=json_type)).status_code == 200
        assert (await try_to_sign_in(app, user["email"], password)).status_code == 200
    else:
        assert (changed.status_code, faults(changed)) == (422, [("/new_password", fault)])
        response = await call(app, None, "POST", "/auth/set-password", content=body, headers=json_type)
        assert (response.status_code, faults(response)) == (422, [("/password", fault)])
        words = {
            "too_short": "at least 12 characters.",
            "too_long": "at most 256 characters.",
            "surrogate": "surrogates.",
        }
        assert response.json()["errors"][0]["detail"].endswith(words[fault])


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        ("/auth/refresh", "refresh_token", {}),
        ("/auth/set-password", "token", {"password": NEW_PASSWORD}),
        ("/users/me/password", "old_password", {"new_password": NEW_PASSWORD}),
    ],
)
@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ('"\\ud800"', "surrogate"),
        (f'"{"x" * 257}"', "too_long"),
        ("1", "string_type"),
        ("null", "null_not_allowed"),
        ("[]", "string_type"),
    ],
)
async def test_invalid_secret_is_rejected(
    app: FastAPI, path: str, field: str, body: dict[str, str], value: str, fault: str
) -> None:
    token = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
    members = [f'"{name}": "{member}"' for name, member in body.items()] + [f'"{field}": {value}']
    content = "{" + ", ".join(members) + "}"
    response = await call(app, token, "POST", path, content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, faults(response)) == (422, [(f"/{field}", fault)])


@pytest.mark.parametrize("token", ["", "prl_", "x" * 128, "prl_" + "0" * 49, "\u00e9", "\0"])
async def test_invented_link_or_refresh_token_is_rejected(app: FastAPI, token: str) -> None:
    assert faults(await use_link(app, token)) == [("/token", "spent_link")]
    assert (await refresh(app, token)).status_code == 401


# API tokens


async def test_api_token_is_shown_once(app: FastAPI) -> None:
    user = await make_account(app)
    signed_in = (await sign_in(app, user["email"]))["access_token"]
    body = {"name": "Export", "scopes": ["users:read", "processes:read", "users:read"], "expires_in_days": 365}
    response = await call(app, signed_in, "POST", "/users/me/tokens", json=body)
    made = response.json()
    assert (response.status_code, response.headers["cache-control"]) == (201, "no-store")
    brief = {"id": user["id"], "code": None, "name": user["name"]}
    assert (made["name"], made["scopes"], made["user"]) == ("Export", ["processes:read", "users:read"], brief)
    lasts = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert lasts == timedelta(days=365)
    me = (await call(app, made["token"], "GET", "/users/me")).json()
    assert (me["id"], me["scopes"]) == (user["id"], ["processes:read", "users:read"])
    for path, token in (("/users/me/tokens", signed_in), ("/api-tokens?limit=1", ADMIN_TOKEN)):
        listed = await call(app, token, "GET", path)
        (item,) = listed.json()["items"]
        # The formats of instants differ in the number of digits.
        for name in ("created_at", "expires_at"):
            assert item.pop(name) == made[name]
        assert (made["last_used_at"], item.pop("last_used_at") is None) == (None, False)  # used meanwhile
        assert item == {name: made[name] for name in ("id", "name", "scopes", "user")}
        assert made["token"] not in listed.text


@pytest.mark.parametrize(
    ("changes", "pointer", "fault"),
    [
        ({"expires_in_days": 366}, "/expires_in_days", "less_than_equal"),
        ({"expires_in_days": 0}, "/expires_in_days", "greater_than_equal"),
        ({"scopes": []}, "/scopes", "too_short"),
        ({"scopes": ["all"]}, "/scopes/0", "literal_error"),
        ({"name": " "}, "/name", "string_too_short"),
        ({"user_id": 1}, "/user_id", "extra_forbidden"),
    ],
)
async def test_invalid_api_token_is_rejected(app: FastAPI, changes: dict[str, Any], pointer: str, fault: str) -> None:
    token = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
    body = {"name": "Export", "scopes": ["users:read"]} | changes
    response = await call(app, token, "POST", "/users/me/tokens", json=body)
    assert (response.status_code, faults(response)) == (422, [(pointer, fault)])


async def test_api_token_cannot_exceed_the_scopes_of_its_creator(app: FastAPI) -> None:
    user = await make_account(app, "editor")
    token = (await sign_in(app, user["email"]))["access_token"]
    for scopes in (["users:write"], ["admin"], ["admin", "users:write"]):
        body = {"name": "More", "scopes": ["processes:write", *scopes]}
        response = await call(app, token, "POST", "/users/me/tokens", json=body)
        assert (response.status_code, response.json()["scope"].split()) == (403, scopes)
    assert (await call(app, token, "GET", "/users/me/tokens")).json()["items"] == []


async def test_users_revoke_their_own_api_tokens_and_administrators_revoke_any(app: FastAPI) -> None:
    first, second = await make_account(app, "admin"), await make_account(app)
    tokens = [(await sign_in(app, user["email"]))["access_token"] for user in (first, second)]
    body = {"name": "Program", "scopes": ["users:read"]}
    made = [(await call(app, token, "POST", "/users/me/tokens", json=body)).json() for token in (*tokens, tokens[1])]
    for token, other in ((tokens[0], made[1]), (tokens[1], made[0])):
        assert (await call(app, token, "DELETE", f"/users/me/tokens/{other['id']}")).status_code == 404
    assert (await call(app, tokens[1], "DELETE", f"/users/me/tokens/{made[1]['id']}")).status_code == 204
    assert (await call(app, tokens[0], "DELETE", f"/api-tokens/{made[2]['id']}")).status_code == 204
    assert [await status_of(app, each["token"]) for each in made] == [200, 401, 401]
    assert (await call(app, tokens[0], "DELETE", f"/api-tokens/{made[2]['id']}")).status_code == 404


# Administrators


async def test_last_administrator_cannot_be_demoted_or_deactivated(app: FastAPI) -> None:
    (row,) = await sql(app, "SELECT id, email FROM users WHERE access_level = 'admin'")
    admin = {"id": row.id}
    for body, pointer in (({"access_level": "editor"}, "/access_level"), ({"is_active": False}, "/is_active")):
        refused = await patch_user(app, admin, **body)
        assert (refused.status_code, refused.json()["code"]) == (409, "last_administrator")
        assert faults(refused) == [(pointer, "last_administrator")]
    whole = {"name": "Replaced", "email": row.email, "access_level": "viewer"}
    refused = await call(app, ADMIN_TOKEN, "PUT", f"/users/{row.id}", json=whole)
    assert (refused.status_code, refused.json()["code"]) == (409, "last_administrator")
    # Inactive administrators do not count.
    other = await make_account(app, "admin", is_active=False)
    assert (await patch_user(app, admin, is_active=False)).json()["code"] == "last_administrator"
    await patch_user(app, other, is_active=True)
    assert (await patch_user(app, admin, access_level="viewer")).status_code == 200
    token = (await sign_in(app, other["email"]))["access_token"]
    assert (await patch_user(app, other, token, is_active=False)).json()["code"] == "last_administrator"


async def test_last_administrator_cannot_be_deleted(app: FastAPI) -> None:
    other = await make_account(app, "admin")
    token = (await sign_in(app, other["email"]))["access_token"]
    (first,) = await sql(app, "SELECT id FROM users WHERE created_by_id IS NULL")
    assert (await patch_user(app, {"id": first.id}, token, access_level="viewer")).status_code == 200
    # Without references, only the rule of the last administrator prevents the deletion.
    await sql(app, "UPDATE users SET updated_by_id = NULL")
    refused = await call(app, token, "DELETE", f"/users/{other['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "last_administrator")


async def test_administrators_are_created_and_changed_with_the_scope_admin_only(app: FastAPI) -> None:
    user, admin = await make_account(app), await make_account(app, "admin")
    scopes = " ".join(sorted(SCOPES.keys() - {"admin"}))
    token = (await sign_in(app, admin["email"], scope=scopes))["access_token"]
    body = {"name": "Made", "email": "made@register.example"}
    refusals = [
        await call(app, token, "POST", "/users", json=body | {"access_level": "admin"}),
        await patch_user(app, user, token, access_level="admin"),
        await call(app, token, "PUT", f"/users/{user['id']}", json=body | {"access_level": "admin"}),
        await patch_user(app, admin, token, access_level="viewer"),
        await patch_user(app, admin, token, is_active=False),
        await patch_user(app, admin, token, email="mine@attacker.example"),
        await call(app, token, "PUT", f"/users/{admin['id']}", json=body),
        await call(app, token, "DELETE", f"/users/{admin['id']}"),
        await call(app, token, "POST", f"/users/{admin['id']}/password-links"),
        await call(app, token, "GET", f"/users/{admin['id']}/changes"),
    ]
    assert [(each.status_code, each.json().get("scope")) for each in refusals] == [(403, "admin")] * len(refusals)
    assert (await call(app, token, "POST", "/users", json=body)).status_code == 201
    assert (await patch_user(app, user, token, access_level="editor")).status_code == 200


async def test_narrowed_administrator_cannot_widen_the_own_scopes_by_a_link(app: FastAPI) -> None:
    admin, viewer = await make_account(app, "admin"), await make_account(app)
    whole = (await sign_in(app, admin["email"]))["access_token"]
    body = {"name": "Prometheus", "scopes": ["admin"]}
    program = (await call(app, whole, "POST", "/users/me/tokens", json=body)).json()["token"]
    narrow = (await sign_in(app, admin["email"], scope="admin"))["access_token"]
    for token, scopes in ((program, ("session", "session")), (narrow, ("changes:read",) * 2)):
        for user, scope in zip((admin, viewer), scopes, strict=True):
            refused = await call(app, token, "POST", f"/users/{user['id']}/password-links")
            assert (refused.status_code, refused.json()["scope"].split()[0]) == (403, scope)
    readers = " ".join(["admin", *scopes_of("viewer")])
    reader = (await sign_in(app, admin["email"], scope=readers))["access_token"]
    assert (await call(app, reader, "POST", f"/users/{viewer['id']}/password-links")).status_code == 201
    assert (await call(app, reader, "POST", f"/users/{admin['id']}/password-links")).status_code == 403
    # The caller cannot grant missing scopes to another user and then use the link of that user.
    writers = f"{readers} users:write"
    writer = (await sign_in(app, admin["email"], scope=writers))["access_token"]
    for level in ("editor", "admin"):
        refused = await patch_user(app, viewer, writer, access_level=level)
        missing = sorted(scopes_of(level) - {*scopes_of("viewer"), "admin", "users:write"})
        assert (refused.status_code, refused.json()["scope"].split()) == (403, missing)


@pytest.mark.parametrize("level", ["viewer", "editor"])
async def test_user_cannot_raise_the_own_access_level(app: FastAPI, level: str) -> None:
    user = await make_account(app, level)
    token = (await sign_in(app, user["email"]))["access_token"]
    refused = await patch_user(app, user, token, access_level="admin")
    assert (refused.status_code, refused.json()["scope"]) == (403, "users:write")
    assert (await call(app, token, "GET", "/users/me")).json()["access_level"] == level


# Statements

# The statement that authenticates the caller.
CALLER = 1


async def test_number_of_statements_is_fixed(app: FastAPI, statements: Statements) -> None:
    user = await make_account(app, "admin")
    pair = await sign_in(app, user["email"])
    other = await sign_in(app, user["email"])
    token = pair["access_token"]
    link = await make_link(app, user)
    body = {"name": "Program", "scopes": ["users:read"]}
    made = [(await call(app, token, "POST", "/users/me/tokens", json=body)).json() for _ in range(2)]
    sessions = (await call(app, token, "GET", "/auth/sessions")).json()["items"]
    ended = next(session["id"] for session in sessions if not session["current"])
    form = {"data": {"username": user["email"], "password": PASSWORD}}
    wrong = {"data": {"username": user["email"], "password": "wrong"}}
    passwords = {"json": {"old_password": PASSWORD, "new_password": NEW_PASSWORD}}
    expected: list[tuple[str, str, dict[str, Any], int, int]] = [
        ("POST", "/auth/token", form, 200, 2),
        ("POST", "/auth/token", wrong, 401, 1),
        ("POST", "/auth/refresh", {"json": {"refresh_token": other["refresh_token"]}}, 200, 1),
        ("POST", "/auth/refresh", {"json": {"refresh_token": other["refresh_token"]}}, 200, 1),
        ("POST", "/auth/refresh", {"json": {"refresh_token": "prr_garbage"}}, 401, 0),
        ("GET", "/users/me", {}, 200, 1 + CALLER),
        ("GET", "/auth/sessions", {}, 200, 1 + CALLER),
        ("GET", "/auth/sessions?count=exact", {}, 200, 2 + CALLER),
        ("DELETE", f"/auth/sessions/{ended}", {}, 204, 1 + CALLER),
        ("GET", "/users/me/tokens", {}, 200, 1 + CALLER),
        ("POST", "/users/me/tokens", {"json": body}, 201, 2 + CALLER),
        ("DELETE", f"/users/me/tokens/{made[0]['id']}", {}, 204, 1 + CALLER),
        ("GET", "/api-tokens", {}, 200, 1 + CALLER),
        ("DELETE", f"/api-tokens/{made[1]['id']}", {}, 204, 1 + CALLER),
        ("POST", f"/users/{user['id']}/password-links", {}, 201, 3 + CALLER),
        ("POST", "/users/me/password", passwords, 204, 5 + CALLER),
        ("POST", "/auth/logout", {}, 204, 1 + CALLER),
    ]
    counts = []
    for method, path, arguments, status, _ in expected:
        with statements.counted() as seen:
            response = await call(app, token, method, path, **arguments)
        assert response.status_code == status, (path, response.text)
        counts.append((method, path, len(seen)))
    assert counts == [(method, path, number) for method, path, _, _, number in expected]
    link = await make_link(app, user)
    with statements.counted() as seen:
        again = (await use_link(app, link)).json()["access_token"]
    assert len(seen) == 4
    with statements.counted() as seen:
        assert (await call(app, again, "POST", "/auth/logout-all")).status_code == 204
    assert len(seen) == 1 + CALLER


async def test_cached_caller_takes_no_statement(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "time", SimpleNamespace(monotonic=lambda: 1000.0, time=time.time))
    app = create_app(settings_for(committed.url, caller_cache_seconds=1))
    token = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
    found = [await app.state.authenticator._identify(token) for _ in range(2)]
    assert found[0] is found[1]
    await app.state.database.dispose()
