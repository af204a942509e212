"""How requests reach handlers: within limits, for hosts of ours, with or without a trailing slash, by whom they may,
in strict JSON."""

import inspect
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from email.message import Message as MimeHeaders
from functools import wraps
from typing import Any, ClassVar, Literal, get_args, get_origin
from urllib.parse import urlsplit

from anyio import to_thread
from fastapi import Request, Response
from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.database import in_transaction
from app.core.hints import nearest
from app.core.permissions import DECLARATION
from app.core.security import Authenticator
from app.core.strict_json import parse_json
from app.utils.exceptions import (
    BadRequest,
    ContentTooLarge,
    Fault,
    HeadersTooLarge,
    LargeBodiesBusy,
    MethodNotAllowed,
    UnsupportedMediaType,
)
from app.utils.problems import problem_response
from app.utils.validation import MOST_FAULTS, json_pointer

_MOST_HINTS = 10
_PARSED_AT_ONCE = 256 * 1024
_OPEN_TO_ANY_HOST = ("/health", "/metrics")
# All that signing in needs. To find every fault of a whole mebibyte takes a second, in which nobody else is answered.
MOST_ANONYMOUS_BYTES = 16 * 1024

# What JSON of so many signs becomes takes up to 200 MB.
MOST_SIGNS = 1_000_000
_COUNTED_AT_ONCE = 1024 * 1024
MOST_LARGE_BODIES = 2

# How an argument of an endpoint is found.
Argument = Callable[[Request], Awaitable[Any]]


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
                limit = min(limit, MOST_ANONYMOUS_BYTES)
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
        # What takes long is read in a thread, where others have their turn meanwhile.
        return parse_json(body) if len(body) <= _PARSED_AT_ONCE else await to_thread.run_sync(parse_json, body)


class UndeclaredPermissionError(RuntimeError):
    """A route does not say who may use it, so the service must not start."""


class StrictRoute(APIRoute):
    """A route that lets in whom it is for and takes no parameter it does not know.

    It reads its body with `StrictRequest`, as JSON unless it declares a form. `body_limit` is the setting of how many
    bytes that may have. A route that takes files says so in `file_types`, and its handler reads what is in them.
    """

    body_limit: ClassVar[str] = "max_body_bytes"
    file_types: ClassVar[tuple[str, ...]] = ()

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        documented, self.dependant = self.dependant, _with_own_dependencies(self.dependant)
        # Other methods than GET may have to be answered once only.
        whole = _whole_handler(self.dependant) if self.methods == {"GET"} else None
        handler = whole or super().get_route_handler()
        self.dependant = documented
        permission = declared_permission(self)
        takes_several = dict(_query_parameters(documented))
        known = tuple(takes_several)
        media_types = self.file_types or _media_types(self)
        named = " or ".join(media_types if self.file_types else media_types[:1])

        async def strict_handler(plain: Request) -> Response:
            # Before anything else is looked at: who may not call is told nothing about the request.
            authenticator: Authenticator = plain.app.state.authenticator
            await authenticator.authorise(plain, permission)
            if plain.scope["query_string"]:
                _refuse_unknown(plain, known)
                _refuse_repeated(plain, takes_several)
            if self.body_field is None and not self.file_types:
                return await in_transaction(plain, handler)
            limit: int = getattr(plain.app.state.settings, self.body_limit)
            request = StrictRequest(plain.scope, plain.receive, limit)
            # Read here: FastAPI would turn what goes wrong while it reads into an error of its own.
            if await request.body() and not _is_one_of(media_types, request.headers.get("content-type")):
                raise UnsupportedMediaType(f"Send the body as {named} in UTF-8.")
            return await self.answer(request, handler)

        return strict_handler

    async def answer(self, request: StrictRequest, handler: Callable[[Request], Awaitable[Response]]) -> Response:
        """Answer a request whose body is read, and not yet parsed."""
        return await in_transaction(request, handler)


class Room:
    """The large bodies that a process works at. What is parsed takes many times the memory of its text."""

    def __init__(self) -> None:
        self._free = MOST_LARGE_BODIES

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place. Raises `LargeBodiesBusy` when there is none."""
        if not self._free:
            raise LargeBodiesBusy
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class LargeBodyRoute(StrictRoute):
    """A route for many objects at once: bodies larger than all others may be are let in a few at a time."""

    body_limit = "max_bulk_bytes"

    async def answer(self, request: StrictRequest, handler: Callable[[Request], Awaitable[Response]]) -> Response:
        """Answer a request whose body is read. Raises `ContentTooLarge` for too many values, and `LargeBodiesBusy`."""
        body = await request.body()
        if len(body) <= request.app.state.settings.max_body_bytes:
            return await super().answer(request, handler)
        if "json" in request.headers.get("content-type", ""):
            _refuse_too_many_values(body)
        room: Room = request.app.state.room
        with room.taken():
            return await super().answer(request, handler)


def _refuse_too_many_values(body: bytes) -> None:
    """Raise `ContentTooLarge` for JSON of so many values that they would not find room: `{}` takes a hundred bytes."""
    count = 0
    for start in range(0, len(body), _COUNTED_AT_ONCE):
        count += sum(body.count(sign, start, start + _COUNTED_AT_ONCE) for sign in (b"{", b"[", b","))
        if count > MOST_SIGNS:
            detail = f"A body of JSON may have at most {MOST_SIGNS} opening brackets and commas, also within text."
            raise ContentTooLarge(detail)


class _Refusal:
    """Refuses all methods but those that stand before it."""

    def __init__(self, allowed: str) -> None:
        self._allowed = allowed

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        raise MethodNotAllowed(f"This address knows only {self._allowed}.", headers={"Allow": self._allowed})


def only(path: str, *methods: str) -> Route:
    """Return the route that refuses all other methods, where the next routes would take the address for an object's."""
    return Route(path, _Refusal(", ".join(methods)))


def declared_permission(route: APIRoute) -> str:
    """Return what a route declares with `permissions.requires`. Raises `UndeclaredPermissionError`."""
    permission = (route.openapi_extra or {}).get(DECLARATION)
    if not isinstance(permission, str):
        raise UndeclaredPermissionError(f"{', '.join(route.methods or ())} {route.path} declares no permission")
    return permission


def _media_types(route: APIRoute) -> tuple[str, ...]:
    if route.body_field is not None and isinstance(route.body_field.field_info, Form):
        return ("application/x-www-form-urlencoded",)
    if "PATCH" in (route.methods or ()):
        return ("application/json", "application/merge-patch+json")
    return ("application/json",)


def _query_parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Yield the names of the query parameters that a route declares, one by one or as the fields of a model, each with
    whether it takes several values.
    """
    for field in dependant.query_params:
        model = _model_of(field)
        if model is None:
            yield field.alias, _is_list(field.field_info.annotation)
        else:
            yield from ((name, _is_list(member.annotation)) for name, member in model.model_fields.items())
    for inner in dependant.dependencies:
        yield from _query_parameters(inner)


def _with_own_dependencies(dependant: Dependant) -> Dependant:
    """Return what FastAPI is to run instead: an endpoint that calls its dependencies itself, and reads its models.

    FastAPI works out anew in every request what each dependency needs and how it is to be called, and looks for every
    field of a model of query parameters one by one. That took as long as everything else together.
    """
    endpoint = dependant.call
    assert endpoint is not None
    request_name = dependant.request_param_name or "request"
    passed = dependant.request_param_name is not None
    arguments = _arguments(dependant)
    if not arguments:
        return dependant

    @wraps(endpoint)
    async def call(**values: Any) -> Any:
        request = values[request_name] if passed else values.pop(request_name)
        for name, argument in arguments:
            values[name] = await argument(request)
        return await endpoint(**values)

    return replace(
        dependant,
        call=call,
        request_param_name=request_name,
        path_params=[field for field in dependant.path_params if not _is_text(field)],
        header_params=[field for field in dependant.header_params if not _is_text(field)],
        query_params=[field for field in dependant.query_params if _model_of(field) is None],
        dependencies=[inner for inner in dependant.dependencies if not _is_simple(inner)],
    )


def _whole_handler(dependant: Dependant) -> Callable[[Request], Coroutine[Any, Any, Response]] | None:
    """Return the endpoint itself, if nothing is left for FastAPI to do: no argument to find, no response to make."""
    call, request_name = dependant.call, dependant.request_param_name
    left = dependant.path_params + dependant.query_params + dependant.header_params + dependant.cookie_params
    left += dependant.body_params
    if left or dependant.dependencies or _special_parameters(dependant) or request_name is None:
        return None
    if call is None or call.__annotations__.get("return") is not Response:
        return None

    async def handler(request: Request) -> Response:
        response: Response = await call(**{request_name: request})
        return response

    return handler


def _special_parameters(dependant: Dependant) -> list[str]:
    names = (
        dependant.response_param_name,
        dependant.background_tasks_param_name,
        dependant.security_scopes_param_name,
        dependant.http_connection_param_name,
    )
    return [name for name in names if name]


def _arguments(dependant: Dependant) -> list[tuple[str, Argument]]:
    """Return the names of what is not FastAPI's to find, and how each is found."""
    models = [(field, _model_of(field)) for field in dependant.query_params]
    simple = [(inner.name, inner) for inner in dependant.dependencies if _is_simple(inner)]
    return [
        *((field.name, _text(field, "path_params")) for field in dependant.path_params if _is_text(field)),
        *((field.name, _text(field, "headers")) for field in dependant.header_params if _is_text(field)),
        *((name, _dependency(inner)) for name, inner in simple if name is not None),
        *((field.name, _reader(model)) for field, model in models if model is not None),
    ]


def _dependency(dependant: Dependant) -> Argument:
    call, request_name, arguments = dependant.call, dependant.request_param_name, _arguments(dependant)
    assert call is not None

    async def solve(request: Request) -> Any:
        values = {name: await argument(request) for name, argument in arguments}
        if request_name is not None:
            values[request_name] = request
        return await call(**values)

    return solve


def _is_simple(dependant: Dependant) -> bool:
    """Whether a dependency is a coroutine that needs nothing but the request, models, and others like it."""
    given = dependant.path_params + dependant.header_params + dependant.cookie_params + dependant.body_params
    given += [field for field in dependant.query_params if _model_of(field) is None]
    special = _special_parameters(dependant) or dependant.concurrency
    is_plain = not given and not special and inspect.iscoroutinefunction(dependant.call)
    return is_plain and all(map(_is_simple, dependant.dependencies))


def _reader(model: type[BaseModel]) -> Argument:
    repeated = {name for name, member in model.model_fields.items() if _is_list(member.annotation)}

    async def read(request: Request) -> Any:
        given = request.query_params
        values = {name: given.getlist(name) if name in repeated else given[name] for name in given}
        try:
            return model.model_validate(values)
        except ValidationError as error:
            faults = [fault | {"loc": ("query", *fault["loc"])} for fault in error.errors(include_url=False)]
            raise RequestValidationError(faults) from error

    return read


def _text(field: ModelField, place: Literal["path_params", "headers"]) -> Argument:
    default, name = field.get_default(), field.alias

    async def read(request: Request) -> Any:
        return getattr(request, place).get(name, default)

    return read


def _is_text(field: ModelField) -> bool:
    """Whether a parameter is whatever text stands there, so that there is nothing to check."""
    plain = field.field_info.annotation in (str, str | None) and not field.field_info.metadata
    return plain and field.field_info.alias in (None, field.alias) and "_" not in field.alias


def _model_of(field: ModelField) -> type[BaseModel] | None:
    annotation: Any = field.field_info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(_is_list(argument) for argument in get_args(annotation))


def _refuse_unknown(request: Request, known: Sequence[str]) -> None:
    """Raise `BadRequest` for parameters that the route does not know: a typo must not do more than was asked for."""
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        # To find the nearest of a hundred takes milliseconds, so it is not done of each of many.
        hints = {name: _hint(nearest(name, known), known) for name in unknown[:_MOST_HINTS]}
        hints = dict.fromkeys(unknown[:MOST_FAULTS], ".") | hints
        faults = [
            Fault(json_pointer([name]), "unknown_parameter", f"There is no such parameter{hint}", "query")
            for name, hint in hints.items()
        ]
        raise BadRequest(f"There is no parameter {_printable(unknown[0])} here{hints[unknown[0]]}", errors=faults)


def _refuse_repeated(request: Request, takes_several: Mapping[str, bool]) -> None:
    """Raise `BadRequest` for parameters of one value that have more: none of those may be dropped in silence."""
    given = request.query_params
    if len(given.multi_items()) == len(given):
        return
    repeated = [name for name in given if not takes_several[name] and len(given.getlist(name)) > 1]
    if repeated:
        detail = "This parameter takes one value."
        faults = [Fault(json_pointer([name]), "repeated_parameter", detail, "query") for name in repeated]
        raise BadRequest(f"The parameter {repeated[0]} takes one value, but has more.", errors=faults)


def _printable(name: str) -> str:
    return "".join(character for character in name[:64] if character.isprintable())


def _hint(near: str | None, known: Sequence[str]) -> str:
    if near:
        return f"; did you mean {near}?"
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
        scope.setdefault("state", {})["head"] = True  # what costs much need not be made
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


def _is_one_of(media_types: Container[str], content_type: str | None) -> bool:
    if content_type is None:
        return False
    message = MimeHeaders()
    message["content-type"] = content_type
    if message.get_content_type() not in media_types:
        return False
    return str(message.get_param("charset", "utf-8")).lower() in {"utf-8", "utf8"}
