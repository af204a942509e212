"""Every change is recorded as one row of the history, and nothing else is recorded.

The tests commit, to one database for all of them.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

import asyncpg
import httpx
import pytest
import structlog
from fastapi import FastAPI
from sqlalchemy import URL

from app.core.permissions import SCOPES, scopes_of
from app.domains.change.schemas import MEMBERS
from app.domains.register.demo_data import DEMO_USERS
from app.domains.shared.bulk import writer as bulk_writes
from app.domains.shared.collection import writable_columns
from app.domains.shared.schemas import ChangeRead, kept_fields
from app.domains.user.schemas import UserReplace
from app.main import create_app
from app.utils.db_init import initialise
from tests.builders import (
    make,
    make_department,
    make_location,
    make_password_link,
    make_process,
    make_resource,
    make_role,
    make_user,
)
from tests.catalogue import (
    COLLECTIONS,
    LINKS,
    MODELS,
    NOUNS,
    PLAIN_TEXTS,
    REFERENCE_TARGETS,
    body_of,
    details_of,
    every_collection,
    every_hierarchy,
    required,
)
from tests.conftest import (
    ADMIN_PASSWORD,
    Committed,
    Statements,
    client_of,
    connected,
    new_database,
    settings_for,
)

PASSWORD, OTHER_PASSWORD = "a first password for tests", "another password for tests"
MESSAGE = "As decided on Monday: größer"
SECRETS = ("password", "old_password", "new_password", "token", "access_token", "refresh_token")

_numbers = count(1)


class Row(NamedTuple):
    """The part of a row of the history that describes the change of an object."""

    type: str
    object: dict[str, Any]
    action: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def brief(made: dict[str, Any]) -> dict[str, Any]:
    return {name: made.get(name) for name in ("id", "code", "name")}


@dataclass
class World:
    """An application with a database in which changes are committed, with connections and clients."""

    url: URL
    app: Any
    connection: asyncpg.Connection
    # Clients of the first administrator: with an API token, and in a session.
    client: httpx.AsyncClient
    session: httpx.AsyncClient
    admin: dict[str, Any]
    stack: AsyncExitStack

    async def last(self) -> int:
        found: int = await self.connection.fetchval("SELECT coalesce(max(id), 0) FROM changes")
        return found

    async def records(self, after: int) -> list[asyncpg.Record]:
        found: list[asyncpg.Record] = await self.connection.fetch(
            "SELECT * FROM changes WHERE id > $1 ORDER BY id", after
        )
        return found

    async def rows(self, after: int) -> list[Row]:
        return [row_of(record) for record in await self.records(after)]

    async def client_with(self, token: str) -> httpx.AsyncClient:
        return await self.stack.enter_async_context(client_of(self.app, token))

    async def account(self, **fields: Any) -> "Account":
        """Create a user and sign it in."""
        user = await make_user(self.client, **fields)
        link = (await make_password_link(self.client, user["id"])).json()
        response = await self.session.post("/auth/set-password", json={"token": link["token"], "password": PASSWORD})
        assert response.status_code == 200
        pair = response.json()
        return Account(user, await self.client_with(pair["access_token"]), pair["refresh_token"])


class Account(NamedTuple):
    user: dict[str, Any]
    client: httpx.AsyncClient
    refresh_token: str


def row_of(record: asyncpg.Record) -> Row:
    named = {"id": record["object_id"], "code": record["object_code"], "name": record["object_name"]}
    return Row(record["type"], named, record["action"], record["before"], record["after"])


@asynccontextmanager
async def new_world(server_url: URL, template: URL) -> AsyncIterator[World]:
    """Yield an application on a new database, which is a copy of `template`."""
    async with new_database(server_url, template.database) as url, AsyncExitStack() as stack:
        committed = Committed(create_app(settings_for(url)), url)
        async with connected(url) as connection:
            await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
            form = {"username": "admin@register.example", "password": ADMIN_PASSWORD}
            pair = (await committed.client.post("/auth/token", data=form)).json()
            session = await stack.enter_async_context(client_of(committed.app, pair["access_token"]))
            admin = (await session.get("/users/me")).json()
            yield World(url, committed.app, connection, committed.client, session, admin, stack)
        await committed.client.aclose()
        await committed.app.state.database.dispose()


@pytest.fixture(scope="module")
async def world(server_url: URL, template: URL) -> AsyncIterator[World]:
    async with new_world(server_url, template) as world:
        yield world


@pytest.fixture
def client(world: World) -> httpx.AsyncClient:
    return world.client


@contextmanager
def without_log() -> Iterator[None]:
    """Suppress the log of expected failures."""
    with structlog.testing.capture_logs():
        yield


# --- Every write operation ---


@dataclass
class Call:
    """A call of an operation, and the function from its response to the expected rows."""

    rows: Callable[[dict[str, Any]], list[Row]]
    place: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    form: dict[str, Any] | None = None
    # In NDJSON.
    file: str | None = None
    client: httpx.AsyncClient | None = None
    actor: dict[str, Any] | None = None
    message: str | None = MESSAGE
    # The SQL of the transaction that wrote the change, if the row of the object does not have it.
    written: str | None = None


Prepare = Callable[[World], Awaitable[Call]]


def nothing(_answer: dict[str, Any]) -> list[Row]:
    return []


@dataclass
class Sample:
    """A body with every member, none with its default, and the form of its values in the history."""

    body: dict[str, Any]
    shown: dict[str, Any]
    needed: dict[str, Any] = field(default_factory=dict)


# The defaults of omitted members in a whole body.
DEFAULTS: dict[str, Any] = {
    "locations": {"kind": "site"},
    "resources": {"kind": "application"},
    "processes": {"kind": "core", "status": "draft"},
    "users": {"access_level": "viewer", "is_active": True},
}

# Values of the members of a single collection, except nullable columns of plain text.
OWN: dict[str, dict[str, Any]] = {
    "locations": {"kind": "floor", "country": "GB", "timezone": "Europe/London"}
    | {"latitude": 51.5, "longitude": -0.25},
    "resources": {"kind": "equipment", "criticality": "high", "url": "https://register.example/"},
    "users": {"access_level": "editor", "is_active": False},
    "processes": {"kind": "support", "status": "retired", "criticality": "low"},
}


async def sample(client: httpx.AsyncClient, collection: str) -> Sample:
    number = next(_numbers)
    common = {
        "code": f"S-{number}",
        "external_id": f"s/{number}",
        "name": f"Sample {number}",
        "description": "Line 1\nLine 2",
    }

    async def refer(**targets: str) -> tuple[dict[str, Any], dict[str, Any]]:
        made = {name: await make(client, target) for name, target in targets.items()}
        ids = {f"{name}_id": found["id"] for name, found in made.items()}
        return ids, ids | {name: brief(found) for name, found in made.items()}

    ids, shown = await refer(
        **{member.removesuffix("_id"): target for member, target in REFERENCE_TARGETS[collection].items()}
    )
    plain = dict.fromkeys(PLAIN_TEXTS[collection], "1 Lane")
    own = required(collection, f"sample{number}") | common | plain | OWN.get(collection, {})
    lists: dict[str, Any] = {}
    entries: dict[str, Any] = {}
    for each in LINKS[collection]:
        detail = LINK_DETAILS[each.field]
        target = await make(client, each.target_model.__tablename__)
        lists[each.field] = [{each.target: target["id"]} | detail]
        entries[each.field] = [brief(target) | detail]
    needed = {name: value for name, value in required(collection, f"now{number}").items() if name != "name"}
    body = own | ids | lists
    assert body.keys() == {*writable_columns(MODELS[collection]), *lists}
    return Sample(body, own | shown | entries, needed)


# A value of each link's own field that is not its default.
LINK_DETAILS: dict[str, dict[str, str]] = {
    each.field: {each.detail: details_of("processes", each)[-1]} if each.detail else {} for each in LINKS["processes"]
}


def creates(collection: str) -> Prepare:
    async def prepare(world: World) -> Call:
        it = await sample(world.client, collection)
        return Call(lambda response: [Row(collection, brief(response), "created", None, it.shown)], body=it.body)

    return prepare


def replaces(collection: str) -> Prepare:
    async def prepare(world: World) -> Call:
        it = await sample(world.client, collection)
        made = await make(world.client, collection, **it.body)
        body = {"name": "Now"} | it.needed
        # The history omits empty lists of links.
        plain = {name: None for name, value in it.shown.items() if not isinstance(value, list)}
        kept = kept_fields(body_of(collection, "PUT"))
        before, after = (
            {name: value for name, value in side.items() if name not in kept}
            for side in (it.shown, plain | DEFAULTS.get(collection, {}) | body)
        )
        named = {"id": made["id"], "code": None, "name": "Now"}
        return Call(lambda _: [Row(collection, named, "updated", before, after)], {"reference": made["id"]}, body)

    return prepare


def updates(collection: str) -> Prepare:
    async def prepare(world: World) -> Call:
        made = await make(world.client, collection, **(await sample(world.client, collection)).body)
        body = {"description": None, "name": made["name"], "code": f"{made['code']}-NOW"}
        before = {"description": made["description"], "code": made["code"]}
        after = {"description": None, "code": body["code"]}
        named = brief(made) | {"code": body["code"]}
        return Call(lambda _: [Row(collection, named, "updated", before, after)], {"reference": made["id"]}, body)

    return prepare


def deletes(collection: str) -> Prepare:
    async def prepare(world: World) -> Call:
        it = await sample(world.client, collection)
        made = await make(world.client, collection, **it.body)
        place = {"reference": f"code:{made['code']}"}
        return Call(lambda _: [Row(collection, brief(made), "deleted", it.shown, None)], place)

    return prepare


def in_savepoint(collection: str, changed: dict[str, Any]) -> str:
    """Return the SQL of the transaction of a change that was written in a savepoint.

    The row of the object has the id of the savepoint as xmin; the row of the history has the id of the transaction.
    """
    beside = f"SELECT xmin FROM {collection} WHERE id = {changed['id']}"
    return f"SELECT transaction_id % 4294967296 FROM changes WHERE xmin = ({beside}) LIMIT 1"


def writes_many(collection: str) -> Prepare:
    """Create an object, change one, write one without a difference, and delete one."""

    async def prepare(world: World) -> Call:
        new, *samples = [await sample(world.client, collection) for _ in range(4)]
        changed, same, gone = [await make(world.client, collection, **it.body) for it in samples]
        items = [
            {"op": "create", "data": new.body},
            {"op": "update", "id": changed["id"], "data": {"name": "Now"}},
            {"op": "upsert", "code": same["code"], "data": samples[1].body},
            {"op": "delete", "id": gone["id"]},
        ]

        def rows(response: dict[str, Any]) -> list[Row]:
            made = new.body | {"id": response["items"][0]["id"]}
            now = brief(changed) | {"name": "Now"}
            return [
                Row(collection, brief(made), "created", None, new.shown),
                Row(collection, now, "updated", {"name": changed["name"]}, {"name": "Now"}),
                Row(collection, brief(gone), "deleted", samples[2].shown, None),
            ]

        return Call(rows, body={"items": items}, written=in_savepoint(collection, changed))

    return prepare


def imports(collection: str) -> Prepare:
    """Create an object and change one by an import."""

    async def prepare(world: World) -> Call:
        new, sample_ = [await sample(world.client, collection) for _ in range(2)]
        changed = await make(world.client, collection, **sample_.body)
        lines = [new.body, {"code": changed["code"], "name": "Now"}]

        def rows(response: dict[str, Any]) -> list[Row]:
            made = new.body | {"id": response["rows"][0]["id"]}
            now = brief(changed) | {"name": "Now"}
            return [
                Row(collection, brief(made), "created", None, new.shown),
                Row(collection, now, "updated", {"name": changed["name"]}, {"name": "Now"}),
            ]

        return Call(rows, file="\n".join(map(json.dumps, lines)), written=in_savepoint(collection, changed))

    return prepare


def links(kind: str, owner: str = "processes", *, there: bool = False) -> Prepare:
    """Set a link, or remove it if `there` is true."""
    target_name = kind.removesuffix("s") if owner == "processes" else "user"

    async def prepare(world: World) -> Call:
        made = await make(world.client, owner, code=f"L-{next(_numbers)}")
        target = await make(world.client, "users" if owner == "roles" else kind, code=f"L-{next(_numbers)}")
        detail = LINK_DETAILS.get(kind, {})
        entry = {kind: [brief(target) | detail]}
        place = {"reference": made["id"], target_name: target["id"]}
        if not there:
            return Call(lambda _: [Row(owner, brief(made), "linked", None, entry)], place, detail or None)
        done = await world.client.put(f"/{owner}/{made['id']}/{kind}/{target['id']}", json=detail)
        assert done.status_code == 204
        return Call(lambda _: [Row(owner, brief(made), "unlinked", entry, None)], place)

    return prepare


def replaces_holders(*, is_bulk: bool = False) -> Prepare:
    """Replace one of three holders; the new holders are named by `id` and by both keys."""

    async def prepare(world: World) -> Call:
        role = await make_role(world.client, code=f"H-{next(_numbers)}")
        keys = ({"code": f"H-{number}", "external_id": f"h/{number}"} for number in _numbers)
        gone, first, second, new = [await make_user(world.client, **next(keys)) for _ in range(4)]
        path = f"/roles/{role['id']}/holders"
        done = await world.client.put(path, json={"user_ids": [user["id"] for user in (gone, first, second)]})
        assert done.status_code == 204
        body = {"user_ids": [{"code": new["code"]}, {"external_id": first["external_id"]}, second["id"]]}
        row = Row("roles", brief(role), "updated", {"holders": [brief(gone)]}, {"holders": [brief(new)]})
        if is_bulk:
            item = {"role_id": {"code": role["code"]}} | body
            return Call(lambda _: [row], body={"items": [item]}, written=in_savepoint("roles", role))
        return Call(lambda _: [row], {"reference": role["id"]}, body)

    return prepare


async def changing_the_own_password(world: World) -> Call:
    user, client, _ = await world.account()
    return Call(
        lambda _: [Row("users", brief(user), "updated", {}, {"password": "changed"})],
        body={"old_password": PASSWORD, "new_password": OTHER_PASSWORD},
        client=client,
        actor=user,
        written=f"SELECT xmin FROM credentials WHERE user_id = {user['id']}",
    )


async def setting_the_password(world: World) -> Call:
    user = await make_user(world.client)
    link = (await make_password_link(world.client, user["id"])).json()
    return Call(
        lambda _: [Row("users", brief(user), "updated", {}, {"password": "changed"})],
        body={"token": link["token"], "password": PASSWORD},
        actor=user,
        message=None,  # the request is anonymous, so its header is not kept
        written=f"SELECT xmin FROM credentials WHERE user_id = {user['id']}",
    )


async def making_a_link(world: World) -> Call:
    user = await make_user(world.client, code=f"P-{next(_numbers)}")
    return Call(
        lambda _: [Row("users", brief(user), "updated", {}, {"password_link": "made"})],
        {"reference": f"code:{user['code']}"},
        client=world.session,
        written=f"SELECT xmin FROM password_links WHERE user_id = {user['id']}",
    )


API_TOKEN_BODY = {"name": "Nightly export", "scopes": ["roles:read", "changes:read"], "expires_in_days": 7}


def granted(token: dict[str, Any]) -> dict[str, Any]:
    return {name: token[name] for name in ("name", "scopes", "expires_at", "user")}


def token_brief(token: dict[str, Any]) -> dict[str, Any]:
    return {"id": token["id"], "code": None, "name": token["name"]}


async def making_an_api_token(world: World) -> Call:
    user, client, _ = await world.account(access_level="editor")

    def rows(response: dict[str, Any]) -> list[Row]:
        assert response["scopes"] == ["changes:read", "roles:read"]
        assert response["user"] == brief(user)
        return [Row("api_tokens", token_brief(response), "created", None, granted(response))]

    return Call(rows, body=API_TOKEN_BODY, client=client, actor=user)


def revoking_an_api_token(*, own: bool) -> Prepare:
    async def prepare(world: World) -> Call:
        user, client, _ = await world.account()
        token = (await client.post("/users/me/tokens", json=API_TOKEN_BODY)).json()
        return Call(
            lambda _: [Row("api_tokens", token_brief(token), "deleted", granted(token), None)],
            {"token": token["id"]},
            client=client if own else None,
            actor=user if own else None,
        )

    return prepare


async def signing_in(world: World) -> Call:
    user, _, _ = await world.account()
    return Call(nothing, form={"username": user["email"], "password": PASSWORD})


async def refreshing(world: World) -> Call:
    account = await world.account()
    return Call(nothing, body={"refresh_token": account.refresh_token})


async def signing_out(world: World) -> Call:
    return Call(nothing, client=(await world.account()).client)


async def ending_a_session(world: World) -> Call:
    client = (await world.account()).client
    (session,) = (await client.get("/auth/sessions")).json()["items"]
    return Call(nothing, {"session": session["id"]}, client=client)


# Every write operation, with its call and the expected rows of the history.
OPERATIONS: dict[str, Prepare] = {
    **{f"create_{noun}": creates(collection) for collection, noun in NOUNS.items()},
    **{f"replace_{noun}": replaces(collection) for collection, noun in NOUNS.items()},
    **{f"update_{noun}": updates(collection) for collection, noun in NOUNS.items()},
    **{f"delete_{noun}": deletes(collection) for collection, noun in NOUNS.items()},
    **{f"bulk_{collection}": writes_many(collection) for collection in NOUNS},
    **{f"import_{collection}": imports(collection) for collection in NOUNS},
    **{f"link_process_{kind.removesuffix('s')}": links(kind) for kind in LINK_DETAILS},
    **{f"unlink_process_{kind.removesuffix('s')}": links(kind, there=True) for kind in LINK_DETAILS},
    "add_role_holder": links("holders", "roles"),
    "remove_role_holder": links("holders", "roles", there=True),
    "replace_role_holders": replaces_holders(),
    "bulk_role_holders": replaces_holders(is_bulk=True),
    "change_own_password": changing_the_own_password,
    "set_password": setting_the_password,
    "create_password_link": making_a_link,
    "create_own_api_token": making_an_api_token,
    "revoke_own_api_token": revoking_an_api_token(own=True),
    "revoke_api_token": revoking_an_api_token(own=False),
    "sign_in": signing_in,
    "refresh_token": refreshing,
    "sign_out": signing_out,
    "sign_out_everywhere": signing_out,
    "end_session": ending_a_session,
}


def write_operations(app: Any) -> dict[str, tuple[str, str]]:
    return {
        operation["operationId"]: (method, path)
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
        if method in {"post", "put", "patch", "delete"}
    }


def test_every_write_operation_is_in_the_table(world: World) -> None:
    assert sorted(write_operations(world.app)) == sorted(OPERATIONS)


async def perform(world: World, operation: str, call: Call) -> dict[str, Any]:
    """Call an operation and return the response, which is successful."""
    method, path = write_operations(world.app)[operation]
    headers = {b"X-Request-ID": f"history-{operation}".encode(), b"X-Change-Message": MESSAGE.encode()}
    client = call.client or world.client
    url = path.removeprefix("/api/v1").format(**call.place)
    if call.file is not None:
        headers[b"Content-Type"] = b"application/x-ndjson"
        response = await client.request(method, url, content=call.file, headers=headers)
    else:
        response = await client.request(method, url, json=call.body, data=call.form, headers=headers)
    assert response.is_success, response.text
    document: dict[str, Any] = response.json() if response.content else {}
    return document


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
async def test_operation_records_exactly_its_changes(world: World, operation: str) -> None:
    call = await OPERATIONS[operation](world)
    last = await world.last()
    document = await perform(world, operation, call)
    records = await world.records(last)
    expected = [row._replace(before=row.before, after=row.after) for row in call.rows(document)]
    rows = [row_of(record) for record in records]
    assert [row._replace(before=row.before, after=row.after) for row in rows] == expected
    actor = call.actor or world.admin
    for record, row in zip(records, rows, strict=True):
        assert (record["actor_id"], record["actor_name"]) == (actor["id"], actor["name"])
        assert (record["request_id"], record["message"]) == (f"history-{operation}", call.message)
        # The filter `member` takes the name of every recorded member.
        assert {*(row.before or {}), *(row.after or {})} <= {*MEMBERS[row.type]}
        text = repr(dict(record))
        for members in (call.body or {}, document):
            for name in SECRETS:
                assert name not in members or members[name] not in text
        written = call.written or f"SELECT xmin FROM {row.type} WHERE id = {row.object['id']}"
        if row.action != "deleted":
            transaction = await world.connection.fetchval(f"SELECT ({written})::text::bigint")
            assert transaction == record["transaction_id"] % 2**32


# --- Contents of the rows ---


async def test_creation_is_recorded_without_empty_members(world: World, client: httpx.AsyncClient) -> None:
    last = await world.last()
    process = await make_process(client, name="Bare")
    role = await make_role(client, name="Bare")
    assert await world.rows(last) == [
        Row("processes", brief(process), "created", None, {"name": "Bare", "kind": "core", "status": "draft"}),
        Row("roles", brief(role), "created", None, {"name": "Bare"}),
    ]


async def test_only_removed_and_added_links_are_recorded(world: World, client: httpx.AsyncClient) -> None:
    departments = [await make_department(client) for _ in range(4)]
    roles = [await make_role(client) for _ in range(2)]
    first, second, third, fourth = (brief(department) for department in departments)
    process = await make_process(
        client,
        departments=[
            {"department_id": first["id"], "relation": "owner"},
            {"department_id": second["id"]},
            {"department_id": third["id"], "relation": "customer"},
        ],
        role_ids=[roles[0]["id"]],
    )
    last = await world.last()
    body = {
        "departments": [
            {"department_id": fourth["id"], "relation": "supplier"},
            {"department_id": first["id"], "relation": "owner"},
            {"department_id": third["id"], "relation": "participant"},
        ],
        "roles": [
            {"role_id": roles[0]["id"], "responsibility": "responsible"},
            {"role_id": roles[0]["id"], "responsibility": "accountable"},
        ],
        "criticality": "low",
    }
    assert (await client.patch(f"/processes/{process['id']}", json=body)).json()["version"] == 2
    before = {
        "criticality": None,
        "departments": [second | {"relation": "participant"}, third | {"relation": "customer"}],
    }
    after = {
        "criticality": "low",
        "departments": [third | {"relation": "participant"}, fourth | {"relation": "supplier"}],
        "roles": [brief(roles[0]) | {"responsibility": "accountable"}],
    }
    assert await world.rows(last) == [Row("processes", brief(process), "updated", before, after)]


async def test_links_of_the_short_form_are_recorded_as_in_documents(world: World, client: httpx.AsyncClient) -> None:
    kinds = {"departments": "relation", "locations": None, "resources": "usage", "roles": "responsibility"}
    defaults = {"relation": "participant", "usage": "uses", "responsibility": "responsible"}
    made = {kind: [await make(client, kind) for _ in range(2)] for kind in kinds}
    entries = {
        kind: [brief(it) | ({detail: defaults[detail]} if detail else {}) for it in made[kind]]
        for kind, detail in kinds.items()
    }
    last = await world.last()
    ids = {f"{kind.removesuffix('s')}_ids": [it["id"] for it in made[kind]] for kind in kinds}
    process = await make_process(client, name="Short", **ids)
    cleared: dict[str, Any] = {name: [] for name in ids}
    assert (await client.patch(f"/processes/{process['id']}", json=cleared)).status_code == 200
    own = {"name": "Short", "kind": "core", "status": "draft"}
    assert await world.rows(last) == [
        Row("processes", brief(process), "created", None, own | entries),
        Row("processes", brief(process), "updated", entries, {}),
    ]


async def test_links_are_recorded_in_the_order_of_the_document(world: World, client: httpx.AsyncClient) -> None:
    await world.connection.execute("INSERT INTO roles (name) SELECT 'Many ' || n FROM generate_series(1, 300) AS n")
    ids = [row["id"] for row in await world.connection.fetch("SELECT id FROM roles WHERE name LIKE 'Many %'")]
    process = await make_process(client, role_ids=ids)
    last = await world.last()
    kept = sorted(ids)[::50]
    response = (await client.patch(f"/processes/{process['id']}", json={"role_ids": kept[::-1]})).json()
    assert [link["id"] for link in response["roles"]] == kept
    (row,) = await world.rows(last)
    assert row.before == {"roles": [link for link in process["roles"] if link["id"] not in kept]}
    assert row.after == {}


async def test_changed_link_is_recorded_with_both_values(world: World, client: httpx.AsyncClient) -> None:
    process, resource = await make_process(client), await make_resource(client, code=f"D-{next(_numbers)}")
    path = f"/processes/{process['id']}/resources/{resource['id']}"
    last = await world.last()
    for usage in ("reads", "writes", "writes"):
        assert (await client.put(path, json={"usage": usage})).status_code == 204
    reads, writes = ({"resources": [brief(resource) | {"usage": usage}]} for usage in ("reads", "writes"))
    assert await world.rows(last) == [
        Row("processes", brief(process), "linked", None, reads),
        Row("processes", brief(process), "linked", reads, writes),
    ]
    assert (await client.get(f"/processes/{process['id']}")).json()["version"] == 3


async def test_one_or_all_responsibilities_of_a_role_are_unlinked(world: World, client: httpx.AsyncClient) -> None:
    process, role = await make_process(client), await make_role(client)
    path = f"/processes/{process['id']}/roles/{role['id']}"
    for responsibility in ("informed", "accountable", "consulted"):
        assert (await client.put(path, json={"responsibility": responsibility})).status_code == 204
    last = await world.last()
    for query in ("?responsibility=consulted", "?responsibility=consulted", "", ""):
        assert (await client.delete(path + query)).status_code == 204
    entries = [brief(role) | {"responsibility": name} for name in ("accountable", "informed", "consulted")]
    assert await world.rows(last) == [
        Row("processes", brief(process), "unlinked", {"roles": entries[2:]}, None),
        Row("processes", brief(process), "unlinked", {"roles": entries[:2]}, None),
    ]
    assert (await client.get(f"/processes/{process['id']}")).json()["version"] == 6


@pytest.mark.parametrize("kind", [*LINK_DETAILS, "holders"])
async def test_repeated_linking_or_unlinking_is_no_change(world: World, client: httpx.AsyncClient, kind: str) -> None:
    owner = "roles" if kind == "holders" else "processes"
    made, target = await make(client, owner), await make(client, "users" if kind == "holders" else kind)
    path = f"/{owner}/{made['id']}/{kind}/{target['id']}"
    last = await world.last()
    statuses = [(await client.put(path)).status_code for _ in range(2)]
    statuses += [(await client.delete(path)).status_code for _ in range(2)]
    assert statuses == [204] * 4
    assert [row.action for row in await world.rows(last)] == ["linked", "unlinked"]
    assert (await client.get(f"/{owner}/{made['id']}")).json()["version"] == 3


@every_collection
async def test_write_without_a_difference_records_no_change(
    world: World, client: httpx.AsyncClient, collection: str
) -> None:
    it = await sample(client, collection)
    made = await make(client, collection, **it.body)
    path = f"/{collection}/{made['id']}"
    last = await world.last()
    responses = [await client.put(path, json=it.body), await client.patch(path, json=it.body)]
    responses += [await client.patch(path, json={}), await client.patch(path, json={"name": f" {made['name']} "})]
    assert [response.json() for response in responses] == [made] * 4
    assert await world.rows(last) == []


async def test_move_is_recorded_with_both_parents(world: World, client: httpx.AsyncClient) -> None:
    old, new = await make_location(client, code=f"M-{next(_numbers)}"), await make_location(client)
    moved = await make_location(client, parent_id=old["id"])
    last = await world.last()
    for parent in (new["id"], None):
        assert (await client.patch(f"/locations/{moved['id']}", json={"parent_id": parent})).status_code == 200
    below_old, below_new = ({"parent_id": it["id"], "parent": brief(it)} for it in (old, new))
    assert await world.rows(last) == [
        Row("locations", brief(moved), "updated", below_old, below_new),
        Row("locations", brief(moved), "updated", below_new, {"parent_id": None, "parent": None}),
    ]


async def test_renaming_a_referenced_object_is_no_change_of_this_object(
    world: World, client: httpx.AsyncClient
) -> None:
    parent, owner = await make_process(client), await make_user(client)
    department, other = await make_department(client), await make_department(client)
    process = await make_process(
        client, parent_id=parent["id"], owner_id=owner["id"], department_ids=[department["id"]]
    )
    for path, name in ((f"/processes/{parent['id']}", "P"), (f"/departments/{department['id']}", "D")):
        assert (await client.patch(path, json={"name": name, "code": f"{name}-{next(_numbers)}"})).is_success
    last = await world.last()
    body = {"description": "New", "department_ids": [department["id"], other["id"]]}
    assert (await client.patch(f"/processes/{process['id']}", json=body)).status_code == 200
    after = {"description": "New", "departments": [brief(other) | {"relation": "participant"}]}
    assert await world.rows(last) == [Row("processes", brief(process), "updated", {"description": None}, after)]


async def test_renaming_referenced_objects_during_a_write_is_no_change_of_this_object(
    world: World, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, owner = await make_process(client), await make_user(client)
    department, other = await make_department(client), await make_department(client)
    process = await make_process(
        client, parent_id=parent["id"], owner_id=owner["id"], department_ids=[department["id"], other["id"]]
    )
    unpatched = bulk_writes._Writer._record

    async def rename_first(*args: Any) -> None:
        number = next(_numbers)
        for table, it in (("processes", parent), ("users", owner), ("departments", department)):
            change = f"UPDATE {table} SET name = 'Renamed {number}', code = 'R-{number}' WHERE id = {it['id']}"
            await world.connection.execute(change)
        await unpatched(*args)

    monkeypatch.setattr(bulk_writes._Writer, "_record", rename_first)
    last = await world.last()
    data = {"description": "New", "department_ids": [department["id"]]}
    item = {"op": "update", "id": process["id"], "data": data}
    assert (await client.post("/processes/bulk", json={"items": [item]})).is_success
    now = (await client.get(f"/processes/{process['id']}")).json()
    names = [now["parent"]["name"], now["owner"]["name"], now["departments"][0]["name"]]
    assert all(name.startswith("Renamed ") for name in names)
    before = {"description": None, "departments": [brief(other) | {"relation": "participant"}]}
    assert await world.rows(last) == [Row("processes", brief(process), "updated", before, {"description": "New"})]


async def next_id(world: World, table: str) -> int:
    sequence = await world.connection.fetchval(f"SELECT pg_get_serial_sequence('{table}', 'id')")
    return int(await world.connection.fetchval(f"SELECT last_value + is_called::int FROM {sequence}"))


@every_hierarchy
async def test_object_cannot_be_created_below_itself(
    world: World, client: httpx.AsyncClient, collection: str, reference: str
) -> None:
    last, own = await world.last(), await next_id(world, collection)
    body = required(collection) | {"name": "Own parent", reference: own}
    response = await client.post(f"/{collection}", json=body)
    assert response.status_code == 409, response.text
    assert [(fault["pointer"], fault["code"]) for fault in response.json()["errors"]] == [(f"/{reference}", "cycle")]
    assert (await client.get(f"/{collection}/{own}")).status_code == 404
    assert await world.rows(last) == []


@every_hierarchy
@pytest.mark.parametrize("path", ["bulk", "import"])
@pytest.mark.parametrize("number", [0, 1])
async def test_batch_cannot_create_an_object_below_itself(
    world: World, client: httpx.AsyncClient, collection: str, reference: str, path: str, number: int
) -> None:
    last, own = await world.last(), number + await next_id(world, collection)
    rows = [required(collection, str(index)) | {"external_id": f"own-{index}"} for index in range(2)]
    rows[number][reference] = own
    if path == "bulk":
        response = await client.post(f"/{collection}/bulk", json={"items": [{"op": "create", "data": r} for r in rows]})
    else:
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        headers = {"Content-Type": "application/x-ndjson"}
        response = await client.post(f"/{collection}/import", content=lines, headers=headers)
    assert (response.status_code, response.json()["code"]) == (409, "cycle"), response.text
    pointer = f"/items/{number}/data/{reference}" if path == "bulk" else f"/{number + 1}/{reference}"
    assert [(fault["pointer"], fault["code"]) for fault in response.json()["errors"]] == [(pointer, "cycle")]
    assert await world.rows(last) == []


async def test_user_that_changes_itself_is_returned_as_stored(world: World) -> None:
    account = await world.account(access_level="admin", name="Miss Byron")
    path = f"/users/{account.user['id']}"
    own = {"id": account.user["id"], "code": None, "name": "Lady Lovelace"}
    # A cycle that is older than the rule, so that the document contains its own object twice.
    await world.connection.execute("UPDATE users SET manager_id = id WHERE id = $1", account.user["id"])
    for method, body in (
        ("PATCH", {"name": "Lady Lovelace"}),
        ("PUT", account.user | {"name": "Lady Lovelace", "manager_id": None}),
    ):
        last = await world.last()
        given = {name: value for name, value in body.items() if name in UserReplace.model_fields}
        response = await account.client.request(method, path, json=given)
        assert response.json()["updated_by"] == own, response.text
        assert response.json()["manager"] == (own if method == "PATCH" else None)
        assert response.headers["etag"] == (await account.client.get(path)).headers["etag"]
        (row,) = await world.rows(last)
        managers = [(side or {}).get("manager") for side in (row.before, row.after)]
        assert managers == ([None, None] if method == "PATCH" else [own, None])
    # Other tests need a single administrator.
    assert (await world.client.patch(path, json={"is_active": False})).is_success


async def test_changes_keep_the_names_of_their_time(world: World) -> None:
    account = await world.account(access_level="editor", name="Miss Byron")
    department = await make_department(account.client, name="First", code=f"T-{next(_numbers)}")
    path = f"/departments/{department['id']}"
    assert (await world.client.patch(f"/users/{account.user['id']}", json={"name": "Lady Lovelace"})).is_success
    assert (await account.client.patch(path, json={"name": "Second"})).is_success
    items = (await world.client.get(f"{path}/changes")).json()["items"]
    assert [(item["object"], item["actor"]) for item in items] == [
        (brief(department) | {"name": "Second"}, {"id": account.user["id"], "name": "Lady Lovelace"}),
        (brief(department), {"id": account.user["id"], "name": "Miss Byron"}),
    ]


async def test_changes_of_access_are_recorded(world: World, client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    last = await world.last()
    body = {"access_level": "admin", "is_active": False, "email": f"new{user['id']}@register.example"}
    assert (await client.patch(f"/users/{user['id']}", json=body)).status_code == 200
    before = {"access_level": "viewer", "is_active": True, "email": user["email"]}
    assert await world.rows(last) == [Row("users", brief(user), "updated", before, body)]


# --- Failing and concurrent writes ---


async def test_refused_write_records_no_change(world: World, client: httpx.AsyncClient) -> None:
    taken = await make_department(client, code=f"F-{next(_numbers)}")
    child = await make_department(client, parent_id=taken["id"])
    process, role = await make_process(client), await make_role(client)
    owner = await make_department(client)
    path = f"/processes/{process['id']}"
    assert (await client.put(f"{path}/departments/{taken['id']}", json={"relation": "owner"})).status_code == 204
    last = await world.last()
    responses = [
        await client.post("/departments", json={"name": "Taken", "code": taken["code"]}),
        await client.patch(f"/departments/{child['id']}", json={"code": taken["code"]}),
        await client.patch(f"/departments/{taken['id']}", json={"parent_id": child["id"]}),
        await client.delete(f"/departments/{taken['id']}"),
        await client.put(f"{path}/departments/{owner['id']}", json={"relation": "owner"}),
        await client.post("/processes", json={"name": "Unknown", "role_ids": [role["id"], 2**62]}),
        await client.put(path, json={"name": "Unknown", "owner_id": 2**62}),
        await client.put(f"{path}/roles/{2**62}"),
        await client.patch(path, json={"name": "Stale"}, headers={"If-Match": '"99"'}),
        await client.delete(path, headers={"If-Match": '"99"'}),
        await client.delete(f"{path}/departments/{taken['id']}", headers={"If-Match": '"99"'}),
        await client.post("/users", json={"name": "Double", "email": "ADMIN@register.example"}),
        await client.patch(f"/users/{world.admin['id']}", json={"is_active": False}),
        await world.session.delete(f"/api-tokens/{2**62}"),
        await world.session.post("/users/me/tokens", json={"name": "None", "scopes": ["everything"]}),
        await world.session.post(
            "/users/me/password", json={"old_password": "not this one at all", "new_password": OTHER_PASSWORD}
        ),
    ]
    expected = [409, 409, 409, 409, 409, 422, 422, 404, 412, 412, 412, 409, 409, 404, 422, 422]
    assert [response.status_code for response in responses] == expected
    assert await world.rows(last) == []


REFUSE_AT_COMMIT = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$",
    """
    CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE OR DELETE ON roles
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()
    """,
)


async def test_failed_commit_records_no_change(world: World, client: httpx.AsyncClient) -> None:
    role, user = await make_role(client), await make_user(client)
    path = f"/roles/{role['id']}"
    last = await world.last()
    for statement in REFUSE_AT_COMMIT:
        await world.connection.execute(statement)
    try:
        with without_log():
            responses = [
                await client.post("/roles", json={"name": "Never"}),
                await client.put(path, json={"name": "Never"}),
                await client.patch(path, json={"name": "Never"}),
                await client.put(f"{path}/holders/{user['id']}"),
                await client.delete(path),
            ]
    finally:
        await world.connection.execute("DROP FUNCTION refuse CASCADE")
    assert [response.status_code for response in responses] == [500] * 5
    assert await world.rows(last) == []


async def test_write_is_rolled_back_if_its_history_fails(world: World, client: httpx.AsyncClient) -> None:
    role = await make_role(client, name="Kept")
    path = f"/roles/{role['id']}"
    user = await make_user(client)
    await world.connection.execute("ALTER TABLE changes ADD CONSTRAINT never CHECK (type <> 'roles') NOT VALID")
    try:
        with without_log():
            responses = [
                await client.post("/roles", json={"name": "Never", "code": "NEVER"}),
                await client.put(path, json={"name": "Never"}),
                await client.put(f"{path}/holders/{user['id']}"),
                await client.delete(path),
            ]
    finally:
        await world.connection.execute("ALTER TABLE changes DROP CONSTRAINT never")
    assert [response.status_code for response in responses] == [500] * 4
    assert (await client.get(path)).json() == role
    assert (await client.get(f"{path}/holders")).json()["items"] == []
    assert (await client.get("/roles/code:NEVER")).status_code == 404


async def test_changes_of_concurrent_patches_form_a_chain(world: World, client: httpx.AsyncClient) -> None:
    role = await make_role(client, name="Name 0")
    path = f"/roles/{role['id']}"
    last = await world.last()
    bodies = [{"name": f"Name {number}"} for number in range(1, 17)]
    responses = await asyncio.gather(*(client.patch(path, json=body) for body in bodies))
    assert [response.status_code for response in responses] == [200] * 16
    rows = await world.rows(last)
    assert sorted(response.json()["version"] for response in responses) == list(range(2, 18))
    chain = [(row.before or {})["name"] for row in rows] + [(rows[-1].after or {})["name"]]
    assert chain[0] == "Name 0"
    assert chain[1:] == [(row.after or {})["name"] for row in rows]
    assert sorted(chain[1:]) == sorted(body["name"] for body in bodies)
    times = [record["at"] for record in await world.records(last)]
    assert times == sorted(times)
    by_version = sorted((response.json() for response in responses), key=lambda response: int(response["version"]))
    assert [response["name"] for response in by_version] == chain[1:]
    assert (await client.get(path)).json()["name"] == chain[-1]


# --- Initialisation ---


async def test_demo_data_has_a_history(empty: URL) -> None:
    await initialise(settings_for(empty), empty, lambda _: None, demo_data=True)
    async with connected(empty) as connection:
        counts = {
            table: await connection.fetchval(f"SELECT count(*) FROM {table}")
            for table in (*COLLECTIONS, "role_holders")
        }
        query = "SELECT type, action, count(*) FROM changes GROUP BY type, action"
        found = {(row["type"], row["action"]): row["count"] for row in await connection.fetch(query)}
        # Heads and managers are set after the users are created.
        assert found == {
            **{(collection, "created"): counts[collection] for collection in COLLECTIONS},
            ("roles", "linked"): counts["role_holders"],
            ("departments", "updated"): await connection.fetchval(
                "SELECT count(*) FROM departments WHERE head_id IS NOT NULL"
            ),
            ("users", "updated"): await connection.fetchval("SELECT count(*) FROM users WHERE manager_id IS NOT NULL")
            + 1  # the first administrator's password
            + len(DEMO_USERS),
        }
        assert counts["roles"] > 5
        first, *others = await connection.fetch("SELECT * FROM changes ORDER BY id")
        assert (first["type"], first["action"], first["object_name"]) == ("users", "created", "First administrator")
        assert (first["actor_id"], first["actor_name"]) == (None, None)
        assert {(row["actor_id"], row["actor_name"]) for row in others} == {(first["object_id"], first["object_name"])}
        assert len({row["transaction_id"] for row in (first, *others)}) == 1
        # Each version of each object has one row.
        for table in COLLECTIONS:
            versions = await connection.fetchval(f"SELECT sum(version) FROM {table}")
            rows = await connection.fetchval(
                "SELECT count(*) FROM changes WHERE type = $1 AND NOT coalesce(after ? 'password', false)", table
            )
            assert (table, rows) == (table, versions)


# --- Reading the history ---


async def items_of(client: httpx.AsyncClient, path: str, **parameters: Any) -> list[dict[str, Any]]:
    response = await client.get(path, params=parameters or None)
    assert response.status_code == 200, response.text
    items: list[dict[str, Any]] = response.json()["items"]
    for item in items:
        ChangeRead.model_validate_json(json.dumps(item))
    return items


async def test_changes_are_listed_as_they_were_recorded(world: World, client: httpx.AsyncClient) -> None:
    headers = {"X-Request-ID": "read-1", "X-Change-Message": "Because"}
    made = (await client.post("/departments", json={"name": "Read"}, headers=headers)).json()
    (item,) = await items_of(client, "/changes", type="departments", object_id=made["id"])
    (record,) = (row for row in await world.records(0) if row["id"] == item["id"])
    assert item == {
        "id": record["id"],
        "at": made["created_at"],
        "actor": {"id": world.admin["id"], "name": world.admin["name"]},
        "request_id": "read-1",
        "message": "Because",
        "type": "departments",
        "object": brief(made),
        "action": "created",
        "before": None,
        "after": {"name": "Read"},
    }
    assert record["at"] == datetime.fromisoformat(made["created_at"])


async def test_all_changes_are_listed_newest_first(world: World, client: httpx.AsyncClient) -> None:
    for _ in range(3):
        await make_role(client)
    items = await items_of(client, "/changes", limit=200)
    ids = [item["id"] for item in items]
    newest = await world.connection.fetch("SELECT id FROM changes ORDER BY id DESC LIMIT 200")
    assert ids == [row["id"] for row in newest]


async def test_filters_select_alone_and_combined(world: World, client: httpx.AsyncClient) -> None:
    account = await world.account(access_level="editor")
    department = await make_department(account.client)
    between = await make_role(account.client)
    assert (await client.patch(f"/departments/{department['id']}", json={"name": "Theirs"})).is_success
    assert (await account.client.patch(f"/departments/{department['id']}", json={"name": "Mine again"})).is_success
    await make_location(account.client)
    everything = await world.records(0)
    actor, moment = account.user["id"], datetime.fromisoformat(between["created_at"])
    filters: list[dict[str, Any]] = [
        {"type": "departments"},
        {"type": "departments", "object_id": department["id"]},
        {"actor_id": actor},
        {"since": moment},
        {"type": "departments", "actor_id": actor},
        {"type": "locations", "since": moment},
        {"actor_id": actor, "since": moment},
        {"type": "departments", "object_id": department["id"], "actor_id": actor},
        {"type": "departments", "object_id": department["id"], "since": moment},
        {"type": "departments", "object_id": department["id"], "actor_id": actor, "since": moment},
        {"type": "departments", "actor_id": actor, "since": moment},
        {"type": "roles", "object_id": 2**62},
        {"actor_id": 2**62},
        {"since": datetime.now(UTC) + timedelta(days=2)},
        {"type": "users", "actor_id": actor},
    ]
    sizes = []
    for given in filters:
        expected = [
            row["id"]
            for row in reversed(everything)
            if all(row["at"] >= value if name == "since" else row[name] == value for name, value in given.items())
        ]
        parameters = {name: value.isoformat() if name == "since" else value for name, value in given.items()}
        response = await client.get("/changes", params=parameters | {"limit": 200, "count": "exact"})
        assert response.json()["total"] == len(expected), given
        assert [item["id"] for item in response.json()["items"]] == expected[:200], given
        sizes.append(len(expected))
    assert (sizes[1], sizes[2], sizes[6]) == (3, 4 + 1, 3)  # setting the own password is a change, too
    assert sizes[7:10] == [2, 2, 1]
    assert sizes[11:] == [0, 0, 0, 1]


async def test_since_includes_its_own_instant(client: httpx.AsyncClient) -> None:
    made = await make_role(client)
    moment = datetime.fromisoformat(made["created_at"])
    for since, listed in ((moment, True), (moment + timedelta(microseconds=1), False)):
        items = await items_of(client, "/changes", since=since.isoformat(), type="roles", object_id=made["id"])
        assert [item["object"]["id"] for item in items] == [made["id"]] * listed


async def test_since_compares_instants_and_not_ids(world: World, client: httpx.AsyncClient) -> None:
    # The changes of a slow transaction have the instant of its beginning, but later ids than faster transactions.
    moment = datetime.now(UTC) - timedelta(days=3)
    insert = "INSERT INTO changes (at, type, object_id, object_name, action) VALUES ($1, 'roles', $2, $3, 'created')"
    await world.connection.execute(insert, moment, 2**61, "Quick")
    await world.connection.execute(insert, moment - timedelta(hours=23), 2**61, "Slow")
    for since, names in (
        (moment, ["Quick"]),
        (moment - timedelta(hours=23), ["Slow", "Quick"]),
        (moment + timedelta(microseconds=1), []),
    ):
        items = await items_of(client, "/changes", since=since.isoformat(), type="roles", object_id=2**61)
        assert [item["object"]["name"] for item in items] == names


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00Z", "1900-01-01T00:00:00+05:30", "9999-12-31T23:59:59Z"])
async def test_any_instant_is_a_valid_filter_value(client: httpx.AsyncClient, since: str) -> None:
    await make_role(client)
    items = await items_of(client, "/changes", since=since)
    assert (items == []) == since.startswith("9999")


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_instant_beyond_the_calendar_is_no_server_error(client: httpx.AsyncClient, since: str) -> None:
    response = await client.get("/changes", params={"since": since})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_content"), response.text
    assert [fault["pointer"] for fault in response.json()["errors"]] == ["/since"]


async def test_pages_of_changes_link_to_one_another(client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    path = f"/roles/{role['id']}"
    for number in range(6):
        assert (await client.patch(path, json={"name": f"Step {number}"})).is_success
    parameters = f"type=roles&object_id={role['id']}"
    for base, query in ((f"{path}/changes", ""), ("/changes", f"&{parameters}")):
        whole = [item["id"] for item in await items_of(client, f"{base}?limit=200{query}")]
        assert len(whole) == 7
        url: str | None = f"/api/v1{base}?limit=3&count=exact{query}"
        pages, backwards = [], []
        while url is not None:
            page = (await client.get(url.removeprefix("/api/v1"))).json()
            assert page["total"] == 7
            pages.append([item["id"] for item in page["items"]])
            backwards.append(page["prev"])
            url = page["next"]
        assert pages == [whole[:3], whole[3:6], whole[6:]]
        assert backwards[0] is None
        previous = (await client.get(str(backwards[-1]).removeprefix("/api/v1"))).json()
        assert [item["id"] for item in previous["items"]] == pages[1]
        assert (await client.get(f"{base}?limit=3{query}")).json()["total"] is None


@pytest.mark.parametrize(
    ("query", "status", "pointer"),
    [
        ("object_id=1", 422, "/type"),
        ("type=things", 422, "/type"),
        ("type=roles&object_id=0", 422, "/object_id"),
        (f"actor_id={2**63}", 422, "/actor_id"),
        ("since=yesterday", 422, "/since"),
        ("since=2026-01-01T00:00:00", 422, "/since"),
        ("limit=201", 422, "/limit"),
        ("count=roughly", 422, "/count"),
        ("sort=id", 400, "/sort"),
        ("actor=1", 400, "/actor"),
    ],
)
async def test_invalid_parameter_is_refused(client: httpx.AsyncClient, query: str, status: int, pointer: str) -> None:
    response = await client.get(f"/changes?{query}")
    assert response.status_code == status
    faults = response.json()["errors"]
    assert [fault["source"] for fault in faults] == ["query"]
    assert [fault["pointer"] for fault in faults] == [pointer]


async def test_changes_of_users_and_tokens_are_for_administrators_only(world: World) -> None:
    account = await world.account(access_level="viewer")
    editor = await world.account(access_level="editor")
    body = {"name": "Export", "scopes": sorted(SCOPES.keys() - {"admin"})}
    editors = body | {"scopes": sorted(scopes_of("editor"))}
    assert (await editor.client.post("/users/me/tokens", json=editors)).status_code == 201
    narrow = (await world.session.post("/users/me/tokens", json=body)).json()["token"]
    readers = [account.client, editor.client, await world.client_with(narrow)]
    public = await world.connection.fetchval("SELECT count(*) FROM changes WHERE type NOT IN ('users', 'api_tokens')")
    everything = await world.connection.fetchval("SELECT count(*) FROM changes")
    assert (await world.client.get("/changes?count=exact")).json()["total"] == everything
    for reader in readers:
        listed = (await reader.get("/changes?count=exact&limit=200")).json()
        assert listed["total"] == public
        assert {"users", "api_tokens"}.isdisjoint(item["type"] for item in listed["items"])
        for query in (
            "type=users",
            "type=api_tokens",
            f"type=users&object_id={account.user['id']}",
            f"type=users&actor_id={world.admin['id']}",
            "type=users&since=2000-01-01T00:00:00Z",
        ):
            filtered = await reader.get(f"/changes?count=exact&{query}")
            assert (filtered.status_code, filtered.json()["scope"]) == (403, "admin"), query
        own = f"/changes?count=exact&actor_id={account.user['id']}"
        listed = (await reader.get(own)).json()
        assert (listed["items"], listed["total"], listed["next"]) == ([], 0, None)
        assert (await world.client.get(own)).json()["total"] > 0
        refused = await reader.get(f"/users/{account.user['id']}/changes")
        assert (refused.status_code, refused.json()["scope"]) == (403, "admin")


async def test_token_sees_changes_of_readable_collections_only(world: World) -> None:
    await make_role(world.client)
    await make_department(world.client)
    body = {"name": "Narrow", "scopes": ["changes:read"]}
    narrow = await world.client_with((await world.session.post("/users/me/tokens", json=body)).json()["token"])
    assert (await narrow.get("/changes?count=exact")).json()["total"] == 0
    refused = await narrow.get("/changes?type=roles")
    assert (refused.status_code, refused.json()["scope"]) == (403, "roles:read")
    body = {"name": "Narrow", "scopes": ["changes:read", "roles:read"]}
    reader = await world.client_with((await world.session.post("/users/me/tokens", json=body)).json()["token"])
    assert {item["type"] for item in (await reader.get("/changes?limit=200")).json()["items"]} == {"roles"}


async def test_before_id_continues_the_list(client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    for name in ("Second", "Third"):
        await client.patch(f"/roles/{role['id']}", json={"name": name})
    newest, *older = await items_of(client, "/changes", type="roles", object_id=role["id"])
    assert await items_of(client, "/changes", type="roles", object_id=role["id"], before_id=newest["id"]) == older
    assert (await items_of(client, "/changes", before_id=newest["id"]))[0]["id"] < newest["id"]


async def test_returned_instant_is_a_valid_filter_value(client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    (change,) = await items_of(client, f"/roles/{role['id']}/changes")
    # A plus sign in a query means a blank; as the sign of an offset it is accepted.
    response = await client.get(f"/changes?type=roles&object_id={role['id']}&since={change['at']}")
    assert [item["id"] for item in response.json()["items"]] == [change["id"]]


@every_collection
async def test_history_is_found_by_id_and_code_and_after_deletion(client: httpx.AsyncClient, collection: str) -> None:
    code = f"H-{next(_numbers)}"
    made, other = await make(client, collection, code=code), await make(client, collection)
    by_its_id, by_its_code = f"/{collection}/{made['id']}", f"/{collection}/code:{code}"
    assert (await client.patch(by_its_id, json={"name": "Second"})).status_code == 200
    expected = await items_of(client, "/changes", type=collection, object_id=made["id"])
    assert [(item["action"], item["object"]["name"]) for item in expected] == [
        ("updated", "Second"),
        ("created", made["name"]),
    ]
    assert await items_of(client, f"{by_its_id}/changes") == expected
    assert await items_of(client, f"/{collection}/code:{code.lower()}/changes") == expected
    assert await items_of(client, f"{by_its_id}/changes", offset=9) == []
    assert [item["object"]["id"] for item in await items_of(client, f"/{collection}/{other['id']}/changes")] == [
        other["id"]
    ]

    assert (await client.delete(by_its_id)).status_code == 204
    gone = await items_of(client, f"{by_its_id}/changes")
    assert [item["action"] for item in gone] == ["deleted", "updated", "created"]
    assert await items_of(client, f"{by_its_id}/changes", offset=2) == gone[2:]
    assert await items_of(client, f"{by_its_id}/changes", offset=3) == []
    for never in (f"{by_its_code}/changes", f"/{collection}/{2**62}/changes", f"/{collection}/{2**64}/changes"):
        assert (await client.get(never)).status_code == 404
        assert (await client.get(f"{never}?offset=3")).status_code == 404
    # A new object with the code does not inherit the history.
    successor = await make(client, collection, code=code)
    assert [item["object"]["id"] for item in await items_of(client, f"{by_its_code}/changes")] == [successor["id"]]


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        (b"x" * 500, "x" * 500),
        (("ß" * 500).encode(), "ß" * 500),
        ("Umzug \N{RIGHTWARDS ARROW} Köln 🚚".encode(), "Umzug \N{RIGHTWARDS ARROW} Köln 🚚"),
        ("größer".encode("latin-1"), "größer"),
        (b"  around  ", "around"),
        (b"   ", None),
        (b"", None),
    ],
)
async def test_message_is_kept(client: httpx.AsyncClient, message: bytes, kept: str | None) -> None:
    response = await client.post("/roles", json={"name": "Recorded"}, headers={b"X-Change-Message": message})
    assert response.status_code == 201
    (item,) = await items_of(client, f"/roles/{response.json()['id']}/changes")
    assert item["message"] == kept


@pytest.mark.parametrize(
    "message", [b"x" * 501, ("ß" * 501).encode(), b"a\tb", b"a\x01b", b"a\x7fb", "a\x85b".encode(), "a\u2028b".encode()]
)
async def test_invalid_message_is_refused(world: World, client: httpx.AsyncClient, message: bytes) -> None:
    role = await make_role(client)
    last = await world.last()
    headers = {b"X-Change-Message": message}
    responses = [
        await client.post("/roles", json={"name": "Refused"}, headers=headers),
        await client.patch(f"/roles/{role['id']}", json={"name": "Refused"}, headers=headers),
        await client.delete(f"/roles/{role['id']}", headers=headers),
    ]
    for response in responses:
        assert (response.status_code, response.json()["code"]) == (422, "invalid_content")
        (fault,) = response.json()["errors"]
        assert (fault["pointer"], fault["source"], fault["code"]) == ("/X-Change-Message", "header", "change_message")
    assert await world.rows(last) == []
    # A read ignores the message.
    assert (await client.get(f"/roles/{role['id']}", headers=headers)).json() == role


async def test_reading_the_history_takes_one_statement_for_the_page(app: FastAPI, statements: Statements) -> None:
    async with client_of(app) as client:
        role = await make_role(client, code="COUNTED")
        for path, number in (
            ("/changes", 1),
            ("/changes?count=exact", 2),
            (f"/changes?type=roles&object_id={role['id']}&since=2000-01-01T00:00:00Z", 1),
            (f"/roles/{role['id']}/changes", 1),
            ("/changes?action=created&member=name&code=counted", 1),
            (f"/roles/{role['id']}/changes?action=created&member=name&count=exact", 2),
            ("/roles/code:COUNTED/changes?count=exact", 2),
            (f"/roles/{role['id']}/changes?offset=5", 2),
        ):
            with statements.counted() as seen:
                assert (await client.get(path)).status_code == 200
            assert len(seen) == number + 1, path  # and the look-up of the caller


async def test_recording_a_change_takes_no_further_statement(app: FastAPI, statements: Statements) -> None:
    async with client_of(app) as client:
        role, user = await make_role(client), await make_user(client)
        path = f"/roles/{role['id']}"
        calls: list[tuple[str, str, dict[str, Any] | None, int]] = [
            ("POST", "/roles", {"name": "New"}, 1),
            ("PATCH", path, {"name": "Other"}, 2),
            ("PATCH", path, {"name": "Other"}, 3),
            ("PUT", f"{path}/holders/{user['id']}", None, 2),
            ("DELETE", f"{path}/holders/{user['id']}", None, 2),
            ("DELETE", path, None, 3),
        ]
        for method, url, body, number in calls:
            with statements.counted() as seen:
                assert (await client.request(method, url, json=body)).is_success
            assert len(seen) == number + 1, (method, url, seen)
