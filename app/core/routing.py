"""How requests reach handlers: within limits, for hosts of ours, with or without a trailing slash, in strict JSON."""

import difflib
import json
from collections.abc import Callable, Container, Coroutine, Iterator, Sequence
from email.message import Message as MimeHeaders
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.utils.exceptions import BadRequest, ContentTooLarge, Fault, HeadersTooLarge, UnsupportedMediaType
from app.utils.problems import problem_response
from app.utils.validation import MOST_FAULTS, json_pointer

_OPEN_TO_ANY_HOST = ("/health", "/metrics")


class StrictRequest(Request):
    """A request whose body must be JSON as RFC 8259 and the house rules have it."""

    async def body(self) -> bytes:
        """Return the body, read once.

        Raises `ContentTooLarge` as soon as it is known to be longer than the settings allow, before it is read if the
        client declares its length, and `BadRequest` when the client goes away before the end.
        """
        if not hasattr(self, "_body"):
            limit: int = self.app.state.settings.max_body_bytes
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

        Raises `json.JSONDecodeError`, which FastAPI turns into a validation error of type `json_invalid`, for bytes
        that are not UTF-8, a byte order mark, NaN and infinities, a member named twice, and what is nested too deep.
        """
        body = await self.body()
        try:
            return json.loads(body.decode(), object_pairs_hook=_unique_members, parse_constant=_refuse_constant)
        except json.JSONDecodeError:
            raise
        except UnicodeDecodeError as error:
            raise json.JSONDecodeError("Body is not UTF-8", "", 0) from error
        except RecursionError as error:
            raise json.JSONDecodeError("Nested too deep", "", 0) from error
        except ValueError as error:  # an integer of more digits than Python reads
            raise json.JSONDecodeError("Number too long", "", 0) from error


class StrictRoute(APIRoute):
    """A route that takes no parameter it does not know, reads its body with `StrictRequest`, and no other than JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        known = tuple(_query_parameters(self.dependant))
        subtypes = {"json", "merge-patch+json"} if "PATCH" in (self.methods or ()) else {"json"}

        async def strict_handler(plain: Request) -> Response:
            if plain.scope["query_string"]:
                _refuse_unknown(plain, known)
            if self.body_field is None:
                return await handler(plain)
            request = StrictRequest(plain.scope, plain.receive)
            # Read here: FastAPI would turn what goes wrong while it reads into an error of its own.
            if await request.body() and not _is_json(request.headers.get("content-type"), subtypes):
                raise UnsupportedMediaType("Send the body as application/json in UTF-8.")
            return await handler(request)

        return strict_handler


def _query_parameters(dependant: Dependant) -> Iterator[str]:
    """Yield the names of the query parameters that a route declares, one by one or as the fields of a model."""
    for field in dependant.query_params:
        annotation: Any = field.field_info.annotation
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        yield from annotation.model_fields if is_model else [field.alias]
    for inner in dependant.dependencies:
        yield from _query_parameters(inner)


def _refuse_unknown(request: Request, known: Sequence[str]) -> None:
    """Raise `BadRequest` for parameters that the route does not know: a typo must not do more than was asked for."""
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        hints = [_hint(name, known) for name in unknown]
        faults = [
            Fault(json_pointer([name]), "unknown_parameter", f"There is no such parameter{hint}", "query")
            for name, hint in zip(unknown, hints, strict=True)
        ]
        raise BadRequest(f"There is no parameter {_printable(unknown[0])} here{hints[0]}", errors=faults[:MOST_FAULTS])


def _printable(name: str) -> str:
    return "".join(character for character in name[:64] if character.isprintable())


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known are {', '.join(known)}." if known else "."


class HeaderLimitMiddleware:
    """Refuses requests with more header bytes than anybody needs: reading them costs time, line by line."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and sum(len(name) + len(value) for name, value in scope["headers"]) > self._limit:
            error = HeadersTooLarge(f"Headers may have at most {self._limit} bytes.")
            await problem_response(error, scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class TrustedHostsMiddleware:
    """Refuses requests for other hosts than ours; `*.example.com` stands for every host below.

    Probes and scrapes call by address, and may.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._above = tuple(host[1:] for host in self._hosts if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(_OPEN_TO_ANY_HOST) and not self._trusts(scope):
            error = BadRequest("This service does not answer to that host name.")
            await problem_response(error, scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _trusts(self, scope: Scope) -> bool:
        try:
            host = urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or ""
        except ValueError:
            return False
        return host in self._hosts or host.endswith(self._above)


class HeadMiddleware:
    """Answers HEAD wherever GET is answered, with the same headers and no body (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["method"] = "GET"
        try:
            await self._app(scope, receive, send_without_body)
        finally:
            scope["method"] = "HEAD"  # the log tells what was asked


class TrailingSlashMiddleware:
    """Lets a path with a trailing slash reach the route without it; a redirect would cost clients their body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope["path"] = scope["path"][:-1]
        await self._app(scope, receive, send)


def _too_large(limit: int) -> str:
    return f"A body may have at most {limit} bytes."


def _is_json(content_type: str | None, subtypes: Container[str]) -> bool:
    if content_type is None:
        return False
    message = MimeHeaders()
    message["content-type"] = content_type
    if message.get_content_maintype() != "application" or message.get_content_subtype() not in subtypes:
        return False
    return str(message.get_param("charset", "utf-8")).lower() in {"utf-8", "utf8"}


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise json.JSONDecodeError("Member named twice", "", 0)
    return members


def _refuse_constant(_name: str) -> Any:
    raise json.JSONDecodeError("NaN and infinities are not JSON", "", 0)
