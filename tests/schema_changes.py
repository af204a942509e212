"""Requests of each kind, and changes of the types of columns that their statements return."""

from typing import Any

import asyncpg
import httpx

from tests.builders import make_department, make_process

# Method, path and body. The process and the department with the id 1 exist.
REQUESTS: dict[str, tuple[str, str, Any]] = {
    "object": ("GET", "/processes/1", None),
    "page": ("GET", "/processes?count=exact", None),
    "search": ("GET", "/search?q=invoice", None),
    "statistics": ("GET", "/processes/stats?group_by=status", None),
    "tree": ("GET", "/departments/1/tree", None),
    "history": ("GET", "/processes/1/changes", None),
    "stream": ("GET", "/processes", None),
    "creation": ("POST", "/departments", {"name": "New"}),
    "replacement": ("PUT", "/processes/1", {"name": "Invoices", "department_ids": [1]}),
    "merge patch": ("PATCH", "/processes/1", {"description": "Pays invoices"}),
    "batch": ("POST", "/processes/bulk", {"items": [{"op": "create", "data": {"name": "New"}}]}),
    "link": ("PUT", "/processes/1/departments/1", None),
}
# In results of the look-up of a caller, of the locking of objects, of histories, and of stored responses.
_COLUMNS = [
    *("users.access_level", "processes.external_id", "processes.kind", "departments.external_id"),
    *("process_departments.relation", "changes.object_name", "idempotency_keys.status"),
]
_OTHER_TYPES = {"character varying": "text", "smallint": "integer", "integer": "bigint", "bigint": "integer"}


async def add_objects(client: httpx.AsyncClient) -> None:
    """Add the objects with the id 1."""
    await make_department(client, name="Accounting")
    await make_process(client, name="Invoices")


async def send(client: httpx.AsyncClient, kind: str, key: str) -> httpx.Response:
    """Send a request of a kind; a POST has an `Idempotency-Key`."""
    method, path, body = REQUESTS[kind]
    headers = {"Idempotency-Key": key} if method == "POST" else {}
    if kind == "stream":
        headers = {"Accept": "application/x-ndjson"}
    return await client.request(method, path, json=body, headers=headers)


async def change_types(connection: asyncpg.Connection) -> None:
    """Change the type of each column, so that prepared statements which return it become invalid."""
    for name in _COLUMNS:
        table, column = name.split(".")
        kind = await connection.fetchval(
            "SELECT data_type FROM information_schema.columns WHERE table_name = $1 AND column_name = $2", table, column
        )
        new = _OTHER_TYPES.get(kind, "varchar(300)")
        await connection.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {new}")
