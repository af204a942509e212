"""The media types of responses that are not single objects."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.builders import admin_session, make
from tests.catalogue import LISTS

PREFIX = "/api/v1"
REQUIRED = {"/search": "?q=kettle"} | {
    f"/{name}/stats": f"?group_by={next(iter(query.declaration.groups))}" for name, query in LISTS.items()
}
ROOT = Path(__file__).parents[3]
OPERATIONS: dict[str, Any] = {
    path.removeprefix(PREFIX): operations["get"]
    for path, operations in json.loads((ROOT / "docs" / "openapi.json").read_text("utf-8"))["paths"].items()
    if path.startswith(PREFIX) and "get" in operations
}


def media_types(operation: dict[str, Any]) -> set[str]:
    return set(operation["responses"]["200"]["content"])


JSON_ONLY = [path for path, each in OPERATIONS.items() if "406" in each["responses"] if len(media_types(each)) == 1]


def test_every_response_but_single_objects_is_negotiated() -> None:
    """Single objects, and the caller, are JSON whatever the client accepts."""
    single = {path for path in OPERATIONS if path not in JSON_ONLY and len(media_types(OPERATIONS[path])) == 1}
    assert single == {f"/{name}/{{reference}}" for name in LISTS} | {"/users/me"}
    assert {path for path in JSON_ONLY if re.search("(/tree|/ancestors|/stats|/search)$", path)} > {"/search"}


@pytest.mark.parametrize("path", JSON_ONLY)
async def test_other_types_than_json_are_not_acceptable(client: httpx.AsyncClient, path: str) -> None:
    collection = path.split("/")[1]
    reference = str((await make(client, collection))["id"]) if "{" in path else ""
    address = re.sub(r"\{\w+\}", reference, path) + REQUIRED.get(path, "")
    session = await admin_session(client)
    for accept in ("text/html", "text/csv", "application/x-ndjson", "application/json;q=0", "image/*, text/csv;q=0.1"):
        response = await client.get(address, headers=session | {"Accept": accept})
        assert (response.status_code, response.json()["code"]) == (406, "not_acceptable"), accept
        assert response.json()["detail"] == "The response is available as application/json."
        assert response.headers["content-type"] == "application/problem+json"
        assert (await client.head(address, headers=session | {"Accept": accept})).status_code == 406
    for accept in ("", "*/*", "application/*", "application/json", "text/html, */*;q=0.1", "Application/JSON; q=0.2"):
        response = await client.get(address, headers=session | {"Accept": accept})
        assert (response.status_code, response.headers["content-type"]) == (200, "application/json"), accept
        assert (await client.head(address, headers=session | {"Accept": accept})).status_code == 200


async def test_single_objects_are_json_for_every_accept(client: httpx.AsyncClient) -> None:
    made = await make(client, "departments")
    response = await client.get(f"/departments/{made['id']}", headers={"Accept": "text/html"})
    assert (response.status_code, response.json()) == (200, made)


async def test_permission_is_checked_before_the_type(client: httpx.AsyncClient) -> None:
    response = await client.get("/departments/1/tree", headers={"Accept": "text/html", "Authorization": "Bearer x"})
    assert response.status_code == 401
