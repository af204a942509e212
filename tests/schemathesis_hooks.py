"""Hooks of Schemathesis with rules that the OpenAPI document cannot express.

Without them most generated requests would fail early. Only requests that were generated as valid are changed, and they
stay valid. Requests that would revoke the credentials of the run are directed to another user.
"""

import json
import os
import re
from functools import cache
from itertools import count
from typing import Any
from urllib.parse import urlencode

import httpx
import jwt
import schemathesis
from cachetools import TTLCache, cached
from hypothesis import strategies
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import CoveragePhaseData, CoverageScenario

KEYS = ("code", "external_id", "email")
LINKS = ("department", "location", "resource", "role")

EVERY = 20
MANY = 20
# Generated cursors and positions are always refused (test_cursors.py, test_feed.py). With `fields` and `embed`,
# responses lack members that the schema requires (test_fields.py).
COVERED_ELSEWHERE = ("cursor", "after", "fields", "embed")
# The HTTP server refuses longer URLs with its own response; a query of many long texts can exceed this.
MAX_QUERY = 65_000

# The administrator sends the requests, except those that sign out, which another user sends.
ADMINISTRATOR, OTHER = os.environ["ADMINISTRATOR"], os.environ["OTHER_USER"]
PASSWORD = os.environ["PASSWORD"]
SIGNING_OUT = ("/api/v1/auth/logout", "/api/v1/auth/logout-all", "/api/v1/auth/sessions/{session}")
ONE_USER = ("/api/v1/users/{reference}", "/api/v1/users/{reference}/password-links")
THIRD_USER = "1"

_numbers, _places = count(1), count()
schemathesis.openapi.format("timezone", strategies.sampled_from(["Europe/Zurich", "America/Lima", "UTC"]))
_used: set[tuple[str, str, str]] = set()


@cache
def service() -> httpx.Client:
    return httpx.Client(base_url=f"{os.environ['SERVICE']}/api/v1", timeout=300)


def sign_in(email: str) -> dict[str, Any]:
    """Open a session and return its tokens."""
    response = service().post("/auth/token", data={"username": email, "password": PASSWORD})
    tokens: dict[str, Any] = response.raise_for_status().json()
    return tokens


# A token lasts ten minutes; the run may take longer.
@cached(TTLCache(1, ttl=300))
def administrator_token() -> str:
    return str(sign_in(ADMINISTRATOR)["access_token"])


@cache
def id_of(email: str) -> int:
    response = service().get("/users/me", headers={"Authorization": f"Bearer {sign_in(email)['access_token']}"})
    return int(response.raise_for_status().json()["id"])


def make(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Create an object as the administrator."""
    response = service().post(path, json=body, headers={"Authorization": f"Bearer {administrator_token()}"})
    made: dict[str, Any] = response.raise_for_status().json()
    return made


@schemathesis.auth(refresh_interval=None)
class SignedIn:
    """Signs the administrator in."""

    def get(self, _case: schemathesis.Case[Any], _context: schemathesis.AuthContext) -> str:
        return f"Bearer {administrator_token()}"

    def set(self, case: schemathesis.Case[Any], data: str, _context: schemathesis.AuthContext) -> None:
        case.headers["Authorization"] = data


@schemathesis.hook
def before_load_schema(_context: schemathesis.HookContext, schema: dict[str, Any]) -> None:
    # Most filters of the lists have the same few forms. Testing every filter would be most of the cases, so each form
    # is tested in one list; test_filters.py tests all filters.
    seen: set[str] = set()
    for path in schema["paths"].values():
        parameters = [
            each for each in path.get("get", {}).get("parameters", []) if each["name"] not in COVERED_ELSEWHERE
        ]
        if len(parameters) > MANY:
            parameters = [each for each in parameters if _is_new(each, seen)]
        if "get" in path:
            path["get"]["parameters"] = parameters


def _is_new(parameter: dict[str, Any], seen: set[str]) -> bool:
    form = {name: value for name, value in parameter["schema"].items() if name not in {"title", "examples"}}
    text = json.dumps([parameter.get("description"), form], sort_keys=True)
    is_new = text not in seen
    seen.add(text)
    return is_new or parameter["required"]


@schemathesis.hook
def filter_case(_context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    if len(urlencode(case.query, doseq=True)) > MAX_QUERY:
        return False
    # Otherwise most cases of the coverage phase would vary the country of an object or the members of items of a batch.
    is_place = isinstance(case.body, dict) and "country" in case.body
    is_batch = case.path.endswith("/bulk")
    data = case.meta and case.meta.phase.data
    is_one_of_many = is_batch or (is_place and getattr(data, "scenario", None) is CoverageScenario.VALID_OBJECT)
    return not (isinstance(data, CoveragePhaseData) and is_one_of_many) or next(_places) % EVERY == 0


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]) -> None:
    number = next(_numbers)
    _quote_tags(case)
    # Each request is a new one, so it needs a new key.
    if "Idempotency-Key" in case.headers and not _is_negative(case, ParameterLocation.HEADER):
        case.headers["Idempotency-Key"] = f"generated-{number}"
    if case.path in SIGNING_OUT and case.headers.get("Authorization", "").startswith("Bearer ey"):
        case.headers["Authorization"] = f"Bearer {sign_in(OTHER)['access_token']}"
    if case.method == "DELETE" and number % 2 and not _is_negative(case, ParameterLocation.PATH):
        case.path_parameters |= _own_parameters(case.path)
    protected = {str(id_of(ADMINISTRATOR)), str(id_of(OTHER))}
    if case.path in ONE_USER and case.method != "GET" and str(case.path_parameters.get("reference")) in protected:
        case.path_parameters["reference"] = THIRD_USER
    if isinstance(case.body, dict) and case.meta is not None and not _is_negative(case, ParameterLocation.BODY):
        body = _free_keys(_one_form(case.body, number), case.path, number)
        if "reference" in case.path_parameters and number % 4:
            # The first objects are above all others, so most moves would form a cycle.
            for name in ("parent_id", "manager_id"):
                body.pop(name, None)
        case.body = body | (_right_secrets(case.path) if number % 2 else {})


def _quote_tags(case: schemathesis.Case[Any]) -> None:
    """Restore the quotation marks of tags, which the coverage phase removes, because it decodes the header as JSON."""
    if case.meta is not None and case.meta.generation.mode.is_positive:
        for name in ("If-Match", "If-None-Match"):
            if re.fullmatch("[0-9]+", case.headers.get(name, "")):
                case.headers[name] = f'"{case.headers[name]}"'


def _is_negative(case: schemathesis.Case[Any], location: ParameterLocation) -> bool:
    return case.meta is not None and case.meta.is_negative_at(location)


def _own_parameters(path: str) -> dict[str, int]:
    """Return parameters of the path that name a session or token which the caller can end."""
    match path.removeprefix("/api/v1"):
        case "/auth/sessions/{session}":
            token = sign_in(OTHER)["access_token"]
            return {"session": int(jwt.decode(token, options={"verify_signature": False})["sid"])}
        case "/users/me/tokens/{token}":
            return {"token": int(make("/users/me/tokens", {"name": "To be revoked", "scopes": ["admin"]})["id"])}
    return {}


def _right_secrets(path: str) -> dict[str, str]:
    """Return members with right passwords and tokens for a body, because generated ones are always wrong."""
    match path.removeprefix("/api/v1"):
        case "/auth/token":
            return {"username": OTHER, "password": PASSWORD, "scope": "processes:read"}
        case "/auth/refresh":
            return {"refresh_token": str(sign_in(OTHER)["refresh_token"])}
        case "/auth/set-password":
            link = make(f"/users/{id_of(OTHER)}/password-links")
            return {"token": str(link["token"]), "password": PASSWORD}
        case "/users/me/password":
            return {"old_password": PASSWORD, "new_password": PASSWORD}
    return {}


def _one_form(body: dict[str, Any], number: int) -> dict[str, Any]:
    """Keep only one of the two forms of links, and remove a coordinate without the other."""
    forms = {f"{link}s" if number % 2 else f"{link}_ids" for link in LINKS if {f"{link}s", f"{link}_ids"} <= set(body)}
    if ("latitude" in body) != ("longitude" in body):
        forms |= {"latitude", "longitude"}
    return {name: value for name, value in body.items() if name not in forms}


def _free_keys(body: dict[str, Any], path: str, number: int) -> dict[str, Any]:
    """Replace keys that an earlier request to this path has used."""
    changed = dict(body)
    for name in KEYS:
        value = body.get(name)
        if not isinstance(value, str):
            continue
        if (path, name, value.lower()) in _used:
            changed[name] = f"free-{number}@register.example" if name == "email" else f"free-{number}"
        _used.add((path, name, value.lower()))
    return changed
