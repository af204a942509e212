"""`/docs`, `/redoc` and `/openapi.json`, which work without a network because the service serves all their files.

The Content-Security-Policy of each page allows only the page's own scripts. Its one inline script uses a fresh nonce
per request.
"""

import json
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from app.api.static_content import StaticContent
from app.core.config import PageAccess, Settings
from app.core.http.authorisation import Authenticator

ASSETS = "/docs/assets"
OPENAPI = "/openapi.json"
_PACKAGE = files("fastapi_offline") / "static"
_REDOC = "redoc.standalone.js"
_MEDIA_TYPES = {
    "favicon.png": "image/png",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    _REDOC: "text/javascript",
}
_SWAGGER_PARAMETERS = {
    "tryItOutEnabled": True,
    "displayRequestDuration": True,
    "docExpansion": "list",
}
# The API has no OAuth 2 clients, so the fields for a client's id and secret are hidden.
_SWAGGER_STYLE = """<style>
.auth-container .wrapper:has(> label:is([for=password_type], [for^=client_id], [for^=client_secret])) { display: none }
.auth-container .scopes { columns: 2 }
.auth-container .scopes h2 { column-span: all }
.auth-container .scopes > .wrapper { break-inside: avoid }
</style>
"""
_REDOC_REPLACEMENTS = {
    # The vendor's logo, which ReDoc would load from the vendor's server.
    b"https://cdn.redoc.ly/redoc/logo-mini.svg": f"{ASSETS}/favicon.png".encode(),
    # The nonce of ReDoc's styles; ReDoc creates the first of them before its own option could set the nonce.
    b".nc=void 0": b".nc=document.currentScript.nonce",
}
# Both bundles embed icons as data URLs, and ReDoc creates its search worker from a blob.
_POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'nonce-{nonce}'; "
    "img-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

Page = Callable[[Request], Awaitable[Response]]


def add_docs(app: FastAPI, settings: Settings) -> None:
    """Add the pages that the settings enable, their assets, and the OpenAPI document."""
    pages: tuple[tuple[str, PageAccess, Page], ...] = (
        ("/docs", settings.docs_access, _swagger_ui),
        ("/redoc", settings.redoc_access, _redoc_page),
    )
    app.state.static_contents = []
    accesses = {access for _, access, _ in pages} - {"off"}
    for path, access, page in pages:
        if access != "off":
            app.add_route(path, _restrict(access, page), include_in_schema=False)
    if accesses:
        # Access to a page includes access to the document.
        widest: PageAccess = "public" if "public" in accesses else "admin"
        document = StaticContent(lambda: _openapi(app), "application/json")
        app.add_route(OPENAPI, _restrict(widest, document.respond), include_in_schema=False)
        contents = [document]
        for name, media_type in _MEDIA_TYPES.items():
            contents.append(StaticContent(partial(_asset, name), media_type))
            app.add_route(f"{ASSETS}/{name}", contents[-1].respond, include_in_schema=False)
        app.state.static_contents += contents


def prepare_docs(app: FastAPI) -> None:
    """Build the OpenAPI document and compress it and the assets of the pages, before the first request."""
    for content in app.state.static_contents:
        content.representations  # noqa: B018 - computed at the first access
    app.openapi_schema = None  # takes ten times the memory of its text


def _restrict(access: PageAccess, page: Page) -> Page:
    if access == "public":
        return page

    async def page_for_administrators(request: Request) -> Response:
        authenticator: Authenticator = request.app.state.authenticator
        await authenticator.admit(request)
        return await page(request)

    return page_for_administrators


def _openapi(app: FastAPI) -> bytes:
    return json.dumps(app.openapi(), ensure_ascii=False).encode()


async def _swagger_ui(request: Request) -> Response:
    page = get_swagger_ui_html(
        openapi_url=OPENAPI,
        title=request.app.title,
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon.png",
        swagger_ui_parameters=_SWAGGER_PARAMETERS,
    )
    return _page(page, _SWAGGER_STYLE)


async def _redoc_page(request: Request) -> Response:
    return _page(
        get_redoc_html(
            openapi_url=OPENAPI,
            title=request.app.title,
            redoc_js_url=f"{ASSETS}/{_REDOC}",
            redoc_favicon_url=f"{ASSETS}/favicon.png",
            with_google_fonts=False,
        )
    )


def _page(page: HTMLResponse, style: str = "") -> Response:
    """Return a page with a nonce on its inline scripts and styles, and the policy with this nonce."""
    nonce = secrets.token_urlsafe(16)
    html = bytes(page.body).decode().replace("</head>", f"{style}</head>")
    for element in ("script", "style"):
        html = html.replace(f"<{element}", f'<{element} nonce="{nonce}"')
    headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
    return HTMLResponse(html, headers=headers)


def _asset(name: str) -> bytes:
    content = (_PACKAGE / name).read_bytes()
    for original, replacement in _REDOC_REPLACEMENTS.items() if name == _REDOC else ():
        content = content.replace(original, replacement)
    return content
