"""The OpenAPI document describes the service completely and correctly."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from app.api.api import TAGS
from app.api.shapes import all_schemas
from app.core.config import Settings
from app.core.http.rate_limit import PROBES
from app.core.permissions import AUTHENTICATED, PUBLIC
from app.domains.shared.imports.files import FILE_TYPES
from app.main import create_app
from app.utils.exceptions import problem_types
from app.utils.problems import Problem, TokenProblem
from tests.api.conftest import TOKEN_PATHS, responses_of
from tests.catalogue import COLLECTIONS

Operation = dict[str, Any]

# The responses to an invalid body.
BODY = {"400", "413", "415", "422"}
OBJECTS = {f"/api/v1/{collection}" for collection in COLLECTIONS}
# The created secrets have no path, because they are shown only once.
SHOWN_ONCE = {"/api/v1/users/me/tokens", "/api/v1/users/{reference}/password-links"}
SIGN_IN = ("POST", "/api/v1/auth/token")
# The required scope depends on the searched collections.
SEARCH = ("GET", "/api/v1/search")
TYPES = {f"/problems/{error.name}" for error in problem_types()}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings(_env_file=None)).openapi()


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> dict[tuple[str, str], Operation]:
    return {
        (method.upper(), path): operation | {"responses": responses_of(operation, document)}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def members(node: Any, name: str) -> Iterator[Any]:
    """Yield every value of a member at any depth."""
    if isinstance(node, dict):
        if name in node:
            yield node[name]
        for inner in node.values():
            yield from members(inner, name)
    elif isinstance(node, list):
        for inner in node:
            yield from members(inner, name)


def test_committed_document_matches_the_application(document: dict[str, Any], root: Path) -> None:
    committed = json.loads((root / "docs" / "openapi.json").read_text("utf-8"))
    assert committed == document, "run `make openapi`"


def test_served_routes_are_those_in_the_document(operations: dict[tuple[str, str], Operation]) -> None:
    app = create_app(Settings(_env_file=None))
    served = {
        (method, context.path)
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
        if context.path not in {"/openapi.json", "/redoc"} and not str(context.path).startswith("/docs")
    }
    assert served == operations.keys()


def test_every_operation_is_described(operations: dict[tuple[str, str], Operation]) -> None:
    for key, operation in operations.items():
        # A command of one sentence, and how to call the operation.
        assert re.fullmatch("[A-Z][a-z]+,? [^.]{3,80}", operation["summary"]), key
        assert re.search(r"(^|\n\n)Requires [^\n]+\.$", operation["description"]), key


def test_every_parameter_is_described(operations: dict[tuple[str, str], Operation]) -> None:
    for key, operation in operations.items():
        for parameter in operation.get("parameters", ()):
            assert re.fullmatch(r"[^\n]+\.", parameter.get("description", "")), (key, parameter["name"])


def test_no_paragraph_is_broken_into_lines(document: dict[str, Any]) -> None:
    texts = [text for text in members(document, "description") if isinstance(text, str)]
    assert [text for text in texts if re.search(r"[^\n]\n(?![\n|#-])", text)] == []


def test_operation_ids_are_unique_and_read_well(operations: dict[tuple[str, str], Operation]) -> None:
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(set(ids)) == len(ids)
    assert [each for each in ids if not re.fullmatch(r"[a-z]+(_[a-z]+)+", each)] == []


def test_tags_are_those_of_the_list(document: dict[str, Any], operations: dict[tuple[str, str], Operation]) -> None:
    assert document["tags"] == TAGS
    used = [operation["tags"] for operation in operations.values()]
    assert {len(tags) for tags in used} == {1}
    assert {tag for tags in used for tag in tags} == {tag["name"] for tag in TAGS}


def test_every_operation_documents_internal_errors(operations: dict[tuple[str, str], Operation]) -> None:
    without_database = {("GET", "/health/live"), ("GET", "/metrics"), ("GET", "/problems/{name}")}
    for key, operation in operations.items():
        assert "500" in operation["responses"], key
        assert ("503" in operation["responses"]) == (key not in without_database), key


def test_every_operation_documents_the_errors_of_its_parts(operations: dict[tuple[str, str], Operation]) -> None:
    for (method, path), operation in operations.items():
        documented = set(operation["responses"])
        names = {parameter["name"].lower() for parameter in operation.get("parameters", ())}
        expected = {"404"} if "{" in path else set()
        expected |= BODY if "requestBody" in operation else set()
        expected |= {"412"} if "if-match" in names else set()
        expected |= {"304"} if "if-none-match" in names and method == "GET" else set()
        expected |= {"400", "422"} if "limit" in names else set()
        expected |= {"422"} if {"depth", "responsibility", "x-change-message"} & names else set()
        expected |= {"409", "422"} if "idempotency-key" in names else set()
        expected |= {"409"} if method in {"POST", "DELETE"} and path.removesuffix("/{reference}") in OBJECTS else set()
        assert expected <= documented, (method, path)


def test_every_operation_on_one_object_takes_conditions(operations: dict[tuple[str, str], Operation]) -> None:
    for (method, path), operation in operations.items():
        names = {parameter["name"] for parameter in operation.get("parameters", ())}
        is_read = method == "GET" and path.endswith("/{reference}")
        takes_them = is_read or (method in {"PUT", "PATCH", "DELETE"} and "{reference}" in path)
        for header in ("If-Match", "If-None-Match"):
            assert (header in names) == takes_them, (method, path)


def test_every_operation_documents_unauthorised_callers(operations: dict[tuple[str, str], Operation]) -> None:
    # These authenticate by the body.
    by_their_body = {SIGN_IN, ("POST", "/api/v1/auth/refresh")}
    for key, operation in operations.items():
        permission, documented = operation["x-permission"], operation["responses"].keys()
        assert ("401" in documented) == (permission != PUBLIC or key in by_their_body), key
        assert ("429" in documented) == (key[1] not in PROBES), key
        assert ("403" in documented) == (permission not in {PUBLIC, AUTHENTICATED} or key == SEARCH), key
        takes_message = "X-Change-Message" in {parameter["name"] for parameter in operation.get("parameters", ())}
        assert takes_message == (permission != PUBLIC and key[0] != "GET"), key


def test_every_response_has_the_request_id(
    document: dict[str, Any], operations: dict[tuple[str, str], Operation]
) -> None:
    reference = {"$ref": "#/components/headers/X-Request-ID"}
    for key, operation in operations.items():
        for status, response in operation["responses"].items():
            assert response["headers"]["X-Request-ID"] == reference, (key, status)
    assert document["components"]["headers"]["X-Request-ID"]["schema"]["pattern"] == "^[A-Za-z0-9._-]{1,128}$"


def test_every_error_is_a_problem_that_is_explained(operations: dict[tuple[str, str], Operation]) -> None:
    for key, operation in operations.items():
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                ((media_type, content),) = response["content"].items()
                assert media_type == "application/problem+json", (key, status)
                model = TokenProblem if key[1] in TOKEN_PATHS else Problem
                assert content["schema"] == {"$ref": f"#/components/schemas/{model.__name__}"}, (key, status)
                example = model.model_validate(content["example"], strict=True)
                assert (example.status, example.type in TYPES) == (int(status), True), (key, status)
                assert len(response["description"]) > 50, (key, status)
                takes_key = "Idempotency-Key" in {each["name"] for each in operation.get("parameters", ())}
                waits = {"429", "503", "409"} if takes_key else {"429", "503"}
                assert ("Retry-After" in response["headers"]) == (status in waits), (key, status)
                assert ("WWW-Authenticate" in response["headers"]) == (status in {"401", "403"}), (key, status)


def test_every_success_has_the_headers_of_its_kind(operations: dict[tuple[str, str], Operation]) -> None:
    for (method, path), operation in operations.items():
        responses = operation["responses"]
        if "201" in responses:
            addressed = {"Location", "ETag"} & responses["201"]["headers"].keys()
            assert addressed == (set() if path in SHOWN_ONCE else {"Location", "ETag"}), path
            assert all(responses["201"]["headers"][name]["required"] for name in addressed), path
        if path.endswith("/{reference}") and method != "DELETE":
            assert "ETag" in responses["200"]["headers"], (method, path)
        for status in {"204", "304"} & responses.keys():
            assert "content" not in responses[status], (method, path)


def test_document_has_no_leftovers(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    assert '"ValidationError"' not in text
    schemas = document["components"]["schemas"]
    used = {reference for reference in members(document, "$ref") if isinstance(reference, str)}
    headers = {f"#/components/headers/{name}" for name in ("Idempotency-Replayed", "X-Request-ID")}
    responses = {f"#/components/responses/{name}" for name in document["components"]["responses"]}
    assert used == {f"#/components/schemas/{name}" for name in schemas} | headers | responses


def test_error_responses_are_shared(document: dict[str, Any]) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                assert ("$ref" in response) == (int(status) >= 400), (operation["operationId"], status)


def test_every_success_has_an_own_description(operations: dict[tuple[str, str], Operation]) -> None:
    for key, operation in operations.items():
        for status, response in operation["responses"].items():
            assert response["description"].endswith((".", "…")), (key, status)


def test_description_of_a_nullable_type_belongs_to_the_member(document: dict[str, Any]) -> None:
    for schema in all_schemas(document):
        match schema.get("anyOf"):
            case [kind, {"type": "null"}]:
                assert kind.keys().isdisjoint({"description", "examples"}), schema


def test_names_of_schemas_are_valid_type_names(document: dict[str, Any]) -> None:
    names = document["components"]["schemas"]
    assert [name for name in names if not re.fullmatch("([A-Z][a-z]+)+", name)] == []
    assert {"DepartmentPage", "ChangePage", "ProcessStatus", "RoleResponsibility"} <= names.keys()


def test_every_enumeration_has_one_type(document: dict[str, Any]) -> None:
    values = [tuple(schema["enum"]) for schema in all_schemas(document) if "enum" in schema]
    repeated = {each for each in values if values.count(each) > 1}
    assert repeated == set(), "name it in app/api/shapes.py"


def test_no_title_repeats_a_name(document: dict[str, Any]) -> None:
    assert [schema["title"] for schema in all_schemas(document) if "title" in schema] == []


def test_no_parameter_is_null(operations: dict[tuple[str, str], Operation]) -> None:
    for key, operation in operations.items():
        for parameter in operation.get("parameters", ()):
            assert "null" not in set(members(parameter["schema"], "type")), (key, parameter["name"])


def test_every_parameter_and_member_has_a_type(document: dict[str, Any]) -> None:
    known = {"type", "$ref", "anyOf", "allOf", "oneOf", "enum", "const"}
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                assert known & parameter["schema"].keys(), (operation["operationId"], parameter["name"])
    for name, schema in document["components"]["schemas"].items():
        for member, described in schema.get("properties", {}).items():
            assert known & described.keys(), (name, member)


def test_bodies_reject_unknown_members(document: dict[str, Any], operations: dict[tuple[str, str], Operation]) -> None:
    bodies, forms = 0, []
    for key, operation in operations.items():
        if "requestBody" in operation:
            for media_type, body in operation["requestBody"]["content"].items():
                if media_type in FILE_TYPES:
                    assert body["schema"]["type"] == "string", key
                    continue
                (reference,) = set(members(body["schema"], "$ref"))
                schema = document["components"]["schemas"][reference.rpartition("/")[2]]
                if media_type == "application/x-www-form-urlencoded":
                    # OAuth 2 requires that unrecognised parameters are ignored (RFC 6749, section 3.2).
                    forms.append(key)
                    assert "additionalProperties" not in schema
                    continue
                assert schema["additionalProperties"] is False, key
                bodies += 1
    assert bodies >= 25
    assert forms == [SIGN_IN]


def test_every_page_has_cursors(document: dict[str, Any], operations: dict[tuple[str, str], Operation]) -> None:
    pages = {f"#/components/schemas/{name}" for name in document["components"]["schemas"] if name.endswith("Page")}
    lists = {
        key: {parameter["name"] for parameter in operation["parameters"]}
        for key, operation in operations.items()
        if pages & set(members(operation["responses"].get("200", {}), "$ref"))
    }
    assert ("GET", "/api/v1/auth/sessions") in lists
    assert ("GET", "/api/v1/changes") in lists
    # The feed has positions instead of cursors, and no end at which changes could be counted.
    assert {"after", "limit", "wait"} <= lists.pop(("GET", "/api/v1/changes/feed"))
    assert [key for key, names in lists.items() if not {"cursor", "limit", "offset", "count"} <= names] == []
