"""Who may call: host names and web pages of other origins."""

from typing import Any

import httpx
import pytest

from app.main import create_app
from tests.conftest import settings_for


def client_with(**settings: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=create_app(settings_for(None, **settings)))
    return httpx.AsyncClient(transport=transport, base_url="http://register.example")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("register.example", 200),
        ("REGISTER.example:8000", 200),
        ("eu.register.example", 200),
        ("other.example", 400),
        ("register.example.other", 400),
        ("evilregister.example", 400),
        ("a.b.register.example", 200),
        ("[::1]:8000", 200),
        ("[::1", 400),
        ("", 400),
    ],
)
async def test_only_trusted_hosts_are_answered(host: str, status: int) -> None:
    async with client_with(trusted_hosts=("Register.example", "*.register.example", "::1")) as client:
        response = await client.get("/problems/conflict", headers={"Host": host})
        assert response.status_code == status
        if status == 400:
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["request_id"] == response.headers["x-request-id"]
        for probe in ("/health/live", "/metrics"):
            assert (await client.get(probe, headers={"Host": host})).status_code == 200


async def test_pages_of_named_origins_may_call_and_read_our_headers() -> None:
    async with client_with(cors_origins=("https://app.example",), cors_allow_credentials=True) as client:
        preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "PATCH"}
        allowed = await client.options("/problems/conflict", headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        assert allowed.headers["access-control-allow-credentials"] == "true"
        answer = await client.get("/problems/conflict", headers={"Origin": "https://app.example"})
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"ETag", "Link", "Location", "X-Request-ID"} <= set(exposed)
        foreign = await client.get("/problems/conflict", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in foreign.headers


async def test_headers_are_limited() -> None:
    async with client_with(max_header_bytes=1024) as client:
        assert (await client.get("/health/live", headers={"X-Long": "x" * 500})).status_code == 200
        refused = await client.get("/health/live", headers={"X-Long": "x" * 1100})
        assert (refused.status_code, refused.json()["code"]) == (431, "headers_too_large")
