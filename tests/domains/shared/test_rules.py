"""A rule is implemented once and checked by every kind of write."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from sqlalchemy import URL, text

from app.core.caller import SYSTEM_CALLER
from app.core.database import RegisterSession, advisory_key
from app.domains.process.schemas import ProcessPatch
from app.domains.process.service import ProcessService
from app.domains.register.export import export_register
from app.domains.register.restore import import_register
from app.domains.shared.reading.preconditions import UNCONDITIONAL
from app.domains.shared.rules import Rule, RuleViolation, Values, Write
from app.utils.exceptions import Conflict, RegisterError
from tests.builders import make, make_department, make_location, make_process, make_resource, make_role
from tests.conftest import Committed, Statements, connected, new_database, settings_for, text_of, until_lock_wait
from tests.domains.shared.bulk import changing, create

LINKS = ("departments", "locations", "resources", "roles")


class Retired(Conflict):
    code = "retired"


class RetiredTakesNoLinks(Rule):
    """The rule that the tests add to processes."""

    applies_to_restores = True

    def concerns(self, values: Values) -> bool:
        return bool(values["status"] == "retired")

    def check(self, write: Write) -> Iterator[RuleViolation]:
        if write.after is not None and write.after["status"] == "retired":
            for field in write.new_links():
                yield RuleViolation(Retired, "A retired process takes no new links.", f"/{field}")


class Witness(Rule):
    """Rejects nothing, and records the writes that it checks and applies to."""

    applies_to_restores = True
    checked: ClassVar[list[Write]] = []
    applied: ClassVar[list[Write]] = []

    def concerns(self, values: Values) -> bool:
        del values
        return True

    def check(self, write: Write) -> Iterator[RuleViolation]:
        Witness.checked.append(write)
        yield from ()

    async def apply(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        assert await session.scalar(text("SELECT true"))  # the transaction of the write
        Witness.applied += writes


def add_rule(monkeypatch: pytest.MonkeyPatch, rule: type[Rule]) -> None:
    declared = ProcessService.collection
    monkeypatch.setattr(ProcessService, "collection", replace(declared, rules=(*declared.rules, rule)))


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> type[Witness]:
    add_rule(monkeypatch, Witness)
    Witness.checked, Witness.applied = [], []
    return Witness


def kind_of(write: Write) -> str:
    return "delete" if write.after is None else "create" if write.before is None else "update"


async def one_of_each(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    """Return an object of each collection that processes can be linked to."""
    makers = (make_department, make_location, make_resource, make_role)
    return {
        field: await maker(client, code=f"X-{field[0].upper()}") for field, maker in zip(LINKS, makers, strict=True)
    }


async def test_each_kind_of_write_checks_rules_once(client: httpx.AsyncClient, witness: type[Witness]) -> None:
    others = await one_of_each(client)
    process = await make_process(client, code="P-1", department_ids=[others["departments"]["id"]])
    path = f"/processes/{process['id']}"

    async def asks(kind: str, response: httpx.Response, **links: int) -> None:
        assert response.is_success, response.text
        (write,) = witness.checked
        assert witness.applied == [write]
        assert (kind_of(write), write.is_rejected, write.id is None) == (kind, False, False)
        changed = {
            f"{name}_{field}": len(found)
            for name in ("added", "removed")
            for field, found in getattr(write, name).items()
            if found
        }
        assert changed == links
        witness.checked, witness.applied = [], []

    await asks("create", await client.get(path), added_departments=1)
    body = {"name": "P", "department_ids": [others["departments"]["id"]], "role_ids": [others["roles"]["id"]]}
    await asks("update", await client.put(path, json=body), added_roles=1)
    await asks("update", await client.patch(path, json={"name": "Q", "departments": []}), removed_departments=1)
    for field in LINKS:
        link = f"{path}/{field}/{others[field]['id']}"
        was_there = field == "roles"
        await asks("update", await client.put(link), **({} if was_there else {f"added_{field}": 1}))
        await asks("update", await client.put(link))
        await asks("update", await client.delete(link), **{f"removed_{field}": 1})
        await asks("update", await client.delete(link))
    await asks("delete", await client.delete(path))


async def test_batches_and_files_check_rules_once_an_item(client: httpx.AsyncClient, witness: type[Witness]) -> None:
    others = await one_of_each(client)
    links = {f"{name[:-1]}_ids": [other["id"]] for name, other in others.items()}
    await make_process(client, code="P-1", **links)
    await make_process(client, code="P-2")
    for path, content in (
        (
            "/processes/bulk",
            {
                "json": {
                    "items": [
                        create(code="P-3", name="New", department_ids=links["department_ids"]),
                        changing("P-1", department_ids=[]),
                        {"op": "upsert", "code": "P-4", "data": {"name": "Fourth"}},
                        {"op": "delete", "code": "P-2"},
                    ]
                }
            },
        ),
        (
            "/processes/import",
            {
                "content": "code,name,departments\nP-5,Fifth,X-D:owner\nP-1,First,\n",
                "headers": {"Content-Type": "text/csv"},
            },
        ),
    ):
        witness.checked, witness.applied = [], []
        response = await client.post(path, **content)
        assert response.status_code == 200, response.text
        assert witness.applied == witness.checked
        expected = ["create", "update", "create", "delete"] if "bulk" in path else ["create", "update"]
        assert [kind_of(write) for write in witness.checked] == expected
        first, second = witness.checked[:2]
        assert [len(first.added["departments"]), len(second.removed.get("departments", ()))] == [1, int("bulk" in path)]


async def test_restore_checks_rules_that_apply_to_it(
    committed: Committed,
    server_url: URL,
    template: URL,
    witness: type[Witness],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await make_process(committed.client)
    settings = settings_for(committed.url)
    await export_register(settings, text_of(committed.url), tmp_path, with_history=False, force=False)
    for applies in (True, False):
        monkeypatch.setattr(witness, "applies_to_restores", applies)
        witness.checked, witness.applied = [], []
        async with new_database(server_url, template.database) as url:
            counts = await import_register(settings_for(url), text_of(url), tmp_path)
        assert counts["created"] == 1
        assert [kind_of(write) for write in witness.checked] == (["create"] if applies else [])


RETIRED = {"status": "retired"}


@pytest.fixture
async def retired(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A retired process with a link of each kind, and the rule that retired processes get no new links."""
    others = await one_of_each(client)
    links = {f"{name[:-1]}_ids": [other["id"]] for name, other in others.items()}
    process = await make_process(client, code="OLD", **RETIRED, **links)
    add_rule(monkeypatch, RetiredTakesNoLinks)
    return process | links


async def test_every_new_link_is_rejected(client: httpx.AsyncClient, retired: dict[str, Any]) -> None:
    path = f"/processes/{retired['id']}"
    before = (await client.get(path)).json()
    for field in LINKS:
        new = await make(client, field)
        member = f"{field[:-1]}_ids"
        ids = [*retired[member], new["id"]]
        for response in (
            await client.post("/processes", json={"name": "P", **RETIRED, member: ids}),
            await client.put(path, json={"name": "P", **RETIRED, member: ids}),
            await client.patch(path, json={member: ids}),
        ):
            assert (response.status_code, response.json()["code"]) == (409, "retired"), response.text
            assert response.json()["errors"][0]["pointer"] == f"/{field}"
        response = await client.put(f"{path}/{field}/{new['id']}")
        assert (response.status_code, response.json()["code"], response.json()["errors"]) == (409, "retired", [])
        items = [
            create(name="P", **RETIRED, **{member: ids}),
            changing("OLD", **{member: ids}),
            {"op": "upsert", "code": "OLD", "data": {member: ids}},
            {"op": "upsert", "code": "NEW", "data": {"name": "P", **RETIRED, member: ids}},
        ]
        for item in items:
            response = await client.post("/processes/bulk", json={"items": [item]})
            assert (response.status_code, response.json()["code"]) == (409, "retired"), response.text
            assert response.json()["errors"][0]["pointer"] == f"/items/0/data/{field}"
    file = "code,status,roles\nOLD,retired,code\n".replace("code\n", f"#{(await make_role(client))['id']}\n")
    response = await client.post("/processes/import", content=file, headers={"Content-Type": "text/csv"})
    assert (response.status_code, response.json()["code"]) == (409, "retired"), response.text
    assert response.json()["errors"][0]["pointer"].startswith("/2/roles")
    assert (await client.get(path)).json() == before


async def test_other_writes_are_allowed(client: httpx.AsyncClient, retired: dict[str, Any]) -> None:
    path = f"/processes/{retired['id']}"
    ids = {
        member: retired[member] for member in retired if member.endswith("_ids") and isinstance(retired[member], list)
    }
    assert (await client.patch(path, json={"name": "Renamed", **ids})).status_code == 200
    assert (await client.put(f"{path}/departments/{ids['department_ids'][0]}")).status_code == 204
    link = {"department_id": ids["department_ids"][0], "relation": "supplier"}
    assert (await client.patch(path, json={"departments": [link]})).status_code == 200
    assert (await client.delete(f"{path}/locations/{ids['location_ids'][0]}")).status_code == 204
    role = await make_role(client)
    # A process that becomes active may get new links in the same request.
    assert (await client.patch(path, json={"status": "active", "role_ids": [role["id"]]})).status_code == 200
    assert (await client.delete(path)).status_code == 204


async def test_export_that_breaks_a_rule_is_not_restored(
    committed: Committed, server_url: URL, template: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    department = await make_department(committed.client)
    await make_process(committed.client, **RETIRED, department_ids=[department["id"]])
    settings = settings_for(committed.url)
    await export_register(settings, text_of(committed.url), tmp_path, with_history=False, force=False)
    add_rule(monkeypatch, RetiredTakesNoLinks)
    async with new_database(server_url, template.database) as url:
        with pytest.raises(RegisterError, match=r"processes.ndjson, line 1, departments: A retired process"):
            await import_register(settings_for(url), text_of(url), tmp_path)


async def test_writes_without_rules_need_no_further_statement(
    client: httpx.AsyncClient, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = await make_role(client)
    process = await make_process(client)
    requests = [
        ("POST", "/processes", {"name": "P", "role_ids": [role["id"]]}),
        ("PUT", f"/processes/{process['id']}", {"name": "Q", "role_ids": [role["id"]]}),
        ("PATCH", f"/processes/{process['id']}", {"name": "R", "role_ids": []}),
        ("PUT", f"/processes/{process['id']}/roles/{role['id']}", {}),
        ("POST", "/processes/bulk", {"items": [create(name="S", role_ids=[role["id"]])]}),
    ]

    async def counts() -> list[int]:
        found = []
        for method, path, body in requests:
            with statements.counted() as seen:
                assert (await client.request(method, path, json=body)).is_success
            found.append(len(seen))
        return found

    expected = await counts()
    add_rule(monkeypatch, RetiredTakesNoLinks)
    assert await counts() == expected


async def test_failure_of_a_dependent_change_rolls_back_the_write(
    committed: Committed, witness: type[Witness], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise Retired("It failed.")

    process = await make_process(committed.client, code="P-1")
    department = await make_department(committed.client)
    monkeypatch.setattr(witness, "apply", fail)
    before = (await committed.client.get("/processes")).content
    for method, path, body in (
        ("POST", "/processes", {"name": "P"}),
        ("PUT", f"/processes/{process['id']}", {"name": "Q"}),
        ("PATCH", f"/processes/{process['id']}", {"name": "Q"}),
        ("PUT", f"/processes/{process['id']}/departments/{department['id']}", {}),
        ("POST", "/processes/bulk", {"items": [changing("P-1", name="Q")]}),
        ("DELETE", f"/processes/{process['id']}", None),
    ):
        response = await committed.client.request(method, path, json=body)
        assert (response.status_code, response.json()["code"]) == (409, "retired"), response.text
        assert (await committed.client.get("/processes")).content == before


class Locking(Rule):
    """Needs a lock for every change of a name."""

    def concerns(self, values: Values) -> bool:
        del values
        return True

    def lock(self, write: Write) -> str | None:
        return "names" if write.before is None or write.after is None or write.changes("name") or write.added else None


@pytest.mark.parametrize("kind", ["POST", "PUT", "PATCH", "DELETE", "link", "bulk"])
async def test_waiting_for_the_lock_of_a_rule_holds_no_row_lock(
    committed: Committed, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    add_rule(monkeypatch, Locking)
    process = await make_process(committed.client, code="P-1")
    path = f"/processes/{process['id']}"
    if kind == "bulk":
        request = committed.client.post("/processes/bulk", json={"items": [changing("P-1", name="New")]})
    elif kind == "link":
        department = await make_department(committed.client)
        request = committed.client.put(f"{path}/departments/{department['id']}")
    else:
        body = None if kind == "DELETE" else {"name": "New"}
        request = committed.client.request(kind, "/processes" if kind == "POST" else path, json=body)
    async with connected(committed.url) as holder, connected(committed.url) as other:
        await holder.execute("SELECT pg_advisory_lock($1)", advisory_key("names"))
        waiting = asyncio.create_task(request)
        await until_lock_wait(committed.url)
        async with other.transaction():
            assert await other.fetchval("SELECT count(*) FROM (SELECT FROM processes FOR UPDATE NOWAIT) AS p") == 1
        await holder.execute("SELECT pg_advisory_unlock($1)", advisory_key("names"))
        assert (await waiting).is_success


async def test_waiting_for_a_lock_keeps_earlier_writes(committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    add_rule(monkeypatch, Locking)
    process = await make_process(committed.client, code="P-1")
    database = committed.app.state.database

    async def write_twice() -> None:
        async with database.transaction() as session:
            service = ProcessService(session, SYSTEM_CALLER)
            for reference in ("code:P-2", "code:P-1"):
                async with session.begin_nested():
                    if reference == "code:P-2":
                        await session.execute(text("INSERT INTO roles (name) VALUES ('Kept')"))
                    else:
                        body = ProcessPatch.model_validate({"name": "New"})
                        await service.patch(reference, body, UNCONDITIONAL)

    async with connected(committed.url) as holder:
        await holder.execute("SELECT pg_advisory_lock($1)", advisory_key("names"))
        waiting = asyncio.create_task(write_twice())
        await until_lock_wait(committed.url)
        await holder.execute("SELECT pg_advisory_unlock($1)", advisory_key("names"))
        await waiting
        assert await holder.fetchval("SELECT count(*) FROM roles WHERE name = 'Kept'") == 1
    assert (await committed.client.get(f"/processes/{process['id']}")).json()["name"] == "New"


async def test_key_of_a_request_is_held_while_it_waits_for_a_lock(
    committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_rule(monkeypatch, Locking)
    process = await make_process(committed.client)
    path, body, key = f"/processes/{process['id']}", {"name": "New"}, {"Idempotency-Key": "once"}
    async with connected(committed.url) as holder:
        await holder.execute("SELECT pg_advisory_lock($1)", advisory_key("names"))
        waiting = asyncio.create_task(committed.client.patch(path, json=body, headers=key))
        await until_lock_wait(committed.url)
        twin = await committed.client.patch(path, json=body, headers=key)
        assert (twin.status_code, twin.json()["code"]) == (409, "request_in_flight")
        await holder.execute("SELECT pg_advisory_unlock($1)", advisory_key("names"))
        assert (await waiting).status_code == 200


class Watching(Rule):
    """Applies to changes of the status only."""

    watches = ("status",)

    def check(self, write: Write) -> Iterator[RuleViolation]:
        del write
        yield RuleViolation(Retired, "The status stays.", "/status")


async def test_rule_that_watches_applies_to_changes_only(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await make_process(client, code="P-1", status="active")
    role = await make_role(client)
    add_rule(monkeypatch, Watching)
    path, csv = f"/processes/{process['id']}", {"Content-Type": "text/csv"}
    for allowed in (
        await client.post("/processes", json={"name": "P", "status": "retired"}),
        await client.patch(path, json={"name": "Q"}),
        await client.put(path, json={"name": "R", "code": "P-1", "status": "active"}),
        await client.put(f"{path}/roles/{role['id']}"),
        await client.post("/processes/bulk", json={"items": [create(name="P", status="retired")]}),
        await client.post("/processes/bulk", json={"items": [changing("P-1", name="S")]}),
        await client.post("/processes/import", content="code,name\nP-1,T\nP-9,U\n", headers=csv),
    ):
        assert allowed.is_success, allowed.text
    for refused in (
        await client.patch(path, json={"status": "retired"}),
        await client.put(path, json={"name": "R", "status": "draft"}),
        await client.post("/processes/bulk", json={"items": [changing("P-1", status="retired")]}),
        await client.post("/processes/import", content="code,status\nP-1,retired\n", headers=csv),
        await client.delete(path),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "retired"), refused.text
