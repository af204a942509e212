"""The pages and the metrics: public, for administrators, or off."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy import URL

from app.api import api
from app.core.config import PageAccess
from app.core.http.routing import StrictRoute, UndeclaredPermissionError
from app.core.permissions import PUBLIC, SCOPES, requires
from app.core.tokens import API_TOKEN, Tokens, new_token
from app.main import create_app
from tests.api.conftest import assert_problem
from tests.conftest import ADMIN_PASSWORD, ADMIN_TOKEN, Committed, client_of, connected, settings_for

ROOT = "http://register.test"
DOCS, REDOC, OPENAPI, METRICS = (f"{ROOT}/{page}" for page in ("docs", "redoc", "openapi.json", "metrics"))
BASIC = 'Basic realm="process-register", charset="UTF-8"'
BEARER = 'Bearer realm="process-register"'
FORBIDDEN = f'{BEARER}, error="insufficient_scope", scope="operations:read"'


def basic(password: str, name: str = "operator") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def assert_refused(response: httpx.Response, code: str) -> dict[str, Any]:
    """Assert that a response is a problem with a challenge, and return the problem."""
    status, challenge = {"unauthorized": (401, None), "forbidden": (403, FORBIDDEN), "not_found": (404, None)}[code]
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code
    if status != 401:
        assert response.headers.get("www-authenticate") == challenge
    return problem


@asynccontextmanager
async def serving(url: URL | None = None, **settings: PageAccess) -> AsyncIterator[httpx.AsyncClient]:
    """An anonymous client of an application with these settings."""
    app = create_app(settings_for(url, **settings))
    async with client_of(app, None) as client:
        yield client
    await app.state.database.dispose()


@pytest.fixture
async def narrow_token(committed: Committed) -> str:
    """An API token of the first administrator that has all scopes but `operations:read`."""
    return await api_token(committed.url, set(SCOPES) - {"operations:read"})


@pytest.fixture
async def operations_token(committed: Committed) -> str:
    """An API token of the first administrator that has the scope `operations:read` only."""
    return await api_token(committed.url, {"operations:read"})


async def api_token(url: URL, scopes: Collection[str]) -> str:
    """Create an API token of the first administrator."""
    token = new_token(API_TOKEN)
    async with connected(url) as connection:
        await connection.execute(
            """
            INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at)
            SELECT min(id), 'For a test', $1, $2, now() + interval '1 day' FROM users
            """,
            Tokens(settings_for(url)).api_token_hashes(token)[0],
            sorted(scopes),
        )
    return token


@pytest.mark.parametrize("page", [DOCS, REDOC])
async def test_page_runs_only_its_own_scripts(page: str) -> None:
    nonces = set()
    async with serving() as client:
        for _ in range(2):
            response = await client.get(page)
            assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert response.headers["cache-control"] == "no-store"
            (nonce,) = set(re.findall(r'nonce="([\w-]{22})"', response.text))
            nonces.add(nonce)
            assert response.headers["content-security-policy"].split("; ") == [
                "default-src 'none'",
                f"script-src 'self' 'nonce-{nonce}'",
                f"style-src 'self' 'nonce-{nonce}'",
                "img-src 'self' data:",
                "connect-src 'self'",
                "worker-src blob:",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
            ]
            assert re.findall(r"<(?:script|style)(?! nonce=)", response.text) == []
            assert re.findall(r"\son\w+=|\sstyle=|javascript:", response.text) == []
            for asset in re.findall(r'(?:src|href)="([^"]+)"', response.text):
                assert (await client.get(f"{ROOT}{asset}")).status_code == 200
    assert len(nonces) == 2


async def test_bundle_of_redoc_contains_the_replacements() -> None:
    async with serving() as client:
        script = (await client.get(REDOC_SCRIPT)).text
    assert script.count(".nc=document.currentScript.nonce") == 1
    assert script.count('"/docs/assets/favicon.png"') == 1
    assert "cdn.redoc.ly" not in script


REDOC_SCRIPT = f"{DOCS}/assets/redoc.standalone.js"


@pytest.mark.parametrize(
    ("page", "media_type"), [(OPENAPI, "application/json"), (REDOC_SCRIPT, "text/javascript; charset=utf-8")]
)
async def test_matching_entity_tag_of_document_or_script_is_not_modified(page: str, media_type: str) -> None:
    async with serving() as client:
        client.headers["Accept-Encoding"] = "identity"
        first = await client.get(page)
        tag = f'"{hashlib.sha256(first.content).hexdigest()[:32]}"'
        assert (first.status_code, first.headers["content-type"]) == (200, media_type)
        assert (first.headers["etag"], first.headers["cache-control"]) == (tag, "no-cache")
        for known in (tag, f"W/{tag}", f'"another", {tag}', "*"):
            again = await client.get(page, headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert (again.headers["etag"], again.headers["cache-control"]) == (tag, "no-cache")
            assert "content-type" not in again.headers
        for unknown in ('""', '"another"', f'"{tag[2:]}', f'{tag[:-1]}.x"'):
            other = await client.get(page, headers={"If-None-Match": unknown})
            assert (other.status_code, other.content) == (200, first.content)
        lines = [("If-None-Match", '"another"'), ("If-None-Match", tag)]
        assert (await client.get(page, headers=lines)).status_code == 304
        for garbage in ("", tag.strip('"'), "W/", f"*, {tag}"):
            assert_problem(await client.get(page, headers={"If-Match": garbage}), "bad_request", "/If-Match")
            assert (await client.get(page, headers={"If-None-Match": garbage})).status_code == 200
        for match, status in (("*", 200), (tag, 200), (f"W/{tag}", 412), ('"another"', 412)):
            assert (await client.get(page, headers={"If-Match": match})).status_code == status


async def test_document_and_script_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(settings_for(None))
    async with client_of(app, None) as client:
        made = {page: (await client.get(page)).content for page in (OPENAPI, REDOC_SCRIPT)}
        # The sources are not read again.
        monkeypatch.setattr(app, "openapi", dict)
        monkeypatch.setattr("app.api.docs._REDOC_REPLACEMENTS", {})
        assert {page: (await client.get(page)).content for page in made} == made
        # Another application builds its own document.
    other = create_app(settings_for(None, metrics_access="off"))
    async with client_of(other, None) as client:
        for page, content in made.items():
            assert (await client.get(page)).content != content
    await app.state.database.dispose()
    await other.state.database.dispose()


async def test_entity_tag_of_the_document_needs_permission(committed: Committed) -> None:
    async with serving(committed.url, docs_access="admin", redoc_access="admin") as client:
        tag = (await client.get(OPENAPI, headers=basic(ADMIN_TOKEN))).headers["etag"]
        response = await client.get(OPENAPI, headers={"If-None-Match": tag})
        assert_refused(response, "unauthorized")
        assert "etag" not in response.headers
        known = await client.get(OPENAPI, headers={"If-None-Match": tag} | basic(ADMIN_TOKEN))
        assert known.status_code == 304


@pytest.mark.parametrize(
    ("docs", "redoc", "document"),
    [
        ("public", "public", "public"),
        ("public", "admin", "public"),
        ("admin", "public", "public"),
        ("public", "off", "public"),
        ("off", "admin", "admin"),
        ("admin", "off", "admin"),
        ("admin", "admin", "admin"),
        ("off", "off", "off"),
    ],
)
async def test_document_is_as_open_as_the_more_open_page(
    docs: PageAccess, redoc: PageAccess, document: PageAccess
) -> None:
    async with serving(docs_access=docs, redoc_access=redoc) as client:
        for page, access in ((DOCS, docs), (REDOC, redoc), (OPENAPI, document)):
            response = await client.get(page)
            if access == "public":
                assert response.status_code == 200
            elif access == "admin":
                assert_refused(response, "unauthorized")
                assert response.headers["www-authenticate"] == BASIC
                assert (await client.head(page)).status_code == 401
            else:
                assert_refused(response, "not_found")
        asset = await client.get(f"{DOCS}/assets/swagger-ui.css")
        assert asset.status_code == (404 if document == "off" else 200)


async def test_restricted_pages_accept_a_token_of_an_administrator(
    committed: Committed, narrow_token: str, operations_token: str
) -> None:
    settings: dict[str, PageAccess] = {"docs_access": "admin", "redoc_access": "admin"}
    async with serving(committed.url, **settings) as client:
        signed_in = await client.post(
            "/auth/token", data={"username": "admin@register.example", "password": ADMIN_PASSWORD}
        )
        access_token = signed_in.json()["access_token"]
        for page in (DOCS, REDOC, OPENAPI):
            for right in (
                basic(ADMIN_TOKEN),
                basic(ADMIN_TOKEN, ""),
                bearer(ADMIN_TOKEN),
                bearer(access_token),
                basic(operations_token),
                bearer(operations_token),
            ):
                assert (await client.get(page, headers=right)).status_code == 200
            for wrong in (
                basic(ADMIN_PASSWORD, "admin@register.example"),
                basic(""),
                basic(new_token(API_TOKEN)),
                bearer(new_token(API_TOKEN)),
                {"Authorization": "Basic ?"},
                {"Authorization": "Basic /w=="},
                {"Authorization": basic(ADMIN_TOKEN)["Authorization"].replace("Basic ", "Basic")},
                # With a challenge, so that a browser prompts again.
                basic(narrow_token),
                bearer(narrow_token),
            ):
                response = await client.get(page, headers=wrong)
                assert_refused(response, "unauthorized")
                assert response.headers["www-authenticate"] == BASIC


async def test_api_refuses_basic_authentication(client: httpx.AsyncClient) -> None:
    response = await client.get("/departments", headers=basic(ADMIN_TOKEN))
    assert_refused(response, "unauthorized")
    assert response.headers["www-authenticate"] == BEARER


async def test_metrics_are_public_by_default() -> None:
    async with serving() as client:
        assert (await client.get(METRICS)).status_code == 200
        document = (await client.get(OPENAPI)).json()
    assert document["paths"]["/metrics"]["get"]["security"] == []


async def test_metrics_can_be_disabled() -> None:
    async with serving(metrics_access="off") as client:
        assert_refused(await client.get(METRICS), "not_found")
        assert "/metrics" not in (await client.get(OPENAPI)).json()["paths"]


async def test_metrics_can_be_restricted_to_administrators(
    committed: Committed, narrow_token: str, operations_token: str
) -> None:
    async with serving(committed.url, metrics_access="admin") as client:
        document = (await client.get(OPENAPI)).json()["paths"]["/metrics"]["get"]
        assert (document["x-permission"], document["security"]) == (
            "operations:read",
            [{"signIn": ["operations:read"]}, {"apiToken": []}],
        )
        for credentials in ({}, basic(ADMIN_TOKEN)):
            response = await client.get(METRICS, headers=credentials)
            assert_refused(response, "unauthorized")
            assert response.headers["www-authenticate"] == BEARER
        assert_refused(await client.get(METRICS, headers=bearer(new_token(API_TOKEN))), "unauthorized")
        problem = assert_refused(await client.get(METRICS, headers=bearer(narrow_token)), "forbidden")
        assert problem["scope"] == "operations:read"
        for right in (ADMIN_TOKEN, operations_token):
            assert (await client.get(METRICS, headers=bearer(right))).status_code == 200


@pytest.mark.parametrize("access", ["public", "admin", "off"])
async def test_served_routes_are_the_operations_of_the_document_and_the_pages(access: PageAccess) -> None:
    app = create_app(settings_for(None, docs_access=access, redoc_access=access, metrics_access=access))
    served: set[tuple[str, str]] = set()
    pages: set[str] = set()
    for context in iter_route_contexts(app.routes):
        if getattr(context.original_route, "include_in_schema", False):
            served |= {(method, str(context.path)) for method in context.methods or ()}
        elif context.path != "/api/v1/users/me":  # where it refuses other methods than GET
            pages.add(str(context.path))
    documented = {
        (method.upper(), path) for path, operations in app.openapi()["paths"].items() for method in operations
    }
    assert served == documented
    assert ("GET", "/metrics") not in documented or access != "off"
    assets = ("favicon.png", "redoc.standalone.js", "swagger-ui-bundle.js", "swagger-ui.css")
    all_pages = {"/docs", "/redoc", "/openapi.json", *(f"/docs/assets/{asset}" for asset in assets)}
    assert pages == (set() if access == "off" else all_pages)
    # Only the routes are served: each operation is reachable, and no other path is.
    async with client_of(app, None) as client:
        for method, path in sorted(documented):
            response = await client.request(method, ROOT + re.sub(r"\{\w+\}", "1", path))
            assert response.status_code not in {405, 500}, (method, path)
            if response.status_code == 404:
                assert path == "/problems/{name}"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST", "OPTIONS", "TRACE"])
async def test_caller_is_no_user_named_me(client: httpx.AsyncClient, method: str) -> None:
    response = await client.request(method, "/users/me")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert response.json()["code"] == "method_not_allowed"


async def response() -> dict[str, str]:
    return {}


@pytest.mark.parametrize("route_class", [StrictRoute, APIRoute])
@pytest.mark.parametrize("extra", [None, {}, {"x-permission": None}])
def test_route_without_a_permission_keeps_the_service_from_starting(
    monkeypatch: pytest.MonkeyPatch, route_class: Any, extra: dict[str, Any] | None
) -> None:
    router = APIRouter(route_class=route_class)

    def start() -> FastAPI:
        router.add_api_route("/new", response, openapi_extra=extra)
        return start_with(router, monkeypatch)

    with pytest.raises(UndeclaredPermissionError, match="GET /new declares no permission"):
        start()


def start_with(router: APIRouter, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr(api, "ROUTERS", (*api.ROUTERS, router))
    return create_app(settings_for(None))


def test_permission_that_nothing_enforces_keeps_the_service_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    router = APIRouter()
    router.add_api_route("/new", response, openapi_extra=requires("departments:read"))
    with pytest.raises(UndeclaredPermissionError, match="/new declares a permission that nothing enforces"):
        start_with(router, monkeypatch)


def test_route_with_a_permission_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    strict, plain = APIRouter(route_class=StrictRoute), APIRouter()
    strict.add_api_route("/strict", response, openapi_extra=requires("departments:read"))
    plain.add_api_route("/plain", response, openapi_extra=requires(PUBLIC))
    strict.include_router(plain)
    served = {context.path for context in iter_route_contexts(start_with(strict, monkeypatch).routes)}
    assert {"/strict", "/plain"} <= served


@pytest.mark.parametrize("name", ["departments:delete", "Public", "", "editor"])
def test_unknown_permission_cannot_be_declared(name: str) -> None:
    with pytest.raises(ValueError, match="there is no permission"):
        requires(name)
