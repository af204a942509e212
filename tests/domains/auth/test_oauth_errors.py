"""The errors of RFC 6749 in the problem documents of the routes that issue tokens."""

import re
from collections.abc import Awaitable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.domains.auth.sign_in import SignInService
from app.utils.oauth_errors import OAUTH
from app.utils.problems import MEDIA_TYPE, TokenProblem
from tests.conftest import ADMIN_PASSWORD
from tests.domains.auth.conftest import ADMIN_EMAIL, call, client_from, full_queue, sign_in, sql, try_to_sign_in

pytestmark = pytest.mark.usefixtures("connection")

PATHS = ("/auth/token", "/auth/refresh")
# RFC 6749, section 5.2.
DESCRIPTION = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+")
FORM: dict[str, str] = {"username": ADMIN_EMAIL, "password": "wrong"}


def assert_oauth_error(response: httpx.Response, status: int, error: str) -> None:
    document = response.json()
    assert (response.status_code, document["status"], document["error"]) == (status, status, error), document
    assert response.headers["content-type"] == MEDIA_TYPE
    assert DESCRIPTION.fullmatch(document["error_description"])
    assert {"type", "title", "detail", "instance", "code", "request_id", "errors"} < set(document)


@pytest.mark.parametrize(
    ("status", "error", "request_"),
    [
        (401, "invalid_grant", {"data": FORM}),
        (401, "invalid_grant", {"data": FORM | {"grant_type": "password", "scope": "users:read"}}),
        (422, "unsupported_grant_type", {"data": FORM | {"grant_type": "client_credentials"}}),
        (422, "unsupported_grant_type", {"data": FORM | {"grant_type": "x", "scope": "unknown"}}),
        (422, "invalid_scope", {"data": FORM | {"scope": "processes:read unknown"}}),
        (422, "invalid_scope", {"data": FORM | {"scope": "s" * 1_001}}),
        (422, "invalid_request", {"data": {"username": ADMIN_EMAIL, "scope": "unknown"}}),
        (422, "invalid_request", {"data": {"username": ADMIN_EMAIL}}),
        (422, "invalid_request", {}),
        (400, "invalid_request", {"data": FORM, "params": {'scope"\\é': "users:read"}}),
        (400, "invalid_request", {"data": FORM, "params": {"scope": "users:read"}}),
        (400, "invalid_request", {"data": FORM, "headers": {"Idempotency-Key": "k"}}),
        (400, "invalid_request", {"data": FORM, "headers": {"Host": "a b"}}),
        (413, "invalid_request", {"content": b"username=" + b"a" * 20_000}),
        (415, "invalid_request", {"json": FORM}),
        (431, "invalid_request", {"data": FORM, "headers": {"Cookie": "c" * 70_000}}),
    ],
)
async def test_errors_of_signing_in_are_those_of_oauth(
    app: FastAPI, status: int, error: str, request_: dict[str, Any]
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"} if "content" in request_ else {}
    request_ = request_ | {"headers": form | request_.get("headers", {})}
    for path in ("/auth/token", "/auth/token/"):
        assert_oauth_error(await call(app, None, "POST", path, **request_), status, error)


@pytest.mark.parametrize(
    ("status", "error", "request_"),
    [
        (401, "invalid_grant", {"json": {"refresh_token": "prr_garbage"}}),
        (422, "invalid_request", {"json": {}}),
        (422, "invalid_request", {"json": {"refresh_token": "prr_garbage", "grant_type": "refresh_token"}}),
        (422, "invalid_request", {"json": {"refresh_token": "prr_garbage", "scope": "users:read"}}),
        (422, "invalid_request", {"json": {"refresh_token": 1}}),
        (400, "invalid_request", {"content": b'{"\xff', "headers": {"Content-Type": "application/json"}}),
        (413, "invalid_request", {"json": {"refresh_token": "a" * 20_000}}),
        (415, "invalid_request", {"data": {"refresh_token": "prr_garbage"}}),
    ],
)
async def test_errors_of_refreshing_are_those_of_oauth(
    app: FastAPI, status: int, error: str, request_: dict[str, Any]
) -> None:
    assert_oauth_error(await call(app, None, "POST", "/auth/refresh", **request_), status, error)


@pytest.mark.parametrize(
    ("form", "description"),
    [
        (FORM, "The e-mail address or the password is wrong."),
        (FORM | {"scope": "unknown"}, "scope: Must be known scopes, separated by spaces."),
        (FORM | {"grant_type": "refresh_token"}, "grant_type: Must be 'password'."),
        ({"password": "x"}, "username: A value is required."),
        ({"username": "x"}, "password: A value is required."),
    ],
)
async def test_description_names_the_first_error(app: FastAPI, form: dict[str, str], description: str) -> None:
    response = await call(app, None, "POST", "/auth/token", data=form)
    assert response.json()["error_description"] == description


async def test_description_of_refreshing_names_the_first_error(app: FastAPI) -> None:
    for body, description in {
        '{"refresh_token": 1}': "refresh_token: Must be a string.",
        '{"refresh_token": "x", "\u00e9\\"": 1}': "?': This field is unknown. Remove it or correct its name.",
        "[]": "Must be an object.",
    }.items():
        headers = {"Content-Type": "application/json"}
        response = await call(app, None, "POST", "/auth/refresh", content=body.encode(), headers=headers)
        assert response.json()["error_description"] == description


@pytest.mark.parametrize(
    "form",
    [
        "username=a&username=b&password=c",
        "username=a&password=c&username=a",
        "username=a&password=b&p%61ssword=c",
        "username=a&password=b&more=1&more=2",
        "username=a&password=b&scope=&scope",
    ],
)
async def test_repeated_field_of_a_form_is_a_bad_request(app: FastAPI, form: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await call(app, None, "POST", "/auth/token", content=form.encode(), headers=headers)
    assert_oauth_error(response, 400, "invalid_request")
    assert response.json()["error_description"] == response.json()["detail"] == "The form has the same field twice."


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
async def test_other_methods_have_an_oauth_error(app: FastAPI, path: str, method: str) -> None:
    response = await call(app, None, method, path)
    assert_oauth_error(response, 405, "invalid_request")
    assert response.headers["allow"] == "POST"


async def test_reused_refresh_token_is_an_invalid_grant(app: FastAPI) -> None:
    token = (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["refresh_token"]
    await call(app, None, "POST", "/auth/refresh", json={"refresh_token": token})
    await sql(app, "UPDATE refresh_tokens SET spent_at = spent_at - interval '11 s'")
    reused = await call(app, None, "POST", "/auth/refresh", json={"refresh_token": token})
    assert_oauth_error(reused, 401, "invalid_grant")


async def test_errors_that_pass_are_temporary(app: FastAPI) -> None:
    with full_queue(app):
        busy = await try_to_sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD)
        assert_oauth_error(busy, 503, "temporarily_unavailable")
        assert busy.headers["retry-after"] == "2"
    responses = [await try_to_sign_in(app, ADMIN_EMAIL, "wrong") for _ in range(11)]
    assert_oauth_error(responses[-1], 429, "temporarily_unavailable")
    assert int(responses[-1].headers["retry-after"]) > 0


def failing(*_: object) -> Awaitable[None]:
    raise ZeroDivisionError


@pytest.mark.parametrize(("path", "method"), [("/auth/token", "sign_in"), ("/auth/refresh", "refresh")])
async def test_failure_of_the_service_is_a_server_error(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, path: str, method: str
) -> None:
    monkeypatch.setattr(SignInService, method, failing)
    request: dict[str, Any] = {"data": FORM} if path == "/auth/token" else {"json": {"refresh_token": "prr_x"}}
    assert_oauth_error(await call(app, None, "POST", path, **request), 500, "server_error")


async def test_other_routes_have_no_oauth_error(app: FastAPI) -> None:
    async with client_from(app) as client:
        for response in (
            await client.post("/auth/set-password", json={}),
            await client.get("/auth/sessions"),
            await client.post("/auth/tokens"),
            await client.post("/auth/token/more"),
        ):
            assert response.status_code >= 400
            assert "error" not in response.json()


def test_document_describes_oauth_errors(app: FastAPI) -> None:
    document = app.openapi()
    schemas = {path: set[str]() for path in document["paths"]}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert OAUTH not in operation
            for response in operation["responses"].values():
                shared = document["components"]["responses"].get(response.get("$ref", "").rpartition("/")[2], {})
                if content := shared.get("content"):
                    schemas[path].add(content[MEDIA_TYPE]["schema"]["$ref"].rpartition("/")[2])
                    if "TokenProblem" in str(content):
                        TokenProblem.model_validate(content[MEDIA_TYPE]["example"])
    tokens = {f"/api/v1{path}" for path in PATHS}
    assert {path for path, names in schemas.items() if "TokenProblem" in names} == tokens
    assert all(schemas[path] == {"TokenProblem"} for path in tokens)


async def test_examples_of_rejections_are_those_of_their_operations(app: FastAPI) -> None:
    document = app.openapi()
    requests: dict[str, dict[str, Any]] = {
        "/auth/token": {"data": FORM},
        "/auth/refresh": {"json": {"refresh_token": "x"}},
    }
    for path, request in requests.items():
        responses = document["paths"][f"/api/v1{path}"]["post"]["responses"]
        shared = [
            document["components"]["responses"][each["$ref"].rpartition("/")[2]]
            for each in responses.values()
            if "$ref" in each
        ]
        examples = {
            each["content"][MEDIA_TYPE]["example"]["status"]: each["content"][MEDIA_TYPE]["example"] for each in shared
        }
        assert {example["instance"] for example in examples.values()} == {f"/api/v1{path}"}
        rejected = (await call(app, None, "POST", path, **request)).json()
        assert examples[401] == rejected | {"request_id": examples[401]["request_id"]}
