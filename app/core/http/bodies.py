"""Bodies of requests: read within limits, as strict JSON, and large ones a few at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from functools import lru_cache
from typing import Any

from anyio import to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from app.core.http.strict_json import parse_json
from app.utils.exceptions import BadRequest, ContentTooLarge, LargeBodiesBusy

_INLINE_PARSE_BYTES = 256 * 1024
# All that signing in needs. To find every fault of a whole mebibyte takes a second, in which nobody else is answered.
MAX_ANONYMOUS_BYTES = 16 * 1024

# What JSON of so many signs becomes takes up to 200 MB.
MAX_JSON_TOKENS = 1_000_000
_COUNT_CHUNK_BYTES = 1024 * 1024
MAX_LARGE_BODIES = 2


class StrictRequest(Request):
    """A request whose body must be JSON as RFC 8259 and the house rules have it.

    `limit` is the most bytes that it may have.
    """

    def __init__(self, scope: Scope, receive: Receive, limit: int) -> None:
        super().__init__(scope, receive)
        self._limit = limit

    async def body(self) -> bytes:
        """Return the body, read once.

        Raises `ContentTooLarge` as soon as it is known to be longer than the settings allow, before it is read if the
        client declares its length, and `BadRequest` when the client goes away before the end.
        """
        if not hasattr(self, "_body"):
            limit = self._limit
            if not hasattr(self.state, "caller"):
                limit = min(limit, MAX_ANONYMOUS_BYTES)
            declared = self.headers.get("content-length", "")
            if declared.isdecimal() and int(declared) > limit:
                raise ContentTooLarge(_too_large(limit))
            self._body = await self._read(limit)
        return self._body

    async def _read(self, limit: int) -> bytes:
        body = bytearray()
        try:
            async for chunk in self.stream():
                body += chunk
                if len(body) > limit:
                    raise ContentTooLarge(_too_large(limit))
        except ClientDisconnect as error:
            raise BadRequest("The body ends too early.") from error
        return bytes(body)

    async def json(self) -> Any:
        """Return the parsed body.

        Raises `json.JSONDecodeError` for what is not JSON.
        """
        body = await self.body()
        # What takes long is read in a thread, where others have their turn meanwhile.
        return parse_json(body) if len(body) <= _INLINE_PARSE_BYTES else await to_thread.run_sync(parse_json, body)


class LargeBodyLimiter:
    """The large bodies that a process works at. What is parsed takes many times the memory of its text."""

    def __init__(self) -> None:
        self._free = MAX_LARGE_BODIES

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a place. Raises `LargeBodiesBusy` when there is none."""
        if not self._free:
            raise LargeBodiesBusy
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


def reject_too_many_tokens(body: bytes) -> None:
    """Raise `ContentTooLarge` for JSON of so many values that they would not find room: `{}` takes a hundred bytes."""
    count = 0
    for start in range(0, len(body), _COUNT_CHUNK_BYTES):
        count += sum(body.count(sign, start, start + _COUNT_CHUNK_BYTES) for sign in (b"{", b"[", b","))
        if count > MAX_JSON_TOKENS:
            detail = f"A body of JSON may have at most {MAX_JSON_TOKENS} opening brackets and commas, also within text."
            raise ContentTooLarge(detail)


@lru_cache(maxsize=64)  # clients have few ways to say it
def media_type(content_type: str | None) -> str | None:
    """Return the type that a `Content-Type` names; None of text that is not in UTF-8, and of none at all."""
    if content_type is None:
        return None
    message = Message()
    message["content-type"] = content_type
    in_utf8 = str(message.get_param("charset", "utf-8")).lower() in {"utf-8", "utf8"}
    return message.get_content_type() if in_utf8 else None


def _too_large(limit: int) -> str:
    return f"A body may have at most {limit} bytes."
