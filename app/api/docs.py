"""`/docs`, `/redoc` and `/openapi.json`, with all their files served by us: they work without any network.

Each page comes with a policy that lets it run the scripts it was made with and nothing else. Its one inline script is
named by a nonce, which is another at every request.
"""

import json
import secrets
from collections.abc import Awaitable, Callable
from functools import cache
from hashlib import sha256
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from app.core.config import PageAccess, Settings
from app.core.http.authorisation import Authenticator
from app.domains.shared.reading.etags import matches_etag

ASSETS = "/docs/assets"
OPENAPI = "/openapi.json"
_PACKAGE = files("fastapi_offline") / "static"
_REDOC = "redoc.standalone.js"
_SWAGGER_PARAMETERS = {
    "tryItOutEnabled": True,
    "displayRequestDuration": True,
    "docExpansion": "list",
}
# There are no OAuth 2 clients here: fields for the id and the secret of one would only puzzle.
_SWAGGER_STYLE = """<style>
.auth-container .wrapper:has(> label:is([for=password_type], [for^=client_id], [for^=client_secret])) { display: none }
.auth-container .scopes { columns: 2 }
.auth-container .scopes h2 { column-span: all }
.auth-container .scopes > .wrapper { break-inside: avoid }
</style>
"""
_REDOC_CHANGES = {
    # Its maker's logo, which it would fetch from their server.
    b"https://cdn.redoc.ly/redoc/logo-mini.svg": f"{ASSETS}/favicon.png".encode(),
    # The nonce for the styles that it makes, the first of them before it could be told the nonce in any other way.
    b".nc=void 0": b".nc=document.currentScript.nonce",
}
# Both bundles carry icons inside them, and ReDoc searches in a worker made of its own text.
_POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'nonce-{nonce}'; "
    "img-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

Page = Callable[[Request], Awaitable[Response]]


def add_docs(app: FastAPI, settings: Settings) -> None:
    """Add the pages that the settings have, their assets, and the document that they show."""
    pages: tuple[tuple[str, PageAccess, Page], ...] = (
        ("/docs", settings.docs_access, _swagger_ui),
        ("/redoc", settings.redoc_access, _redoc_page),
    )
    shown = {access for _, access, _ in pages} - {"off"}
    for path, access, page in pages:
        if access != "off":
            app.add_route(path, _for(access, page), include_in_schema=False)
    if shown:
        # Whoever may see one of the pages may see what it shows.
        document = _made_once(lambda: _openapi(app), "application/json")
        app.add_route(OPENAPI, _for("public" if "public" in shown else "admin", document), include_in_schema=False)
        app.add_route(f"{ASSETS}/{_REDOC}", _made_once(_redoc_script, "text/javascript"), include_in_schema=False)
        app.mount(ASSETS, StaticFiles(directory=str(_PACKAGE)))


def _for(access: PageAccess, page: Page) -> Page:
    if access == "public":
        return page

    async def page_for_administrators(request: Request) -> Response:
        authenticator: Authenticator = request.app.state.authenticator
        await authenticator.admit(request)
        return await page(request)

    return page_for_administrators


def _made_once(make: Callable[[], bytes], media_type: str) -> Page:
    """Return a page that is made at the first request for it, and not sent to browsers that have it already."""

    @cache
    def made() -> tuple[bytes, dict[str, str]]:
        body = make()
        # Browsers keep it, but ask whether it is still the same: after an update of the service it may not be.
        return body, {"ETag": f'"{sha256(body).hexdigest()[:32]}"', "Cache-Control": "no-cache"}

    async def page(request: Request) -> Response:
        body, headers = made()
        if matches_etag(request.headers.get("If-None-Match", ""), headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=media_type)

    return page


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


def _page(plain: HTMLResponse, style: str = "") -> Response:
    """Return a page with a nonce on what stands in it, and the policy that goes with it."""
    nonce = secrets.token_urlsafe(16)
    html = bytes(plain.body).decode().replace("</head>", f"{style}</head>")
    for element in ("script", "style"):
        html = html.replace(f"<{element}", f'<{element} nonce="{nonce}"')
    headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
    return HTMLResponse(html, headers=headers)


def _redoc_script() -> bytes:
    script = (_PACKAGE / _REDOC).read_bytes()
    for theirs, ours in _REDOC_CHANGES.items():
        script = script.replace(theirs, ours)
    return script
