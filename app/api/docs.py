"""`/docs` and `/redoc`, with all their files served by us: they work without any network."""

from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

ASSETS = "/docs/assets"
_PACKAGE = files("fastapi_offline") / "static"
_REDOC = "redoc.standalone.js"
_SWAGGER_PARAMETERS = {"tryItOutEnabled": True, "displayRequestDuration": True, "docExpansion": "list"}


def add_docs(app: FastAPI) -> None:
    """Add both pages and their assets to the application."""
    redoc = _redoc_without_network()
    icon = f"{ASSETS}/favicon.png"

    async def swagger_ui(_request: Request) -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}/swagger-ui.css",
            swagger_favicon_url=icon,
            swagger_ui_parameters=_SWAGGER_PARAMETERS,
        )

    async def redoc_page(_request: Request) -> HTMLResponse:
        return get_redoc_html(
            openapi_url="/openapi.json",
            title=app.title,
            redoc_js_url=f"{ASSETS}/{_REDOC}",
            redoc_favicon_url=icon,
            with_google_fonts=False,
        )

    async def redoc_script(_request: Request) -> Response:
        return Response(redoc, media_type="text/javascript")

    app.add_route("/docs", swagger_ui, include_in_schema=False)
    app.add_route("/redoc", redoc_page, include_in_schema=False)
    app.add_route(f"{ASSETS}/{_REDOC}", redoc_script, include_in_schema=False)
    app.mount(ASSETS, StaticFiles(directory=str(_PACKAGE)))


def _redoc_without_network() -> bytes:
    # ReDoc shows its maker's logo, which it would fetch from their server.
    script = (_PACKAGE / _REDOC).read_bytes()
    return script.replace(b"https://cdn.redoc.ly/redoc/logo-mini.svg", f"{ASSETS}/favicon.png".encode())
