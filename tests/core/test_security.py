"""Authentication: cached callers, client addresses, and change messages."""

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.http import authorisation as security
from app.core.http.authorisation import client_address
from app.core.tokens import Tokens
from app.main import create_app
from tests.builders import make
from tests.catalogue import COLLECTIONS, every_collection
from tests.conftest import ADMIN_PASSWORD, ADMIN_TOKEN, Committed, settings_for
from tests.domains.auth.conftest import (
    ADMIN_EMAIL,
    NEW_PASSWORD,
    PASSWORD,
    call,
    make_account,
    make_link,
    sign_in,
    sql,
    status_of,
    use_link,
)


def request_from(host: str | None) -> Request:
    return Request({"type": "http", "client": None if host is None else (host, 50_000)})


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_client_address_covers_one_customer(host: str | None, address: str) -> None:
    assert client_address(request_from(host)) == address


class Clock:
    """The monotonic clock of the caller cache. Only tests advance it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(security, "time", SimpleNamespace(monotonic=clock.monotonic, time=time.time))
    return clock


@asynccontextmanager
async def replicas(committed: Committed) -> AsyncIterator[tuple[FastAPI, FastAPI]]:
    """Yield two applications on one database, which both remember callers for a second."""
    apps = [create_app(settings_for(committed.url, caller_cache_seconds=1)) for _ in range(2)]
    yield apps[0], apps[1]
    for app in apps:
        await app.state.database.dispose()


async def test_change_on_one_replica_takes_effect_on_another_within_a_second(
    committed: Committed, clock: Clock
) -> None:
    async with replicas(committed) as (here, there):
        users = {
            name: await make_account(here, "admin") for name in ("deactivated", "demoted", "changed", "linked", "out")
        }
        tokens = {name: (await sign_in(here, user["email"]))["access_token"] for name, user in users.items()}
        body = {"name": "Program", "scopes": ["processes:read"]}
        made = (await call(here, tokens["deactivated"], "POST", "/users/me/tokens", json=body)).json()
        program = {"program of the deactivated": made["token"]}
        made = (await call(here, tokens["demoted"], "POST", "/users/me/tokens", json=body)).json()
        program |= {"revoked": made["token"]}
        links = {name: await make_link(here, users[name]) for name in ("linked",)}
        elsewhere = (await sign_in(here, users["changed"]["email"]))["access_token"]
        ended = {name: tokens[name] for name in ("deactivated", "changed", "linked", "out")} | program
        for token in (*ended.values(), tokens["demoted"], elsewhere):
            assert await status_of(there, token) == 200  # so that it is remembered there

        for name, change in (("deactivated", {"is_active": False}), ("demoted", {"access_level": "viewer"})):
            changed = await call(here, ADMIN_TOKEN, "PATCH", f"/users/{users[name]['id']}", json=change)
            assert changed.status_code == 200
        passwords = {"old_password": PASSWORD, "new_password": NEW_PASSWORD}
        assert (await call(here, elsewhere, "POST", "/users/me/password", json=passwords)).status_code == 204
        assert (await use_link(here, links["linked"])).status_code == 200
        assert (await call(here, tokens["out"], "POST", "/auth/logout")).status_code == 204
        assert (await call(here, ADMIN_TOKEN, "DELETE", f"/api-tokens/{made['id']}")).status_code == 204

        assert {await status_of(there, token) for token in ended.values()} == {200}  # still cached
        clock.now += 1.1
        assert {name: await status_of(there, token) for name, token in ended.items()} == dict.fromkeys(ended, 401)
        assert await status_of(there, elsewhere) == 200
        me = (await call(there, tokens["demoted"], "GET", "/users/me")).json()
        assert (me["access_level"], "users:write" in me["scopes"]) == ("viewer", False)
        refused = await call(
            there, tokens["demoted"], "POST", "/users", json={"name": "N", "email": "n@register.example"}
        )
        assert (refused.status_code, refused.json()["scope"]) == (403, "users:write")


@pytest.mark.usefixtures("clock")
async def test_cached_caller_of_an_ended_session_creates_no_credentials(committed: Committed) -> None:
    app = create_app(settings_for(committed.url, caller_cache_seconds=1))
    user = await make_account(committed.app, "admin")
    session = (await sign_in(committed.app, user["email"]))["access_token"]
    assert await status_of(app, session) == 200
    assert (await call(committed.app, session, "POST", "/auth/logout")).status_code == 204
    body = {"name": "Later", "scopes": ["roles:read"]}
    assert (await call(app, session, "POST", "/users/me/tokens", json=body)).status_code == 401
    assert (await call(app, session, "POST", f"/users/{user['id']}/password-links")).status_code == 401
    await app.state.database.dispose()


@pytest.mark.usefixtures("clock")
async def test_cached_caller_is_looked_up_once(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    async with replicas(committed) as (app, other):
        token = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
        lookups = []
        for each in (app, other):
            find = each.state.authenticator._find

            async def counted(token: str, find: Any = find) -> Any:
                lookups.append(token)
                return await find(token)

            monkeypatch.setattr(each.state.authenticator, "_find", counted)
        for _ in range(3):
            assert await status_of(app, token) == 200
        assert lookups == [token]
        for _ in range(3):  # unknown callers are not cached
            assert await status_of(app, "prt_unknown") == 401
        assert lookups == [token] + ["prt_unknown"] * 3


async def test_duration_of_the_lookup_counts_towards_the_cache_time(
    committed: Committed, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    async with replicas(committed) as (app, _):
        authenticator = app.state.authenticator
        find, lookups = authenticator._find, []

        async def slow(token: str) -> Any:
            lookups.append(token)
            found = await find(token)
            clock.now += 1.1  # a slow look-up: its result is that old when it arrives
            return found

        monkeypatch.setattr(authenticator, "_find", slow)
        for _ in range(2):
            assert await status_of(app, ADMIN_TOKEN) == 200
        assert lookups == [ADMIN_TOKEN] * 2


@pytest.mark.usefixtures("clock")
async def test_cached_caller_expires_with_the_token(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    async with replicas(committed) as (app, _):
        signed_in = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
        tokens: Tokens = app.state.tokens
        claims = tokens.read_access_token(signed_in)
        assert claims is not None
        (row,) = await sql(
            app,
            "UPDATE api_tokens SET expires_at = now() + interval '9 minutes' RETURNING extract(epoch FROM expires_at)",
        )
        assert [await status_of(app, token) for token in (signed_in, ADMIN_TOKEN)] == [200, 200]
        now = time.time
        for token, expires_at in ((signed_in, claims.expires_at), (ADMIN_TOKEN, float(row[0]))):
            monkeypatch.setattr("app.core.http.authorisation.time.time", lambda at=expires_at: at - 0.01)
            assert await status_of(app, token) == 200
            monkeypatch.setattr("app.core.http.authorisation.time.time", lambda at=expires_at: at)
            response = await call(app, token, "GET", "/users/me")
            assert (response.status_code, response.json()["detail"]) == (401, "The token has expired.")
            monkeypatch.setattr("app.core.http.authorisation.time.time", now)


async def test_expired_api_token_is_not_accepted(app: FastAPI, client: httpx.AsyncClient) -> None:
    assert (await client.get("/users/me")).status_code == 200
    await sql(app, "UPDATE api_tokens SET expires_at = now()")
    assert (await client.get("/users/me")).status_code == 401


async def test_expired_session_is_not_accepted(app: FastAPI, connection: AsyncConnection) -> None:
    del connection
    token = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
    assert await status_of(app, token) == 200
    await sql(app, "UPDATE sessions SET expires_at = now()")
    assert await status_of(app, token) == 401


async def test_use_of_an_api_token_is_written_once_a_minute(committed: Committed) -> None:
    for last, written in (("NULL", True), ("now() - interval '10 seconds'", False), ("now() - interval '61 s'", True)):
        (before,) = await sql(committed.app, f"UPDATE api_tokens SET last_used_at = {last} RETURNING last_used_at")
        assert await status_of(committed.app, ADMIN_TOKEN) == 200
        (after,) = await sql(committed.app, "SELECT last_used_at FROM api_tokens")
        assert (after != before) == written, last


async def test_token_never_exceeds_the_scopes_of_its_user(app: FastAPI, connection: AsyncConnection) -> None:
    del connection
    user = await make_account(app, "admin")
    session = (await sign_in(app, user["email"], scope="admin users:write processes:read"))["access_token"]
    reads = ["processes:read", "users:read"]
    for level, scopes in (("editor", reads), ("admin", ["admin", *reads, "users:write"])):
        await call(app, ADMIN_TOKEN, "PATCH", f"/users/{user['id']}", json={"access_level": level})
        me = (await call(app, session, "GET", "/users/me")).json()
        assert (me["access_level"], me["scopes"]) == (level, scopes)


@every_collection
async def test_scope_to_write_includes_the_scope_to_read_the_same_collection(
    app: FastAPI, client: httpx.AsyncClient, collection: str
) -> None:
    made = {name: (await make(client, name))["id"] for name in COLLECTIONS}
    user = await make_account(app, "admin")
    requested, included = f"{collection}:write", sorted({f"{collection}:read", f"{collection}:write"})
    whole = (await sign_in(app, user["email"]))["access_token"]
    body = {"name": "Narrow", "scopes": [requested]}
    program = (await call(app, whole, "POST", "/users/me/tokens", json=body)).json()
    pair = await sign_in(app, user["email"], scope=requested)
    assert pair["scope"] == " ".join(included)
    for token in (program["token"], pair["access_token"]):
        me = (await call(app, token, "GET", "/users/me")).json()
        assert me["scopes"] == included
        path = f"/{collection}/{made[collection]}"
        read, written = await call(app, token, "GET", path), await call(app, token, "PATCH", path, json={})
        assert (read.status_code, read.json()) == (written.status_code, written.json())
        for other in set(COLLECTIONS) - {collection}:
            refused = await call(app, token, "GET", f"/{other}/{made[other]}")
            assert (refused.status_code, refused.json()["scope"]) == (403, f"{other}:read")
        assert (await call(app, token, "GET", "/changes")).json()["scope"] == "changes:read"
    # The lists show the scopes that were requested.
    sessions = (await call(app, whole, "GET", "/auth/sessions")).json()["items"]
    assert [each["scopes"] for each in sessions] == [[requested], None]
    assert program["scopes"] == [requested]
    # A level without the scope to write has the scope to read.
    await call(app, ADMIN_TOKEN, "PATCH", f"/users/{user['id']}", json={"access_level": "viewer"})
    assert (await call(app, program["token"], "GET", "/users/me")).json()["scopes"] == [f"{collection}:read"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("because", "because"),
        ("  because  ", "because"),
        ("m" * 500, "m" * 500),
        ("weil es später fällt".encode(), "weil es später fällt"),
        ("weil es später fällt".encode("latin-1"), "weil es später fällt"),
        ("", None),
        ("   ", None),
        ("承認\u3000済".encode(), "承認\u3000済"),
        ("100\u00a0%".encode(), "100\u00a0%"),
    ],
)
async def test_message_of_a_change_is_kept(client: httpx.AsyncClient, header: str | bytes, message: str | None) -> None:
    encoded = header if isinstance(header, bytes) else header.encode()
    response = await client.post("/departments", json={"name": "D"}, headers={b"X-Change-Message": encoded})
    assert response.status_code == 201
    changes = (await client.get(f"/departments/{response.json()['id']}/changes")).json()["items"]
    assert [change["message"] for change in changes] == [message]


@pytest.mark.parametrize("header", ["m" * 501, "tab\tin it", "\x1b[31mred", "line\u2028separator"])
async def test_invalid_message_is_refused(client: httpx.AsyncClient, header: str) -> None:
    response = await client.post("/departments", json={"name": "D"}, headers={b"X-Change-Message": header.encode()})
    (fault,) = response.json()["errors"]
    assert (response.status_code, fault["pointer"], fault["source"]) == (422, "/X-Change-Message", "header")
    assert (await client.get("/departments?count=exact")).json()["total"] == 0


async def test_repeated_message_is_refused(client: httpx.AsyncClient) -> None:
    headers = [("X-Change-Message", "one"), ("X-Change-Message", "two")]
    assert (await client.post("/departments", json={"name": "D"}, headers=headers)).status_code == 422


def basic(password: str | bytes) -> str:
    raw = password if isinstance(password, bytes) else f"user:{password}".encode()
    return f"Basic {base64.b64encode(raw).decode()}"


async def test_pages_for_administrators_take_a_token_as_password(committed: Committed) -> None:
    app = create_app(settings_for(committed.url, docs_access="admin", redoc_access="admin"))
    viewer = await make_account(app, "viewer")
    viewers = (await sign_in(app, viewer["email"]))["access_token"]
    admins = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]
    transport = httpx.ASGITransport(app=app)
    refused = (
        None,
        "Basic",
        "Basic !",
        "Basic é".encode(),
        basic(b"\xff"),
        basic("wrong"),
        basic(ADMIN_PASSWORD),
        "Bearer x",
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://register.test") as client:
        for page in ("/docs", "/redoc", "/openapi.json"):
            for header in refused:
                given = {} if header is None else {"Authorization": header}
                response = await client.get(page, headers=given)  # type: ignore[arg-type]
                challenge = 'Basic realm="process-register", charset="UTF-8"'
                assert (response.status_code, response.headers["www-authenticate"]) == (401, challenge), (page, header)
            for token in (ADMIN_TOKEN, admins):
                for header in (basic(token), f"Bearer {token}"):
                    assert (await client.get(page, headers={"Authorization": header})).status_code == 200
            response = await client.get(page, headers={"Authorization": basic(viewers)})
            assert (response.status_code, response.headers["www-authenticate"]) == (401, challenge)
    await app.state.database.dispose()
