"""The database role of the service that docs/10-history.md describes: it adds to the history, and cannot change it."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy import URL

from app.domains.register.export import export_register
from app.domains.register.restore import import_register
from app.main import create_app
from app.tasks import create_administrator, issue_password_link
from app.utils.db_init import initialise
from tests.builders import make_department, make_password_link, make_process, make_role, make_user
from tests.conftest import ADMIN_PASSWORD, LONG_TIMEOUT_ENV, client_of, give_admin_token, settings_for, text_of
from tests.waiting import HANG_TIMEOUT


@dataclass
class Roles:
    """A database with both roles of the page, and the service, which runs as its role."""

    owner_url: URL
    app_url: URL
    owner: asyncpg.Connection
    app: asyncpg.Connection
    client: httpx.AsyncClient


def sql_blocks(root: Path) -> tuple[str, str]:
    page = (root / "docs/10-history.md").read_text("utf-8")
    make_roles, grant = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    return make_roles, grant


@pytest.fixture(scope="module")
async def roles(server_url: URL, root: Path) -> AsyncIterator[Roles]:
    unique = f"test_{uuid4().hex}"
    make_roles, grant = (re.sub(r"\bregister(?=_owner\b|_app\b|\b)", unique, block) for block in sql_blocks(root))
    owner_url, app_url = (
        server_url.set(username=f"{unique}_{role}", password=password, database=unique)
        for role, password in (("owner", "choose one"), ("app", "choose another one"))
    )
    async with AsyncExitStack() as stack:
        superuser = await asyncpg.connect(text_of(server_url))
        stack.push_async_callback(superuser.close)
        for name in (f"ROLE IF EXISTS {unique}_app", f"ROLE IF EXISTS {unique}_owner"):
            stack.push_async_callback(superuser.execute, f"DROP {name}")
        stack.push_async_callback(superuser.execute, f"DROP DATABASE IF EXISTS {unique} WITH (FORCE)")
        for statement in re.findall(r"[^;]+;", make_roles):  # CREATE DATABASE cannot run in a transaction
            await superuser.execute(statement)
        await initialise(settings_for(owner_url), owner_url, lambda _: None, demo_data=True)
        await give_admin_token(owner_url)
        owner = await asyncpg.connect(text_of(owner_url))
        stack.push_async_callback(owner.close)
        for _ in range(2):  # the page says that it may be repeated
            await owner.execute(grant)
        app = await asyncpg.connect(text_of(app_url))
        stack.push_async_callback(app.close)
        service = create_app(settings_for(app_url))
        stack.push_async_callback(service.state.database.dispose)
        client = await stack.enter_async_context(client_of(service))
        yield Roles(owner_url, app_url, owner, app, client)


async def test_roles_are_ordinary_ones(roles: Roles) -> None:
    query = "SELECT current_user, usesuper, usecreatedb FROM pg_user WHERE usename = current_user"
    for connection, url in ((roles.owner, roles.owner_url), (roles.app, roles.app_url)):
        assert tuple(await connection.fetchrow(query) or ()) == (url.username, False, False)


async def test_service_runs_as_its_role(roles: Roles) -> None:
    client = roles.client
    assert (await client.get("http://register.test/health/ready")).status_code == 200
    department, role, user = await make_department(client), await make_role(client), await make_user(client)
    process = await make_process(client, department_ids=[department["id"]])
    path = f"/processes/{process['id']}"
    form = {"username": "admin@register.example", "password": ADMIN_PASSWORD}
    pair = (await client.post("/auth/token", data=form)).json()
    signed_in = {"Authorization": f"Bearer {pair['access_token']}"}
    link = (await make_password_link(client, user["id"])).json()
    password = {"token": link["token"], "password": "a first password for tests"}
    token_body = {"name": "Export", "scopes": ["roles:read"]}
    token = (await client.post("/users/me/tokens", json=token_body, headers=signed_in)).json()
    responses = [
        await client.put(path, json={"name": "Replaced", "role_ids": [role["id"]]}),
        await client.patch(path, json={"description": "Patched"}),
        await client.put(f"{path}/departments/{department['id']}", json={"relation": "owner"}),
        await client.put(f"{path}/departments/{department['id']}", json={"relation": "customer"}),
        await client.delete(f"{path}/roles/{role['id']}"),
        await client.put(f"/roles/{role['id']}/holders/{user['id']}"),
        await client.patch(f"/departments/{department['id']}", json={"parent_id": 1}),
        await client.patch(f"/users/{user['id']}", json={"is_active": True, "access_level": "editor"}),
        await client.delete(path),
        await client.delete(f"/departments/{department['id']}"),
        *[await client.post("/roles", json={"name": "Once"}, headers={"Idempotency-Key": "once"}) for _ in range(2)],
        await client.get("/changes?count=exact"),
        await client.get(f"{path}/changes"),
        await client.get("/processes/code:no-such-code/changes"),
        await client.post("/auth/set-password", json=password),
        await client.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]}),
        await client.delete(f"/api-tokens/{token['id']}", headers=signed_in),
        await client.get("/auth/sessions", headers=signed_in),
        await client.get("/changes/feed"),
        await client.get("/changes/feed", headers={"Accept": "application/x-ndjson"}),
        await client.post("/auth/logout-all", headers=signed_in),
    ]
    expected = [200, 200, 204, 204, 204, 204, 200, 200, 204, 204, 201, 201, 200, 200, 404, 200, 200, 204, 200]
    expected += [200, 200, 204]
    assert [response.status_code for response in responses] == expected
    actions = [item["action"] for item in responses[13].json()["items"]]
    assert actions == ["deleted", "unlinked", "linked", "linked", "updated", "updated", "created"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE changes SET actor_name = 'Other'",
        "UPDATE changes SET message = NULL WHERE id = 1",
        "DELETE FROM changes WHERE id = 1",
        "TRUNCATE changes",
        "SELECT * FROM changes WHERE id = 1 FOR UPDATE",
        "ALTER TABLE changes OWNER TO CURRENT_USER",
        "CREATE RULE forget AS ON INSERT TO changes DO INSTEAD NOTHING",
        "CREATE TRIGGER forget BEFORE INSERT ON changes EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "DROP TABLE changes",
        "UPDATE alembic_version SET version_num = '0001'",
        "DELETE FROM alembic_version",
    ],
)
async def test_role_cannot_change_the_history(roles: Roles, statement: str) -> None:
    before = await roles.owner.fetchval("SELECT md5(string_agg(c::text, '' ORDER BY id)) FROM changes AS c")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"permission denied|must be owner"):
        await roles.app.execute(statement)
    assert await roles.owner.fetchval("SELECT md5(string_agg(c::text, '' ORDER BY id)) FROM changes AS c") == before


async def test_role_cannot_choose_the_id_of_a_change(roles: Roles) -> None:
    # Otherwise the role could insert changes between others.
    insert = (
        "INSERT INTO changes (id, type, object_id, object_name, action) VALUES (1000000, 'roles', 1, 'x', 'created')"
    )
    with pytest.raises(asyncpg.GeneratedAlwaysError):
        await roles.app.execute(insert)


async def test_role_may_write_tables_of_later_migrations_but_not_the_history(roles: Roles) -> None:
    await roles.owner.execute("CREATE TABLE later (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text)")
    await roles.owner.execute("ALTER TABLE changes ADD COLUMN later text")
    try:
        assert await roles.app.fetchval("INSERT INTO later (name) VALUES ('one') RETURNING id") == 1
        assert await roles.app.execute("UPDATE later SET name = 'two'") == "UPDATE 1"
        assert await roles.app.fetchval("SELECT name FROM later") == "two"
        assert await roles.app.execute("DELETE FROM later") == "DELETE 1"
        assert await roles.app.fetchval("SELECT count(later) FROM changes") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await roles.app.execute("UPDATE changes SET later = 'x'")
    finally:
        await roles.owner.execute("DROP TABLE later")
        await roles.owner.execute("ALTER TABLE changes DROP COLUMN later")


async def test_commands_that_read_and_write_the_register_run_as_the_role(roles: Roles, tmp_path: Path) -> None:
    settings, url = settings_for(roles.app_url), text_of(roles.app_url)
    manifest = await export_register(settings, url, tmp_path, with_history=True, force=False)
    number = sum(
        entry.rows for name, entry in manifest.files.items() if name not in ("changes.ndjson", "role_holders.ndjson")
    )
    assert await import_register(settings, url, tmp_path) == {"unchanged": number}
    await create_administrator(settings, url, "another@register.example", "Another")
    await issue_password_link(settings, url, "another@register.example")
    assert await roles.owner.fetchval("SELECT count(*) FROM users WHERE email = 'another@register.example'") == 1


async def housekeeping(root: Path, url: URL, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HISTORY_DAYS"}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "app", "housekeeping"],
        cwd=root,
        env=environment | LONG_TIMEOUT_ENV | {"DATABASE_URL": text_of(url)} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_TIMEOUT,
    )


async def test_history_is_thinned_by_the_owner_only(roles: Roles, root: Path) -> None:
    await roles.owner.execute(
        """
        INSERT INTO changes (type, object_id, object_name, action, at)
        SELECT 'roles', 1000000, 'Old', 'updated', now() - interval '90 days' FROM generate_series(1, 5)
        """
    )
    old = "SELECT count(*) FROM changes WHERE object_name = 'Old'"
    refused = await housekeeping(root, roles.app_url, HISTORY_DAYS="30")
    expected = (
        "Error: The role of the service is not allowed to delete these rows. "
        "Run housekeeping as the owner of the tables (docs/10-history.md).\n"
    )
    assert (refused.returncode, refused.stderr) == (1, expected)
    assert await roles.owner.fetchval(old) == 5
    # The service may reuse and delete expired keys.
    await roles.owner.execute("UPDATE idempotency_keys SET expires_at = now()")
    headers = {"Idempotency-Key": "once"}
    assert (await roles.client.post("/roles", json={"name": "Again"}, headers=headers)).status_code == 201
    await roles.owner.execute("UPDATE idempotency_keys SET expires_at = now()")
    # Expired rows are not part of the history, so the service may delete them.
    done = await housekeeping(root, roles.app_url)
    assert (done.returncode, done.stderr.splitlines()[0]) == (0, "refresh tokens: 0 deleted")
    assert "idempotency keys: 1 deleted" in done.stderr.splitlines()
    done = await housekeeping(root, roles.owner_url, HISTORY_DAYS="30")
    assert (done.returncode, done.stderr.splitlines()[-2]) == (0, "changes: 3 deleted")
    assert await roles.owner.fetchval(old) == 2
