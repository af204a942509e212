"""The examples of the documentation run unchanged, on the demo data."""

import re
from itertools import count
from typing import Any

import httpx
import pytest

from app.core.permissions import SESSION
from app.domains.register.demo_data import DEMO_PASSWORD, DEMO_USERS
from tests.catalogue import COLLECTIONS
from tests.waiting import HANG_TIMEOUT

JSON, FORM, CSV = "application/json", "application/x-www-form-urlencoded", "text/csv"
OBJECT_PATH = re.compile(rf"/api/v1/({'|'.join(COLLECTIONS)})/\{{reference\}}")

_numbers = count(1)


def example_of(document: dict[str, Any], operation: dict[str, Any], media_type: str) -> Any:
    """Return the example body of an operation, or None when it takes none of that type."""
    content = operation.get("requestBody", {}).get("content", {})
    if "example" in content.get(media_type, {}):
        return content[media_type]["example"]
    schema = content.get(media_type, {}).get("schema", {})
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema["examples"][0] if "examples" in schema else None


def path_of(path: str, operation: dict[str, Any], own: dict[str, str]) -> str:
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            name, examples = parameter["name"], parameter["examples"]
            value = own[name] if name in own else next(iter(examples.values()))["value"]
            path = path.replace(f"{{{name}}}", str(value))
    return path


def required_query(operation: dict[str, Any]) -> dict[str, str]:
    return {
        parameter["name"]: parameter["schema"]["examples"][0]
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query" and parameter["required"]
    }


@pytest.fixture(scope="module")
def document(live_server: str) -> dict[str, Any]:
    loaded: dict[str, Any] = httpx.get(f"{live_server}/openapi.json", timeout=HANG_TIMEOUT).raise_for_status().json()
    return loaded


class Account:
    """A new, signed-in administrator with the password of the demo data; other requests do not use its credentials."""

    def __init__(self, administrator: httpx.Client) -> None:
        self._administrator = administrator
        fields = {"name": "Account", "email": f"account{next(_numbers)}@register.example", "access_level": "admin"}
        self._user = self._made("/users", fields)
        link = {"token": self.link_token(), "password": DEMO_PASSWORD}
        tokens = administrator.post("/auth/set-password", json=link).raise_for_status().json()
        self.refresh_token: str = tokens["refresh_token"]
        self.headers = {"Authorization": f"Bearer {tokens['access_token']}"}

    def link_token(self) -> str:
        return str(self._made(f"/users/{self._user['id']}/password-links", None)["token"])

    def session(self) -> str:
        sessions = self._administrator.get("/auth/sessions", headers=self.headers).raise_for_status().json()
        return str(sessions["items"][0]["id"])

    def api_token(self) -> str:
        return str(self._made("/users/me/tokens", {"name": "T", "scopes": ["admin"]})["id"])

    def _made(self, path: str, body: Any) -> dict[str, Any]:
        headers = self.headers if "/me/" in path else None
        made: dict[str, Any] = self._administrator.post(path, json=body, headers=headers).raise_for_status().json()
        return made


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
def test_every_operation_runs_with_its_example(live_server: str, document: dict[str, Any], method: str) -> None:
    tried = 0
    administrator = httpx.Client(base_url=f"{live_server}/api/v1", timeout=HANG_TIMEOUT)
    with administrator:
        form = {"username": DEMO_USERS[-1], "password": DEMO_PASSWORD}
        signed_in = administrator.post("/auth/token", data=form).raise_for_status().json()
        administrator.headers["Authorization"] = f"Bearer {signed_in['access_token']}"
        for path, operations in document["paths"].items():
            if operation := operations.get(method):
                response = run(administrator, document, method, path)
                # Deleting the first object of a collection is refused: others refer to it.
                expected = {409} if method == "delete" and OBJECT_PATH.fullmatch(path) else {200, 201, 204}
                assert response.status_code in expected, (method, path, response.text)
                assert str(response.status_code) in operation["responses"]
                tried += 1
    assert tried >= 6


def run(administrator: httpx.Client, document: dict[str, Any], method: str, path: str) -> httpx.Response:
    """Call an operation with its example. Only secrets and their ids, which are random, are replaced."""
    operation = document["paths"][path][method]
    body, own = example_of(document, operation, JSON), {}
    headers = {}
    if operation["x-permission"] == SESSION or {"refresh_token", "token"} & set(body or ()):
        account = Account(administrator)
        headers = account.headers
        secrets = {"refresh_token": account.refresh_token, "token": account.link_token()}
        body = body and body | {name: secret for name, secret in secrets.items() if name in body}
        own = {"session": account.session(), "token": account.api_token()}
    elif "{token}" in path:
        own = {"token": Account(administrator).api_token()}
    table = example_of(document, operation, CSV)
    if table is not None:
        headers |= {"Content-Type": CSV}
    own_header = administrator.headers.pop("Authorization")
    if operation["x-permission"] != "public":
        headers = {"Authorization": own_header} | headers
    try:
        return administrator.request(
            method,
            str(administrator.base_url).removesuffix("/api/v1/") + path_of(path, operation, own),
            params=required_query(operation),
            json=body,
            data=example_of(document, operation, FORM),
            content=table,
            headers=headers,
        )
    finally:
        administrator.headers["Authorization"] = own_header


def test_every_body_has_an_example(document: dict[str, Any]) -> None:
    missing = [
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
        for media_type in (JSON, FORM)
        if operation.get("requestBody", {}).get("required")
        and media_type in operation["requestBody"]["content"]
        and example_of(document, operation, media_type) is None
    ]
    assert missing == []
