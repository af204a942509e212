"""A caller who loses the permission while the body arrives."""

from collections.abc import AsyncIterator

import pytest

from app.core.http import routing
from app.core.http.routing import RECHECK_SECONDS
from app.main import create_app
from tests.api.conftest import assert_problem
from tests.builders import make_department, token_with
from tests.conftest import Committed, client_of, settings_for
from tests.domains.auth.conftest import sql

WRITES = {
    "POST": ("/departments", b'{"name": ', b'"Late"}', "application/json"),
    "PUT": ("/departments/code:D1", b'{"code": "D1", ', b'"name": "Late"}', "application/json"),
    "PATCH": ("/departments/code:D1", b'{"name": ', b'"Late"}', "application/merge-patch+json"),
    "bulk": (
        "/departments/bulk",
        b'{"items": [{"op": "create", ',
        b'"data": {"name": "Late"}}]}',
        "application/json",
    ),
    "import": ("/departments/import", b'{"name": ', b'"Late"}\n', "application/x-ndjson"),
}
DENIALS = {
    "deactivation": ("UPDATE users SET is_active = false", "unauthorized"),
    "revocation": ("DELETE FROM api_tokens WHERE name = 'Narrow'", "unauthorized"),
    "lower level": ("UPDATE users SET access_level = 'viewer'", "forbidden"),
}


@pytest.mark.parametrize("denial", DENIALS)
@pytest.mark.parametrize("write", WRITES)
async def test_slow_body_of_a_caller_without_permission_is_not_written(
    committed: Committed, write: str, denial: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 < RECHECK_SECONDS <= 1
    monkeypatch.setattr(routing, "RECHECK_SECONDS", -1)
    await make_department(committed.client, code="D1", name="D")
    token = await token_with(committed.client, "departments:read", "departments:write")
    path, begin, end, media_type = WRITES[write]
    statement, code = DENIALS[denial]
    app = create_app(settings_for(committed.url))

    async def body() -> AsyncIterator[bytes]:
        yield begin
        await sql(committed.app, statement)
        yield end

    method = write if write.isupper() else "POST"
    async with client_of(app) as client:
        response = await client.request(method, path, content=body(), headers=token | {"Content-Type": media_type})
        assert_problem(response, code)
    names = await sql(committed.app, "SELECT name FROM departments")
    assert [row.name for row in names] == ["D"]
    await app.state.database.dispose()


async def test_slow_body_of_a_caller_with_permission_is_written(
    committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "RECHECK_SECONDS", -1)
    for write, (path, begin, end, media_type) in WRITES.items():
        if write == "POST":
            await make_department(committed.client, code="D1", name="D")
        method = write if write.isupper() else "POST"
        response = await committed.client.request(
            method, path, content=begin + end, headers={"Content-Type": media_type}
        )
        assert response.is_success, response.text
