"""The OpenAPI document: FastAPI's own, plus what holds for every operation."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.domains.shared.schemas import LARGEST_ID
from app.utils.logging_middleware import REQUEST_ID
from app.utils.problems import Problem

_SCHEMAS = "#/components/schemas/{model}"


def use_own_openapi(app: FastAPI) -> None:
    """Make `app.openapi()` return our document, built once."""
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
            license_info=app.license_info,
        )
        _add_problem(document["components"])
        _add_request_id(document)
        _drop_foreign_errors(document)
        _add_merge_patch(document)
        _restore_large_integers(document)
        app.openapi_schema = document
    return app.openapi_schema


def _add_problem(components: dict[str, Any]) -> None:
    schema = Problem.model_json_schema(ref_template=_SCHEMAS, mode="serialization")
    components["schemas"] |= schema.pop("$defs") | {"Problem": schema}


def _add_request_id(document: dict[str, Any]) -> None:
    document["components"]["headers"] = {
        REQUEST_ID: {
            "description": "The id of the request, from the client or made by us; it stands in our logs.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        }
    }
    for path in document["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                response.setdefault("headers", {})[REQUEST_ID] = {"$ref": f"#/components/headers/{REQUEST_ID}"}


def _drop_foreign_errors(document: dict[str, Any]) -> None:
    """Remove FastAPI's own answer to invalid requests: we never give it."""
    for path in document["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _add_merge_patch(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        if body := path.get("patch", {}).get("requestBody"):
            body["content"]["application/merge-patch+json"] = body["content"]["application/json"]


def _restore_large_integers(node: Any) -> None:
    """Make the largest id exact again: FastAPI passes limits on as floating-point numbers, which cannot hold it."""
    if isinstance(node, dict):
        if node.get("type") == "integer" and node.get("maximum") == float(LARGEST_ID):
            node["maximum"] = LARGEST_ID
        for inner in node.values():
            _restore_large_integers(inner)
    elif isinstance(node, list):
        for inner in node:
            _restore_large_integers(inner)
