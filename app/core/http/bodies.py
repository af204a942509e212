"""Request bodies: read within limits, parsed as strict JSON, and large ones a few at a time."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from app.core.http.strict_json import parse_json
from app.core.places import SharedPlaces
from app.core.threads import run_in_thread
from app.utils.exceptions import BadRequest, ContentTooLarge, LargeBodiesBusy, UnsupportedMediaType
from app.utils.request_context import current_user_id
from app.utils.unknown_members import without_surplus
from app.utils.wording import counted

_INLINE_PARSE_BYTES = 256 * 1024
# A shorter body has at most a few hundred unknown members.
_MAX_UNLIMITED_BYTES = 4 * 1024
# Enough for signing in. Validating a whole mebibyte blocks the event loop for a second.
MAX_ANONYMOUS_BYTES = 16 * 1024

# Parsing this many JSON tokens needs up to 200 MB.
MAX_JSON_TOKENS = 1_000_000
_COUNT_CHUNK_BYTES = 1024 * 1024
MAX_LARGE_BODIES = 2
# The part of each body that does not count among the unfinished ones, so that ordinary requests are never rejected.
FREE_BODY_BYTES = 64 * 1024
# The last values are kept.
MAX_CONTENT_TYPE_LENGTH = 200
# `media-type` of RFC 9110, sections 8.3.1 and 5.6.6.
_TCHARS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_PARAMETER = rf"({_TCHARS})=({_TCHARS}|{_QUOTED})"
_CONTENT_TYPE = re.compile(rf"({_TCHARS}/{_TCHARS})((?:[ \t]*+;[ \t]*+(?:{_PARAMETER})?+)*+)[ \t]*+")
_PARAMETERS = re.compile(_PARAMETER)
_ESCAPE = re.compile(r"\\(.)")
# More digits are no length of a body, and Python parses a few thousand at most.
_MAX_LENGTH_DIGITS = 18


class StrictRequest(Request):
    """A request whose body must be strict JSON (`parse_json`).

    `limit` is its maximum length in bytes. Unknown members of an object for `model` are left out once there are more
    than a response lists.
    """

    def __init__(self, scope: Scope, receive: Receive, limit: int, model: type[BaseModel] | None = None) -> None:
        super().__init__(scope, receive)
        self._limit = limit
        self._model = model

    async def body(self) -> bytes:
        """Return the body, read once.

        Raises `ContentTooLarge` as soon as the body exceeds its limit, before it is read if the client declares its
        length, `LargeBodiesBusy` or `CallerBusy` if the process holds too many bytes of incomplete bodies, of all users
        or of this one, and `BadRequest` if the client disconnects before the end.
        """
        if not hasattr(self, "_body"):
            limit = self._limit
            if not hasattr(self.state, "caller"):
                limit = min(limit, MAX_ANONYMOUS_BYTES)
            declared = self.headers.get("content-length", "")
            if declared.isdecimal() and (len(declared) > _MAX_LENGTH_DIGITS or int(declared) > limit):
                raise ContentTooLarge(_too_large(limit))
            self._body = await self._read(limit)
        return self._body

    async def _read(self, limit: int) -> bytes:
        # A single growing buffer would be moved often and leave gaps in memory; tiny chunks would take more memory.
        parts = [bytearray()]
        size = 0
        unfinished: UnfinishedBodies = self.app.state.unfinished_bodies
        try:
            with unfinished.share() as grow_to:
                async for chunk in self.stream():
                    if len(parts[-1]) >= FREE_BODY_BYTES:
                        parts.append(bytearray())
                    parts[-1] += chunk
                    size += len(chunk)
                    if size > limit:
                        raise ContentTooLarge(_too_large(limit))
                    grow_to(size)
        except ClientDisconnect as error:
            raise BadRequest("The body ends before its declared length.") from error
        return b"".join(parts)

    async def disconnect(self) -> None:
        """Wait until the client disconnects; only after the body has been read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def json(self) -> Any:
        """Return the parsed body.

        Raises `json.JSONDecodeError` if it is not strict JSON.
        """
        body = await self.body()
        # A long body is parsed in a thread, so that the event loop serves other requests meanwhile.
        value = parse_json(body) if len(body) <= _INLINE_PARSE_BYTES else await run_in_thread(parse_json, body)
        if self._model is not None and len(body) > _MAX_UNLIMITED_BYTES:
            return without_surplus(self._model, value)
        return value


class UnfinishedBodies:
    """Limits the bytes that a process holds of bodies which have not arrived completely, and half of them per user.

    Otherwise clients that send large bodies slowly would fill the memory, or those of one user would keep others from
    sending theirs. Anonymous bodies are too short to count.
    """

    def __init__(self, limit: int) -> None:
        self._bytes = SharedPlaces(limit, LargeBodiesBusy, share=limit // 2)

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes the size of a growing body.

        The function raises `LargeBodiesBusy` beyond the limit, and `CallerBusy` beyond the share of the request's user.
        """
        user = current_user_id()
        held = 0

        def grow_to(size: int) -> None:
            nonlocal held
            more = max(0, size - FREE_BODY_BYTES) - held
            if more:
                self._bytes.take(user, more)
                held += more

        try:
            yield grow_to
        finally:
            if held:
                self._bytes.give_back(user, held)


def large_body_places() -> SharedPlaces:
    """Return the places for the large bodies of a process. A parsed body takes many times the memory of its text."""
    return SharedPlaces(MAX_LARGE_BODIES, LargeBodiesBusy)


def reject_too_many_tokens(body: bytes) -> None:
    """Raise `ContentTooLarge` for JSON whose values would need too much memory: `{}` takes a hundred bytes."""
    count = 0
    for start in range(0, len(body), _COUNT_CHUNK_BYTES):
        count += sum(body.count(token, start, start + _COUNT_CHUNK_BYTES) for token in (b"{", b"[", b","))
        if count > MAX_JSON_TOKENS:
            detail = f"A JSON body may have at most {MAX_JSON_TOKENS:,} opening brackets and commas, strings included."
            raise ContentTooLarge(detail)


def media_type(content_type: str | None) -> str | None:
    """Return the media type of a `Content-Type` in lower case, or None if it is absent or its charset is not UTF-8.

    Raises `UnsupportedMediaType` for more than `MAX_CONTENT_TYPE_LENGTH` characters, and for other syntax than that of
    RFC 9110, section 8.3.1.
    """
    if content_type is None:
        return None
    if len(content_type) > MAX_CONTENT_TYPE_LENGTH:
        raise UnsupportedMediaType(f"Content-Type may have at most {counted(MAX_CONTENT_TYPE_LENGTH, 'character')}.")
    return _media_type(content_type)


@lru_cache(maxsize=64)  # clients send few different values
def _media_type(content_type: str) -> str | None:
    match = _CONTENT_TYPE.fullmatch(content_type)
    if match is None:
        raise UnsupportedMediaType("Content-Type must be a media type of RFC 9110, such as application/json.")
    for name, value in _PARAMETERS.findall(match[2]):
        # With an asterisk (RFC 8187), which is not valid here, but may be meant as the charset.
        is_charset = name.lower().partition("*")[0] == "charset"
        if is_charset and _ESCAPE.sub(r"\1", value).strip('"').lower() not in {"utf-8", "utf8"}:
            return None
    return match[1].lower()


def _too_large(limit: int) -> str:
    return f"The body may have at most {counted(limit, 'byte')}."
