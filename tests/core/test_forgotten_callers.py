"""A change of what a user may do takes effect at once in the server process that makes it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.core.caller import Caller
from app.core.http import authorisation
from app.core.http.authorisation import Authenticator
from app.domains.auth import sign_in as sign_in_module
from app.main import create_app
from app.utils.exceptions import Unauthorized
from tests.builders import make_department, make_process, make_resource
from tests.conftest import ADMIN_TOKEN, Committed, settings_for
from tests.domains.auth.conftest import (
    NEW_PASSWORD,
    PASSWORD,
    call,
    client_from,
    make_account,
    make_link,
    refresh,
    sign_in,
    sql,
    use_link,
)


@pytest.fixture
async def app(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FastAPI]:
    """An application that remembers callers, and whose clock does not advance."""
    monkeypatch.setattr(authorisation, "time", SimpleNamespace(monotonic=lambda: 1000.0, time=time.time))
    app = create_app(settings_for(committed.url, caller_cache_seconds=1))
    yield app
    await app.state.database.dispose()


async def reading(app: FastAPI, token: str) -> int:
    """Return the status of a request that uses nothing of its caller but the scopes."""
    return (await call(app, token, "GET", "/departments")).status_code


class Account:
    """A user who is signed in twice and has an API token. The application remembers all three callers."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def prepare(self) -> "Account":
        self.user = await make_account(self.app, "admin")
        self.pair = await sign_in(self.app, self.user["email"])
        self.elsewhere = (await sign_in(self.app, self.user["email"]))["access_token"]
        body = {"name": "Program", "scopes": ["departments:read"]}
        self.program = (await self.own("POST", "/users/me/tokens", json=body)).json()
        self.tokens = [self.pair["access_token"], self.elsewhere, self.program["token"]]
        assert [await reading(self.app, token) for token in self.tokens] == [200] * 3
        return self

    async def own(self, method: str, path: str, **request: Any) -> httpx.Response:
        return await call(self.app, self.pair["access_token"], method, path, **request)

    async def administer(self, method: str, path: str, **request: Any) -> httpx.Response:
        return await call(self.app, ADMIN_TOKEN, method, path.format(self.user["id"]), **request)


async def delete_session(account: Account) -> httpx.Response:
    sessions = (await account.own("GET", "/auth/sessions")).json()["items"]
    (other,) = (each["id"] for each in sessions if not each["current"])
    return await account.own("DELETE", f"/auth/sessions/{other}")


async def change_password(account: Account) -> httpx.Response:
    body = {"old_password": PASSWORD, "new_password": NEW_PASSWORD}
    return await account.own("POST", "/users/me/password", json=body)


async def follow_link(account: Account) -> httpx.Response:
    return await use_link(account.app, await make_link(account.app, account.user))


async def reuse_refresh_token(account: Account) -> httpx.Response:
    assert (await refresh(account.app, account.pair["refresh_token"])).status_code == 200
    return await refresh(account.app, account.pair["refresh_token"])


async def sign_in_a_hundred_times(account: Account) -> None:
    await sql(
        account.app,
        "INSERT INTO sessions (user_id, address, expires_at) "
        "SELECT :id, '', now() + interval '1 day' FROM generate_series(1, 98)",
        id=account.user["id"],
    )
    await sign_in(account.app, account.user["email"])


async def import_inactive(account: Account) -> httpx.Response:
    row = f"email,is_active,id\r\n{account.user['email']},false,{account.user['id']}\r\n"
    csv = {"Content-Type": "text/csv"}
    return await account.administer("POST", "/users/import?match_ids=true", content=row, headers=csv)


Change = Callable[[Account], Awaitable[Any]]
ALL, FIRST, SECOND, PROGRAM = [401] * 3, [401, 200, 200], [200, 401, 200], [200, 200, 401]
CHANGES: dict[str, tuple[Change, list[int]]] = {
    "deletion": (lambda a: a.administer("DELETE", "/users/{}"), ALL),
    "deletion in bulk": (lambda a: a.administer("POST", "/users/bulk", json=batch("delete", a)), ALL),
    "own deletion": (lambda a: a.own("DELETE", f"/users/{a.user['id']}"), ALL),
    "deactivation": (lambda a: a.administer("PATCH", "/users/{}", json={"is_active": False}), ALL),
    "deactivation in bulk": (
        lambda a: a.administer("POST", "/users/bulk", json=batch("update", a, is_active=False)),
        ALL,
    ),
    "deactivation by a file": (import_inactive, ALL),
    "sign-out": (lambda a: a.own("POST", "/auth/logout"), FIRST),
    "sign-out everywhere": (lambda a: a.own("POST", "/auth/logout-all"), [401, 401, 200]),
    "end of another session": (delete_session, SECOND),
    "new password": (change_password, SECOND),
    "password link": (follow_link, [401, 401, 200]),
    "reuse of a refresh token": (reuse_refresh_token, FIRST),
    "too many sessions": (sign_in_a_hundred_times, FIRST),
    "revocation": (lambda a: a.own("DELETE", f"/users/me/tokens/{a.program['id']}"), PROGRAM),
    "revocation by an administrator": (lambda a: a.administer("DELETE", f"/api-tokens/{a.program['id']}"), PROGRAM),
}


def batch(op: str, account: Account, **data: Any) -> dict[str, Any]:
    return {"items": [{"op": op, "id": account.user["id"]} | ({"data": data} if data else {})]}


@pytest.mark.parametrize("name", CHANGES)
async def test_change_takes_effect_at_once_in_its_process(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sign_in_module, "REFRESH_GRACE", timedelta(0))
    account = await Account(app).prepare()
    change, statuses = CHANGES[name]
    response = await change(account)
    assert response is None or response.status_code in {200, 204} or name == "reuse of a refresh token", response.text
    authenticator: Authenticator = app.state.authenticator
    assert authenticator._callers.keys().isdisjoint(account.tokens)
    assert [await reading(app, token) for token in account.tokens] == statuses


async def test_lower_access_level_takes_effect_at_once_in_its_process(app: FastAPI) -> None:
    account = await Account(app).prepare()
    assert (await account.own("GET", "/api-tokens")).status_code == 200
    assert (await account.administer("PATCH", "/users/{}", json={"access_level": "viewer"})).status_code == 200
    body = {"name": "D"}
    refused = [await call(app, token, "POST", "/departments", json=body) for token in account.tokens]
    assert [(each.status_code, each.json().get("scope")) for each in refused] == [(403, "departments:write")] * 3


async def test_requests_of_a_deleted_caller_that_write_nothing_are_unauthorized(app: FastAPI) -> None:
    async with client_from(app, token=ADMIN_TOKEN) as administrator:
        department = await make_department(administrator)
        process, resource = await make_process(administrator), await make_resource(administrator)
        link = f"/processes/{process['id']}/resources/{resource['id']}"
        assert (await administrator.put(link)).status_code == 204
    account = await Account(app).prepare()
    own = f"/departments/{department['id']}"
    same: dict[str, Any] = {"op": "update", "id": department["id"], "data": {}}
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", own, {}),
        ("GET", "/search?q=department", {}),
        ("PATCH", own, {"json": {}}),
        ("PUT", link, {}),
        ("DELETE", f"{own}99", {}),
        ("POST", "/departments/bulk", {"json": {"items": [same]}}),
        ("POST", "/departments/bulk", {"json": {"items": []}}),
        ("POST", "/departments/import", {"content": "name\r\n", "headers": {"Content-Type": "text/csv"}}),
    ]
    assert (await account.administer("DELETE", "/users/{}")).status_code == 204
    for method, path, request in requests:
        assert (await account.own(method, path, **request)).status_code == 401, (method, path)


async def test_result_of_a_lookup_during_a_change_is_not_cached() -> None:
    found: asyncio.Future[Caller | None] = asyncio.get_running_loop().create_future()
    lookups = 0

    async def find(_token: str) -> Caller | None:
        nonlocal lookups
        lookups += 1
        return await found if lookups == 1 else None

    authenticator = Authenticator(find, lambda _token: None, 1.0)
    earlier = asyncio.create_task(authenticator._identify("token"))
    await asyncio.sleep(0)
    authenticator.forget_users({7})
    found.set_result(Caller(7, "Ada", "viewer", frozenset()))
    assert (await earlier).id == 7  # authorised before the change
    assert authenticator.known_user("token") is None
    with pytest.raises(Unauthorized):
        await authenticator._identify("token")


async def test_callers_of_other_users_stay_cached() -> None:
    lookups: list[str] = []

    async def find(token: str) -> Caller | None:
        lookups.append(token)
        return Caller(int(token), "Ada", "viewer", frozenset())

    authenticator = Authenticator(find, lambda _token: None, 1_000_000.0)
    for _ in range(2):
        for token in ("1", "2", "3"):
            await authenticator._identify(token)
    authenticator.forget_users({1, 3})
    for token in ("1", "2", "3"):
        await authenticator._identify(token)
    assert lookups == ["1", "2", "3", "1", "3"]
