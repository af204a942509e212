"""Initialisation of a database, once and concurrently."""

import asyncio
import csv
import os
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import URL

from app.domains.register.demo_data import DEMO_FILES, DEMO_PASSWORD, DEMO_USERS
from app.main import create_app
from app.utils.db_init import initialise
from app.utils.exceptions import CommonPassword
from tests.catalogue import COLLECTIONS, LINKS
from tests.conftest import (
    ADMIN_PASSWORD,
    LONG_TIMEOUT_ENV,
    client_of,
    connected,
    give_admin_token,
    settings_for,
    text_of,
)
from tests.domains.auth.conftest import call, sign_in, try_to_sign_in
from tests.waiting import HANG_TIMEOUT


async def initialise_database(url: URL, *, demo_data: bool) -> str:
    return (await initialise(settings_for(url), url, lambda _: None, demo_data=demo_data)).email


async def counts_of(url: URL) -> dict[str, int]:
    async with connected(url) as connection:
        return {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in COLLECTIONS}


def rows_of(collection: str) -> list[dict[str, str]]:
    with (DEMO_FILES / f"{collection}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


async def test_concurrent_initialisations_create_one_administrator_and_one_company(empty: URL, root: Path) -> None:
    environment = os.environ | LONG_TIMEOUT_ENV | {"DATABASE_URL": text_of(empty)}
    command = (sys.executable, "-m", "app", "init", "--demo-data")
    replicas = [await asyncio.create_subprocess_exec(*command, cwd=root, env=environment) for _ in range(3)]
    assert [await asyncio.wait_for(replica.wait(), timeout=HANG_TIMEOUT) for replica in replicas] == [0, 0, 0]
    expected = {table: len(rows_of(table)) for table in COLLECTIONS}
    assert await counts_of(empty) == expected | {"users": expected["users"] + 1}
    assert await initialise_database(empty, demo_data=True) == "admin@register.example"
    assert await counts_of(empty) == expected | {"users": expected["users"] + 1}


async def test_demo_data_reads_as_it_was_written(empty: URL) -> None:
    await initialise_database(empty, demo_data=True)
    await give_admin_token(empty)
    app = create_app(settings_for(empty))
    async with client_of(app) as client:
        for row in rows_of("processes"):
            process = (await client.get(f"/processes/code:{row['code']}")).json()
            assert (process["name"], process["kind"], process["status"]) == (row["name"], row["kind"], row["status"])
            assert (process["parent"] or {}).get("code") == (row["parent"] or None)
            assert (process["owner"] or {}).get("code") == (row["owner"] or None)
            for links, detail in (("departments", "relation"), ("resources", "usage"), ("roles", "responsibility")):
                found = {f"{link['code']}:{link[detail]}" for link in process[links]}
                assert found == set(row[links].split())
            assert {link["code"] for link in process["locations"]} == set(row["locations"].split())
        for row in rows_of("departments"):
            department = (await client.get(f"/departments/code:{row['code']}")).json()
            assert (department["head"] or {}).get("code") == (row["head"] or None)
        for row in rows_of("roles"):
            holders = (await client.get(f"/roles/code:{row['code']}/holders?limit=200")).json()["items"]
            assert {holder["code"] for holder in holders} == set(row["holders"].split())
    await app.state.database.dispose()


def test_demo_data_has_every_kind_of_link() -> None:
    found: dict[str, set[str]] = {}
    for row in rows_of("processes"):
        for links in LINKS["processes"]:
            details = {entry.partition(":")[2] for entry in row[links.field].split()}
            found.setdefault(links.field, set()).update(details)
    assert found == {
        "departments": {"owner", "participant", "supplier", "customer"},
        "locations": {""},
        "resources": {"uses", "reads", "writes", "produces"},
        "roles": {"responsible", "accountable", "consulted", "informed"},
    }


async def test_register_in_use_gets_no_demo_data(empty: URL) -> None:
    await initialise_database(empty, demo_data=False)
    await give_admin_token(empty)
    app = create_app(settings_for(empty))
    async with client_of(app) as client:
        assert (await client.post("/roles", json={"name": "Ours"})).status_code == 201
    await app.state.database.dispose()
    await initialise_database(empty, demo_data=True)
    assert await counts_of(empty) == dict.fromkeys(COLLECTIONS, 0) | {"roles": 1, "users": 1}


async def test_demo_user_of_each_level_can_sign_in(empty: URL) -> None:
    await initialise_database(empty, demo_data=True)
    app = create_app(settings_for(empty))
    levels = []
    for email in DEMO_USERS:
        tokens = await sign_in(app, email, DEMO_PASSWORD)
        me = (await call(app, tokens["access_token"], "GET", "/users/me")).json()
        assert me["email"] == email
        levels.append(me["access_level"])
    assert levels == ["viewer", "editor", "admin"]
    others = {row["email"] for row in rows_of("users")} - set(DEMO_USERS)
    assert others
    for email in sorted(others)[:3]:
        assert (await try_to_sign_in(app, email, DEMO_PASSWORD)).status_code == 401
    await app.state.database.dispose()


async def passwords_of(url: URL) -> list[str]:
    """Return the e-mail addresses of the users with a password."""
    async with connected(url) as connection:
        rows = await connection.fetch("SELECT u.email FROM credentials c JOIN users u ON u.id = c.user_id ORDER BY 1")
        return [row["email"] for row in rows]


@pytest.mark.parametrize("given", [True, False])
async def test_demo_users_cannot_sign_in_in_production(empty: URL, *, given: bool) -> None:
    changes = {} if given else {"first_admin_password": None}
    settings = settings_for(empty, **changes).model_copy(update={"env": "production"})
    administrator = await initialise(settings, empty, lambda _: None, demo_data=True)
    assert (administrator.email, administrator.new_password) == ("admin@register.example", None)
    # The output of a production job ends up in its logs, so no password is generated.
    assert await passwords_of(empty) == (["admin@register.example"] if given else [])


async def test_first_administrator_has_the_password_of_the_settings(empty: URL) -> None:
    administrator = await initialise(settings_for(empty), empty, lambda _: None, demo_data=False)
    assert administrator.new_password is None
    app = create_app(settings_for(empty))
    assert (await try_to_sign_in(app, administrator.email, ADMIN_PASSWORD)).status_code == 200
    # Later starts do not change it.
    other = settings_for(empty, first_admin_password=SecretStr("not the password any more"))
    assert (await initialise(other, empty, lambda _: None, demo_data=False)).new_password is None
    assert (await try_to_sign_in(app, administrator.email, ADMIN_PASSWORD)).status_code == 200
    await app.state.database.dispose()


@pytest.mark.parametrize("weak", ["passwordpassword", "Root Lane 1815", "root.lane@register.example"])
async def test_weak_password_of_the_settings_is_rejected(empty: URL, weak: str) -> None:
    names = {"first_admin_name": "Root Lane", "first_admin_email": "root.lane@register.example"}
    settings = settings_for(empty, first_admin_password=SecretStr(weak), **names)
    with pytest.raises(CommonPassword, match=r"^FIRST_ADMIN_PASSWORD is rejected\. This password ") as caught:
        await initialise(settings, empty, lambda _: None, demo_data=False)
    assert weak not in str(caught.value)
    assert await passwords_of(empty) == []


async def test_password_of_the_first_administrator_is_generated_once(empty: URL) -> None:
    settings = settings_for(empty, first_admin_password=None)
    administrator = await initialise(settings, empty, lambda _: None, demo_data=False)
    assert administrator.new_password is not None
    assert len(administrator.new_password) == 16
    assert (await initialise(settings, empty, lambda _: None, demo_data=False)).new_password is None
    app = create_app(settings)
    assert (await try_to_sign_in(app, administrator.email, administrator.new_password)).status_code == 200
    await app.state.database.dispose()
