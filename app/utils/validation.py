"""Pydantic's errors in our own words: a pointer and the fault, never the value."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import ValidationError

from app.utils.exceptions import Fault, InvalidContent

_SOURCES: dict[Any, Literal["body", "query", "path", "header"]] = {
    "body": "body",
    "query": "query",
    "path": "path",
    "header": "header",
}


def invalid_content(error: ValidationError) -> InvalidContent:
    """Return the 422 for a body that was checked by a service."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    return InvalidContent(_summary(len(details)), errors=[_fault("body", each["loc"], each) for each in details])


def invalid_request(details: Iterable[Mapping[str, Any]]) -> InvalidContent:
    """Return the 422 for a request; the locations begin with `body`, `query`, `path` or `header`."""
    faults = [_fault(_SOURCES[each["loc"][0]], each["loc"][1:], each) for each in details]
    return InvalidContent(_summary(len(faults)), errors=faults)


def json_pointer(location: Iterable[Any]) -> str:
    """Return a location as a JSON pointer (RFC 6901). Names that are no Unicode text are made so."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in parts).encode("utf-8", "replace").decode()


def _fault(
    source: Literal["body", "query", "path", "header"], location: Iterable[Any], error: Mapping[str, Any]
) -> Fault:
    return Fault(json_pointer(location), error["type"], error["msg"], source)


def _summary(count: int) -> str:
    return "The request has a fault." if count == 1 else f"The request has {count} faults."
