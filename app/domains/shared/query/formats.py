"""The media types of responses and their negotiation by the `Accept` header."""

from functools import lru_cache
from typing import Literal

from fastapi import Request

from app.utils.exceptions import NotAcceptable
from app.utils.wording import counted, joined

Format = Literal["json", "ndjson", "csv"]
# Formats of equal quality are preferred in this order.
MEDIA_TYPES: dict[Format, str] = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv"}
ALL_FORMATS: tuple[Format, ...] = tuple(MEDIA_TYPES)
# Browsers send up to 200 characters. The last values are kept.
MAX_ACCEPT_LENGTH = 1_000


def negotiate_format(request: Request, available: tuple[Format, ...] = ALL_FORMATS) -> Format:
    """Return the client's preferred one of the available formats (RFC 9110, section 12.5.1).

    Raises `NotAcceptable` if the client accepts none, or for more than `MAX_ACCEPT_LENGTH` characters.
    """
    accept = ",".join(request.headers.getlist("accept")) or "*/*"
    if len(accept) > MAX_ACCEPT_LENGTH:
        raise NotAcceptable(f"Accept may have at most {counted(MAX_ACCEPT_LENGTH, 'character')}.")
    return _negotiate(accept, available)


def require_json(request: Request) -> None:
    """Check that the client accepts JSON, for a route without other formats. Raises `NotAcceptable`."""
    negotiate_format(request, ("json",))


@lru_cache(maxsize=32)
def _negotiate(accept: str, available: tuple[Format, ...]) -> Format:
    qualities = {name: _quality(MEDIA_TYPES[name], accept) for name in available}
    best = max(qualities, key=lambda name: qualities[name])
    if not qualities[best]:
        raise NotAcceptable(f"The response is available as {joined([MEDIA_TYPES[name] for name in available])}.")
    return best


def _quality(media_type: str, accept: str) -> float:
    """Return the quality of a media type: the weight of the most specific media range that matches it."""
    ranges = {media_type: 2, f"{media_type.partition('/')[0]}/*": 1, "*/*": 0}
    best = (-1, 0.0)
    for media_range in accept.split(","):
        name, *parameters = (part.strip().lower() for part in media_range.split(";"))
        if name in ranges:
            best = max(best, (ranges[name], _weight(parameters)))
    return best[1]


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
