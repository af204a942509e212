"""Helpers of the tests of bulk writes."""

from typing import Any

import httpx

Item = dict[str, Any]


async def send(client: httpx.AsyncClient, collection: str, items: list[Any], **parameters: Any) -> httpx.Response:
    return await client.post(f"/{collection}/bulk", json={"items": items}, params=parameters)


async def write(client: httpx.AsyncClient, collection: str, *items: Item, **parameters: Any) -> list[dict[str, Any]]:
    """Write a batch that has no faults, and return the results of its items."""
    response = await send(client, collection, list(items), **parameters)
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["items"]
    assert [result["index"] for result in results] == list(range(len(items)))
    return results


def statuses(results: list[dict[str, Any]]) -> list[str]:
    return [result["status"] for result in results]


def changing(code: str, **data: Any) -> Item:
    return {"op": "update", "code": code, "data": data}


def create(**data: Any) -> Item:
    return {"op": "create", "data": data}


def faults(response: httpx.Response) -> set[tuple[str, str]]:
    """Return pointer and code of each fault of a rejected batch."""
    return {(each["pointer"], each["code"]) for each in response.json()["errors"]}


def faults_of_items(response: httpx.Response) -> set[tuple[str, str]]:
    """Return pointer and code of each fault of a batch whose valid items were written."""
    assert response.status_code == 207, response.text
    items = response.json()["items"]
    return {(each["pointer"], each["code"]) for item in items for each in item.get("errors", ())}
