"""Pydantic's errors as faults: a pointer, a code and a text of this service, never the value."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pydantic import ValidationError

from app.utils.exceptions import Fault, InvalidContent, Source
from app.utils.fault_codes import PYDANTIC_TEXTS, UNKNOWN_TYPE_TEXT, pattern_text
from app.utils.wording import counted, shortened

# A response that lists every fault of a hostile body would be larger than the body.
MAX_FAULTS = 100
# The name of an unknown member can be as long as the body. Names of fields and columns are shorter.
MAX_POINTER_PART = 200

# Pydantic's error types of names, which do not concern the value.
_NAME_ERRORS = frozenset({"missing", "extra_forbidden"})
_SOURCES: dict[Any, Source] = {"body": "body", "query": "query", "path": "path", "header": "header"}


def invalid_content(error: ValidationError) -> InvalidContent:
    """Return the 422 for a body that a service validated."""
    return InvalidContent(summary(error.error_count()), errors=tuple(islice(faults_of(error), MAX_FAULTS)))


def faults_of(error: ValidationError) -> Iterator[Fault]:
    """Yield the faults of a body that a service validated."""
    for each in error.errors(include_url=False):
        yield _fault("body", each["loc"], each)


def invalid_request(details: Sequence[Mapping[str, Any]]) -> InvalidContent:
    """Return the 422 for a request; the locations begin with `body`, `query`, `path` or `header`."""
    faults = [_fault(_SOURCES[each["loc"][0]], each["loc"][1:], each) for each in details[:MAX_FAULTS]]
    return InvalidContent(summary(len(details)), errors=faults)


def json_pointer(location: Iterable[Any]) -> str:
    """Return a location as a JSON pointer (RFC 6901), with surrogates replaced and long names cut."""
    parts = (shortened(str(part), MAX_POINTER_PART).replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in parts).encode("utf-8", "replace").decode()


def _fault(source: Source, location: Sequence[Any], error: Mapping[str, Any]) -> Fault:
    # A fault between members is placed at one of them.
    member = error.get("ctx", {}).get("member")
    pointer = json_pointer([*location, member] if member else location)
    # One code for a null that is not allowed, whatever the type that the schema requires.
    if error["type"] not in _NAME_ERRORS and error.get("input", "") is None:
        return Fault.of(pointer, "null_not_allowed", source=source)
    return Fault(pointer, error["type"], error_text(error), source)


def error_text(error: Mapping[str, Any]) -> str:
    """Return this service's text for an error that Pydantic or a validator raised."""
    kind, context = error["type"], error.get("ctx", {})
    if "text" in context:  # raised by a validator, through `fault_codes.invalid`
        return str(context["text"])
    if kind not in PYDANTIC_TEXTS:
        return UNKNOWN_TYPE_TEXT
    # The length of a secret is in characters, although Pydantic counts items of a value.
    is_secret = context.get("field_type") == "Value"
    template = PYDANTIC_TEXTS.get(f"{kind}:secret", PYDANTIC_TEXTS[kind]) if is_secret else PYDANTIC_TEXTS[kind]
    return template.format_map(_values(context))


def _values(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a text's placeholders, given the context of Pydantic's error."""
    values: dict[str, Any] = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in context.items()
    }
    limit = values.get("max_length", values.get("min_length"))
    if limit is not None:
        values |= {"characters": counted(limit, "character"), "items": counted(limit, "item")}
    if "pattern" in values:
        values["format"] = pattern_text(values["pattern"])
    return values


def summary(count: int, max_listed: int = MAX_FAULTS) -> str:
    """Return a sentence with the number of faults, or that there are more than the `max_listed` first ones."""
    if count > max_listed:
        return f"The request has more than {counted(max_listed, 'error')}. The first {max_listed:,} are listed."
    return f"The request has {counted(count, 'error')}."
