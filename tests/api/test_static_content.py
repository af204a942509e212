"""The OpenAPI document and the assets of its pages: made at start, compressed for clients that accept it."""

import gzip
from hashlib import sha256

import httpx
import pytest
from fastapi import FastAPI

from app.api.static_content import StaticContent, accepts_gzip
from app.main import create_app
from tests.api.test_pages import OPENAPI, REDOC_SCRIPT, ROOT
from tests.conftest import client_of, settings_for
from tests.growth import assert_proportionate

STYLES = f"{ROOT}/docs/assets/swagger-ui.css"


async def raw(client: httpx.AsyncClient, page: str, accept: str, **headers: str) -> tuple[httpx.Response, bytes]:
    """Return a response and its content as it was sent."""
    async with client.stream("GET", page, headers={"Accept-Encoding": accept, **headers}) as response:
        return response, b"".join([chunk async for chunk in response.aiter_raw()])


@pytest.fixture
def pages() -> FastAPI:
    return create_app(settings_for(None))


async def test_no_request_makes_document_or_assets(pages: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pages.router.lifespan_context(pages), client_of(pages, None) as client:
        assert pages.openapi_schema is None  # only its text stays in memory
        for function in ("app.api.docs._openapi", "app.api.docs._asset", "app.api.static_content.gzip.compress"):
            monkeypatch.setattr(function, None)
        assert (await client.get(OPENAPI)).json()["info"]["title"] == "Process Register"
        assert (await client.get(REDOC_SCRIPT)).status_code == 200
        assert (await client.get(STYLES)).status_code == 200


async def test_document_of_the_command_is_the_served_one(pages: FastAPI) -> None:
    async with pages.router.lifespan_context(pages), client_of(pages, None) as client:
        assert (await client.get(OPENAPI)).json() == pages.openapi()


@pytest.mark.parametrize("page", [OPENAPI, REDOC_SCRIPT, STYLES])
async def test_content_is_sent_compressed_to_clients_that_accept_it(pages: FastAPI, page: str) -> None:
    async with client_of(pages, None) as client:
        plain, text = await raw(client, page, "identity")
        packed, data = await raw(client, page, "gzip, deflate, br")
        head = await client.head(page, headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in plain.headers
        assert gzip.decompress(data) == text
        assert len(data) < len(text) / 3
        for response, body in ((plain, text), (packed, data)):
            assert response.headers["vary"] == "Accept-Encoding"
            assert response.headers["etag"] == f'"{sha256(body).hexdigest()[:32]}"'
            assert response.headers["content-length"] == str(len(body))
        for response in (packed, head):
            assert response.headers["content-encoding"] == "gzip"
            assert response.headers["etag"] == packed.headers["etag"]
        # Each representation has its own entity tag.
        known = packed.headers["etag"]
        again, none = await raw(client, page, "gzip", **{"If-None-Match": known})
        assert (again.status_code, none, again.headers["etag"]) == (304, b"", known)
        other, full = await raw(client, page, "identity", **{"If-None-Match": known})
        assert (other.status_code, full) == (200, text)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5, br", True),
        ("*", True),
        ("gzip ; q = 1.0", True),
        ("gzip;q=0.001", True),
        ("", False),
        ("identity", False),
        ("br, deflate", False),
        ("gzip;q=0", False),
        ("*, gzip;q=0.000", False),
        ("*;q=0", False),
        ("gzipped", False),
    ],
)
def test_accepted_codings_are_recognised(accept: str, expected: bool) -> None:
    assert accepts_gzip(accept) is expected


@pytest.mark.parametrize("part", ["gzip;q=0,", ";", "a;q= ", "*", " "])
def test_accepted_codings_are_read_in_proportion_to_their_length(part: str) -> None:
    assert_proportionate(lambda times: accepts_gzip(part * times), 20_000)


def test_every_process_sends_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = StaticContent(lambda: b"text" * 100, "text/plain").representations
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    assert StaticContent(lambda: b"text" * 100, "text/plain").representations == first
