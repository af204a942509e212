"""Single writes equal those of the reference writer: the responses, the objects and the history."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import asyncpg
import httpx
import pytest
from fastapi import Request
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from sqlalchemy import URL, event

from app.core.caller import Caller
from app.core.http.authorisation import authorise
from app.core.permissions import scopes_of
from app.domains.role.schemas import RoleHolders
from app.domains.role.service import HOLDERS
from app.domains.shared import trees
from app.domains.shared.references import KeyedBody
from app.domains.shared.schemas import kept_fields
from app.utils.exceptions import RegisterError
from app.utils.validation import invalid_content
from tests.catalogue import (
    COLLECTIONS,
    DECLARATIONS,
    IN_ORDER_OF_REFERENCES,
    LINKED,
    REFERENCES,
    TABLES,
    TREES,
    body_of,
    details_of,
)
from tests.conftest import Committed, connected, register_like
from tests.reference_writer import ReferenceWriter
from tests.times import misplaced_times

CALLER = Caller(1, "First administrator", "admin", scopes_of("admin"), request_id="request", message="As decided")
LINKS = {links.field: links for links in (*DECLARATIONS["processes"].links, HOLDERS)}


class Types(NamedTuple):
    """The model and the schemas of a collection."""

    model: Any
    whole: type[BaseModel]
    patch: type[BaseModel]
    read: type[BaseModel]


TYPES = {name: Types(each.model, each.body, body_of(name, "PATCH"), each.read) for name, each in DECLARATIONS.items()}

# --- Sequences, drawn from small pools so that steps conflict ---

Held = Literal["", "locked", "changed"]


@dataclass(frozen=True)
class Step:
    """One write. `held` is the concurrent action of another transaction on the object: none, lock it, or change it."""

    action: str
    collection: str
    reference: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    # The versions in `If-Match` and `If-None-Match`; 0 stands for `*`.
    version: int | None = None
    other_than: int | None = None
    links: str = ""
    target: str = ""
    detail: str | None = None
    held: Held = ""

    def headers(self) -> dict[str, str]:
        sent = {"If-Match": self.version, "If-None-Match": self.other_than}
        return {name: f'"{version}"' if version else "*" for name, version in sent.items() if version is not None}

    def permits(self, version: int) -> bool:
        return self.version in {None, 0, version} and self.other_than not in {0, version}

    @property
    def reads_first(self) -> bool:
        """Whether the service reads before the write: the values that the body lacks, or the objects of keys."""
        kept = kept_fields(body_of(self.collection, "PUT"))
        is_keyed = self.action == "replace" and isinstance(
            TYPES[self.collection].whole.model_validate(self.body), KeyedBody
        )
        return self.action == "patch" or is_keyed or (self.action == "replace" and not kept <= self.body.keys())


IDS = st.sampled_from([1, 2, 3, 4])
REFERENCES_BY_KEY = st.sampled_from([{"code": "A"}, {"code": "b"}, {"code": "C"}, {"external_id": "x"}])
ENDS: st.SearchStrategy[Any] = st.one_of(IDS, IDS, REFERENCES_BY_KEY)
PATH_REFERENCES = st.sampled_from(["1", "2", "3", "code:a", "code:B", "4"])
VERSIONS = st.sampled_from([None, None, None, 0, 1, 2, 3])
OTHER_VERSIONS = st.sampled_from([None, None, None, None, None, None, None, None, 0, 1, 2])
HELD: st.SearchStrategy[Held] = st.sampled_from(["", "", "", "locked", "changed"])
TO_ONE: dict[str, st.SearchStrategy[Any]] = {
    "reference": PATH_REFERENCES,
    "version": VERSIONS,
    "other_than": OTHER_VERSIONS,
    "held": HELD,
}
CRITICALITIES = st.sampled_from(["low", "high"])
# All values of each link's own field, or those by which steps conflict more often.
DETAILS = {name: details_of("processes", LINKS[name]) for name in LINKED if LINKS[name].detail} | {
    "departments": ["owner", "participant", "customer"],
    "resources": ["uses", "reads"],
    "roles": ["accountable", "responsible", "informed"],
}


def link_lists(name: str) -> st.SearchStrategy[Any]:
    """Return lists of links in the long form."""
    links = LINKS[name]
    members = {links.target: ENDS} | ({links.detail: st.sampled_from(DETAILS[name])} if links.detail else {})
    return st.lists(st.fixed_dictionaries(members), max_size=3)


# The members that list links, in both forms.
LINK_MEMBERS = {member for name in LINKED for member in (name, LINKS[name].short)}
# Members that a body must have, members that are not null, and members that may be null.
REQUIRED: dict[str, dict[str, st.SearchStrategy[Any]]] = {name: {} for name in COLLECTIONS} | {
    "users": {"email": st.sampled_from(["a@register.example", "A@register.example", "b@register.example"])}
}
WITH_DEFAULT: dict[str, dict[str, st.SearchStrategy[Any]]] = {name: {} for name in COLLECTIONS} | {
    "locations": {"kind": st.sampled_from(["site", "room"])},
    "processes": {"kind": st.sampled_from(["core", "support"]), "status": st.sampled_from(["draft", "active"])}
    | {name: link_lists(name) for name in LINKED}
    | {LINKS[name].short: st.lists(ENDS, max_size=3) for name in LINKED},
    "resources": {"kind": st.sampled_from(["application", "supplier"])},
    "users": {"access_level": st.sampled_from(["viewer", "admin"]), "is_active": st.booleans()},
}
OWN_NULLABLE: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "locations": {"latitude": st.sampled_from([0, 1.5]), "longitude": st.sampled_from([-2.0, 8.25])},
    "processes": {"criticality": CRITICALITIES},
    "resources": {"criticality": CRITICALITIES},
}
NULLABLE: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    name: dict.fromkeys(REFERENCES[name], ENDS) | OWN_NULLABLE.get(name, {}) for name in COLLECTIONS
}
NAMES = st.sampled_from(["One", "Two"])
KEYS = {
    "code": st.sampled_from(["A", "a", "B", "C"]),
    "external_id": st.sampled_from(["x", "X", "y"]),
    "description": st.sampled_from(["First", "Größe\n2"]),
}


def is_valid(schema: type[BaseModel], body: dict[str, Any]) -> bool:
    try:
        schema.model_validate(body)
    except ValidationError:
        return False
    return True


def whole_bodies(collection: str) -> st.SearchStrategy[dict[str, Any]]:
    nullable = {name: st.none() | values for name, values in (KEYS | NULLABLE[collection]).items()}
    bodies = st.fixed_dictionaries({"name": NAMES} | REQUIRED[collection], optional=nullable | WITH_DEFAULT[collection])
    return bodies.filter(lambda body: is_valid(TYPES[collection].whole, body))


def patches(collection: str) -> st.SearchStrategy[dict[str, Any]]:
    lists = {name: values for name, values in WITH_DEFAULT[collection].items() if name in LINK_MEMBERS}
    cleared = {name: st.none() | values for name, values in (KEYS | NULLABLE[collection] | lists).items()}
    optional = {"name": NAMES} | REQUIRED[collection] | WITH_DEFAULT[collection] | cleared
    return st.fixed_dictionaries({}, optional=optional).filter(lambda body: is_valid(TYPES[collection].patch, body))


def steps(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.fixed_dictionaries(values).map(lambda members: Step(**members))


def writes_of(collection: str) -> st.SearchStrategy[Step]:
    here, whole = st.just(collection), whole_bodies(collection)
    return st.one_of(
        steps(action=st.just("create"), collection=here, body=whole),
        steps(action=st.just("replace"), collection=here, body=whole, **TO_ONE),
        steps(action=st.just("patch"), collection=here, body=patches(collection), **TO_ONE),
        steps(action=st.just("delete"), collection=here, **TO_ONE),
    )


def moves_of(collection: str) -> st.SearchStrategy[Step]:
    body = st.fixed_dictionaries({"parent_id": ENDS})
    return steps(
        action=st.just("patch"), collection=st.just(collection), body=body, reference=PATH_REFERENCES, held=HELD
    )


def links_of(name: str) -> st.SearchStrategy[Step]:
    ends = {"collection": st.just(LINKS[name].owner_model.__tablename__), "links": st.just(name), **TO_ONE}
    details = st.sampled_from(DETAILS.get(name, [None]))
    removed = st.none() | details if LINKS[name].is_repeatable else st.none()
    one = (
        steps(action=st.just("link"), target=PATH_REFERENCES, detail=details, **ends),
        steps(action=st.just("unlink"), target=PATH_REFERENCES, detail=removed, **ends),
    )
    if LINKS[name] is not HOLDERS:
        return st.one_of(*one)
    body = st.fixed_dictionaries({LINKS[name].short: st.lists(IDS, max_size=3)})
    # Twice, because only holders are replaced by a request of their own.
    several = steps(action=st.just("set_links"), body=body, **ends)
    return st.one_of(*one, several, several)


STEPS = st.one_of(
    *(links_of(name) for name in LINKS),
    *(moves_of(collection) for collection in TREES),
    *(writes_of(collection) for collection in (*COLLECTIONS, "processes", "users")),
)

# --- Two equal registers ---

WITHOUT_REFERENCES = "".join(
    f"UPDATE {table} SET {', '.join(f'{column} = NULL' for column in REFERENCES[table])};"
    for table in COLLECTIONS
    if REFERENCES[table]
)
WITHOUT_OBJECTS = "".join(f"DELETE FROM {table};" for table in reversed(IN_ORDER_OF_REFERENCES) if table != "users")
EMPTY = f"""
{WITHOUT_REFERENCES}
{WITHOUT_OBJECTS}
DELETE FROM users WHERE id > 1; DELETE FROM sessions; DELETE FROM changes;
UPDATE users SET (code, external_id, name, description, email, access_level, is_active, version, updated_by_id)
    = (NULL, NULL, 'First administrator', NULL, 'admin@register.example', 'admin', true, 1, NULL);
SELECT setval(pg_get_serial_sequence(name, 'id'), 1, name = 'users')
  FROM unnest('{{{",".join(COLLECTIONS)}}}'::text[]) AS name;
"""
# Two objects of each collection, and a further user. `created_by_id` is set below.
OWN_OBJECTS = """
INSERT INTO departments (code, name, parent_id) VALUES ('A', 'One', NULL), ('B', 'Two', 1);
INSERT INTO locations (code, name, parent_id, kind) VALUES ('A', 'One', NULL, 'site'), ('B', 'Two', 1, 'room');
INSERT INTO resources (code, name, kind) VALUES ('A', 'One', 'supplier'), ('B', 'Two', 'supplier');
INSERT INTO roles (code, external_id, name) VALUES ('A', 'x', 'One'), ('B', 'y', 'Two');
INSERT INTO users (code, name, email, created_by_id)
VALUES ('A', 'One', 'a@register.example', 1), ('B', 'Two', 'c@register.example', 1);
INSERT INTO processes (code, name, parent_id, kind, status)
VALUES ('A', 'One', NULL, 'core', 'draft'), ('B', 'Two', 1, 'core', 'draft');
"""
OWN_LINKS = """
INSERT INTO process_departments VALUES (1, 1, 'owner'), (1, 2, 'participant');
INSERT INTO process_resources VALUES (1, 1, 'reads');
INSERT INTO process_roles VALUES (1, 1, 'accountable'), (1, 1, 'informed');
INSERT INTO role_holders VALUES (1, 2);
"""


def default_rows() -> str:
    """Return the SQL of the objects and links of the tables without rows above."""
    missing = [table for table in TABLES if f"INSERT INTO {table} " not in OWN_OBJECTS + OWN_LINKS]
    rows = [
        f"INSERT INTO {table} (code, name) VALUES ('A', 'One'), ('B', 'Two');"
        for table in missing
        if table in COLLECTIONS
    ]
    for each in (links for links in LINKS.values() if links.table.name in missing):
        values = "1, 1" if each.detail is None else f"1, 1, '{each.default}'"
        rows.append(f"INSERT INTO {each.table.name} ({', '.join((each.owner, *each.columns))}) VALUES ({values});")
    return "\n".join(rows)


SESSIONS = """
INSERT INTO sessions (user_id, address, expires_at) SELECT id, 'tests', now() + interval '1 day' FROM users ORDER BY id;
"""
WORLD = OWN_OBJECTS + OWN_LINKS + default_rows() + SESSIONS
OMITTED = "'{created_at,updated_at,at,expires_at,last_used_at,transaction_id}'::text[]"


async def stored(connection: asyncpg.Connection) -> dict[str, list[Any]]:
    """Return all rows without instants and transaction numbers, the history in its order."""
    found = {}
    for table in (*TABLES, "sessions", "changes"):
        omitted, order = OMITTED, "t"
        # Failed statements may draw ids of the history, too.
        if table in {"changes", "sessions"}:
            omitted, order = f"'id'::text - {OMITTED}", "t.id"
        rows = await connection.fetch(f"SELECT to_jsonb(t) - {omitted} FROM {table} t ORDER BY {order}")
        found[table] = [json.loads(row[0]) for row in rows]
    return found


class Refusal(NamedTuple):
    """The class of an error as status and name, its code, and the pointers and codes of its faults."""

    status: int
    name: str
    code: str
    faults: list[tuple[str, str]]


Outcome = dict[str, Any] | Refusal | None


def without_instants(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in {"created_at", "updated_at"}}


def outcome_of(response: httpx.Response) -> Outcome:
    if response.is_success:
        return without_instants(response.json()) if response.content else None
    problem = response.json()
    faults = sorted((fault["pointer"], fault["code"]) for fault in problem.get("errors", ()))
    name = problem["type"].removeprefix("/problems/")
    return Refusal(response.status_code, name, problem["code"], faults)


def refusal_of(error: RegisterError) -> Refusal:
    faults = sorted((fault.pointer, fault.code) for fault in error.errors)
    return Refusal(error.status, error.name, error.code, faults)


class Twins:
    """Two equal registers: the service writes one, the reference writer the other."""

    def __init__(
        self, fast: Committed, plain: Committed, fast_sql: asyncpg.Connection, plain_sql: asyncpg.Connection
    ) -> None:
        self.fast, self.plain, self.fast_sql, self.plain_sql = fast, plain, fast_sql, plain_sql
        # Set when the service sends a statement that waits for the lock of a row.
        self.lock_wait = asyncio.Event()
        self.seen: Counter[str] = Counter()
        fast.app.dependency_overrides[authorise] = self._as_caller
        event.listen(fast.app.state.database.engine.sync_engine, "before_cursor_execute", self._on_execute)

    async def reset(self) -> None:
        """Reset both registers to the same few objects."""
        for connection in (self.fast_sql, self.plain_sql):
            owned = "".join(f"UPDATE {table} SET created_by_id = 1;" for table in COLLECTIONS if table != "users")
            await connection.execute(EMPTY + WORLD + owned)

    async def compare(self, steps: list[Step]) -> list[str]:
        """Run a sequence in both registers, compare each outcome and the rows at the end, and return the codes."""
        await self.reset()
        codes, sequence = [], "\n".join(map(str, steps))
        for step in steps:
            found, changed_before = await self._by_service(step)
            if changed_before:
                await change(self.plain_sql, step)
            expected = await self._by_reference(step)
            if step.held == "changed" and not changed_before:
                await change(self.plain_sql, step)
            assert found == expected, f"{step} in\n{sequence}"
            codes.append(found.code if isinstance(found, Refusal) else "done")
            self.seen[f"{step.action} {codes[-1]}"] += 1
        found_rows, expected_rows = await stored(self.fast_sql), await stored(self.plain_sql)
        for table, rows in expected_rows.items():
            assert found_rows[table] == rows, f"{table} after\n{sequence}"
        for connection in (self.fast_sql, self.plain_sql):
            assert await misplaced_times(connection) == [], sequence
        return codes

    async def _by_service(self, step: Step) -> tuple[Outcome, bool]:
        """Return the outcome of the service, and whether the change of the other connection came first."""
        if not step.held:
            return outcome_of(await self._request(step)), False
        self.lock_wait.clear()
        async with self.fast_sql.transaction():
            held = await self.fast_sql.fetchval(f"SELECT id FROM {named(step)} FOR NO KEY UPDATE")
            if step.held == "changed":
                await change(self.fast_sql, step)
            writing = asyncio.create_task(self._request(step))
            lock_wait = asyncio.create_task(self.lock_wait.wait())
            await asyncio.wait({writing, lock_wait}, return_when=asyncio.FIRST_COMPLETED)
            lock_wait.cancel()
        found = outcome_of(await writing)
        if held is not None:
            # A write that reads the object first may be refused because of the values that it reads.
            refused_before = step.reads_first and isinstance(found, Refusal) and found.status in {412, 422}
            assert self.lock_wait.is_set() or refused_before, step
            self.seen[f"{step.action} waited"] += self.lock_wait.is_set()
        return found, step.held == "changed" and self.lock_wait.is_set()

    async def _request(self, step: Step) -> httpx.Response:
        client, path = self.fast.client, f"/{step.collection}/{step.reference}"
        headers = step.headers()
        if step.action == "create":
            return await client.post(f"/{step.collection}", json=step.body)
        if step.action == "delete":
            return await client.delete(path, headers=headers)
        if step.action in {"replace", "patch"}:
            return await client.request(
                {"replace": "PUT"}.get(step.action, "PATCH"), path, json=step.body, headers=headers
            )
        if step.action == "set_links":
            return await client.put(f"{path}/{step.links}", json=step.body, headers=headers)
        path += f"/{step.links}/{step.target}"
        detail = {str(LINKS[step.links].detail): step.detail} if step.detail else {}
        if step.action == "link":
            return await client.put(path, json=detail, headers=headers)
        return await client.delete(path, params=detail, headers=headers)

    async def _by_reference(self, step: Step) -> Outcome:
        types = TYPES[step.collection]
        document = None
        try:
            async with self.plain.app.state.database.transaction() as session:
                writer = ReferenceWriter(session, CALLER, types.model, types.whole, types.read)
                schema = {"patch": types.patch, "set_links": RoleHolders}.get(step.action, types.whole)
                body = await writer.with_ids(step.body, schema)
                if step.action == "create":
                    document = await writer.create(body)
                elif step.action == "replace":
                    document = await writer.replace(step.reference, body, step.permits)
                elif step.action == "patch":
                    document = await writer.patch(step.reference, body, step.permits)
                elif step.action == "delete":
                    await writer.delete(step.reference, step.permits)
                elif step.action == "set_links":
                    ids = step.body[LINKS[step.links].short]
                    await writer.set_links(LINKS[step.links], step.reference, ids, step.permits)
                else:
                    write = writer.link if step.action == "link" else writer.unlink
                    await write(LINKS[step.links], step.reference, step.target, step.detail, step.permits)
        except ValidationError as error:
            return refusal_of(invalid_content(error))
        except RegisterError as error:
            return refusal_of(error)
        return document and without_instants(document)

    async def _as_caller(self, request: Request, permission: str) -> None:  # noqa: ARG002 - as `authorise` is called
        request.state.caller = CALLER

    def _on_execute(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "FOR NO KEY UPDATE" in statement or "FOR UPDATE" in statement:
            self.lock_wait.set()


def named(step: Step) -> str:
    """Return the table of a step's object and the condition that selects it."""
    code = step.reference.removeprefix("code:")
    is_id = code == step.reference
    return f"{step.collection} WHERE " + (f"id = {code}" if is_id else f"fold(code) = fold('{code}')")


async def change(connection: asyncpg.Connection, step: Step) -> None:
    """Change a step's object as another writer would, but without a history."""
    table, condition = named(step).split(" ", 1)
    await connection.execute(f"UPDATE {table} SET version = version + 1, description = 'Changed meanwhile' {condition}")


@pytest.fixture(scope="module")
async def twins(server_url: URL, template: URL) -> AsyncIterator[Twins]:
    async with AsyncExitStack() as stack:
        registers = [await stack.enter_async_context(register_like(server_url, template)) for _ in range(2)]
        connections = [await stack.enter_async_context(connected(register.url)) for register in registers]
        # With this depth, the few objects of a sequence reach it.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trees, "MAX_DEPTH", 1)
            yield Twins(*registers, *connections)


# --- The comparison ---

ACTIONS = ("create", "replace", "patch", "delete", "link", "unlink", "set_links")
CODES = ("not_found", "precondition_failed", "duplicate", "unknown_reference", "cycle", "still_referenced")


async def test_service_equals_reference(twins: Twins) -> None:
    loop = asyncio.get_running_loop()
    twins.seen.clear()

    # Explaining a failure would take hundreds of further runs.
    @settings(max_examples=100, phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False)
    @given(st.lists(STEPS, min_size=5, max_size=15))
    def compare(steps: list[Step]) -> None:
        asyncio.run_coroutine_threadsafe(twins.compare(steps), loop).result()

    # Hypothesis calls plain functions. In a thread, they can wait for the event loop of the fixtures.
    await asyncio.to_thread(compare)
    assert {f"{action} done" for action in ACTIONS} <= twins.seen.keys()
    assert {f"{action} waited" for action in ACTIONS if action != "create"} <= twins.seen.keys()
    assert set(CODES) <= {outcome.split()[1] for outcome in twins.seen}


ADMINISTRATOR = {"name": "One", "email": "b@register.example", "access_level": "admin"}
BY_KEY = [{"code": "a"}, {"external_id": "y"}]
OWNERS = [{"department_id": reference, "relation": "owner"} for reference in (1, {"code": "b"})]
CHOSEN: dict[str, list[tuple[Step, str]]] = {
    "the last administrator stays": [
        (Step("patch", "users", "1", {"is_active": False}), "last_administrator"),
        (
            Step("patch", "users", "1", {"access_level": "viewer", "code": "a", "manager_id": 9}, held="locked"),
            "invalid_content",
        ),
        (Step("create", "users", body=ADMINISTRATOR | {"code": "C"}), "done"),
        (Step("patch", "users", "1", {"is_active": False}, held="changed"), "done"),
        (Step("delete", "users", "code:c"), "last_administrator"),
        (Step("delete", "users", "1"), "first_administrator"),
        (Step("replace", "users", "4", ADMINISTRATOR | {"is_active": False}), "last_administrator"),
        (Step("patch", "users", "2", {"access_level": "admin"}), "done"),
        (Step("delete", "users", "4"), "done"),
    ],
    "an object does not stand below itself": [
        (Step("create", "users", body={"name": "One", "email": "b@register.example", "manager_id": 4}), "cycle"),
        (Step("create", "users", body={"name": "One", "email": "b@register.example", "manager_id": 3}), "done"),
        (Step("patch", "users", "3", {"manager_id": 5}), "cycle"),
        (Step("replace", "users", "5", {"name": "Two", "email": "b@register.example", "manager_id": 5}), "cycle"),
        (Step("patch", "users", "3", {"manager_id": 2}), "done"),
        (Step("patch", "users", "2", {"manager_id": 5, "code": "b", "department_id": 9}), "invalid_content"),
        (Step("create", "departments", body={"name": "One", "parent_id": 3}), "cycle"),
        (Step("patch", "departments", "1", {"parent_id": 2, "code": "b", "head_id": 9}), "invalid_content"),
        (Step("patch", "departments", "1", {"parent_id": 1, "code": "b"}), "conflict"),
        (Step("patch", "departments", "1", {"parent_id": 2}), "cycle"),
    ],
    "an object has at most one ancestor": [
        (Step("create", "locations", body={"name": "One", "parent_id": 2}), "too_deep"),
        (Step("create", "locations", body={"name": "One", "parent_id": 2, "code": "b"}), "conflict"),
        (Step("create", "locations", body={"name": "Two", "kind": "room"}), "done"),
        (Step("create", "locations", body={"name": "Two", "parent_id": 3}), "done"),
        (Step("replace", "locations", "1", {"name": "One", "parent_id": 3}, held="changed"), "too_deep"),
        (Step("patch", "locations", "2", {"parent_id": 4}), "too_deep"),
        (Step("patch", "locations", "2", {"parent_id": 3}), "done"),
        (Step("patch", "locations", "1", {"parent_id": 3}), "done"),
        (Step("replace", "locations", "3", {"name": "Two", "parent_id": 1}), "cycle"),
        (Step("patch", "locations", "4", {"name": "Deepest"}), "done"),
    ],
    "the owner passes on": [
        (Step("link", "processes", "1", links="departments", target="2", detail="owner"), "conflict"),
        (Step("patch", "processes", "1", {"departments": [{"department_id": 2, "relation": "owner"}]}), "done"),
        (Step("link", "processes", "1", links="departments", target="1", detail="owner"), "conflict"),
        (Step("link", "processes", "1", links="departments", target="2", detail="customer"), "done"),
        (Step("link", "processes", "1", links="departments", target="code:a", detail="owner"), "done"),
        (Step("link", "processes", "1", links="roles", target="2", detail="accountable"), "conflict"),
        (Step("unlink", "processes", "1", links="roles", target="1", detail="accountable"), "done"),
        (Step("link", "processes", "1", links="roles", target="2", detail="accountable"), "done"),
    ],
    "a replaced user keeps its access": [
        (Step("patch", "users", "2", {"is_active": False, "access_level": "editor"}), "done"),
        (Step("replace", "users", "2", {"name": "Two", "email": "b@register.example"}, held="changed"), "done"),
        (Step("replace", "users", "2", ADMINISTRATOR), "done"),
        (Step("replace", "users", "2", {"name": "One", "email": "b@register.example", "is_active": True}), "done"),
        (Step("replace", "users", "1", {"name": "One", "email": "a@register.example"}), "done"),
        (Step("patch", "users", "2", {"access_level": "viewer"}), "done"),
        (Step("replace", "users", "1", {"name": "One", "email": "b@register.example"}), "duplicate"),
        (
            Step("replace", "users", "1", {"name": "One", "email": "c@register.example", "manager_id": 9}),
            "invalid_content",
        ),
    ],
    "references by key": [
        (Step("create", "roles", body={"name": "One", "department_id": {"code": "b"}}), "done"),
        (Step("create", "roles", body={"name": "One", "department_id": {"code": "C"}, "code": "b"}), "invalid_content"),
        (Step("create", "roles", body={"name": "One", "department_id": {"external_id": "x"}}), "unknown_reference"),
        (Step("replace", "processes", "1", {"name": "One", "role_ids": [1, *BY_KEY]}), "done"),
        (Step("patch", "processes", "1", {"role_ids": BY_KEY, "departments": []}), "done"),
        (Step("patch", "processes", "1", {"role_ids": [*BY_KEY, {"code": "C"}], "owner_id": 9}), "unknown_reference"),
        (Step("patch", "processes", "1", {"departments": OWNERS, "parent_id": {"code": "C"}}), "invalid_content"),
        (Step("patch", "departments", "code:a", {"parent_id": {"code": "B"}}, held="locked"), "cycle"),
        (Step("patch", "departments", "2", {"parent_id": {"code": "B"}}, version=7), "precondition_failed"),
        (Step("replace", "departments", "2", {"name": "Two", "parent_id": {"code": "A"}}, held="changed"), "done"),
        (Step("replace", "departments", "9", {"name": "Two", "parent_id": {"code": "A"}}), "not_found"),
    ],
    "a patch keeps, clears and breaks": [
        (Step("create", "locations", body={"name": "One", "latitude": 1.5, "longitude": -2.0}), "done"),
        (Step("patch", "locations", "3", {"latitude": None}), "invalid_content"),
        (Step("patch", "locations", "3", {"latitude": 1.5}), "done"),
        (Step("patch", "locations", "3", {"latitude": None, "longitude": None}), "done"),
        (Step("patch", "processes", "1", {"departments": None, "location_ids": [2], "criticality": None}), "done"),
        (
            Step("patch", "processes", "1", {"location_ids": [2, 9], "resources": [{"resource_id": 9}], "owner_id": 9}),
            "unknown_reference",
        ),
    ],
}


@pytest.mark.parametrize("chosen", CHOSEN.values(), ids=CHOSEN)
async def test_service_equals_reference_in_chosen_sequences(twins: Twins, chosen: list[tuple[Step, str]]) -> None:
    codes = await twins.compare([step for step, _ in chosen])
    assert codes == [code for _, code in chosen]


WRITES = {
    "replace": Step("replace", "roles", "1", {"name": "Two"}),
    "replace with links": Step("replace", "processes", "1", {"name": "Two", "department_ids": [2], "role_ids": [1, 2]}),
    "replace by the same": Step("replace", "roles", "1", {"name": "One", "code": "A", "external_id": "x"}),
    "patch": Step("patch", "resources", "code:a", {"criticality": "high", "location_id": 1}),
    "patch by a taken key": Step("patch", "resources", "1", {"code": "b", "location_id": 9}),
    "move": Step("patch", "departments", "2", {"parent_id": None}),
    "move below itself": Step("patch", "locations", "1", {"parent_id": 2}),
    "replace but keep": Step("replace", "users", "2", {"name": "Two", "email": "b@register.example"}),
    "demote": Step("patch", "users", "1", {"access_level": "viewer"}),
    "delete": Step("delete", "locations", "2"),
    "link": Step("link", "processes", "1", links="departments", target="2", detail="customer"),
    "unlink": Step("unlink", "roles", "1", links="holders", target="2"),
    "set links": Step("set_links", "roles", "1", {"user_ids": [3, 1, 3]}, links="holders"),
    "set links to unknown objects": Step("set_links", "roles", "code:a", {"user_ids": [1, 9]}, links="holders"),
    "set the same links": Step("set_links", "roles", "1", {"user_ids": [2]}, links="holders"),
}


@pytest.mark.parametrize(
    ("version", "other_than"), [(None, None), (1, None), (2, None), (None, 0), (None, 1), (None, 2)]
)
@pytest.mark.parametrize("held", ["locked", "changed"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_service_equals_reference_when_another_transaction_holds_the_row(
    twins: Twins, write: Step, held: Held, version: int | None, other_than: int | None
) -> None:
    twins.seen.clear()
    step = replace(write, held=held, version=version, other_than=other_than)
    await twins.compare([step])
    # A write that reads the object first is refused before it waits if the current version does not permit it.
    assert twins.seen[f"{write.action} waited"] == (not write.reads_first or step.permits(1))
