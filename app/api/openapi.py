"""The OpenAPI document: FastAPI's, with the parts that all operations share."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from app.api.shapes import simplify
from app.core.http.authorisation import CHANGE_MESSAGE, MAX_MESSAGE_LENGTH
from app.core.http.query_models import openapi_parameters, query_models
from app.core.http.rate_limit import PROBES
from app.core.permissions import (
    ADMIN_SESSION,
    AUTHENTICATED,
    DECLARATION,
    PASSWORD_SCHEME,
    PUBLIC,
    SCOPES,
    SESSION,
    TOKEN_SCHEME,
)
from app.domains.shared.idempotency.route import KEY_PATTERN, accepts_idempotency_key
from app.domains.shared.idempotency.store import IDEMPOTENCY_KEY, REPLAYED, RETENTION_HOURS
from app.domains.shared.reading.preconditions import IF_MATCH, IF_NONE_MATCH, TAGS_PATTERN
from app.domains.shared.references import MAX_ID
from app.domains.shared.responses import problems
from app.domains.shared.router import API
from app.utils.exceptions import (
    Conflict,
    Forbidden,
    InvalidContent,
    PreconditionFailed,
    RateLimited,
    TooManyRequests,
    Unauthorized,
)
from app.utils.logging_middleware import REQUEST_ID
from app.utils.oauth_errors import OAUTH, oauth_members
from app.utils.problems import MEDIA_TYPE, Problem, TokenProblem

_SCOPES = {
    scope: {"viewer": "All users.", "editor": "Editors and administrators.", "admin": "Administrators."}[level]
    for scope, level in SCOPES.items()
}
_INVALID = {str(status): response for status, response in problems(InvalidContent).items()}
_RATE_LIMITED = {str(status): response for status, response in problems(RateLimited).items()}
_CHANGE_MESSAGE = {
    "name": CHANGE_MESSAGE,
    "in": "header",
    "required": False,
    "description": "Reason for the change, recorded in the history.",
    "schema": {"type": "string", "maxLength": MAX_MESSAGE_LENGTH},
}
_IDEMPOTENCY_KEY = {
    "name": IDEMPOTENCY_KEY,
    "in": "header",
    "required": False,
    "description": "Unique key chosen by the client: "
    f"for {RETENTION_HOURS} hours a repeat of the request changes nothing and returns the first response.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": KEY_PATTERN},
}
_TAGS = {"type": "string", "pattern": TAGS_PATTERN}
_CONDITIONS = {
    IF_MATCH: "Return 412 unless the object still has the version of one of these entity tags.",
    IF_NONE_MATCH: "Entity tags, or `*`. If the object has one of them, a GET returns 304, and a write 412.",
}
_CONFLICT = {str(status): response for status, response in problems(Conflict).items()}
_RETRY_AFTER = {
    "description": "Seconds to wait before a repeat; only with `request_in_flight`.",
    "schema": {"type": "integer"},
}
# Statuses of responses that are stored for a replay.
_REPLAYABLE = frozenset({"200", "201", "202", "204", "207", "400", "404", "409", "412", "422"})
_SCHEMAS = "#/components/schemas/{model}"
_REQUIREMENTS = {
    PUBLIC: "Requires no authentication.",
    AUTHENTICATED: "Requires an access token or an API token, with any scopes.",
    SESSION: "Requires an access token; API tokens are rejected.",
    ADMIN_SESSION: "Requires an access token with the scope `admin`; API tokens are rejected.",
}
# The order of an operation's parameters.
_PARAMETER_ORDER = ("path", "query", "header")


def use_own_openapi(app: FastAPI) -> None:
    """Make `app.openapi()` return this module's document, built once."""
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        with _declared_query_models(app) as query_schemas:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
                contact=app.contact,
                license_info=app.license_info,
                servers=app.servers,
            )
        document["components"]["schemas"] |= query_schemas
        _sort_parameters(document)
        _summarise(document)
        _add_problems(document["components"])
        # Before the service's own errors are added: one of them has the same status.
        _drop_foreign_errors(document)
        _add_security(document)
        _add_conditions(document)
        _add_idempotency_key(document)
        _add_request_id(document)
        _add_merge_patch(document)
        _restore_large_integers(document)
        _add_oauth_errors(document)
        simplify(document)
        _join_lines(document)
        app.openapi_schema = document
    return app.openapi_schema


@contextmanager
def _declared_query_models(app: FastAPI) -> Iterator[dict[str, Any]]:
    """Declare the parameters of query models, which FastAPI does not see, and yield the schemas they refer to.

    Only while the document is built, because the parameters take memory.
    """
    schemas: dict[str, Any] = {}
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    declared = [route.openapi_extra for route in routes]
    try:
        for route in routes:
            parameters: list[Any] = []
            for query in query_models(route.endpoint):
                query_parameters, query_schemas = openapi_parameters(query.model, _SCHEMAS)
                parameters += query_parameters
                schemas |= query_schemas
            route.openapi_extra = (route.openapi_extra or {}) | ({"parameters": parameters} if parameters else {})
        yield schemas
    finally:
        for route, extra in zip(routes, declared, strict=True):
            route.openapi_extra = extra


def _sort_parameters(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            if "parameters" in operation:
                operation["parameters"].sort(key=lambda parameter: _PARAMETER_ORDER.index(parameter["in"]))


def _summarise(document: dict[str, Any]) -> None:
    """Make the first paragraph of each docstring the summary, and append the required permission to the others."""
    for path in document["paths"].values():
        for operation in path.values():
            summary, _, details = operation["description"].partition("\n\n")
            permission = operation[DECLARATION]
            requirement = _REQUIREMENTS.get(permission, f"Requires the scope `{permission}`.")
            operation["summary"] = " ".join(summary.split()).removesuffix(".")
            operation["description"] = f"{details}\n\n{requirement}".lstrip()


def _join_lines(node: Any) -> None:
    """Join the lines of each paragraph, list item and table row: Swagger UI would break the text after each line."""
    if isinstance(node, dict):
        for name, inner in node.items():
            if name == "description" and isinstance(inner, str):
                node[name] = re.sub(r"(?<=[^\n])\n(?![\n|#-]) *", " ", inner.strip())
            else:
                _join_lines(inner)
    elif isinstance(node, list):
        for inner in node:
            _join_lines(inner)


def _add_problems(components: dict[str, Any]) -> None:
    for model in (Problem, TokenProblem):
        schema = model.model_json_schema(ref_template=_SCHEMAS, mode="serialization")
        components["schemas"] |= schema.pop("$defs") | {model.__name__: schema}


def _add_oauth_errors(document: dict[str, Any]) -> None:
    """Describe the problem documents of the routes that issue tokens."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if operation.pop(OAUTH, False):
                operation["responses"] |= {
                    status: _with_oauth_errors(response, int(status), path)
                    for status, response in operation["responses"].items()
                    if MEDIA_TYPE in response.get("content", {})
                }


def _with_oauth_errors(response: dict[str, Any], status: int, path: str) -> dict[str, Any]:
    example = response["content"][MEDIA_TYPE]["example"] | {"instance": path}
    problem = {
        "schema": {"$ref": _SCHEMAS.format(model=TokenProblem.__name__)},
        "example": example | oauth_members(status, example["detail"]),
    }
    return response | {"content": {MEDIA_TYPE: problem}}


def _add_security(document: dict[str, Any]) -> None:
    """Add the security schemes, and to each operation the responses to callers without permission or beyond a limit."""
    document["components"]["securitySchemes"] = {
        # First: Swagger UI's dialog scrolls to the field of the first scheme.
        TOKEN_SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "An API token (`prt_…`) for a program.",
        },
        PASSWORD_SCHEME: {
            "type": "oauth2",
            "description": "Sign in with e-mail address and password. "
            "Without `scope` the session has all scopes of the user's access level.",
            "flows": {"password": {"tokenUrl": f"{API}/auth/token", "scopes": _SCOPES}},
        },
    }
    denials = {str(status): each for status, each in problems(Unauthorized, Forbidden, TooManyRequests).items()}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation[DECLARATION] != PUBLIC:
                operation["responses"] |= {
                    status: response
                    for status, response in denials.items()
                    if status != "403" or operation[DECLARATION] != AUTHENTICATED
                }
                if method != "get":
                    operation.setdefault("parameters", []).append(_CHANGE_MESSAGE)
                    operation["responses"].setdefault("422", _INVALID["422"])
            elif path not in PROBES:
                operation["responses"].setdefault("429", _RATE_LIMITED["429"])


def _add_request_id(document: dict[str, Any]) -> None:
    document["components"]["headers"][REQUEST_ID] = {
        "description": "Id of the request in the logs of the service, sent by the client or else generated.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    }
    for path in document["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                response.setdefault("headers", {})[REQUEST_ID] = {"$ref": f"#/components/headers/{REQUEST_ID}"}


def _add_idempotency_key(document: dict[str, Any]) -> None:
    document["components"]["headers"] = {
        REPLAYED: {
            "description": "`true` if this is the response to the first request with the `Idempotency-Key`.",
            "schema": {"type": "string", "const": "true"},
        }
    }
    for path in document["paths"].values():
        for method, operation in path.items():
            if accepts_idempotency_key(method, operation[DECLARATION]):
                operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
                responses = operation["responses"]
                responses["409"] = _with_header(responses.get("409", _CONFLICT["409"]), "Retry-After", _RETRY_AFTER)
                for status in _REPLAYABLE & responses.keys():
                    reference = {"$ref": f"#/components/headers/{REPLAYED}"}
                    responses[status] = _with_header(responses[status], REPLAYED, reference)


def _add_conditions(document: dict[str, Any]) -> None:
    """Add the headers that the dependency `Conditions` reads to the operations with a response 412."""
    for path in document["paths"].values():
        for method, operation in path.items():
            if str(PreconditionFailed.status) in operation["responses"]:
                operation.setdefault("parameters", []).extend(_conditions(method))


def _conditions(method: str) -> list[dict[str, Any]]:
    """Return the headers of an operation with conditions. A GET ignores an `If-None-Match` that has no tags."""
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": description,
            "schema": {"type": "string"} if (method, name) == ("get", IF_NONE_MATCH) else dict(_TAGS),
        }
        for name, description in _CONDITIONS.items()
    ]


def _with_header(response: dict[str, Any], name: str, header: dict[str, Any]) -> dict[str, Any]:
    return response | {"headers": response.get("headers", {}) | {name: header}}


def _drop_foreign_errors(document: dict[str, Any]) -> None:
    """Remove FastAPI's own response to invalid requests, which the service never sends."""
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
    """Restore the exact largest id, which FastAPI's floating-point limits cannot represent."""
    if isinstance(node, dict):
        if node.get("type") == "integer" and node.get("maximum") == float(MAX_ID):
            node["maximum"] = MAX_ID
        for inner in node.values():
            _restore_large_integers(inner)
    elif isinstance(node, list):
        for inner in node:
            _restore_large_integers(inner)
