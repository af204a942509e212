"""The base of the routers of all collections: parameters, responses, and routers below `/api/v1`."""

import re
from enum import Enum
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from fastapi.routing import APIRoute
from pydantic import BeforeValidator

from app.core.http.routing import LARGE_BODY
from app.domains.shared.bulk.responses import BULK, Atomic, DryRun, bulk_response
from app.domains.shared.bulk.schemas import Bulk, BulkAnswer, BulkLinks
from app.domains.shared.idempotency.route import IdempotentRoute
from app.domains.shared.imports.requests import IMPORT, ImportAnswer, ImportRequestDep, accepts_files, import_response
from app.domains.shared.query.changes import ChangeParameters
from app.domains.shared.query.filters import Digits
from app.domains.shared.query.formats import require_json
from app.domains.shared.query.parameters import PageParameters
from app.domains.shared.reading.keys import REFERENCE_PATTERN
from app.domains.shared.reading.preconditions import Preconditions
from app.domains.shared.references import MAX_ID
from app.domains.shared.responses import (
    ANYWHERE,
    CREATE,
    DELETE,
    EXPORT,
    INVALID,
    LINK,
    LIST,
    READ,
    SET_LINKS,
    STATS,
    SUBLIST,
    SUBLIST_EXPORT,
    TREE,
    UNLINK,
    WRITE,
    created_response,
    document_response,
    links_response,
    list_response,
    no_content,
    page_response,
    problems,
    stats_response,
    tree_response,
    updated_response,
)
from app.domains.shared.schemas import NO_FIELDS, Ancestors, ChangeRead, NoFields, Page, Stats, Tree, example
from app.domains.shared.trees import MAX_DEPTH
from app.utils.exceptions import (
    BadRequest,
    NotFound,
    ServiceUnavailable,
)

__all__ = [
    "API",
    "BULK",
    "CREATE",
    "DELETE",
    "EXPORT",
    "IMPORT",
    "INVALID",
    "JSON_ONLY",
    "LARGE_BODY",
    "LINK",
    "LIST",
    "MAX_DEPTH",
    "NO_FIELDS",
    "READ",
    "SET_LINKS",
    "STATS",
    "SUBLIST",
    "SUBLIST_EXPORT",
    "TREE",
    "UNLINK",
    "WRITE",
    "Ancestors",
    "Atomic",
    "Bulk",
    "BulkAnswer",
    "BulkLinks",
    "ChangeParameters",
    "ChangeRead",
    "Conditions",
    "Depth",
    "DryRun",
    "ImportAnswer",
    "ImportRequestDep",
    "NoFields",
    "Page",
    "PageParameters",
    "PathId",
    "Reference",
    "Stats",
    "Tree",
    "accepts_files",
    "api_router",
    "bulk_response",
    "collection_router",
    "created_response",
    "document_response",
    "example",
    "import_response",
    "links_response",
    "list_response",
    "no_content",
    "page_response",
    "problems",
    "stats_response",
    "tree_response",
    "updated_response",
]

API = "/api/v1"

Reference = Annotated[
    str,
    # The pattern is for OpenAPI only: a reference that does not match names no object, which is 404, not 422.
    Path(
        description="`id`, or `code:` followed by the code.",
        openapi_examples={"id": {"summary": "By id", "value": "1"}},
        json_schema_extra={"pattern": REFERENCE_PATTERN},
    ),
]


def _parse_id(text: str) -> int:
    """Return the `id` in a path. Raises `NotFound` if no object can have it, such as one beyond 64 bits."""
    if re.fullmatch("[0-9]{1,19}", text) and 1 <= int(text) <= MAX_ID:
        return int(text)
    raise NotFound


# The path parameter of objects without a code.
PathId = Annotated[
    int,
    BeforeValidator(_parse_id),
    Path(ge=1, le=MAX_ID, description="`id` of the object.", openapi_examples={"id": {"summary": "By id", "value": 1}}),
]
# The OpenAPI document gets the headers from `api/openapi.py`, for each operation with a response 412.
Conditions = Annotated[Preconditions, Depends(Preconditions.provide)]
# The dependency of routes without parameters of lists, whose responses are JSON.
JSON_ONLY = [Depends(require_json)]
Depth = Annotated[int, Query(ge=0, le=MAX_DEPTH, description="Number of levels below the object to return."), Digits]


def api_router(prefix: str = "", tags: list[str | Enum] | None = None) -> APIRouter:
    """Return a router below `/api/v1`; the operation id of a route is the name of its handler."""
    return APIRouter(
        prefix=API + prefix,
        tags=tags,
        route_class=IdempotentRoute,
        generate_unique_id_function=_operation_id,
        responses=ANYWHERE | problems(BadRequest, ServiceUnavailable),
    )


def collection_router(name: str) -> APIRouter:
    """Return the router of a collection."""
    return api_router(f"/{name}", [name])


def _operation_id(route: APIRoute) -> str:
    return route.name
