"""A real server with raw connections to it, and the checks that every error must pass."""

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from http.client import HTTPResponse
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import URL

from app.core.config import Settings
from app.core.http.protocol import GuardedProtocol
from app.main import create_app
from app.utils.exceptions import Gone, RegisterError, error_classes, problem_types
from app.utils.fault_codes import TEXTS, UNKNOWN_PATTERN_TEXT, code_of
from app.utils.problems import MAX_INSTANCE_LENGTH, Problem, TokenProblem
from tests.conftest import new_database, settings_for
from tests.waiting import HANG_TIMEOUT, wait_until

# A marker in values that clients send; no response may repeat it.
CANARY = "Kanarienvogel"


def is_text_of(code: str, detail: str) -> bool:
    """Return whether the catalogue has a text for a code."""
    templates = [text for key, text in TEXTS.items() if code_of(key) == code]
    patterns = [re.sub(r"( ?)\\\{\w+\\\}", ".*", re.escape(template).replace("\\ ", " ")) for template in templates]
    return detail != UNKNOWN_PATTERN_TEXT and any(re.fullmatch(pattern, detail) for pattern in patterns)


# Without the base classes that are never raised.
CODES = {error.code: error for error in error_classes(RegisterError) if error not in {RegisterError, Gone}}
NAMES = {error.name: error for error in problem_types()}


@cache
def openapi() -> dict[str, Any]:
    return create_app(Settings(_env_file=None)).openapi()


def responses_of(operation: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Return the responses of an operation by status, with the shared ones resolved."""
    shared = document["components"]["responses"]
    return {
        status: shared[response["$ref"].rpartition("/")[2]] if "$ref" in response else response
        for status, response in operation["responses"].items()
    }


def documented_statuses(method: str, path: str) -> set[str] | None:
    """Return the documented statuses of a request, or None for an undocumented operation."""
    path, paths = path.removesuffix("/"), openapi()["paths"]
    # `/users/me` is no user.
    for template, operations in {path: paths[path]}.items() if path in paths else paths.items():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        if method.lower() in operations and re.fullmatch(pattern, path):
            return set(operations[method.lower()]["responses"])
    return None


# The routes whose errors are also those of OAuth 2.
TOKEN_PATHS = frozenset({"/api/v1/auth/token", "/api/v1/auth/refresh"})


def assert_problem(response: httpx.Response, code: str, *pointers: str) -> dict[str, Any]:
    """Assert that a response is the complete problem document of `code` with exactly these pointers, and return it."""
    error = CODES[code]
    assert (response.status_code, response.headers["content-type"]) == (error.status, "application/problem+json")
    problem: dict[str, Any] = response.json()
    expected = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}
    own = {"still_referenced": {"dependants"}, "forbidden": {"scope"}}
    issues_tokens = problem["instance"].removesuffix("/") in TOKEN_PATHS
    oauth = {"error", "error_description"} if issues_tokens else set()
    assert problem.keys() == expected | own.get(code, set()) | oauth
    (TokenProblem if issues_tokens else Problem).model_validate(problem, strict=True)
    assert {name: problem[name] for name in ("type", "title", "status", "code")} == {
        "type": f"/problems/{error.name}",
        "title": error.title,
        "status": error.status,
        "code": code,
    }
    assert problem["detail"]
    assert [each for each in problem["errors"] if not is_text_of(each["code"], each["detail"])] == []
    details = [problem["detail"], *(each["detail"] for each in problem["errors"])]
    assert [each for each in details if re.search(r"\(\?|\[\S+-\S+\]|\\[a-z]|\{\d", each)] == [], "a regular expression"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert sorted(each["pointer"] for each in problem["errors"]) == sorted(pointers)
    text = response.text.replace(problem["instance"], "") + str(response.headers)
    assert CANARY not in text
    waits = error.status in {429, 503} or code == "request_in_flight"
    assert ("retry-after" in response.headers) == waits
    if waits:
        assert int(response.headers["retry-after"]) > 0
    assert ("www-authenticate" in response.headers) == (error.status in {401, 403})
    if error.status in {401, 403}:
        # Pages for browsers use HTTP Basic authentication.
        assert re.match('(Bearer|Basic) realm="process-register"', response.headers["www-authenticate"])
    if (request := getattr(response, "_request", None)) is not None:
        path = request.url.path
        quoted = quote(path[:-1] if path.endswith("/") and len(path) > 1 else path)
        assert problem["instance"] == re.sub("%.?$", "", quoted[:MAX_INSTANCE_LENGTH])
        documented = documented_statuses(request.method, path)
        assert documented is None or str(error.status) in documented, (request.method, path, error.status)
    return problem


@dataclass(frozen=True)
class Server:
    """The application on a real server, in a separate thread."""

    app: FastAPI
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=HANG_TIMEOUT)

    def send(self, *data: bytes) -> httpx.Response:
        """Send raw bytes over a separate connection, and return the first response."""
        with self.connect() as connection:
            for part in data:
                try:
                    connection.sendall(part)
                except (BrokenPipeError, ConnectionResetError):
                    break  # the server has responded and closed the connection
            return receive(connection)


def receive(connection: socket.socket) -> httpx.Response:
    """Read one response from a connection."""
    response = HTTPResponse(connection)
    response.begin()
    return httpx.Response(response.status, headers=response.getheaders(), content=response.read())


@pytest.fixture(scope="session")
async def server(server_url: URL, template: URL) -> AsyncIterator[Server]:
    """A server on a separate database, so that committed rows do not affect other tests."""
    async with new_database(server_url, template.database) as url:
        app = create_app(settings_for(url))
        options: dict[str, Any] = {"http": GuardedProtocol, "ws": "none", "log_config": None, "access_log": False}
        config = uvicorn.Config(app, host="127.0.0.1", port=0, **options)
        runner = uvicorn.Server(config)
        thread = threading.Thread(target=runner.run, daemon=True)
        thread.start()
        await asyncio.to_thread(wait_until, lambda: runner.started or not thread.is_alive())
        assert runner.started
        yield Server(app, runner.servers[0].sockets[0].getsockname()[1])
        runner.should_exit = True
        thread.join(HANG_TIMEOUT)
        assert not thread.is_alive()
