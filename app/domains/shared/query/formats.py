"""The media types in which a list is sent, and how a client's `Accept` header chooses one."""

from functools import lru_cache
from typing import Literal

from fastapi import Request

from app.utils.exceptions import NotAcceptable

Format = Literal["json", "ndjson", "csv"]
# The first of those that are equally welcome is given.
MEDIA_TYPES: dict[Format, str] = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv"}


def wanted_format(request: Request) -> Format:
    """Return what suits the client best (RFC 9110, section 12.5.1). Raises `NotAcceptable` when nothing does."""
    return _preferred(",".join(request.headers.getlist("accept")) or "*/*")


@lru_cache(maxsize=32)
def _preferred(accept: str) -> Format:
    welcome: dict[Format, float] = {name: _quality(media_type, accept) for name, media_type in MEDIA_TYPES.items()}
    best = max(welcome, key=lambda name: welcome[name])
    if not welcome[best]:
        raise NotAcceptable(f"A list comes as {', '.join(MEDIA_TYPES.values())}.")
    return best


def _quality(media_type: str, accept: str) -> float:
    """Return how welcome a media type is: what the most specific range says that has it."""
    ranges = {media_type: 2, f"{media_type.partition('/')[0]}/*": 1, "*/*": 0}
    found = (-1, 0.0)
    for each in accept.split(","):
        name, *parameters = (part.strip().lower() for part in each.split(";"))
        if name in ranges:
            found = max(found, (ranges[name], _weight(parameters)))
    return found[1]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0 <= weight <= 1 else 0.0
    return 1.0
