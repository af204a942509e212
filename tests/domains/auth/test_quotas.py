"""The rows that one user can make have limits, which hold for concurrent requests. Everything is committed."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.domains.auth import sign_in as sign_in_module
from app.domains.auth.service import MAX_API_TOKENS
from app.domains.auth.statements import EXPIRED_PER_ATTEMPT
from app.domains.shared.idempotency.store import MAX_KEYS, MAX_STORED_BYTES_OF_USER
from tests.builders import admin_session
from tests.conftest import ADMIN_PASSWORD, Committed, connected
from tests.domains.auth.conftest import ADMIN_EMAIL, call, make_account, refresh, sign_in, sql, try_to_sign_in

CONCURRENT = 20
MAX_SESSIONS, MAX_ADDRESSES, MAX_PLANS = 100, 100, 5
ADMIN = "(SELECT min(id) FROM users)"


async def send_at_once(send: Callable[[int], Awaitable[httpx.Response]]) -> list[int]:
    """Send concurrent requests and return their statuses."""
    return [response.status_code for response in await asyncio.gather(*(send(number) for number in range(CONCURRENT)))]


async def count(app: FastAPI, table: str) -> int:
    rows = await sql(app, f"SELECT count(*) AS number FROM {table}")
    number: int = rows[0].number
    return number


def plan_of(client: httpx.AsyncClient) -> Callable[[int], Awaitable[httpx.Response]]:
    async def plan(number: int) -> httpx.Response:
        headers = {"Content-Type": "application/x-ndjson"}
        body = f'{{"name": "Planned {number}"}}'
        return await client.post("/roles/import?dry_run=true", content=body, headers=headers)

    return plan


async def test_concurrent_requests_cannot_exceed_the_number_of_api_tokens(committed: Committed) -> None:
    app, headers = committed.app, await admin_session(committed.client)
    await sql(
        app,
        "INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at) "
        f"SELECT {ADMIN}, n, decode(md5(n::text), 'hex'), '{{}}', now() + interval '1 hour' "
        "FROM generate_series(1, :number) AS n",
        number=MAX_API_TOKENS - 1 - await count(app, "api_tokens"),
    )
    expired = "UPDATE api_tokens SET expires_at = now() - interval '1 hour' WHERE name = '1'"

    async def create(number: int) -> httpx.Response:
        body = {"name": f"Token {number}", "scopes": ["roles:read"]}
        return await committed.client.post("/users/me/tokens", json=body, headers=headers)

    assert sorted(await send_at_once(create)) == [201] + [409] * (CONCURRENT - 1)
    assert await count(app, "api_tokens") == MAX_API_TOKENS
    response = await create(0)
    assert (response.status_code, response.json()["code"]) == (409, "too_many_tokens")
    # An expired token does not count.
    await sql(app, expired)
    assert (await create(1)).status_code == 201


async def test_concurrent_sign_ins_cannot_exceed_the_number_of_sessions(committed: Committed) -> None:
    app = committed.app
    await sql(
        app,
        "INSERT INTO sessions (user_id, address, expires_at, last_used_at, user_agent) "
        f"SELECT {ADMIN}, 'tests', now() + interval '1 day', now() - n * interval '1 hour', n "
        "FROM generate_series(1, :number) AS n",
        number=MAX_SESSIONS - 1,
    )

    async def enter(number: int) -> httpx.Response:
        return await try_to_sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD, f"192.0.2.{number}")

    assert await send_at_once(enter) == [200] * CONCURRENT
    assert await count(app, "sessions") == MAX_SESSIONS
    # The sessions that were not used for longest have ended.
    oldest = await sql(app, "SELECT max(user_agent::int) AS oldest FROM sessions WHERE address = 'tests'")
    assert oldest[0].oldest == MAX_SESSIONS - CONCURRENT


@pytest.mark.parametrize("others", [5, MAX_SESSIONS, MAX_SESSIONS + 5])
async def test_sign_in_locks_no_session_that_stays(committed: Committed, others: int) -> None:
    async with connected(committed.url) as signing_in, connected(committed.url) as refreshing:
        insert = (
            "INSERT INTO sessions (user_id, address, expires_at, last_used_at, user_agent) "
            f"SELECT {ADMIN}, 'tests', now() + interval '1 day', now() - n * interval '1 hour', n FROM "
        )
        await signing_in.execute(f"{insert} generate_series(1, {others}) AS n")
        async with signing_in.transaction():
            await signing_in.execute(f"{insert} generate_series(0, 0) AS n")
            await refreshing.execute("SET lock_timeout = '1s'")
            lock = "SELECT id FROM sessions WHERE user_agent::int > 0 FOR UPDATE SKIP LOCKED"
            unlocked = len(await refreshing.fetch(lock))
        assert unlocked == min(others, MAX_SESSIONS - 1)
        # None but the newest are left.
        left = await refreshing.fetchval("SELECT max(user_agent::int) FROM sessions WHERE address = 'tests'")
        assert left == min(others, MAX_SESSIONS - 1)


async def test_concurrent_sign_ins_cannot_exceed_the_number_of_familiar_addresses(committed: Committed) -> None:
    app = committed.app
    await sql(
        app,
        "INSERT INTO familiar_addresses (user_id, address, last_used_at) "
        f"SELECT {ADMIN}, n, now() - n * interval '1 hour' FROM generate_series(1, :number) AS n",
        number=MAX_ADDRESSES - 1,
    )

    async def enter(number: int) -> httpx.Response:
        return await try_to_sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD, f"192.0.2.{number + 1}")

    assert await send_at_once(enter) == [200] * CONCURRENT
    assert await count(app, "familiar_addresses") == MAX_ADDRESSES
    # A known address replaces none.
    assert await send_at_once(enter) == [200] * CONCURRENT
    assert await count(app, "familiar_addresses") == MAX_ADDRESSES
    assert await count(app, "familiar_addresses WHERE address LIKE '192.0.2.%'") == CONCURRENT


async def test_concurrent_requests_cannot_exceed_the_number_of_plans(committed: Committed) -> None:
    plan = plan_of(committed.client)
    for number in range(MAX_PLANS - 1):
        assert (await plan(number)).status_code == 200
    assert await send_at_once(plan) == [200] * CONCURRENT
    assert await count(committed.app, "import_plans") == MAX_PLANS


async def test_plans_of_one_user_do_not_replace_those_of_another(committed: Committed) -> None:
    await sql(
        committed.app,
        "INSERT INTO import_plans (id, user_id, collection, options, file, basis, expires_at) "
        "SELECT gen_random_uuid(), n, 'roles', '{}', '', '', now() FROM generate_series(1000, 1020) AS n",
    )
    await send_at_once(plan_of(committed.client))
    assert await count(committed.app, "import_plans WHERE user_id >= 1000") == 21


async def test_documentation_has_the_limits_of_the_triggers(committed: Committed, root: Path) -> None:
    rows = await sql(
        committed.app,
        "SELECT tgrelid::regclass::text AS name, split_part(encode(tgargs, 'escape'), '\\', 1) AS number "
        "FROM pg_trigger WHERE tgname = 'keep_newest_rows' ORDER BY 1",
    )
    page = (root / "docs" / "02-sqlalchemy.md").read_text("utf-8")
    section = page.partition("\n## Quotas\n")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| (?:trigger|as for)", section, re.MULTILINE)
    assert sorted(documented) == [(row.name, row.number) for row in rows]
    limits = {"sessions": MAX_SESSIONS, "familiar_addresses": MAX_ADDRESSES, "import_plans": MAX_PLANS}
    assert dict(documented) == {name: str(limit) for name, limit in limits.items()}


async def set_usage(app: FastAPI, responses: int, size: int, ends_in: str = "1 hour") -> None:
    await sql(
        app,
        f"INSERT INTO idempotency_usage SELECT {ADMIN}, :responses, :size, now() + CAST(:ends_in AS text)::interval "
        "ON CONFLICT (user_id) DO UPDATE SET responses = :responses, bytes = :size, ends_at = excluded.ends_at",
        responses=responses,
        size=size,
        ends_in=ends_in,
    )


def create_with_key(client: httpx.AsyncClient) -> Callable[[int], Awaitable[httpx.Response]]:
    async def create(number: int) -> httpx.Response:
        return await client.post("/roles", json={"name": f"Role {number}"}, headers={"Idempotency-Key": f"k{number}"})

    return create


async def test_concurrent_requests_cannot_exceed_the_number_of_keys(committed: Committed) -> None:
    create = create_with_key(committed.client)
    await set_usage(committed.app, MAX_KEYS - 1, 0)
    statuses = await send_at_once(create)
    assert sorted(statuses) == [201] + [409] * (CONCURRENT - 1)
    # Nothing was written without a stored response, and a repeat still returns it.
    assert await count(committed.app, "roles") == await count(committed.app, "idempotency_keys") == 1
    repeat = await create(statuses.index(201))
    assert (repeat.status_code, repeat.headers["Idempotency-Replayed"]) == (201, "true")
    refused = await create(statuses.index(409))
    assert refused.json()["code"] == "too_many_keys"
    # Errors are stored, and counted, as well.
    missing = await committed.client.patch("/roles/999", json={"name": "R"}, headers={"Idempotency-Key": "missing"})
    assert missing.json()["code"] == "too_many_keys"


async def test_keys_are_counted_for_24_hours(committed: Committed) -> None:
    create = create_with_key(committed.client)
    await set_usage(committed.app, MAX_KEYS, MAX_STORED_BYTES_OF_USER, "-1 second")
    assert (await create(1)).status_code == 201
    size = (await sql(committed.app, "SELECT octet_length(body) AS size FROM idempotency_keys"))[0].size
    usage = "SELECT responses, bytes, ends_at > now() + interval '23 hours' AS lasts FROM idempotency_usage"
    assert await sql(committed.app, usage) == [(1, size, True)]


async def test_bodies_beyond_the_size_for_one_user_are_not_stored(committed: Committed) -> None:
    create = create_with_key(committed.client)
    assert (await create(1)).status_code == 201
    size = (await sql(committed.app, "SELECT octet_length(body) AS size FROM idempotency_keys"))[0].size
    await set_usage(committed.app, 1, MAX_STORED_BYTES_OF_USER - 3 * size)
    await sql(committed.app, "DELETE FROM idempotency_keys")
    assert await send_at_once(create) == [201] * CONCURRENT
    assert await count(committed.app, "idempotency_keys") == CONCURRENT
    stored = await sql(
        committed.app, "SELECT sum(octet_length(body)) <= :size AS fits FROM idempotency_keys", size=3 * size
    )
    assert stored == [(True,)]
    codes = [(await create(number)).json().get("code") for number in range(CONCURRENT)]
    assert codes.count("answer_too_large") >= CONCURRENT - 3
    assert await count(committed.app, "roles") == CONCURRENT + 1


@pytest.mark.usefixtures("long_grace")
async def test_session_with_too_many_refreshes_ends(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in_module, "MAX_REFRESH_TOKENS", 3)
    app = committed.app
    pair = await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD)
    for _ in range(2):
        responses = await asyncio.gather(*(refresh(app, pair["refresh_token"]) for _ in range(CONCURRENT)))
        assert {response.status_code for response in responses} == {200}
        pair = responses[0].json()
    assert await count(app, "refresh_tokens") == 3
    assert (await refresh(app, pair["refresh_token"])).status_code == 401
    assert await count(app, "refresh_tokens") == await count(app, "sessions") == 0
    assert (await call(app, pair["access_token"], "GET", "/users/me")).status_code == 401


async def test_user_has_one_password_link(committed: Committed) -> None:
    user = await make_account(committed.app)
    headers = await admin_session(committed.client)
    path = f"/users/{user['id']}/password-links"
    assert await send_at_once(lambda _: committed.client.post(path, headers=headers)) == [201] * CONCURRENT
    assert await count(committed.app, "password_links") == 1


EXPIRED = """
    INSERT INTO sign_in_attempts SELECT 'old ' || n, 1, now() - interval '1 minute' FROM generate_series(1, 100) AS n
"""


async def keys(app: FastAPI) -> Sequence[Any]:
    return [row.key for row in await sql(app, "SELECT key FROM sign_in_attempts ORDER BY key")]


async def test_attempts_delete_more_expired_counters_than_they_add(committed: Committed) -> None:
    app = committed.app
    await sql(app, EXPIRED)

    async def fail(number: int) -> httpx.Response:
        return await try_to_sign_in(app, f"stranger{number}@register.example", address=f"192.0.2.{number}")

    assert await send_at_once(fail) == [401] * CONCURRENT
    left = await keys(app)
    assert len([key for key in left if key.startswith("old")]) == 100 - EXPIRED_PER_ATTEMPT * CONCURRENT
    assert len(left) <= 100 - CONCURRENT
    # An expired counter that the attempt itself uses is used again.
    await sql(app, "UPDATE sign_in_attempts SET ends_at = now() - interval '1 minute'")
    await fail(0)
    live = await sql(app, "SELECT attempts FROM sign_in_attempts WHERE ends_at > now()")
    assert live == [(1,)] * 3


async def test_attempt_does_not_wait_for_a_locked_expired_counter(committed: Committed) -> None:
    app = committed.app
    await sql(app, EXPIRED)
    async with connected(committed.url) as other, other.transaction():
        await other.execute("SELECT FROM sign_in_attempts FOR UPDATE")
        response = await try_to_sign_in(app, "stranger@register.example")
        assert response.status_code == 401
    assert len([key for key in await keys(app) if key.startswith("old")]) == 100
