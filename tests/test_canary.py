"""Secrets that clients send or receive appear nowhere else: not in logs, problems, metrics, history or any table."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import URL

from app.core.tokens import LINK_TOKEN, REFRESH_TOKEN, Tokens, new_token
from app.main import create_app
from app.models import Base
from tests.builders import admin_session, make_department, make_user
from tests.conftest import ADMIN_TOKEN, client_of, connected, new_database, settings_for
from tests.domains.auth.conftest import client_from
from tests.utils.conftest import configured_log

# Only letters and digits, so that no encoding changes them.
FIRST, SECOND, THIRD = "Canary1stPasswordQx7", "Canary2ndPasswordWz8", "Canary3rdPasswordEy9"
WRONG, WRONG_OLD, IN_QUERY = "CanaryWrongPasswordRu4", "CanaryWrongOldPasswordTi5", "CanaryInQueryPasswordYo6"
UNFINISHED, MISPLACED, TOO_SHORT = "CanaryUnfinishedJsonUp1", "CanaryMisplacedFieldIa2", "Canary9Os3"
BASIC, BASIC_NAME, BEARER = "CanaryBasicPasswordPd4", "CanaryBasicNameAf5", "CanaryBearerTokenSg6"
IN_FORM, FAILING = "CanaryTwiceInFormDh7", "CanaryFailingPasswordFj8"
COMMON = "Password1234"
PLANTED = (
    FIRST,
    SECOND,
    THIRD,
    WRONG,
    WRONG_OLD,
    IN_QUERY,
    UNFINISHED,
    MISPLACED,
    TOO_SHORT,
    BASIC,
    BASIC_NAME,
    BEARER,
    IN_FORM,
    FAILING,
)
# Not a secret: it shows that the test reads the right places.
VISIBLE = "VisibleNameOfADepartment"

WITH_SECRETS = (
    "sessions",
    "refresh_tokens",
    "credentials",
    "api_tokens",
    "password_links",
    "changes",
    "idempotency_keys",
)

REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@dataclass
class Story:
    """An application, with the secrets of its requests and responses and with the refused responses."""

    app: FastAPI
    url: URL
    secrets: set[str] = field(default_factory=lambda: set(PLANTED))
    refusals: list[httpx.Response] = field(default_factory=list)

    async def send(self, status: int, method: str, path: str, token: str | None = None, **request: Any) -> Any:
        """Send a request, assert the status of its response, and return the document of a success."""
        async with client_from(self.app, token=token) as client:
            response = await client.request(method, path, **request)
        assert response.status_code == status, (method, path, response.text)
        if not response.is_success:
            self.refusals.append(response)
            return None
        document = response.json() if response.content and "json" in response.headers["content-type"] else {}
        self.secrets |= {document[name] for name in ("access_token", "refresh_token", "token") if name in document}
        return document

    async def database(self, statement: str) -> list[asyncpg.Record]:
        async with connected(self.url) as connection:
            if statement.startswith("SELECT"):
                return list(await connection.fetch(statement))
            await connection.execute(statement)
        return []


@pytest.fixture
async def story(server_url: URL, template: URL) -> AsyncIterator[Story]:
    async with new_database(server_url, template.database) as url:
        app = create_app(settings_for(url, docs_access="admin"))
        yield Story(app, url, secrets=set(PLANTED) | {ADMIN_TOKEN})
        await app.state.database.dispose()


def encoded(name: str, password: str) -> str:
    return base64.b64encode(f"{name}:{password}".encode()).decode()


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {encoded(name, password)}"}


JSON: dict[str, Any] = {"headers": {"Content-Type": "application/json"}}
PROGRAM = {"name": "Program", "scopes": ["users:read", "operations:read"]}


async def send_valid(story: Story, email: str, links: str) -> dict[str, str]:
    """Send valid requests, and return the received tokens."""
    send = story.send
    async with client_of(story.app) as administrator:
        signed_in = await admin_session(administrator)
    link = (await send(201, "POST", links, headers=signed_in))["token"]
    await send(200, "POST", "/auth/set-password", json={"token": link, "password": FIRST})
    pair = await send(200, "POST", "/auth/token", data={"username": email, "password": FIRST})
    access = pair["access_token"]
    refreshed = await send(200, "POST", "/auth/refresh", json={"refresh_token": pair["refresh_token"]})
    await send(204, "POST", "/users/me/password", access, json={"old_password": FIRST, "new_password": SECOND})
    made = await send(201, "POST", "/users/me/tokens", access, json=PROGRAM)
    spare = await send(201, "POST", "/users/me/tokens", access, json=PROGRAM)
    await send(200, "GET", "/users/me", made["token"])
    await send(204, "DELETE", f"/users/me/tokens/{spare['id']}", access)
    await send_keys(story, email, access, links, signed_in)
    await send(200, "GET", "http://register.test/docs", headers=basic(BASIC_NAME, made["token"]))
    spent, link = link, (await send(201, "POST", links, headers=signed_in))["token"]
    refresh_token = refreshed["refresh_token"]
    return {"access": access, "refresh": refresh_token, "api": made["token"], "spent": spent, "link": link}


async def send_keys(story: Story, email: str, access: str, links: str, signed_in: dict[str, str]) -> None:
    """Request credentials with an idempotency key: a stored response would contain them in plain text."""
    send, key = story.send, {"Idempotency-Key": "1"}
    await send(400, "POST", "/auth/token", data={"username": email, "password": SECOND}, headers=key)
    await send(400, "POST", "/users/me/tokens", access, json=PROGRAM, headers=key)
    await send(400, "POST", links, headers=signed_in | key)
    await send(201, "POST", "/departments", ADMIN_TOKEN, json={"name": VISIBLE}, headers=key)


async def send_refused(story: Story, email: str, tokens: dict[str, str]) -> None:
    """Send refused requests of every kind."""
    send, access, link = story.send, tokens["access"], tokens["link"]
    form = {"username": email, "password": FIRST}
    await send(401, "POST", "/auth/token", data=form | {"password": WRONG})
    await send(400, "POST", "/auth/token", data=form | {"password": [IN_FORM, f"{IN_FORM}2"]})
    await send(422, "POST", "/auth/token", data=form | {"password": IN_FORM, "scope": IN_FORM})
    await send(400, "POST", "/auth/token", data=form, params={"password": IN_QUERY})
    await send(415, "POST", "/auth/token", json={"username": email, "password": MISPLACED})
    await send(422, "POST", "/auth/token", data={"username": "\0", "password": FIRST, "pasword": MISPLACED})

    await send(422, "POST", "/auth/set-password", json={"token": tokens["spent"], "password": THIRD})
    for password in (COMMON, TOO_SHORT, THIRD * 20):
        await send(422, "POST", "/auth/set-password", json={"token": link, "password": password})
    await send(422, "POST", "/auth/set-password", json={"token": [link], "password": {"password": THIRD}})
    await send(422, "POST", "/auth/set-password", json={"token": link, "password": THIRD, "extra": MISPLACED})
    for text in ('{"token": "%s", "password": "%s', '{"password": "%s", "password": "%s"}', '["%s", "%s"'):
        await send(400, "POST", "/auth/set-password", content=text % (link, UNFINISHED), **JSON)

    unknown = [new_token(REFRESH_TOKEN), new_token(LINK_TOKEN), f"prr_{BEARER}"]
    story.secrets |= {*unknown, encoded(BASIC_NAME, BASIC)}
    for token in unknown:
        await send(401, "POST", "/auth/refresh", json={"refresh_token": token})
    await send(422, "POST", "/auth/refresh", json={"refresh_token": access})

    passwords = {"old_password": WRONG_OLD, "new_password": THIRD}
    await send(422, "POST", "/users/me/password", access, json=passwords)
    await send(422, "POST", "/users/me/password", access, json=passwords | {"new_password": TOO_SHORT})
    await send(401, "POST", "/users/me/password", BEARER, json=passwords)
    for token in (BEARER, *unknown, Tokens(settings_for(None, secret_key=SecretStr(BEARER * 2))).access_token(1, 1)):
        story.secrets.add(token)
        await send(401, "GET", "/users/me", token)
    await send(401, "GET", "/users/me", headers=basic(BASIC_NAME, BASIC))
    await send(401, "GET", "http://register.test/docs", headers=basic(BASIC_NAME, BASIC))
    await send(401, "GET", "/users/me", params={"access_token": access})
    await send(404, "GET", "/nothing", access)
    # A token in place of its id: only the response may repeat it, as part of the path.
    for token in (tokens["api"], access, link):
        async with client_from(story.app, token=access) as client:
            assert (await client.delete(f"/users/me/tokens/{token}")).status_code == 404
    await send(431, "GET", "/users/me", headers={"Authorization": f"Bearer {BEARER}" + "x" * 2**15})


async def raise_error(*_: object) -> None:
    raise RuntimeError("broken down")


async def send_failing(story: Story, email: str, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Send requests that fail in the database, whose errors contain the values of the statement, or in the service."""
    send, access = story.send, tokens["access"]
    for table, path, request in (
        ("sessions", "/auth/token", {"data": {"username": email, "password": SECOND}}),
        ("refresh_tokens", "/auth/refresh", {"json": {"refresh_token": tokens["refresh"]}}),
        ("changes", "/auth/set-password", {"json": {"token": tokens["link"], "password": THIRD}}),
        ("api_tokens", "/users/me/tokens", {"json": PROGRAM}),
        ("changes", "/users/me/password", {"json": {"old_password": SECOND, "new_password": THIRD}}),
    ):
        await story.database(REFUSE.format(table=table))
        await send(500, "POST", path, access, **request)
        await story.database("DROP FUNCTION refuse CASCADE")
    with monkeypatch.context() as patch:
        patch.setattr(story.app.state.passwords, "_run_in_thread", raise_error)
        await send(500, "POST", "/auth/token", data={"username": email, "password": FAILING})
        patch.setattr(story.app.state.authenticator, "_find", raise_error)
        await send(500, "GET", "/users/me", tokens["api"])
        await send(500, "GET", "http://register.test/docs", headers=basic(BASIC_NAME, BASIC))


async def send_everything(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every kind of request that carries a secret."""
    async with client_of(story.app) as administrator:
        user = await make_user(administrator, access_level="admin")
        await make_department(administrator, name=VISIBLE)
    tokens = await send_valid(story, user["email"], f"/users/{user['id']}/password-links")
    await send_refused(story, user["email"], tokens)
    await send_failing(story, user["email"], tokens, monkeypatch)


def traces(text: str, secrets: set[str]) -> list[str]:
    """Return the secrets of which a text contains a long part."""
    return [secret for secret in secrets if secret[4:20] in text or secret[-16:] in text]


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "console"])
async def test_secrets_appear_nowhere_else(story: Story, monkeypatch: pytest.MonkeyPatch, *, as_json: bool) -> None:
    with configured_log(as_json=as_json, level="DEBUG") as log:
        await send_everything(story, monkeypatch)
    written = log.getvalue()
    stored = {
        name: [row[0] for row in await story.database(f"SELECT to_jsonb(t)::text FROM {name} t")]
        for name in Base.metadata.tables
    }
    hashes = [row["hash"] for row in await story.database("SELECT password_hash AS hash FROM credentials")]
    async with client_of(story.app) as administrator:
        metrics = (await administrator.get("http://register.test/metrics")).text
        history = (await administrator.get("/changes?limit=200")).text
    problems = [response.text + str(response.headers) for response in story.refusals]

    # The test reads the right places.
    assert VISIBLE in "".join(stored["changes"])
    assert VISIBLE in history
    assert VISIBLE.encode().hex() in "".join(stored["idempotency_keys"])
    assert 'route="/api/v1/auth/token"' in metrics
    assert written.count("/auth/set-password") > 10
    assert written.count("request failed") == 8
    assert written.count("broken down") >= 2
    assert len(problems) > 30
    assert all(stored[name] for name in WITH_SECRETS)
    assert len(story.secrets) > 25

    assert traces(written, story.secrets) == []
    for problem in problems:
        assert traces(problem, story.secrets) == []
    assert traces(metrics, story.secrets) == []
    assert traces(history, story.secrets) == []
    for name, rows in stored.items():
        for row in rows:
            assert traces(row, story.secrets) == [], name
            # PostgreSQL returns bytes in hexadecimal digits.
            hexadecimal = {secret.encode().hex() for secret in story.secrets}
            assert [each for each in hexadecimal if each[8:40] in row] == [], name
    # Hashes of passwords do not leave the database, either.
    assert len(hashes) == 2
    for text in (written, metrics, history, *problems):
        assert not [each for each in hashes if each[-20:] in text]
        assert "$argon2" not in text


async def test_history_records_changes_of_credentials_without_secrets(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    with configured_log():
        await send_everything(story, monkeypatch)
    rows = await story.database(
        "SELECT type, action, before, after FROM changes WHERE type = 'users' AND before = '{}'"
    )
    after = [json.loads(row["after"]) for row in rows if row["action"] == "updated"]
    assert {"password": "changed"} in after
    assert {"password_link": "made"} in after
    assert all(each in ({"password": "changed"}, {"password_link": "made"}) for each in after)
    rows = await story.database("SELECT action, before, after FROM changes WHERE type = 'api_tokens'")
    assert sorted(row["action"] for row in rows) == ["created", "created", "deleted"]
    for row in rows:
        recorded = json.loads(row["after"] or row["before"])
        assert recorded.keys() == {"name", "scopes", "expires_at", "user"}
