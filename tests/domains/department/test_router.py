"""Routes of departments."""

import httpx
import pytest

from tests.builders import make_department, make_user


async def test_fields_left_out_are_null(client: httpx.AsyncClient) -> None:
    made = await make_department(client)
    assert [made[name] for name in ("parent_id", "parent", "head_id", "head")] == [None] * 4


async def test_parent_and_head_are_embedded_as_briefs(client: httpx.AsyncClient) -> None:
    head = await make_user(client, code="ada", name="Ada")
    parent = await make_department(client, code="FIN", name="Finance")
    made = await make_department(client, head_id=head["id"], parent_id=parent["id"])
    assert (made["head_id"], made["head"]) == (head["id"], {"id": head["id"], "code": "ada", "name": "Ada"})
    brief = {"id": parent["id"], "code": "FIN", "name": "Finance"}
    assert (made["parent_id"], made["parent"]) == (parent["id"], brief)
    patched = (await client.patch(f"/departments/{made['id']}", json={"head_id": None})).json()
    assert (patched["head_id"], patched["head"], patched["parent"]) == (None, None, brief)
    replaced = (await client.put(f"/departments/{made['id']}", json={"name": made["name"]})).json()
    assert (replaced["parent_id"], replaced["parent"]) == (None, None)


@pytest.mark.parametrize("field", ["parent_id", "head_id"])
async def test_unknown_reference_is_refused(client: httpx.AsyncClient, field: str) -> None:
    made = await make_department(client)
    body = {"name": "Department", field: 2**63 - 1}
    for response in (
        await client.post("/departments", json=body),
        await client.put(f"/departments/{made['id']}", json=body),
        await client.patch(f"/departments/{made['id']}", json={field: 2**63 - 1}),
    ):
        assert (response.status_code, response.json()["code"]) == (422, "unknown_reference")
        assert [error["pointer"] for error in response.json()["errors"]] == [f"/{field}"]


@pytest.mark.parametrize("field", ["parent_id", "head_id"])
@pytest.mark.parametrize("value", [0, -1, 2**63, 1.5, "1", True, {"id": 1}])
async def test_invalid_id_is_rejected(client: httpx.AsyncClient, field: str, value: object) -> None:
    response = await client.post("/departments", json={"name": "Department", field: value})
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [f"/{field}"]


async def test_head_may_belong_to_another_department_and_head_several(client: httpx.AsyncClient) -> None:
    other = await make_department(client)
    head = await make_user(client, department_id=other["id"])
    for _ in range(2):
        assert (await make_department(client, head_id=head["id"]))["head_id"] == head["id"]


async def test_department_and_its_head_may_refer_to_each_other(client: httpx.AsyncClient) -> None:
    department = await make_department(client)
    head = await make_user(client, department_id=department["id"])
    patched = await client.patch(f"/departments/{department['id']}", json={"head_id": head["id"]})
    assert (patched.status_code, patched.json()["head_id"]) == (200, head["id"])
    for path, kind in ((f"/departments/{department['id']}", "users"), (f"/users/{head['id']}", "departments")):
        response = await client.delete(path)
        assert (response.status_code, response.json()["dependants"]["counts"]) == (409, {kind: 1})
