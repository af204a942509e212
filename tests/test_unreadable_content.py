"""No response contains a text of a collection that the token may not read, other than briefs of linked objects.

Every text of every collection is a canary, which names its collection, its member and its object. Each operation is
called by narrow tokens in several ways, also with errors.
"""

import csv
import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import combinations, count, product
from typing import Any, Literal, get_args, get_origin

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import URL, String, text

from app.core.permissions import SCOPES, effective_scopes
from app.domains.shared.collection import writable_columns
from app.domains.shared.query.pages import ListDeclaration
from app.domains.shared.query.representations import embedded_members, members_on_request
from app.main import create_app
from tests.builders import admin_session, make, token_with
from tests.catalogue import COLLECTIONS, DECLARATIONS, LINKED, LISTS, MODELS, NOUNS, REFERENCE_TARGETS, required
from tests.conftest import Committed, client_of, new_database, settings_for, undone
from tests.domains.auth.conftest import call
from tests.test_permissions import OPERATIONS, PERMISSIONS, Scene, make_objects

CANARY = re.compile(r"canary-([a-z_]+)-([a-z_]+)-(\d+)")
# Texts whose format admits no canary: a country and a time zone.
WITHOUT_CANARY = {"country", "timezone"}

# The members of documents and of the history that show briefs of linked objects, as `docs/09-security.md` lists.
SHOWN = frozenset({"actor", "user"}).union(*(embedded_members(each.read) for each in DECLARATIONS.values()))
BRIEF = frozenset({"id", "code", "name"})

OLD, NEW = 0, 1
READS, WRITES = ([f"{name}:{action}" for name in COLLECTIONS] for action in ("read", "write"))
# Responses to these operations have objects of two collections or more.
JOINED = {
    name
    for name, (_, path) in OPERATIONS.items()
    if path.count("{") > 1 or path.endswith(("/search", "}/processes", "}/holders"))
}
# The name of an object, and a word of another one.
WORDS = ("Warehausing", "warehousing")


def canaries(collection: str, number: int) -> dict[str, str]:
    """Return a canary for each text of an object."""
    model, members = MODELS[collection], DECLARATIONS[collection].body.model_json_schema()["properties"]
    texts = {}
    for name in writable_columns(model):
        if isinstance(model.__table__.c[name].type, String) and "$ref" not in json.dumps(members[name]):
            kinds = [members[name], *members[name].get("anyOf", ())]
            if not any("enum" in kind for kind in kinds):
                texts[name] = f"canary-{collection}-{name}-{number}"
    decorations = {"email": "{}@register.example", "url": "https://{}.example"}
    texts |= {name: form.format(texts[name]) for name, form in decorations.items() if name in texts}
    return {name: value for name, value in texts.items() if name not in WITHOUT_CANARY}


@dataclass
class Planted(Scene):
    """A scene in which every text is a canary, and every object of the scene is linked."""

    # An object of each collection to which no other object refers.
    unlinked: dict[str, int] = field(default_factory=dict)
    # The API tokens of the scene: the scopes of each caller.
    scopes: dict[str, frozenset[str]] = field(default_factory=dict)


async def plant(client: httpx.AsyncClient, objects: dict[str, int]) -> dict[str, int]:
    """Turn all texts into canaries, twice for main objects, for the history, and return the unlinked objects.

    Some linked objects have no code, so that tables refer to them by external id where they may.
    """
    unlinked = {name: (await make(client, name))["id"] for name in COLLECTIONS}
    targets = {name: (await make(client, name))["id"] for name in COLLECTIONS}
    for collection in COLLECTIONS:
        references = {
            member: targets[target] if target == collection else objects[target]
            for member, target in REFERENCE_TARGETS[collection].items()
        }
        listed = (await client.get(f"/{collection}?limit=200&fields=id")).json()["items"]
        for key in (item["id"] for item in listed if collection != "users" or item["id"] > 2):
            is_main = key == objects[collection]
            links: dict[str, Any] = references if is_main else {}
            if key == objects.get(f"{NOUNS[collection]} DELETE"):
                links = {"code": None}
            for number in (10 * key + OLD, 10 * key + NEW) if is_main else (10 * key + NEW,):
                message = {"X-Change-Message": f"canary-{collection}-message-{number}"}
                body = canaries(collection, number) | links
                response = await client.patch(f"/{collection}/{key}", json=body, headers=message)
                assert response.status_code == 200, response.text
    # The history of the holders has the canaries of a user.
    held = f"/roles/{objects['roles']}/holders/{objects['user DELETE']}"
    for method in ("DELETE", "PUT"):
        assert (await client.request(method, held)).status_code == 204
    return unlinked


@pytest.fixture(scope="module")
async def planted(server_url: URL, template: URL) -> AsyncIterator[Planted]:
    async with new_database(server_url, template.database) as url:
        app = create_app(settings_for(url, metrics_access="admin"))
        async with client_of(app) as client:
            # The second user, who has the narrow sessions.
            user = await make(client, "users", access_level="admin")
            assert user["id"] == 2
            signed_in = (await admin_session(client))["Authorization"].removeprefix("Bearer ")
            await open_session(app, 1, SCOPES.keys())
            objects = await make_objects(app, signed_in)
            unlinked = await plant(client, objects)
        async with app.state.database.transaction() as session:
            await session.execute(text("UPDATE api_tokens SET name = 'canary-api_tokens-name-' || id"))
        scopes = {f"only {scope}": frozenset({scope}) for scope in SCOPES}
        scopes |= {f"all but {name}": all_but(name) for name in COLLECTIONS}
        scopes |= {f"only {' and '.join(pair)}": frozenset(pair) for pair in combinations(READS, 2)}
        scopes |= {f"only {' and '.join(pair)}": frozenset(pair) for pair in product(WRITES, READS)}
        tokens: dict[str, str | None] = {name: await open_session(app, 2, each) for name, each in scopes.items()}
        tokens["everything"] = await open_session(app, 2, SCOPES)
        yield Planted(app, tokens, objects, unlinked, scopes)
        await app.state.database.dispose()


def all_but(collection: str) -> frozenset[str]:
    """Return the scopes that permit nothing in a collection; the history of users is for the scope `admin`."""
    excluded = {f"{collection}:read", f"{collection}:write"} | ({"admin"} if collection == "users" else set())
    return frozenset(SCOPES) - excluded


async def open_session(app: FastAPI, user_id: int, scopes: Any) -> str:
    opened = text(
        "INSERT INTO sessions (user_id, address, scopes, expires_at) "
        "VALUES (:user_id, 'tests', :scopes, now() + interval '1 day') RETURNING id"
    )
    async with app.state.database.transaction() as session:
        key = (await session.execute(opened, {"user_id": user_id, "scopes": sorted(scopes)})).scalar_one()
    token: str = app.state.tokens.access_token(user_id, key)
    return token


def readable(scopes: frozenset[str]) -> set[str]:
    """Return the collections whose texts these scopes may read."""
    names = {name for name in COLLECTIONS if scopes & {f"{name}:read", f"{name}:write"}}
    return names | ({"users", "api_tokens"} if "admin" in scopes else set())


def without_briefs(value: Any, *, names: frozenset[str] = SHOWN) -> Any:
    """Return a document without the `code` and the `name` in the briefs of linked objects."""
    if isinstance(value, list):
        return [without_briefs(item, names=names) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: strip(member) if name in names else without_briefs(member, names=names) for name, member in value.items()
    }


def strip(shown: Any) -> Any:
    if isinstance(shown, list):
        return [strip(item) for item in shown]
    return {name: value for name, value in shown.items() if name not in BRIEF} if isinstance(shown, dict) else shown


def shown_members(operation: str, scopes: frozenset[str]) -> frozenset[str]:
    """Return the members that show briefs to a caller: members on request require a scope."""
    granted = effective_scopes("admin", scopes)
    on_request = (members_on_request(each.read).items() for each in DECLARATIONS.values())
    hidden = {name for members in on_request for name, scope in members if scope not in granted}
    # The groups of statistics are briefs of linked objects.
    return SHOWN - hidden | ({"object"} if operation.startswith("count") else set())


def shown_text(operation: str, response: httpx.Response, scopes: frozenset[str]) -> str:
    """Return the response without what it shows by design."""
    kind = response.headers.get("content-type", "")
    names = shown_members(operation, scopes)
    body = response.text
    if "ndjson" in kind:
        body = json.dumps([without_briefs(json.loads(line), names=names) for line in body.splitlines()])
    elif "json" in kind:
        body = json.dumps(without_briefs(response.json(), names=names))
    elif "csv" in kind:
        cells = [cell for row in csv.reader(io.StringIO(body)) for cell in row]
        # The cells of the history are documents; other cells refer to a linked object by its code.
        body = "\n".join(
            json.dumps(without_briefs(json.loads(cell), names=names))
            if cell.startswith("{")
            else re.sub(r"canary-[a-z]+-code-\d+", "", cell)
            for cell in cells
        )
    return body + str(response.headers.multi_items())


def leaks(operation: str, response: httpx.Response, scopes: frozenset[str]) -> set[tuple[str, ...]]:
    """Return the canaries in a response that the scopes do not permit to read and the request did not have."""
    request = response.request
    sent = set(CANARY.findall(f"{request.url}{request.content.decode()}{request.headers}"))
    found = set(CANARY.findall(shown_text(operation, response, scopes)))
    return {canary for canary in found - sent if canary[0] not in readable(scopes)}


def requests(scene: Planted, operation: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield requests of an operation: one that succeeds, and some of each kind that fail."""
    method, path, arguments = scene.request(operation)
    yield method, path, arguments
    collection = path.removeprefix("http://register.test/api/v1/").split("/")[0]
    for query in queries(scene, operation):
        yield method, f"{path}{'&' if '?' in path else '?'}{query}", arguments
    if operation.startswith(("list", "follow")):
        for accepted in ("text/csv", "application/x-ndjson"):
            yield method, path, {"headers": {"Accept": accepted}}
    if method in {"PUT", "PATCH", "DELETE"}:
        yield method, path, arguments | {"headers": {"If-Match": '"0"'}}
        yield method, path, arguments | {"headers": {"If-None-Match": "*"}}
    if method == "DELETE" and operation.startswith("delete"):
        yield method, f"{collection}/{scene.unlinked[collection]}", {}
    if method in {"POST", "PUT", "PATCH"} and collection in COLLECTIONS:
        for body in bodies(scene, operation, collection):
            yield method, path, body


def queries(scene: Planted, operation: str) -> Iterator[str]:
    collection = next((name for name in COLLECTIONS if operation == f"list_{name}"), None)
    if collection is not None or operation == "search_objects":
        # Words that all texts have, and words that are similar to them.
        yield "q=canary&count=exact" if collection else "count=exact"
        yield "q=canray%20descripton" if collection else "limit=50"
    if collection is None:
        if operation.startswith("count"):
            yield "q=canary"
        return
    declaration = LISTS[collection].declaration
    yield f"sort=-{list(declaration.sorts)[-1]}"
    yield from (query_with(declaration, name, scene.objects[other]) for name, other in declaration.reads.items())
    yield from (f"{name}={scene.objects[target]}" for name, target in REFERENCE_TARGETS[collection].items())


def query_with(declaration: ListDeclaration, name: str, object_id: int) -> str:
    """Return a valid query with one filter, by an object or a constant, and with the filter that it requires."""
    parameter = declaration.parameters[name]
    query = f"{name}={object_id}"
    if parameter.annotation is bool:
        query = f"{name}=true"
    elif get_origin(parameter.annotation) is Literal:
        query = f"{name}={get_args(parameter.annotation)[-1]}"
    needs_other = parameter.requires is not None and parameter.independent is None
    return f"{query}&{query_with(declaration, str(parameter.requires), object_id)}" if needs_other else query


def bodies(scene: Planted, operation: str, collection: str) -> Iterator[dict[str, Any]]:
    """Yield bodies with references to objects of all collections, with faults, and with keys that are taken."""
    references = {member: scene.objects[target] for member, target in REFERENCE_TARGETS[collection].items()}
    links = {f"{name.removesuffix('s')}_ids": [scene.objects[name]] for name in LINKED if collection == "processes"}
    taken = canaries(collection, 10 * scene.unlinked[collection] + NEW)
    numbers = count(1)

    def body(**fields: Any) -> dict[str, Any]:
        return required(collection, f"new{next(numbers)}") | {"name": "New"} | fields

    absent = dict.fromkeys(references, 2**40)
    variants = [body(**references, **links), body(**taken), body(**absent), {"name": 5}]
    if operation.startswith("bulk"):
        by_key = {
            member: {"external_id": canaries(target, 10 * scene.objects[target] + NEW)["external_id"]}
            for member, target in REFERENCE_TARGETS[collection].items()
        }
        variants.append(body(**by_key))
        for data in variants:
            yield {"json": {"items": [{"op": "create", "data": data}]}, "params": {"dry_run": "true"}}
        items = [{"op": "delete", "id": scene.objects[collection]}, {"op": "delete", "id": scene.unlinked[collection]}]
        yield {"json": {"items": items}, "params": {"atomic": "false"}}
    elif operation.startswith("import"):
        lines = {"headers": {"Content-Type": "application/x-ndjson"}}
        for data in variants:
            yield lines | {"content": json.dumps(data), "params": {"dry_run": "true"}}
            yield lines | {"content": json.dumps(data)}
        for content in (table(collection, data) for data in variants):
            yield {"headers": {"Content-Type": "text/csv"}, "content": content, "params": {"dry_run": "true"}}
            yield {"headers": {"Content-Type": "text/csv"}, "content": content}
    elif operation.startswith(("create", "replace", "update")):
        yield from ({"json": data} for data in variants)


def table(collection: str, data: dict[str, Any]) -> str:
    """Return the object as a table, with references and links by id."""
    references = {name.removesuffix("_id"): f"#{data[name]}" for name in REFERENCE_TARGETS[collection] if name in data}
    links = {f"{name.removesuffix('_ids')}s": f"#{ids[0]}" for name, ids in data.items() if name.endswith("_ids")}
    row = {name: value for name, value in data.items() if not name.endswith(("_id", "_ids"))} | references | links
    row |= {"external_id": data["external_id"]} if "external_id" in data else {}
    written = io.StringIO()
    csv.writer(written).writerows([row.keys(), row.values()])
    return written.getvalue()


@pytest.mark.parametrize("operation", PERMISSIONS)
async def test_no_response_shows_texts_of_unreadable_collections(planted: Planted, operation: str) -> None:
    permission = PERMISSIONS[operation]
    callers = [
        name
        for name, scopes in planted.scopes.items()
        if (permission in scopes and (operation in JOINED or len(scopes) != 2))
        or (permission == "authenticated" and (scopes <= set(READS) or len(scopes) != 2))
    ]
    if not callers:  # an operation without a scope, which concerns credentials
        callers = [f"all but {name}" for name in COLLECTIONS]
    found: dict[str, Any] = {}
    for caller in callers:
        scopes, token = planted.scopes[caller], planted.tokens[caller]
        for method, path, arguments in requests(planted, operation):
            if method == "GET":
                response = await call(planted.app, token, method, path, **arguments)
            else:
                async with undone(planted.app):
                    response = await call(planted.app, token, method, path, **arguments)
            assert response.status_code < 500, response.text
            if found_leaks := leaks(operation, response, scopes):
                found[f"{caller}: {method} {path} {arguments} {response.status_code}"] = found_leaks
    assert not found


async def test_readable_texts_are_shown(planted: Planted) -> None:
    """The test above finds canaries where they are permitted."""
    for collection in COLLECTIONS:
        for scope, path in (("read", collection), ("read", f"search?q=canary&type={collection}")):
            response = await call(planted.app, planted.tokens[f"only {collection}:{scope}"], "GET", f"/{path}")
            assert collection in {canary[0] for canary in CANARY.findall(response.text)}
        everything = await call(planted.app, planted.tokens[f"only {collection}:read"], "GET", f"/{collection}")
        names = {canary[1] for canary in CANARY.findall(everything.text) if canary[0] == collection}
        assert names == canaries(collection, 0).keys()


@pytest.mark.parametrize("form", ["text/csv", "application/x-ndjson"])
@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_plan_shows_a_narrower_token_no_unreadable_text(planted: Planted, collection: str, form: str) -> None:
    """A token of the same user with all scopes plans the import."""
    path, key = f"/{collection}/import", planted.unlinked[collection]
    data: dict[str, Any] = {"external_id": canaries(collection, 10 * key + NEW)["external_id"], "name": "New"}
    data |= {member: planted.objects[target] for member, target in REFERENCE_TARGETS[collection].items()}
    content = table(collection, data) if form == "text/csv" else json.dumps(data)
    planning = {"params": {"dry_run": "true"}, "content": content, "headers": {"Content-Type": form}}
    wide = planted.tokens["everything"]
    for caller, outdated, status in (
        (f"only {collection}:write", False, 200),
        (f"only {collection}:write", True, 409),
        (f"all but {collection}", False, 403),
    ):
        async with undone(planted.app):
            plan = (await call(planted.app, wide, "POST", path, **planning)).json()["plan_id"]
            if outdated:
                await call(planted.app, wide, "PATCH", f"/{collection}/{key}", json={"name": "Other"})
            executed = await call(planted.app, planted.tokens[caller], "POST", f"{path}?plan_id={plan}")
            assert executed.status_code == status, executed.text
            assert not leaks("import", executed, planted.scopes[caller])


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_stored_response_shows_a_narrower_token_no_unreadable_text(planted: Planted, collection: str) -> None:
    """A token of the same user with all scopes sends the request first."""
    caller, wide = f"only {collection}:write", planted.tokens["everything"]
    body = required(collection, "stored") | {"name": "New"}
    body |= {member: planted.objects[target] for member, target in REFERENCE_TARGETS[collection].items()}
    for path, json_body, statuses in (
        (f"/{collection}", body, {201}),
        (f"/{collection}/bulk", {"items": [{"op": "delete", "id": planted.objects[collection]}]}, {200, 409}),
    ):
        request: dict[str, Any] = {"json": json_body, "headers": {"Idempotency-Key": "key"}}
        async with undone(planted.app):
            first = await call(planted.app, wide, "POST", path, **request)
            assert first.status_code in statuses, first.text
            repeated = await call(planted.app, planted.tokens[caller], "POST", path, **request)
            assert repeated.status_code == 403, repeated.text
            assert not leaks("bulk", repeated, planted.scopes[caller])


async def test_dry_run_of_a_write_shows_briefs(client: httpx.AsyncClient) -> None:
    """The page on security states this: a token that may write references may read the briefs of their targets."""
    user = await make(client, "users", code="OWNER", name="Owner")
    headers = await token_with(client, "processes:write")
    items = {"items": [{"op": "create", "data": {"name": "New", "owner_id": user["id"]}}]}
    response = await client.post("/processes/bulk?dry_run=true", json=items, headers=headers)
    assert response.json()["items"][0]["after"]["owner"] == {"id": user["id"], "code": "OWNER", "name": "Owner"}


async def refuse_to_delete(client: httpx.AsyncClient, *scopes: str) -> dict[str, Any]:
    """Return the problem of deleting a department to which a process, a role and two users refer."""
    department = (await make(client, "departments"))["id"]
    await make(client, "processes", department_ids=[department])
    for collection in ("roles", "users", "users"):
        await make(client, collection, department_id=department)
    headers = await token_with(client, "departments:write", *scopes)
    response = await client.delete(f"/departments/{department}", headers=headers)
    assert response.status_code == 409, response.text
    items = {"items": [{"op": "delete", "id": department}]}
    batch = await client.post("/departments/bulk", json=items, headers=headers)
    problem: dict[str, Any] = response.json()
    return problem | {"of_batch": batch.json()["errors"][0]["detail"]}


async def test_dependants_are_those_that_the_token_may_read(client: httpx.AsyncClient) -> None:
    problem = await refuse_to_delete(client, "roles:read")
    dependants = problem["dependants"]
    first = [each["type"] for each in dependants.pop("first")]
    assert (first, dependants) == (["roles"], {"total": 1, "counts": {"roles": 1}, "has_unreadable": True})
    text = "The department is still referenced by {} and objects that this token may not read."
    assert (problem["detail"], problem["of_batch"]) == (text.format("1 role"), text.format("roles"))


async def test_dependants_that_the_token_may_not_read_have_no_number(client: httpx.AsyncClient) -> None:
    problem = await refuse_to_delete(client)
    assert problem["dependants"] == {"total": 0, "counts": {}, "first": [], "has_unreadable": True}
    text = "The department is still referenced by objects that this token may not read."
    assert (problem["detail"], problem["of_batch"]) == (text, text)


async def test_dependants_of_a_token_that_may_read_all_are_complete(client: httpx.AsyncClient) -> None:
    problem = await refuse_to_delete(client, *(f"{name}:read" for name in COLLECTIONS))
    dependants = problem["dependants"]
    assert (dependants["total"], len(dependants["first"]), dependants["has_unreadable"]) == (4, 4, False)
    assert problem["detail"] == "The department is still referenced by 1 process, 1 role and 2 users."
    assert problem["of_batch"] == "The department is still referenced by processes, roles and users."


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_filters_that_read_another_collection_require_the_permission_to_read_it(
    client: httpx.AsyncClient, collection: str
) -> None:
    headers = await token_with(client, f"{collection}:read")
    declaration = LISTS[collection].declaration
    group = next(iter(declaration.groups))
    for name, other in declaration.reads.items():
        query = query_with(declaration, name, 1)
        expected = (200, None) if other == collection else (403, f"{other}:read")
        for path in (f"{collection}?", f"{collection}/stats?group_by={group}&", f"{collection}?q=a&"):
            response = await client.get(f"/{path}{query}", headers=headers)
            assert (response.status_code, response.json().get("scope")) == expected, query
        permitted = await token_with(client, f"{collection}:read", f"{other}:read")
        assert (await client.get(f"/{collection}?{query}", headers=permitted)).status_code == 200, query


async def test_filter_of_a_list_below_a_path_requires_the_permission(client: httpx.AsyncClient) -> None:
    role = await make(client, "roles")
    headers = await token_with(client, "roles:read", "users:read")
    for query, status in (("role_id__null=false", 200), ("department_within__not=1", 403)):
        for accept in ("application/json", "application/x-ndjson"):
            response = await client.get(f"/roles/{role['id']}/holders?{query}", headers=headers | {"Accept": accept})
            assert response.status_code == status, query


async def test_external_ids_are_of_readable_collections(committed: Committed) -> None:
    client = committed.client
    role = await make(client, "roles", external_id="hr/7")
    await make(client, "processes", role_ids=[role["id"]])
    for scopes, cell, members in (
        (("processes:read",), f"#{role['id']}:responsible", set()),
        (("processes:read", "roles:read"), "~hr/7:responsible", {"external_id"}),
    ):
        headers = await token_with(client, *scopes)
        table = await client.get("/processes?fields=roles", headers=headers | {"Accept": "text/csv"})
        assert table.text.split() == ["roles", cell]
        lines = await client.get("/processes?fields=roles", headers=headers | {"Accept": "application/x-ndjson"})
        (link,) = lines.json()["roles"]
        assert link.keys() == {"id", "code", "name", "responsibility"} | members


# Each secret changes the words that are similar to `q` for callers that may read it: a word that begins with `q` raises
# the similarity that other words need, and a more similar word takes the place of others.
@pytest.mark.parametrize(("q", "planted_name", "secret"), [("warehou", *WORDS), ("warehousng", *WORDS)])
@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_words_of_unreadable_texts_change_no_search(
    client: httpx.AsyncClient, collection: str, q: str, planted_name: str, secret: str
) -> None:
    own = COLLECTIONS[COLLECTIONS.index(collection) - 1]
    headers = await token_with(client, f"{own}:read")
    await make(client, own, name=planted_name)
    group = next(iter(LISTS[own].declaration.groups))
    paths = [f"/{own}?q={q}&count=exact", f"/{own}?q={q}&sort=-name", f"/search?q={q}&count=exact"]
    paths.append(f"/{own}/stats?q={q}&group_by={group}")

    async def responses(token: dict[str, str]) -> list[bytes]:
        return [(await client.get(path, headers=token)).content for path in paths]

    before, of_reader = await responses(headers), await responses({})
    assert [json.loads(each)["total"] for each in before] == [1, None, 1, 1]
    await make(client, collection, description=f"With a {secret} in it")
    assert await responses(headers) == before
    assert await responses({}) != of_reader
