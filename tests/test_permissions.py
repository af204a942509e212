"""The permission of every operation: each is called by every kind of caller and compared with one table.

Each operation is called with objects that it would change. The effects of a call are rolled back before the next call.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import pytest
from fastapi import FastAPI
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.tokens import Tokens
from app.main import create_app
from app.models import Base
from tests.api.conftest import openapi
from tests.builders import make, make_user
from tests.catalogue import COLLECTIONS, LINKED, LISTS, NOUNS, TREES, required
from tests.conftest import client_of, new_database, settings_for, undone
from tests.domains.auth.conftest import NEW_PASSWORD, PASSWORD, call, make_account, sign_in

VERBS = ("create", "replace", "update", "delete")


def of_every_collection() -> dict[str, str]:
    """Return the permissions of the operations that every collection or every tree has."""
    needed: dict[str, str] = {}
    for name, noun in NOUNS.items():
        reads = [f"list_{name}", f"count_{name}", f"get_{noun}", f"list_{noun}_changes"]
        if name in TREES:
            reads += [f"get_{noun}_tree", f"list_{noun}_ancestors"]
        writes = [f"bulk_{name}", f"import_{name}", *(f"{verb}_{noun}" for verb in VERBS)]
        needed |= dict.fromkeys(reads, f"{name}:read") | dict.fromkeys(writes, f"{name}:write")
    return needed


# The permissions of the other operations, and those that differ from the pattern of the collections. A new operation is
# added here by hand, because its permission is a decision.
TABLE = """
list_department_processes   processes:read
list_location_processes     processes:read
list_resource_processes     processes:read
list_role_processes         processes:read
link_process_department     processes:write
unlink_process_department   processes:write
link_process_location       processes:write
unlink_process_location     processes:write
link_process_resource       processes:write
unlink_process_resource     processes:write
link_process_role           processes:write
unlink_process_role         processes:write

add_role_holder             roles:write
remove_role_holder          roles:write
replace_role_holders        roles:write
bulk_role_holders           roles:write

list_role_holders           users:read

list_changes                changes:read
follow_changes              changes:read

list_user_changes           admin
create_password_link        admin-session
list_api_tokens             admin
revoke_api_token            admin

get_me                      authenticated
search_objects              authenticated

change_own_password         session
list_own_api_tokens         session
create_own_api_token        session
revoke_own_api_token        session
list_sessions               session
end_session                 session
sign_out                    session
sign_out_everywhere         session

sign_in                     public
refresh_token               public
set_password                public
explain_problem             public
check_live                  public
check_ready                 public
check_health                public
get_metrics                 public
"""
PERMISSIONS = of_every_collection() | dict(line.split() for line in TABLE.splitlines() if line)

READER = {f"{name}:read" for name in COLLECTIONS}
WRITER = {f"{name}:write" for name in COLLECTIONS} - {"users:write"}
VIEWER = READER | {"changes:read"}
EDITOR = VIEWER | WRITER
ADMIN = EDITOR | {"users:write", "operations:read", "admin"}
LEVELS = {"viewer": VIEWER, "editor": EDITOR, "admin": ADMIN}

INVALID = ("garbage", "expired", "deactivated session", "deactivated token")
NARROW = ("session with all but it", "token with all but it", "session with only it", "token with only it")
CALLERS = ("anonymous", *INVALID, *LEVELS, "viewer's token with all scopes", *NARROW)

# The scopes of narrow callers of an operation without a scope: only the first, or all but the second.
ANY_SCOPE, OTHER_SCOPE = "processes:read", "admin"

OPERATIONS = {
    operation["operationId"]: (method.upper(), path)
    for path, operations in openapi()["paths"].items()
    for method, operation in operations.items()
}
PROTECTED = [name for name in OPERATIONS if PERMISSIONS.get(name) != "public"]
BODIES: dict[str, dict[str, Any]] = {
    "change_own_password": {"old_password": PASSWORD, "new_password": NEW_PASSWORD},
    "create_own_api_token": {"name": "Refused", "scopes": [ANY_SCOPE]},
    "replace_role_holders": {"user_ids": []},
}


@dataclass
class Scene:
    """Objects and tokens for the calls."""

    app: FastAPI
    tokens: dict[str, str | None]
    # The parameters of paths. Each kind of link has a linked object and one that is not linked yet.
    objects: dict[str, int]

    def token(self, caller: str, permission: str) -> str | None:
        if caller not in NARROW:
            return self.tokens[caller]
        if permission not in ADMIN:
            permission = ANY_SCOPE if caller.endswith("only it") else OTHER_SCOPE
        return self.tokens[f"{caller} {permission}"]

    def request(self, operation: str) -> tuple[str, str, dict[str, Any]]:
        """Return a request that succeeds with the permission, and changes something unless the operation only reads."""
        method, template = OPERATIONS[operation]
        collection = template.split("/")[3] if template.startswith("/api") else ""
        path = template.replace("{reference}", str(self.objects.get(collection)))
        for name in (*(target.removesuffix("s") for target in LINKED), "user"):
            path = path.replace(f"{{{name}}}", str(self.objects[f"{name} {method}"]) if f"{{{name}}}" in path else "")
        for name in ("session", "token"):
            path = path.replace(f"{{{name}}}", str(self.objects[name]))
        path = f"http://register.test{path.replace('{name}', 'conflict')}"
        if operation.startswith("count"):
            path += f"?group_by={next(iter(LISTS[collection].declaration.groups))}"
        if operation == "search_objects":
            path += "?q=thing"
        body: dict[str, Any] | None = BODIES.get(operation)
        if operation == "bulk_role_holders":
            body = {"items": [{"role_id": self.objects["roles"], "user_ids": []}]}
        if body is None and method in {"POST", "PUT", "PATCH"} and not operation.startswith(("link", "add", "sign")):
            needed = required(collection, "refused") if collection in COLLECTIONS and method != "PATCH" else {}
            body = needed | {"name": "Refused"}
            if operation.startswith("bulk"):
                body = {"items": [{"op": "create", "data": body}]}
            if operation.startswith("import"):
                return method, path, {"content": json.dumps(body), "headers": {"Content-Type": "application/x-ndjson"}}
        return method, path, {} if body is None else {"json": body}


def narrow_scopes(caller: str, scope: str) -> set[str]:
    return {scope} if caller.endswith("only it") else ADMIN - {scope}


async def sign_in_callers(app: FastAPI) -> dict[str, str | None]:
    """Return a token for each of `CALLERS`, and for narrow callers a token for each scope."""
    tokens: dict[str, str | None] = {"anonymous": None, "garbage": "garbage"}
    users = {level: await make_account(app, level) for level in LEVELS}
    for level, user in users.items():
        tokens[level] = (await sign_in(app, user["email"]))["access_token"]
    claims = jwt.decode(str(tokens["admin"]), options={"verify_signature": False})
    issuer: Tokens = app.state.tokens
    expired = claims | {"iat": claims["iat"] - 601, "exp": claims["iat"] - 1}
    tokens["expired"] = jwt.encode(expired, issuer._keys[issuer._current], "HS256", headers={"kid": issuer._current})

    async def api_token(signed_in: str | None, scopes: set[str]) -> str:
        body = {"name": "Matrix", "scopes": sorted(scopes)}
        made: dict[str, str] = (await call(app, signed_in, "POST", "/users/me/tokens", json=body)).json()
        return made["token"]

    async with client_of(app) as administrator:
        for name, later in (("deactivated", {"is_active": False}), ("demoted", {"access_level": "viewer"})):
            user = await make_account(app, "admin")
            session = (await sign_in(app, user["email"]))["access_token"]
            token = await api_token(session, ADMIN)
            assert (await administrator.patch(f"/users/{user['id']}", json=later)).status_code == 200
            tokens |= {f"{name} session": session, f"{name} token": token}
    tokens["viewer's token with all scopes"] = tokens["demoted token"]

    for scope in ADMIN:
        for caller in NARROW:
            scopes = narrow_scopes(caller, scope)
            if caller.startswith("session"):
                narrowed = await sign_in(app, users["admin"]["email"], scope=" ".join(scopes))
                tokens[f"{caller} {scope}"] = narrowed["access_token"]
            else:
                tokens[f"{caller} {scope}"] = await api_token(tokens["admin"], scopes)
    return tokens


async def make_objects(app: FastAPI, signed_in: str | None) -> dict[str, int]:
    async with client_of(app) as client:
        objects = {name: (await make(client, name))["id"] for name in COLLECTIONS}
        for method in ("PUT", "DELETE"):
            for target in LINKED:
                made = (await make(client, target))["id"]
                objects[f"{target.removesuffix('s')} {method}"] = made
                if method == "DELETE":
                    path = f"/processes/{objects['processes']}/{target}/{made}"
                    assert (await client.put(path)).status_code == 204
            objects[f"user {method}"] = (await make_user(client))["id"]
        path = f"/roles/{objects['roles']}/holders/{objects['user DELETE']}"
        assert (await client.put(path)).status_code == 204
    # The lists of processes of an object are found by its collection.
    objects |= {f"{target.removesuffix('s')} GET": objects[target] for target in LINKED}
    body = {"name": "To be revoked", "scopes": [ANY_SCOPE]}
    objects["token"] = (await call(app, signed_in, "POST", "/users/me/tokens", json=body)).json()["id"]
    sessions = (await call(app, signed_in, "GET", "/auth/sessions")).json()["items"]
    objects["session"] = next(session["id"] for session in sessions if not session["current"])
    return objects


@pytest.fixture(scope="module")
async def scene(server_url: URL, template: URL) -> AsyncIterator[Scene]:
    async with new_database(server_url, template.database) as url:
        app = create_app(settings_for(url))
        tokens = await sign_in_callers(app)
        yield Scene(app, tokens, await make_objects(app, tokens["admin"]))
        await app.state.database.dispose()


async def dump(connection: AsyncConnection) -> dict[str, list[Any]]:
    """Return all rows, without those that any call may write: attempts, last uses of tokens, the state of the feed."""
    rows = {}
    for name in Base.metadata.tables.keys() - {"sign_in_attempts", "feed_state"}:
        found = await connection.execute(text(f"SELECT to_jsonb(t) - 'last_used_at' FROM {name} t ORDER BY t::text"))
        rows[name] = list(found.scalars())
    return rows


def expected_refusal(caller: str, permission: str) -> tuple[int, str | None] | None:
    """Return the expected status and the scope in a 403, or None if the caller is permitted."""
    if permission != "public" and (caller == "anonymous" or caller in INVALID):
        return 401, None
    if permission in {"public", "authenticated"}:
        return None
    if permission.endswith("session"):
        if "token" in caller:
            return 403, "session"
        return None if permission == "session" or caller == "admin" else (403, "admin")
    if caller in NARROW:
        including = permission.replace(":read", ":write")  # the scope to write a collection includes that to read it
        is_granted = caller.endswith("only it") or including in ADMIN - {permission}
    else:
        is_granted = permission in LEVELS.get(caller, VIEWER)
    return None if is_granted else (403, permission)


def assert_refused(response: httpx.Response, status: int, scope: str | None, *, anonymous: bool) -> None:
    returned = (response.status_code, response.headers["content-type"], response.json().get("scope"))
    assert returned == (status, "application/problem+json", scope)
    challenge = 'Bearer realm="process-register"'
    if status == 403:
        # `session` is not a scope that a client can request.
        challenge += ', error="insufficient_scope"' + (f', scope="{scope}"' if scope != "session" else "")
    elif not anonymous:
        challenge += ', error="invalid_token"'
    assert response.headers["www-authenticate"] == challenge


def test_table_has_every_operation_and_no_other() -> None:
    assert PERMISSIONS.keys() == OPERATIONS.keys()


def test_document_declares_the_permissions_of_the_table() -> None:
    declared = {
        operation["operationId"]: operation["x-permission"]
        for operations in openapi()["paths"].values()
        for operation in operations.values()
    }
    assert declared == PERMISSIONS


def test_document_declares_the_accepted_schemes() -> None:
    for operations in openapi()["paths"].values():
        for operation in operations.values():
            permission = PERMISSIONS[operation["operationId"]]
            scopes = [permission] if permission in ADMIN else ["admin"] if permission == "admin-session" else []
            # Only OAuth 2 schemes have scopes there.
            with_password: dict[str, list[str]] = {"signIn": scopes}
            with_token: dict[str, list[str]] = {"apiToken": []}
            in_session = {"session": [with_password], "admin-session": [with_password]}
            expected = ({"public": []} | in_session).get(permission, [with_password, with_token])
            assert operation["security"] == expected, operation["operationId"]


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_matrix(scene: Scene, operation: str) -> None:
    permission = PERMISSIONS[operation]
    method, path, arguments = scene.request(operation)
    refusals = {caller: expected_refusal(caller, permission) for caller in CALLERS}
    async with undone(scene.app) as connection:
        before = await dump(connection)
        for caller, refusal in refusals.items():
            if refusal is not None:
                response = await call(scene.app, scene.token(caller, permission), method, path, **arguments)
                assert_refused(response, *refusal, anonymous=caller == "anonymous")
        assert await dump(connection) == before
        for caller, refusal in refusals.items():
            if refusal is None:
                savepoint = await connection.begin_nested()
                response = await call(scene.app, scene.token(caller, permission), method, path, **arguments)
                assert response.status_code not in {401, 403}, (caller, response.text)
                assert response.status_code < 500, (caller, response.text)
                if caller == "admin" and permission != "public":
                    # The refused requests would have succeeded.
                    assert response.is_success, response.text
                    assert (await dump(connection) != before) is (method != "GET")
                await savepoint.rollback()


def test_matrix_grants_and_refuses_every_permission() -> None:
    for permission in set(PERMISSIONS.values()) - {"public"}:
        responses = {expected_refusal(caller, permission) is None for caller in CALLERS}
        assert responses == {True, False}, permission


@pytest.mark.parametrize("operation", PROTECTED)
async def test_credentials_are_checked_before_the_rest_of_the_request(scene: Scene, operation: str) -> None:
    method, path, _ = scene.request(operation)
    json_type = {"Content-Type": "application/json"}
    flaws: list[dict[str, Any]] = [
        {"content": b'{"name": ', "headers": json_type},
        {"content": b"name=Refused", "headers": {"Content-Type": "text/plain"}},
        {"params": {"unknown": "1"}},
        {"content": b" " * (2**20 + 1), "headers": json_type},
        {"headers": {"X-Change-Message": "m" * 501}},
        {"headers": {"If-Match": "not a tag"}},
    ]
    for flaw in flaws:
        assert_refused(await call(scene.app, None, method, path, **flaw), 401, None, anonymous=True)
        assert_refused(await call(scene.app, "garbage", method, path, **flaw), 401, None, anonymous=False)
    refusal = expected_refusal("viewer's token with all scopes", PERMISSIONS[operation])
    if refusal is not None:
        token = scene.tokens["viewer's token with all scopes"]
        async with undone(scene.app):
            for flaw in flaws:
                assert_refused(await call(scene.app, token, method, path, **flaw), *refusal, anonymous=False)


@pytest.mark.parametrize(
    "call_about", ["GET /processes/0", "DELETE /users/x", "DELETE /api-tokens/x", "DELETE /auth/sessions/0"]
)
async def test_credentials_are_checked_before_the_object_is_looked_up(scene: Scene, call_about: str) -> None:
    method, path = call_about.split()
    assert_refused(await call(scene.app, None, method, path), 401, None, anonymous=True)


async def test_permission_is_checked_before_the_object_is_looked_up(scene: Scene) -> None:
    response = await call(scene.app, scene.tokens["viewer"], "DELETE", "/processes/0")
    assert_refused(response, 403, "processes:write", anonymous=False)
