"""Objects for tests, made through the API with as little said as possible."""

from itertools import count
from typing import Any

import httpx

_numbers = count(1)


async def make(client: httpx.AsyncClient, collection: str, **fields: Any) -> dict[str, Any]:
    """Register an object and return it."""
    number = next(_numbers)
    body = {"name": f"{collection} {number}"} | fields
    if collection == "users":
        body.setdefault("email", f"user{number}@register.example")
    response = await client.post(f"/{collection}", json=body)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


async def make_department(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    return await make(client, "departments", **fields)


async def make_location(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    return await make(client, "locations", **fields)


async def make_process(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    return await make(client, "processes", **fields)


async def make_resource(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    return await make(client, "resources", **fields)


async def make_role(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    return await make(client, "roles", **fields)


async def make_user(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    return await make(client, "users", **fields)
