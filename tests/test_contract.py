"""The behaviour that all collections share."""

import httpx
import pytest

from app.domains.shared.schemas import kept_fields
from tests.builders import make, make_department, make_location, make_role, make_user
from tests.catalogue import (
    LINKS,
    REFERENCES,
    body_of,
    every_collection,
    every_hierarchy,
    every_tree,
    required,
    unique_members,
)
from tests.conftest import Statements


@every_collection
async def test_created_object_is_returned_with_its_address_and_tag(client: httpx.AsyncClient, collection: str) -> None:
    body = required(collection) | {"code": "T-1", "external_id": "legacy/1", "description": "First\nthing"}
    response = await client.post(f"/{collection}", json=body)
    assert response.status_code == 201
    made = response.json()
    assert {name: made[name] for name in body} == body
    assert made["version"] == 1
    assert made["created_by"] == made["updated_by"]
    assert made["created_by"]["name"] == "First administrator"
    assert made["created_at"] == made["updated_at"]
    assert made["created_at"].endswith("+00:00")
    assert response.headers["location"] == f"/api/v1/{collection}/{made['id']}"
    assert response.headers["etag"].startswith('"1.')
    again = await client.get(response.headers["location"].removeprefix("/api/v1"))
    assert again.content == response.content
    assert again.headers["etag"] == response.headers["etag"]


@every_collection
async def test_object_is_found_by_id_and_by_code_in_any_case(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection, code="Mixed.Case-1")
    for reference in (made["id"], "code:Mixed.Case-1", "code:mixed.case-1"):
        for slash in ("", "/"):
            response = await client.get(f"/{collection}/{reference}{slash}")
            assert (response.status_code, response.json()) == (200, made)


@every_collection
@pytest.mark.parametrize(
    "reference", ["0", "9223372036854775807", "9223372036854775808", "-1", "1.0", "x", "code:", "code:absent", "%00"]
)
async def test_reference_without_an_object_is_not_found(
    client: httpx.AsyncClient, collection: str, reference: str
) -> None:
    body = required(collection)
    path = f"/{collection}/{reference}"
    for response in (
        await client.get(path),
        await client.put(path, json=body),
        await client.patch(path, json={}),
        await client.delete(path),
    ):
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


@every_collection
async def test_known_representation_is_not_sent_again(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection)
    path = f"/{collection}/{made['id']}"
    etag = (await client.get(path)).headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = await client.get(path, headers={"If-None-Match": known})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", etag)
    assert (await client.get(path, headers={"If-None-Match": '"1.0"'})).status_code == 200


async def test_renamed_brief_changes_the_tag_but_not_the_version(client: httpx.AsyncClient) -> None:
    parent = await make_department(client, name="Old")
    child = await make_department(client, parent_id=parent["id"])
    before = (await client.get(f"/departments/{child['id']}")).headers["etag"]
    await client.patch(f"/departments/{parent['id']}", json={"name": "New"})
    response = await client.get(f"/departments/{child['id']}", headers={"If-None-Match": before})
    assert response.status_code == 200
    assert response.json()["parent"]["name"] == "New"
    assert response.json()["version"] == child["version"]


@every_collection
async def test_put_replaces_everything(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection, code="T-1", external_id="x", description="Long")
    body = required(collection) | {"name": "Other"}
    response = await client.put(f"/{collection}/{made['id']}", json=body)
    assert response.status_code == 200
    now = response.json()
    assert (now["name"], now["code"], now["external_id"], now["description"]) == ("Other", None, None, None)
    assert now["version"] == 2
    assert response.headers["etag"].startswith('"2.')
    assert now["created_at"] == made["created_at"]


@every_collection
async def test_put_of_the_same_values_changes_nothing(client: httpx.AsyncClient, collection: str) -> None:
    body = required(collection) | {"code": "T-1"}
    made = (await client.post(f"/{collection}", json=body)).json()
    response = await client.put(f"/{collection}/{made['id']}", json=body)
    assert (response.status_code, response.json()) == (200, made)


@every_collection
async def test_patch_changes_named_members_and_null_clears(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection, code="T-1", description="Long")
    patch = {"description": None, "external_id": "x"}
    content_type = {"Content-Type": "application/merge-patch+json"}
    response = await client.patch(f"/{collection}/{made['id']}", json=patch, headers=content_type)
    assert response.status_code == 200
    expected = made | patch | {"version": 2, "updated_at": response.json()["updated_at"]}
    assert response.json() == expected
    assert (await client.patch(f"/{collection}/{made['id']}", json={})).json() == expected


@every_collection
async def test_required_member_cannot_be_cleared(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection)
    response = await client.patch(f"/{collection}/{made['id']}", json={"name": None})
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == ["/name"]


@every_collection
async def test_stale_tag_refuses_every_write(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection)
    path = f"/{collection}/{made['id']}"
    stale = {"If-Match": (await client.get(path)).headers["etag"]}
    fresh = (await client.patch(path, json={"name": "Changed"}, headers=stale)).headers["etag"]
    for response in (
        await client.put(path, json=required(collection), headers=stale),
        await client.patch(path, json={"name": "Lost"}, headers=stale),
        await client.delete(path, headers=stale),
    ):
        assert (response.status_code, response.headers["etag"]) == (412, fresh)
    assert (await client.get(path)).json()["name"] == "Changed"
    # Only the version is compared, so the entity tag of any representation matches.
    assert (await client.delete(path, headers={"If-Match": '"2.another"'})).status_code == 204


@every_collection
async def test_tag_of_the_object_in_if_none_match_refuses_every_write(
    client: httpx.AsyncClient, collection: str
) -> None:
    made = await make(client, collection)
    path = f"/{collection}/{made['id']}"
    before = await client.get(path)
    tag = before.headers["etag"]
    # Only the version is compared, and weakly.
    for condition in ("*", tag, f"W/{tag}", f'"0.x",, {tag}', '"1"', 'W/"1.another"'):
        headers = {"If-None-Match": condition}
        for response in (
            await client.put(path, json=required(collection) | {"name": "Lost"}, headers=headers),
            await client.put(path, json=required(collection), headers=headers),
            await client.patch(path, json={"name": "Lost"}, headers=headers),
            await client.patch(path, json={}, headers=headers),
            await client.delete(path, headers=headers),
        ):
            refused = (response.status_code, response.json()["code"], response.headers["etag"])
            assert refused == (412, "precondition_failed", tag), condition
    after = await client.get(path)
    assert (after.content, after.headers["etag"]) == (before.content, tag)
    assert len((await client.get(f"{path}/changes")).json()["items"]) == 1
    for method in ("PUT", "PATCH", "DELETE"):
        missing = await client.request(method, f"/{collection}/0", json=required(collection), headers=headers)
        assert missing.status_code == 404, method
    # Other versions permit the write.
    other = {"If-None-Match": f'"9.x", {tag.replace("1.", "0.", 1)}'}
    put = await client.put(path, json=required(collection) | {"name": "Other"}, headers=other)
    assert (put.status_code, put.json()["version"]) == (200, 2)
    patched = await client.patch(path, json={"name": "Third"}, headers={"If-None-Match": tag})
    assert (patched.status_code, patched.json()["version"]) == (200, 3)
    assert (await client.delete(path, headers={"If-None-Match": tag})).status_code == 204


@every_collection
async def test_lines_of_a_condition_are_one_list_and_if_match_comes_first(
    client: httpx.AsyncClient, collection: str
) -> None:
    body = required(collection)
    made = (await client.post(f"/{collection}", json=body)).json()
    path = f"/{collection}/{made['id']}"
    tag = (await client.get(path)).headers["etag"]

    async def statuses(*headers: tuple[str, str]) -> list[int]:
        responses = [
            await client.get(path, headers=headers),
            await client.put(path, json=body, headers=headers),
            await client.patch(path, json={}, headers=headers),
        ]
        return [response.status_code for response in responses]

    assert await statuses(("If-Match", '"9.x"'), ("If-Match", tag)) == [200, 200, 200]
    assert await statuses(("If-Match", '"9.x"'), ("If-Match", '"8.x"')) == [412, 412, 412]
    assert await statuses(("If-Match", ""), ("If-Match", tag)) == [200, 200, 200]
    assert await statuses(("If-Match", "*"), ("If-Match", tag)) == [400, 400, 400]
    assert await statuses(("If-None-Match", '"9.x"'), ("If-None-Match", tag)) == [304, 412, 412]
    assert await statuses(("If-None-Match", '"9.x"'), ("If-None-Match", '"8.x"')) == [200, 200, 200]
    assert await statuses(("If-Match", tag), ("If-None-Match", tag)) == [304, 412, 412]
    assert await statuses(("If-Match", '"9.x"'), ("If-None-Match", tag)) == [412, 412, 412]
    assert await statuses(("If-Match", '"9.x"'), ("If-None-Match", '"9.x"')) == [412, 412, 412]
    # A weak tag is never equal in the comparison of `If-Match`.
    assert await statuses(("If-Match", f"W/{tag}")) == [412, 412, 412]
    assert await statuses(("If-Match", f"W/{tag}, {tag}")) == [200, 200, 200]
    assert await statuses(("If-Match", "*")) == [200, 200, 200]
    both = {"If-Match": '"9.x"', "If-None-Match": tag}
    assert "`If-Match`" in (await client.delete(path, headers=both)).json()["detail"]
    assert (await client.get(path)).json() == made


@every_collection
async def test_deleted_object_is_gone(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection)
    response = await client.delete(f"/{collection}/{made['id']}")
    assert (response.status_code, response.content) == (204, b"")
    assert (await client.get(f"/{collection}/{made['id']}")).status_code == 404


@every_collection
@pytest.mark.parametrize(("field", "first", "second"), [("code", "Fin-1", "FIN-1"), ("external_id", "a/1", "a/1")])
async def test_duplicate_key_is_a_conflict(
    client: httpx.AsyncClient, collection: str, field: str, first: str, second: str
) -> None:
    await make(client, collection, **{field: first})
    other = await make(client, collection)
    for response in (
        await client.post(f"/{collection}", json=required(collection) | {field: second}),
        await client.patch(f"/{collection}/{other['id']}", json={field: second}),
    ):
        assert (response.status_code, response.json()["code"]) == (409, "duplicate")
        assert [error["pointer"] for error in response.json()["errors"]] == [f"/{field}"]


@every_collection
async def test_duplicate_keys_and_unknown_references_are_reported_together(
    client: httpx.AsyncClient, collection: str
) -> None:
    keys = {"code": "a", "external_id": "a"} | unique_members(collection, "taken")
    await make(client, collection, **keys)
    other = await make(client, collection, code="B")
    references = dict.fromkeys(REFERENCES[collection], 9_000_000)
    path = f"/{collection}/{other['id']}"
    for body, code in (({}, "duplicate"), (references, "invalid_content")):
        for response in (
            await client.post(f"/{collection}", json=required(collection) | keys | body),
            await client.put(path, json=required(collection) | keys | body),
            await client.patch(f"/{collection}/code:B", json=keys | body),
        ):
            problem = response.json()
            assert problem["code"] == code
            assert sorted(error["pointer"] for error in problem["errors"]) == sorted(f"/{name}" for name in keys | body)
    # The keys of the object itself are no duplicates.
    response = await client.put(path, json=required(collection) | {"code": "b", "external_id": "a"})
    assert [error["pointer"] for error in response.json()["errors"]] == ["/external_id"]


async def test_faults_beyond_a_hundred_are_counted(client: httpx.AsyncClient) -> None:
    await make(client, "processes", code="A")
    body = {"name": "N", "code": "a", "department_ids": list(range(9_000_000, 9_000_140))}
    problem = (await client.post("/processes", json=body)).json()
    assert problem["detail"] == "The request has more than 100 errors. The first 100 are listed."
    assert [error["pointer"] for error in problem["errors"]][:2] == ["/code", "/department_ids/0"]
    assert len(problem["errors"]) == 100


@every_hierarchy
async def test_cycle_hides_no_other_fault(client: httpx.AsyncClient, collection: str, reference: str) -> None:
    await make(client, collection, code="A")
    above = await make(client, collection, code="B")
    below = await make(client, collection, **{reference: above["id"]})
    move = {reference: below["id"]}
    # Locations have no other references.
    others = {name: 9_000_000 for name in REFERENCES[collection] if name != reference}
    for more, code in (
        ({}, "cycle"),
        ({"code": "a"}, "conflict"),
        ({"code": "a"} | others, "invalid_content" if others else "conflict"),
    ):
        for method, body in (("PATCH", move | more), ("PUT", required(collection) | move | more)):
            response = await client.request(method, f"/{collection}/{above['id']}", json=body)
            assert response.json()["code"] == code
            pointers = sorted(error["pointer"] for error in response.json()["errors"])
            assert pointers == sorted(f"/{name}" for name in move | more)


async def test_rule_of_the_last_administrator_hides_no_other_fault(client: httpx.AsyncClient) -> None:
    other = await make_user(client)
    body = {"access_level": "viewer", "email": other["email"], "department_id": 9_000_000}
    response = await client.patch("/users/1", json=body)
    assert response.status_code == 422
    assert sorted(error["pointer"] for error in response.json()["errors"]) == sorted(f"/{name}" for name in body)


@every_collection
async def test_server_fields_are_refused_in_bodies(client: httpx.AsyncClient, collection: str) -> None:
    names = ("id", "created_at", "updated_at", "created_by", "created_by_id", "updated_by_id", "version", "nonsense")
    response = await client.post(f"/{collection}", json=required(collection) | dict.fromkeys(names, 1))
    assert response.status_code == 422
    assert {error["pointer"] for error in response.json()["errors"]} == {f"/{name}" for name in names}


@every_collection
async def test_pages_contain_every_object_once(client: httpx.AsyncClient, collection: str) -> None:
    made = [(await make(client, collection, name=f"N{number}"))["id"] for number in (3, 1, 2, 5, 4)]
    first_page = await client.get(f"/{collection}", params={"limit": 2, "sort": "-id", "count": "exact"})
    seen, url, backwards = [], f"/{collection}?limit=2&sort=-id", None
    while url:
        response = await client.get(url.removeprefix("/api/v1"))
        page = response.json()
        seen += [item["id"] for item in page["items"]]
        if page["next"]:
            assert f'<{page["next"]}>; rel="next"' in response.headers["link"]
        url, backwards = page["next"], page["prev"]
    assert seen[: len(made)] == made[::-1]
    assert len(set(seen)) == len(seen) == first_page.json()["total"]
    assert backwards is not None
    assert (await client.get(backwards.removeprefix("/api/v1"))).status_code == 200


@every_collection
async def test_list_is_sorted_as_requested(client: httpx.AsyncClient, collection: str) -> None:
    for name, code in (("beta", "C"), ("Alpha", "b"), ("alpha", "A")):
        await make(client, collection, name=name, code=code)

    async def names(sort: str) -> list[tuple[str, str]]:
        items = (await client.get(f"/{collection}", params={"sort": sort, "limit": 200})).json()["items"]
        return [(item["name"], item["code"]) for item in items if item["code"]]

    assert await names("name") == [("Alpha", "b"), ("alpha", "A"), ("beta", "C")]
    assert await names("-name,code") == [("beta", "C"), ("alpha", "A"), ("Alpha", "b")]
    assert await names("code") == [("alpha", "A"), ("Alpha", "b"), ("beta", "C")]
    assert await names("-id") == [("alpha", "A"), ("Alpha", "b"), ("beta", "C")]


@every_collection
@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "limit=99999999999999999999",
        "offset=-1",
        "offset=10001",
        "sort=nothing",
        "sort=name,-name",
        "sort=",
        "count=yes",
    ],
)
async def test_list_parameter_out_of_range_is_invalid(client: httpx.AsyncClient, collection: str, query: str) -> None:
    response = await client.get(f"/{collection}?{query}")
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert (error["source"], error["pointer"]) == ("query", f"/{query.partition('=')[0]}")


@every_collection
async def test_unknown_parameter_is_refused_with_the_nearest_name(client: httpx.AsyncClient, collection: str) -> None:
    response = await client.get(f"/{collection}?limt=1")
    assert response.status_code == 400
    problem = response.json()
    assert problem["detail"] == "There is no parameter limt here. Did you mean limit?"
    assert [(error["source"], error["pointer"]) for error in problem["errors"]] == [("query", "/limt")]


@every_collection
@pytest.mark.parametrize("query", ["limit=1&name__ic=a&name__ic=b", "name__ic=a&name__ic=a", "name__ic=a&name__ic="])
async def test_repeated_parameter_of_one_value_is_refused(
    client: httpx.AsyncClient, collection: str, query: str
) -> None:
    response = await client.get(f"/{collection}?{query}")
    assert response.status_code == 400
    problem = response.json()
    assert problem["detail"] == "The parameter name__ic takes one value, but was sent with several."
    assert [(error["source"], error["pointer"], error["code"]) for error in problem["errors"]] == [
        ("query", "/name__ic", "repeated_parameter")
    ]
    # A parameter of several values uses each of them.
    made = [(await make(client, collection))["id"] for _ in range(3)]
    response = await client.get(f"/{collection}?id={made[0]}&id={made[2]}")
    assert [item["id"] for item in response.json()["items"]] == [made[0], made[2]]


@every_tree
async def test_every_endpoint_refuses_repeated_parameters(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection)
    for path, name in (
        (f"/{collection}", "within"),
        (f"/{collection}/stats", "within"),
        (f"/{collection}/stats", "group_by"),
        (f"/{collection}/{made['id']}", "embed"),
        (f"/{collection}/{made['id']}/tree", "depth"),
        (f"/{collection}/{made['id']}/changes", "limit"),
        ("/search", "q"),
        ("/changes", "limit"),
    ):
        response = await client.get(f"{path}?{name}=1&{name}=2")
        assert response.status_code == 400, path
        assert [error["pointer"] for error in response.json()["errors"]] == [f"/{name}"]


@every_tree
async def test_tree_and_ancestors_follow_the_parents(client: httpx.AsyncClient, collection: str) -> None:
    root = await make(client, collection, name="Root")
    second = await make(client, collection, name="b", parent_id=root["id"])
    first = await make(client, collection, name="A", parent_id=root["id"])
    leaf = await make(client, collection, name="leaf", parent_id=first["id"])
    tree = (await client.get(f"/{collection}/{root['id']}/tree")).json()
    assert [(node["id"], node["depth"], node["children"]) for node in tree["items"]] == [
        (root["id"], 0, 2),
        (first["id"], 1, 1),
        (leaf["id"], 2, 0),
        (second["id"], 1, 0),
    ]
    assert tree["truncated"] is False
    cut = (await client.get(f"/{collection}/{root['id']}/tree?depth=1")).json()
    assert [node["id"] for node in cut["items"]] == [root["id"], first["id"], second["id"]]
    ancestors = (await client.get(f"/{collection}/{leaf['id']}/ancestors")).json()
    assert [item["name"] for item in ancestors["items"]] == ["Root", "A"]
    assert ancestors["truncated"] is False
    for path in ("tree", "ancestors"):
        assert (await client.get(f"/{collection}/code:absent/{path}")).status_code == 404


@every_hierarchy
async def test_object_cannot_move_below_itself(client: httpx.AsyncClient, collection: str, reference: str) -> None:
    top = await make(client, collection)
    middle = await make(client, collection, **{reference: top["id"]})
    bottom = await make(client, collection, **{reference: middle["id"]})
    for target in (top, middle, bottom):
        for method, more in (("PATCH", {}), ("PUT", required(collection))):
            body = more | {reference: target["id"]}
            response = await client.request(method, f"/{collection}/{top['id']}", json=body)
            assert (response.status_code, response.json()["code"]) == (409, "cycle")
            assert [error["pointer"] for error in response.json()["errors"]] == [f"/{reference}"]
    moved = await client.patch(f"/{collection}/{bottom['id']}", json={reference: top["id"]})
    assert (moved.status_code, moved.json()[reference]) == (200, top["id"])


@every_tree
async def test_parent_with_children_cannot_be_deleted(client: httpx.AsyncClient, collection: str) -> None:
    parent = await make(client, collection)
    children = [await make(client, collection, parent_id=parent["id"]) for _ in range(21)]
    response = await client.delete(f"/{collection}/{parent['id']}")
    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "still_referenced")
    assert problem["dependants"]["total"] == 21
    assert problem["dependants"]["counts"] == {collection: 21}
    assert problem["dependants"]["first"] == [
        {"type": collection, "id": child["id"], "code": None, "name": child["name"]} for child in children[:20]
    ]


CALLER = 1  # the look-up of the caller


@every_collection
async def test_number_of_statements_is_fixed(
    client: httpx.AsyncClient, statements: Statements, collection: str
) -> None:
    made = await make(client, collection, code="T-1")
    path = f"/{collection}/{made['id']}"
    body, other = required(collection), required(collection, "other")
    kept = kept_fields(body_of(collection, "PUT"))
    whole = other | {name: made[name] for name in kept}
    for expected, method, url, content in (
        (1, "GET", path, None),
        (1, "GET", f"/{collection}/code:T-1", None),
        (1, "GET", f"/{collection}", None),
        (2, "GET", f"/{collection}?count=exact", None),
        (1, "POST", f"/{collection}", body),
        (1, "PUT", path, whole),
        # A write without a difference reads the object again for the response.
        (2, "PUT", path, whole),
        # A body that lacks fields to keep is completed as a patch is.
        (2 if kept else 1, "PUT", path, other | {"name": "Second"}),
        # A patch reads the object, and is merged into it.
        (2, "PATCH", path, {"name": "Third"}),
        (3, "DELETE", path, None),
    ):
        with statements.counted() as seen:
            response = await client.request(method, url, json=content)
        assert response.is_success, response.text
        assert len(seen) == expected + CALLER, (method, url, seen)


@every_tree
async def test_number_of_statements_of_trees_is_fixed(
    client: httpx.AsyncClient, statements: Statements, collection: str
) -> None:
    parent = await make(client, collection)
    child = await make(client, collection)
    for expected, method, url, content in (
        (1, "GET", f"/{collection}/{parent['id']}/tree", None),
        (1, "GET", f"/{collection}/{parent['id']}/ancestors", None),
        # A new object below a parent counts the ancestors of that, and is written.
        (2, "POST", f"/{collection}", required(collection) | {"parent_id": parent["id"]}),
        # A move reads the object, locks it and the tree, looks for a cycle, counts the levels, and writes.
        (6, "PATCH", f"/{collection}/{child['id']}", {"parent_id": parent["id"]}),
    ):
        with statements.counted() as seen:
            response = await client.request(method, url, json=content)
        assert response.is_success, response.text
        assert len(seen) == expected + CALLER, (method, url, seen)


async def test_number_of_statements_of_managers_is_fixed(client: httpx.AsyncClient, statements: Statements) -> None:
    manager, user = await make_user(client), await make_user(client)
    path, manager_id = f"/users/{user['id']}", manager["id"]
    # Complete, as a body without a permission is written like a PATCH.
    body = required("users", "other") | {"access_level": "viewer", "is_active": True}
    for expected, method, url, content in (
        # A new user has no reports, and thus forms no cycle.
        (1, "POST", "/users", required("users") | {"manager_id": manager_id}),
        # A new manager reads the user, locks it and the managers, looks for a cycle, and writes.
        # PUT tries to write first.
        (5, "PATCH", path, {"manager_id": manager_id}),
        (2, "PATCH", path, {"manager_id": manager_id, "description": "New"}),
        (1, "PUT", path, body | {"manager_id": manager_id}),
        (3, "PATCH", path, {"manager_id": None}),
        (5, "PUT", path, body | {"manager_id": manager_id}),
    ):
        with statements.counted() as seen:
            response = await client.request(method, url, json=content)
        assert response.is_success, response.text
        assert len(seen) == expected + CALLER, (method, url, seen)


@pytest.mark.parametrize("links", [1, 100])
async def test_number_of_statements_does_not_grow_with_links(
    client: httpx.AsyncClient, statements: Statements, links: int
) -> None:
    fields = {each.short: each.field for each in LINKS["processes"]}
    ids = {name: [(await make(client, field))["id"] for _ in range(links)] for name, field in fields.items()}
    with statements.counted() as seen:
        made = (await client.post("/processes", json={"name": "Linked"} | ids)).json()
    assert len(seen) == 1 + CALLER, seen
    assert all(len(made[field]) == links for field in fields.values())
    path = f"/processes/{made['id']}"
    department = f"/departments/{ids['department_ids'][0]}"
    for expected, method, url, content in (
        (1, "GET", path, None),
        (1, "GET", "/processes", None),
        (1, "GET", f"{department}/processes", None),
        (1, "GET", f"{department}/processes?relation=participant", None),
        (1, "PUT", path, {"name": "Linked", "department_ids": ids["department_ids"]}),
        (2, "PATCH", path, ids),
        (2, "PUT", f"{path}{department}", {"relation": "owner"}),
        (2, "DELETE", f"{path}{department}", None),
        (3, "DELETE", path, None),
    ):
        with statements.counted() as seen:
            response = await client.request(method, url, json=content)
        assert response.is_success, response.text
        assert len(seen) == expected + CALLER, (method, url, seen)


async def test_number_of_statements_of_role_holders_is_fixed(client: httpx.AsyncClient, statements: Statements) -> None:
    role, user = await make_role(client), await make_user(client)
    path = f"/roles/{role['id']}/holders"
    for expected, method, url in (
        (2, "PUT", f"{path}/{user['id']}"),
        (1, "GET", path),
        (2, "DELETE", f"{path}/{user['id']}"),
        (2, "GET", path),  # an empty page checks that the role exists
    ):
        with statements.counted() as seen:
            response = await client.request(method, url)
        assert response.is_success, response.text
        assert len(seen) == expected + CALLER, (method, url, seen)


async def test_filters_by_links_take_no_statement_of_their_own(
    client: httpx.AsyncClient, statements: Statements
) -> None:
    role = await make_role(client)
    for expected, url in (
        (1, "/processes?role_id__null=true&responsibility=accountable&department_within__not=1"),
        (1, "/processes?role_id=1&role_id=2&role_match=all&responsibility=informed&responsibility_match=none"),
        (2, "/roles?process_id__null=true&user_id__null=true&department_within=1&department_id__null=true&count=exact"),
        (1, "/users?role_match=none"),
        (1, f"/roles/{role['id']}/holders?role_id__null=false&embed=none"),
        (1, "/roles/stats?group_by=department&process_id__not=1"),
    ):
        with statements.counted() as seen:
            response = await client.get(url)
        assert response.is_success, response.text
        checks = url.startswith(f"/roles/{role['id']}")  # an empty page checks that the role exists
        assert len(seen) == expected + checks + CALLER, (url, seen)


@every_collection
async def test_head_is_get_without_the_body(client: httpx.AsyncClient, collection: str) -> None:
    made = await make(client, collection)
    for path in (f"/{collection}", f"/{collection}?limit=1&count=exact&offset=0", f"/{collection}/{made['id']}"):
        got, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "content-type", "etag", "link", "vary"):
            assert head.headers.get(name) == got.headers.get(name)
    assert (await client.head(f"/{collection}/0")).status_code == 404


async def test_misspelt_parameter_never_widens_a_request(client: httpx.AsyncClient) -> None:
    role = await make_role(client)
    roles = [{"role_id": role["id"], "responsibility": value} for value in ("accountable", "informed")]
    process = await make(client, "processes", roles=roles)
    path = f"/processes/{process['id']}"
    response = await client.delete(f"{path}/roles/{role['id']}?responsability=informed")
    assert response.status_code == 400
    assert response.json()["detail"] == "There is no parameter responsability here. Did you mean responsibility?"
    assert (await client.get(path)).json() == process
    assert (await client.get(f"{path}/tree?dpeth=1")).status_code == 400
    detail = (await client.get(f"{path}?field=id")).json()["detail"]
    assert detail == "There is no parameter field here. Did you mean fields?"


async def test_response_lists_the_first_hundred_faults(client: httpx.AsyncClient) -> None:
    response = await client.post("/departments", json={"name": "D"} | {f"m{number}": 1 for number in range(150)})
    problem = response.json()
    assert (response.status_code, len(problem["errors"])) == (422, 100)
    assert problem["detail"] == "The request has more than 100 errors. The first 100 are listed."


async def test_link_without_fields_refuses_fields(client: httpx.AsyncClient) -> None:
    process, location = await make(client, "processes"), await make_location(client)
    role, user = await make_role(client), await make_user(client)
    for path in (
        f"/processes/{process['id']}/locations/{location['id']}",
        f"/roles/{role['id']}/holders/{user['id']}",
    ):
        assert (await client.put(path, json={"relation": "owner"})).status_code == 422
        assert (await client.put(path, content="garbage")).status_code == 415
        assert (await client.put(path, json={})).status_code == 204
        assert (await client.put(path)).status_code == 204


async def test_previous_page_ends_before_this_one(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        await make_department(client)
    whole = (await client.get("/departments")).json()["items"]
    page = (await client.get("/departments?offset=1&limit=2")).json()
    assert page["items"] == whole[1:]
    before = (await client.get(page["prev"].removeprefix("/api/v1"))).json()
    assert (before["items"], before["prev"]) == (whole[:1], None)
    assert (await client.get(before["next"].removeprefix("/api/v1"))).json()["items"] == whole[1:]
