"""What Schemathesis cannot learn from the OpenAPI document: without it most valid requests would end early.

Only what was generated as valid is changed, and only so that it stays valid.
"""

from itertools import count
from typing import Any

import schemathesis
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import CoverageScenario

KEYS = ("code", "external_id", "email")
LINKS = ("department", "location", "resource", "role")

EVERY = 20

_numbers, _places = count(1), count()
_used: set[tuple[str, str, str]] = set()


@schemathesis.hook
def filter_case(_context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    # All of the 600 time zones and 250 countries, in every request that has one, would be half of all cases.
    is_place = isinstance(case.body, dict) and {"timezone", "country"} <= set(case.body)
    scenario = getattr(case.meta and case.meta.phase.data, "scenario", None)
    return not is_place or scenario is not CoverageScenario.VALID_OBJECT or next(_places) % EVERY == 0


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]) -> None:
    number = next(_numbers)
    # The simplest header is an empty one, and no version has an empty tag; now and then is enough.
    if case.headers.get("If-Match") == "" and number % 4:
        del case.headers["If-Match"]
    if isinstance(case.body, dict) and case.meta is not None and not case.meta.is_negative_at(ParameterLocation.BODY):
        body = _free_keys(_one_form(case.body, number), case.path, number)
        if "reference" in case.path_parameters and number % 4:
            body.pop("parent_id", None)  # the first objects are ancestors of all others: most moves would be cycles
        case.body = body


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
