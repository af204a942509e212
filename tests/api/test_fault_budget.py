"""A request with many faults costs no more than the faults that its response lists."""

import json
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from app.core.caller import SYSTEM_CALLER
from app.core.database import RegisterSession
from app.domains.process.models import Process
from app.domains.process.service import ProcessService
from app.domains.role.models import Role
from app.domains.shared import references as keys
from app.domains.shared.bulk import references
from app.domains.shared.bulk.conflicts import Batch
from app.domains.shared.bulk.fault_budget import MAX_TOTAL_FAULTS
from app.domains.shared.bulk.items import Item
from app.utils import validation
from app.utils.exceptions import Fault
from app.utils.validation import MAX_FAULTS, MAX_POINTER_PART
from tests.builders import make_role
from tests.conftest import client_of
from tests.domains.auth.conftest import make_account, sign_in

JSON = {"Content-Type": "application/json"}
# Members that no schema has, nearly a mebibyte of them.
UNKNOWN = dict.fromkeys((f"m{number}" for number in range(90_000)), 1)


@pytest.fixture
def pydantic_errors(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of Pydantic's errors, of each request that FastAPI validated."""
    counts: list[int] = []
    invalid_request = validation.invalid_request

    def count(details: Any) -> Any:
        counts.append(len(details))
        return invalid_request(details)

    monkeypatch.setattr("app.api.problems.invalid_request", count)
    return counts


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> list[Fault]:
    """The faults that got a text."""
    faults: list[Fault] = []
    explain = validation._fault

    def count(*arguments: Any) -> Fault:
        faults.append(explain(*arguments))
        return faults[-1]

    monkeypatch.setattr(validation, "_fault", count)
    return faults


def assert_truncated(response: httpx.Response) -> list[str]:
    problem = response.json()
    assert (response.status_code, len(problem["errors"])) == (422, MAX_FAULTS)
    assert problem["detail"] == "The request has more than 100 errors. The first 100 are listed."
    return [error["pointer"] for error in problem["errors"]]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/departments", {"name": "D"}),
        ("PUT", "/processes/1", {"name": "P", "role_ids": ["x"] * 50}),
        ("PATCH", "/users/1", {}),
        ("POST", "/processes", {"name": "P", "departments": [{"department_id": 1}]}),
        ("POST", "/roles/bulk", {"items": [{"op": "delete", "id": 1}]}),
    ],
)
async def test_unknown_members_beyond_the_budget_are_not_validated(
    client: httpx.AsyncClient, pydantic_errors: list[int], method: str, path: str, body: dict[str, Any]
) -> None:
    response = await client.request(method, path, json=body | UNKNOWN)
    pointers = assert_truncated(response)
    wrong = len(body.get("role_ids", ()))
    assert pointers[wrong:] == [f"/{name}" for name in list(UNKNOWN)[: MAX_FAULTS - wrong]]
    assert pydantic_errors == [MAX_FAULTS + 1 + wrong]


async def test_unknown_members_of_nested_objects_share_the_budget(
    client: httpx.AsyncClient, pydantic_errors: list[int]
) -> None:
    few = dict(list(UNKNOWN.items())[:80])
    body = {"name": "P", "roles": [{"role_id": 1} | few for _ in range(800)]}
    pointers = assert_truncated(await client.post("/processes", json=body))
    assert pointers == [f"/roles/0/{name}" for name in few] + [f"/roles/1/{name}" for name in list(few)[:20]]
    assert pydantic_errors == [MAX_FAULTS + 1]


@pytest.mark.parametrize("entry", [None, "x", {}, {"role_id": 0}])
async def test_long_list_of_wrong_entries_is_one_fault(
    client: httpx.AsyncClient, pydantic_errors: list[int], entry: Any
) -> None:
    body = {"name": "P", "roles" if isinstance(entry, dict) else "role_ids": [entry] * 60_000}
    response = await client.post("/processes", json=body)
    assert [error["code"] for error in response.json()["errors"]] == ["too_long"]
    assert pydantic_errors == [1]


async def test_faults_of_one_item_are_limited(client: httpx.AsyncClient, explained: list[Fault]) -> None:
    many = dict.fromkeys((f"m{number}" for number in range(90_000)), 1)
    for item in ({"op": "create", "data": {"name": "R"} | many}, {"op": "create", "data": {"name": "R"}} | many):
        explained.clear()
        response = await client.post("/roles/bulk", content=json.dumps({"items": [item]}), headers=JSON)
        assert response.status_code == 422, response.text[:300]
        assert len(response.json()["errors"]) == MAX_FAULTS
        assert len(explained) <= MAX_FAULTS + 1


async def test_faults_of_all_items_are_limited(client: httpx.AsyncClient, explained: list[Fault]) -> None:
    unknown = dict(list(UNKNOWN.items())[:200])
    wrong = {"op": "create", "data": {"name": "P", "roles": [{}] * 150} | unknown}
    response = await client.post("/processes/bulk", json={"items": [wrong] * 500})
    assert len(response.json()["errors"]) == MAX_TOTAL_FAULTS
    # Each of the later items has its first fault, and shows that there are more.
    assert len(explained) <= 2 * (MAX_TOTAL_FAULTS + 500)


async def test_unknown_references_of_all_items_are_limited(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointers: list[str] = []

    def count(location: Any) -> str:
        pointers.append(validation.json_pointer(location))
        return pointers[-1]

    monkeypatch.setattr(references, "json_pointer", count)
    item = {"op": "create", "data": {"name": "P", "role_ids": list(range(9_000_000, 9_001_000))}}
    response = await client.post("/processes/bulk", json={"items": [item] * 100})
    assert len(response.json()["errors"]) == MAX_TOTAL_FAULTS
    # The first items have a hundred, the later ones one, and each has one more that is left out.
    assert len(pointers) <= MAX_TOTAL_FAULTS + 2 * 100


async def test_pointers_are_made_for_faults_only(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    pointers: list[str] = []

    def count(location: Any) -> str:
        pointers.append(validation.json_pointer(location))
        return pointers[-1]

    monkeypatch.setattr(keys, "json_pointer", count)
    role = await make_role(client, code="R")
    links = [{"role_id": {"code": "r"}, "responsibility": value} for value in ("responsible", "consulted")]
    item = {"op": "create", "data": {"name": "P", "roles": links}}
    response = await client.post("/processes/bulk", json={"items": [item] * 100})
    assert response.status_code == 200, response.text
    body = {"items": [{"role_id": {"code": "R"}, "user_ids": [{"external_id": "none"}]}]}
    response = await client.put(f"/roles/{role['id']}/holders", json={"user_ids": [1]})
    assert (response.status_code, pointers) == (204, [])
    response = await client.post("/roles/holders/bulk", json=body)
    assert (response.status_code, len(pointers)) == (422, 1)


async def test_unknown_reference_after_one_that_is_already_reported_is_reported() -> None:
    item = Item(0, "item 0", data={"role_ids": [1, 2, 3]})
    item.add_fault("/data/role_ids/1", "unknown_reference")
    batch = Batch(Process, [item], None)

    async def pause(_item: Item) -> None:
        pass

    resolver = references.References(ProcessService(cast("RegisterSession", None), SYSTEM_CALLER), batch, pause)
    await resolver._reject_unknown({Role: {1, 2, 3}})
    assert [fault.pointer for fault in item.faults] == [f"/data/role_ids/{index}" for index in (1, 0, 2)]
    assert not item.budget.is_truncated


@pytest.mark.parametrize(("count", "truncated"), [(MAX_FAULTS, False), (MAX_FAULTS + 1, True)])
async def test_response_says_whether_unknown_references_are_left_out(
    client: httpx.AsyncClient, count: int, truncated: bool
) -> None:
    item = {"op": "create", "data": {"name": "P", "role_ids": list(range(9_000_000, 9_000_000 + count))}}
    problem = (await client.post("/processes/bulk", json={"items": [item]})).json()
    assert len(problem["errors"]) == MAX_FAULTS
    assert ("more than" in problem["detail"]) is truncated


async def test_import_rows_have_the_same_budget(client: httpx.AsyncClient) -> None:
    row = {"name": "R"} | {f"m{number}": 1 for number in range(900)}
    content = b"\n".join([json.dumps(row).encode()] * 40)
    response = await client.post("/roles/import", content=content, headers={"Content-Type": "application/x-ndjson"})
    assert (response.status_code, len(response.json()["errors"])) == (422, MAX_TOTAL_FAULTS)


async def test_long_names_are_cut_in_pointers(client: httpx.AsyncClient) -> None:
    name = "n" * 900_000
    cut = "n" * (MAX_POINTER_PART - 1) + "…"
    role = await make_role(client)
    for method, path, body, pointer in (
        ("POST", "/roles", {"name": "R", name: 1}, f"/{cut}"),
        ("PATCH", f"/roles/{role['id']}", {name: 1}, f"/{cut}"),
        ("POST", "/roles/bulk", {"items": [{"op": "create", "data": {"name": "R", name: 1}}]}, f"/items/0/data/{cut}"),
        ("POST", "/processes", {"name": "P", "roles": [{"role_id": role["id"], name: 1}]}, f"/roles/0/{cut}"),
    ):
        response = await client.request(method, path, json=body)
        assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
        assert len(response.content) < 2000


@pytest.mark.usefixtures("connection")
async def test_body_of_a_session_has_the_same_budget(app: FastAPI, pydantic_errors: list[int]) -> None:
    user = await make_account(app)
    pair = await sign_in(app, user["email"])
    async with client_of(app, pair["access_token"]) as client:
        for path, missing in (("password", ["/old_password", "/new_password"]), ("tokens", ["/name"])):
            pointers = assert_truncated(await client.post(f"/users/me/{path}", json=UNKNOWN))
            assert pointers[: len(missing)] == missing
            assert pydantic_errors.pop() <= MAX_FAULTS + 1 + len(missing) + 1
