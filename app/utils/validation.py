"""Pydantic's errors in our own words: a pointer and the fault, never the value."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from app.utils.exceptions import Fault, InvalidContent

# An answer that lists every fault of a hostile body would be larger than the body.
MAX_FAULTS = 100

# Of these Pydantic's words are about Python, with the name of one of our classes.
_NO_OBJECT = {"model_type", "model_attributes_type"}
_AN_OBJECT = "Input should be an object"
# Of a password or token these words would be about the items of a value, and tell how many were sent.
_OF_SECRETS = {
    "too_short": "Text should have at least {min_length} characters",
    "too_long": "Text should have at most {max_length} characters",
}

_SOURCES: dict[Any, Literal["body", "query", "path", "header"]] = {
    "body": "body",
    "query": "query",
    "path": "path",
    "header": "header",
}


def invalid_content(error: ValidationError) -> InvalidContent:
    """Return the 422 for a body that a service validated."""
    details = error.errors(include_url=False, include_input=False)
    faults = [_fault("body", each["loc"], each) for each in details[:MAX_FAULTS]]
    return InvalidContent(summary(len(details)), errors=faults)


def invalid_request(details: Sequence[Mapping[str, Any]]) -> InvalidContent:
    """Return the 422 for a request; the locations begin with `body`, `query`, `path` or `header`."""
    faults = [_fault(_SOURCES[each["loc"][0]], each["loc"][1:], each) for each in details[:MAX_FAULTS]]
    return InvalidContent(summary(len(details)), errors=faults)


def json_pointer(location: Iterable[Any]) -> str:
    """Return a location as a JSON pointer (RFC 6901), with surrogates replaced."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in parts).encode("utf-8", "replace").decode()


def _fault(
    source: Literal["body", "query", "path", "header"], location: Iterable[Any], error: Mapping[str, Any]
) -> Fault:
    # A fault between members is placed at one of them.
    context = error.get("ctx", {})
    member = context.get("member")
    detail = _AN_OBJECT if error["type"] in _NO_OBJECT else error["msg"]
    if context.get("field_type") == "Value" and error["type"] in _OF_SECRETS:
        detail = _OF_SECRETS[error["type"]].format_map(context)
    return Fault(json_pointer([*location, member] if member else location), error["type"], detail, source)


def summary(count: int, most: int = MAX_FAULTS) -> str:
    """Return how many faults a request has, of which `most` are told."""
    if count > most:
        return f"The request has {count} faults, of which these are the first {most}."
    return "The request has a fault." if count == 1 else f"The request has {count} faults."
