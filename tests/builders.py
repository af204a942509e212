"""Objects for tests, created through the API with as few members as possible."""

from itertools import count
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import text

from tests.catalogue import required

_numbers = count(1)


async def make(client: httpx.AsyncClient, collection: str, **fields: Any) -> dict[str, Any]:
    """Create an object and return it."""
    number = next(_numbers)
    body = required(collection, f"user{number}") | {"name": f"{collection} {number}"} | fields
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


async def admin_session(client: httpx.AsyncClient) -> dict[str, str]:
    """Return the header of a new session of the first administrator, for operations that refuse API tokens.

    The session is inserted, so no attempt to sign in is counted.
    """
    app: FastAPI = client._transport.app  # type: ignore[attr-defined]
    opened = text(
        "INSERT INTO sessions (user_id, address, expires_at) "
        "SELECT min(id), 'tests', now() + interval '1 day' FROM users RETURNING id, user_id"
    )
    async with app.state.database.transaction() as session:
        row = (await session.execute(opened)).one()
    return {"Authorization": f"Bearer {app.state.tokens.access_token(row.user_id, row.id)}"}


async def token_with(client: httpx.AsyncClient, *scopes: str) -> dict[str, str]:
    """Return the header of a new API token of the first administrator with these scopes."""
    body = {"name": "Narrow", "scopes": list(scopes)}
    response = await client.post("/users/me/tokens", json=body, headers=await admin_session(client))
    assert response.status_code == 201, response.text
    return {"Authorization": f"Bearer {response.json()['token']}"}


async def make_password_link(client: httpx.AsyncClient, reference: object) -> httpx.Response:
    """Create a password link for a user as the first administrator, and return the response."""
    return await client.post(f"/users/{reference}/password-links", headers=await admin_session(client))
