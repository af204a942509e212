"""Content that stays the same while the process runs, compressed in advance."""

import gzip
from collections.abc import Callable
from functools import cached_property
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response

from app.domains.shared.reading.preconditions import Preconditions

_GZIP = "gzip"
# The weights of a content coding that the client does not accept (RFC 9110, section 12.4.2).
_ZERO_WEIGHTS = frozenset({"q=0", "q=0.", "q=0.0", "q=0.00", "q=0.000"})


class StaticContent:
    """Content with and without compression, each with an entity tag against which browsers revalidate.

    `build` is called once, by the first access to `representations`. The lifespan of the application makes this access,
    so that no request waits for it.
    """

    def __init__(self, build: Callable[[], bytes], media_type: str) -> None:
        self._build = build
        self._media_type = media_type

    @cached_property
    def representations(self) -> dict[str | None, tuple[bytes, dict[str, str]]]:
        """The body and the headers of each content coding; the key None means no coding."""
        body = self._build()
        # Without a time, so that all processes send the same bytes.
        bodies = {None: body, _GZIP: gzip.compress(body, mtime=0)}
        return {coding: (bodies[coding], _headers(bodies[coding], coding)) for coding in bodies}

    async def respond(self, request: Request) -> Response:
        """Return the content, or 304 if the client has it.

        Raises `BadRequest` for malformed conditions, and `PreconditionFailed` if `If-Match` has other entity tags.
        """
        conditions = await Preconditions.provide(request)
        accepts = accepts_gzip(",".join(request.headers.getlist("accept-encoding")))
        body, headers = self.representations[_GZIP if accepts else None]
        if conditions.is_current(headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=self._media_type)


def _headers(body: bytes, coding: str | None) -> dict[str, str]:
    # Browsers store it, but revalidate it, because an update of the service may change it.
    headers = {
        "ETag": f'"{sha256(body).hexdigest()[:32]}"',
        "Cache-Control": "no-cache",
        "Vary": "Accept-Encoding",
    }
    return headers if coding is None else headers | {"Content-Encoding": coding}


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether `Accept-Encoding` permits gzip (RFC 9110, section 12.5.3); an absent header does not."""
    accepted = {}
    for coding in accept_encoding.lower().split(","):
        name, _, weight = coding.partition(";")
        accepted[name.strip()] = "".join(weight.split()) not in _ZERO_WEIGHTS
    return accepted.get(_GZIP, accepted.get("*", False))
