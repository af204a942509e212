"""Routes of roles: their department and their holders."""

from typing import Any

import httpx
import pytest

from tests.builders import make_department, make_role, make_user


async def version(client: httpx.AsyncClient, role: dict[str, Any]) -> int:
    found: int = (await client.get(f"/roles/{role['id']}")).json()["version"]
    return found


async def test_fields_left_out_are_null(client: httpx.AsyncClient) -> None:
    made = await make_role(client)
    assert (made["department_id"], made["department"]) == (None, None)


async def test_department_is_embedded_as_a_brief(client: httpx.AsyncClient) -> None:
    department = await make_department(client, code="IT", name="IT")
    made = await make_role(client, department_id=department["id"])
    assert made["department"] == {"id": department["id"], "code": "IT", "name": "IT"}
    patched = (await client.patch(f"/roles/{made['id']}", json={"department_id": None})).json()
    assert (patched["department_id"], patched["department"]) == (None, None)


async def test_unknown_department_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/roles", json={"name": "Role", "department_id": 2**63 - 1})
    assert (response.status_code, response.json()["code"]) == (422, "unknown_reference")
    assert [error["pointer"] for error in response.json()["errors"]] == ["/department_id"]


@pytest.mark.parametrize("by", ["id", "code"])
async def test_holder_is_added_and_removed(client: httpx.AsyncClient, by: str) -> None:
    role, user = await make_role(client, code="Auditor"), await make_user(client, code="Ada")
    path = f"/roles/{role['id']}/holders/{user['id']}" if by == "id" else "/roles/code:AUDITOR/holders/code:ada"
    for _ in range(2):
        response = await client.put(path)
        assert (response.status_code, response.content) == (204, b"")
        assert (await client.get(f"/roles/{role['id']}/holders")).json()["items"] == [user]
        assert await version(client, role) == 2
    for _ in range(2):
        response = await client.delete(path)
        assert (response.status_code, response.content) == (204, b"")
        assert (await client.get(f"/roles/{role['id']}/holders")).json()["items"] == []
        assert await version(client, role) == 3
    # The user is unchanged.
    assert (await client.get(f"/users/{user['id']}")).json() == user


async def test_holders_are_listed_like_any_list(client: httpx.AsyncClient) -> None:
    role, other = await make_role(client, code="R-1"), await make_role(client)
    users = [await make_user(client, name=name) for name in ("Grace", "ada", "Barbara")]
    for user in users:
        await client.put(f"/roles/{role['id']}/holders/{user['id']}")
    await client.put(f"/roles/{other['id']}/holders/{users[0]['id']}")
    await make_user(client)
    page = (await client.get("/roles/code:r-1/holders?sort=name&count=exact")).json()
    assert page == {"items": [users[1], users[2], users[0]], "next": None, "prev": None, "total": 3}
    page = (await client.get(f"/roles/{role['id']}/holders?limit=2")).json()
    assert page["items"] == users[:2]
    assert page["next"].startswith(f"/api/v1/roles/{role['id']}/holders?limit=2&cursor=")
    following = (await client.get(page["next"].removeprefix("/api/v1"))).json()
    assert (following["items"], following["next"]) == (users[2:], None)
    assert (await client.get(f"/roles/{other['id']}/holders")).json()["items"] == users[:1]
    for query, status in (("limt=1", 400), ("limit=0", 422)):
        assert (await client.get(f"/roles/{role['id']}/holders?{query}")).status_code == status


@pytest.mark.parametrize("reference", ["9223372036854775807", "9223372036854775808", "code:absent", "x"])
async def test_unknown_role_or_user_is_not_found(client: httpx.AsyncClient, reference: str) -> None:
    role, user = await make_role(client), await make_user(client)
    for path, missing in (
        (f"/roles/{reference}/holders/{user['id']}", "role"),
        (f"/roles/{role['id']}/holders/{reference}", "user"),
    ):
        for response in (await client.put(path), await client.delete(path)):
            assert (response.status_code, response.json()["detail"]) == (404, f"There is no such {missing}.")
    response = await client.get(f"/roles/{reference}/holders")
    assert (response.status_code, response.json()["detail"]) == (404, "There is no such role.")
    assert await version(client, role) == 1


async def test_stale_tag_refuses_a_change_of_holders(client: httpx.AsyncClient) -> None:
    role, user = await make_role(client), await make_user(client)
    path = f"/roles/{role['id']}/holders/{user['id']}"
    stale = (await client.get(f"/roles/{role['id']}")).headers["etag"]
    assert (await client.put(path, headers={"If-Match": stale})).status_code == 204
    fresh = (await client.get(f"/roles/{role['id']}")).headers["etag"]
    for response in (
        await client.put(path, headers={"If-Match": stale}),
        await client.delete(path, headers={"If-Match": stale}),
        await client.put(path, headers={"If-None-Match": "*"}),
        await client.delete(path, headers={"If-None-Match": fresh}),
    ):
        assert (response.status_code, response.headers["etag"]) == (412, fresh)
    assert (await client.get(f"/roles/{role['id']}/holders")).json()["items"] == [user]
    assert (await client.delete(path, headers={"If-Match": fresh})).status_code == 204


async def test_writes_of_a_role_keep_its_holders(client: httpx.AsyncClient) -> None:
    role, user = await make_role(client), await make_user(client)
    await client.put(f"/roles/{role['id']}/holders/{user['id']}")
    await client.put(f"/roles/{role['id']}", json={"name": "Replaced"})
    await client.patch(f"/roles/{role['id']}", json={"description": "Patched"})
    assert (await client.get(f"/roles/{role['id']}/holders")).json()["items"] == [user]
    assert await version(client, role) == 4


async def test_deleting_a_role_removes_its_holders_but_not_the_users(client: httpx.AsyncClient) -> None:
    role, user = await make_role(client), await make_user(client)
    await client.put(f"/roles/{role['id']}/holders/{user['id']}")
    held = await client.delete(f"/users/{user['id']}")
    assert (held.status_code, held.json()["dependants"]["counts"]) == (409, {"roles": 1})
    assert (await client.delete(f"/roles/{role['id']}")).status_code == 204
    assert (await client.get(f"/users/{user['id']}")).json() == user
    assert (await client.delete(f"/users/{user['id']}")).status_code == 204
