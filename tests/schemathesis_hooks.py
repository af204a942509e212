"""What Schemathesis cannot learn from the OpenAPI document: without it most valid requests would end early.

Only what was generated as valid is changed, and only so that it stays valid. The exceptions are requests that would
take away the rights with which all the others are made; they get at somebody else.
"""

import json
import os
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
# Cursors are ours: whatever is invented is refused (test_cursors.py). With the others members are absent that the
# schema requires (test_fields.py).
TESTED_ELSEWHERE = ("cursor", "fields", "embed")
# The HTTP server refuses longer addresses in its own words, and many long texts together are such a one.
LONGEST_QUERY = 65_000

# An administrator makes the requests. Another user signs out, again and again.
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
def administrators_token() -> str:
    return str(sign_in(ADMINISTRATOR)["access_token"])


@cache
def id_of(email: str) -> int:
    response = service().get("/users/me", headers={"Authorization": f"Bearer {sign_in(email)['access_token']}"})
    return int(response.raise_for_status().json()["id"])


def make(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Make something as the administrator."""
    response = service().post(path, json=body, headers={"Authorization": f"Bearer {administrators_token()}"})
    made: dict[str, Any] = response.raise_for_status().json()
    return made


@schemathesis.auth(refresh_interval=None)
class SignedIn:
    """Signs the administrator in."""

    def get(self, _case: schemathesis.Case[Any], _context: schemathesis.AuthContext) -> str:
        return f"Bearer {administrators_token()}"

    def set(self, case: schemathesis.Case[Any], data: str, _context: schemathesis.AuthContext) -> None:
        case.headers["Authorization"] = data


@schemathesis.hook
def before_load_schema(_context: schemathesis.HookContext, schema: dict[str, Any]) -> None:
    # A few functions make the filters of all lists. Every filter of every list would be most of all cases, so that
    # each form of them is tried in one place; test_filters.py has all of them.
    seen: set[str] = set()
    for path in schema["paths"].values():
        parameters = [
            each for each in path.get("get", {}).get("parameters", []) if each["name"] not in TESTED_ELSEWHERE
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
    if len(urlencode(case.query, doseq=True)) > LONGEST_QUERY:
        return False
    # All of the 250 countries in every request that has one, and all of an object in every item of a batch, would be
    # most of all cases.
    is_place = isinstance(case.body, dict) and "country" in case.body
    is_batch = case.path.endswith("/bulk")
    data = case.meta and case.meta.phase.data
    is_one_of_many = is_batch or (is_place and getattr(data, "scenario", None) is CoverageScenario.VALID_OBJECT)
    return not (isinstance(data, CoveragePhaseData) and is_one_of_many) or next(_places) % EVERY == 0


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]) -> None:
    number = next(_numbers)
    # The simplest header is an empty one, and no version has an empty tag; now and then is enough.
    if case.headers.get("If-Match") == "" and number % 4 and not _is_negative(case, ParameterLocation.HEADER):
        del case.headers["If-Match"]
    # Each request is another one, so that its key is, too.
    if "Idempotency-Key" in case.headers and not _is_negative(case, ParameterLocation.HEADER):
        case.headers["Idempotency-Key"] = f"generated-{number}"
    if case.path in SIGNING_OUT and case.headers.get("Authorization", "").startswith("Bearer ey"):
        case.headers["Authorization"] = f"Bearer {sign_in(OTHER)['access_token']}"
    if case.method == "DELETE" and number % 2 and not _is_negative(case, ParameterLocation.PATH):
        case.path_parameters |= _living(case.path)
    protected = {str(id_of(ADMINISTRATOR)), str(id_of(OTHER))}
    if case.path in ONE_USER and case.method != "GET" and str(case.path_parameters.get("reference")) in protected:
        case.path_parameters["reference"] = THIRD_USER
    if isinstance(case.body, dict) and case.meta is not None and not _is_negative(case, ParameterLocation.BODY):
        body = _free_keys(_one_form(case.body, number), case.path, number)
        if "reference" in case.path_parameters and number % 4:
            body.pop("parent_id", None)  # the first objects are ancestors of all others: most moves would be cycles
        case.body = body | (_right_secrets(case.path) if number % 2 else {})


def _is_negative(case: schemathesis.Case[Any], location: ParameterLocation) -> bool:
    return case.meta is not None and case.meta.is_negative_at(location)


def _living(path: str) -> dict[str, int]:
    """Return the parameters of a path to something of the caller's that can be ended."""
    match path.removeprefix("/api/v1"):
        case "/auth/sessions/{session}":
            token = sign_in(OTHER)["access_token"]
            return {"session": int(jwt.decode(token, options={"verify_signature": False})["sid"])}
        case "/users/me/tokens/{token}":
            return {"token": int(make("/users/me/tokens", {"name": "To be revoked", "scopes": ["admin"]})["id"])}
    return {}


def _right_secrets(path: str) -> dict[str, str]:
    """Return what a body needs so that not only wrong passwords and tokens are tried."""
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
    """Leave links in one of their two forms, and coordinates together."""
    forms = {f"{link}s" if number % 2 else f"{link}_ids" for link in LINKS if {f"{link}s", f"{link}_ids"} <= set(body)}
    if ("latitude" in body) != ("longitude" in body):
        forms |= {"latitude", "longitude"}
    return {name: value for name, value in body.items() if name not in forms}


def _free_keys(body: dict[str, Any], path: str, number: int) -> dict[str, Any]:
    """Replace keys that an earlier request of this path has used."""
    changed = dict(body)
    for name in KEYS:
        value = body.get(name)
        if not isinstance(value, str):
            continue
        if (path, name, value.lower()) in _used:
            changed[name] = f"free-{number}@register.example" if name == "email" else f"free-{number}"
        _used.add((path, name, value.lower()))
    return changed
