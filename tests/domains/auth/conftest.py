"""Accounts for tests, and functions that sign in."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from sqlalchemy import Row, text

from app.core.caller import SYSTEM_CALLER
from app.domains.auth import sign_in as sign_in_module
from app.domains.auth.credentials import store_password
from tests.builders import make_password_link, make_user
from tests.conftest import client_of

PASSWORD = "the password of a test"  # noqa: S105
NEW_PASSWORD = "another password of a test"  # noqa: S105
ADMIN_EMAIL = "admin@register.example"
BASE_URL = "http://register.test/api/v1"


@pytest.fixture
def long_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extend the grace period of spent refresh tokens from ten seconds to an hour."""
    monkeypatch.setattr(sign_in_module, "REFRESH_GRACE", timedelta(hours=1))


@cache
def password_hash() -> str:
    """Return a hash of `PASSWORD`, computed once for all tests."""
    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(PASSWORD)


async def make_account(app: FastAPI, level: str = "viewer", **fields: Any) -> dict[str, Any]:
    """Create a user with `PASSWORD` and without sessions."""
    async with client_of(app) as administrator:
        user = await make_user(administrator, access_level=level, **fields)
    async with app.state.database.transaction() as session:
        await store_password(session, SYSTEM_CALLER, user["id"], password_hash())
    return user


def client_from(
    app: FastAPI, address: str = "127.0.0.1", token: str | None = None, **headers: str
) -> httpx.AsyncClient:
    """Return a client that calls from an address; without a token it is anonymous."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=(address, 50_000))
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers)


async def try_to_sign_in(
    app: FastAPI, email: str, password: str = PASSWORD, address: str = "127.0.0.1", **form: str
) -> httpx.Response:
    async with client_from(app, address) as client:
        return await client.post("/auth/token", data={"username": email, "password": password} | form)


async def sign_in(
    app: FastAPI, email: str, password: str = PASSWORD, address: str = "127.0.0.1", **form: str
) -> dict[str, str]:
    """Sign in and return the tokens."""
    response = await try_to_sign_in(app, email, password, address, **form)
    assert response.status_code == 200, response.text
    tokens: dict[str, str] = response.json()
    return tokens


async def call(app: FastAPI, token: str | None, method: str, path: str, **request: Any) -> httpx.Response:
    """Send one request with a token, or without one."""
    async with client_from(app, token=token) as client:
        return await client.request(method, path, **request)


async def status_of(app: FastAPI, token: str | None) -> int:
    """Return the status of `GET /users/me` with a token: 200 while it is valid, else 401."""
    return (await call(app, token, "GET", "/users/me")).status_code


async def refresh(app: FastAPI, refresh_token: str) -> httpx.Response:
    return await call(app, None, "POST", "/auth/refresh", json={"refresh_token": refresh_token})


@contextmanager
def full_queue(app: FastAPI) -> Iterator[None]:
    """Hold all places for hashes."""
    places = app.state.passwords.places
    free = places.free
    places.take(None, free)
    try:
        yield
    finally:
        places.give_back(None, free)


async def make_link(app: FastAPI, user: dict[str, Any]) -> str:
    """Return the token of a new link for a user."""
    async with client_of(app) as administrator:
        response = await make_password_link(administrator, user["id"])
    assert response.status_code == 201, response.text
    token: str = response.json()["token"]
    return token


async def use_link(app: FastAPI, token: str, password: str = NEW_PASSWORD) -> httpx.Response:
    return await call(app, None, "POST", "/auth/set-password", json={"token": token, "password": password})


async def sql(app: FastAPI, statement: str, **values: Any) -> list[Row[Any]]:
    """Run a statement on the application's database, as part of the test's transaction if it has one."""
    async with app.state.database.transaction() as session:
        result = await session.execute(text(statement), values)
        return list(result.fetchall()) if result.returns_rows else []


def faults(response: httpx.Response) -> list[tuple[str, str]]:
    return [(error["pointer"], error["code"]) for error in response.json()["errors"]]
