"""Routes: who may use them, which parameters they take, and how their bodies are read."""

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import unquote_to_bytes

from fastapi import Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.params import Form
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from app.core.bodies import Room, StrictRequest, media_type, refuse_too_many_values
from app.core.database import run_again_if_aborted
from app.core.hints import hint
from app.core.permissions import DECLARATION
from app.core.query_models import query_models
from app.core.security import authorise
from app.utils.exceptions import (
    BadRequest,
    Fault,
    MethodNotAllowed,
    UnsupportedMediaType,
)
from app.utils.validation import MOST_FAULTS, json_pointer

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_MOST_HINTS = 10
# Of a body that is not compressed (RFC 9110, section 12.5.3).
_AS_IT_IS = "identity"


class UndeclaredPermissionError(RuntimeError):
    """A route does not say who may use it, so the service must not start."""


class KnownParameters:
    """The query parameters of a route, as the OpenAPI document and its query models declare them."""

    def __init__(self, route: APIRoute) -> None:
        self._route = route

    @cached_property
    def takes_several(self) -> dict[str, bool]:
        """Whether a parameter may be repeated, by its name."""
        paths = get_openapi(title="", version="", routes=[self._route])["paths"]
        return dict(_query_parameters(self._route, paths))


def learn_parameters(routes: Iterable[BaseRoute]) -> None:
    """Read the parameters of all strict routes at once: a request that is the first to need them takes 10 ms longer."""
    strict = [route for route in routes if isinstance(route, StrictRoute)]
    paths = get_openapi(title="", version="", routes=strict)["paths"]
    for route in strict:
        route.parameters.takes_several = dict(_query_parameters(route, paths))


def _query_parameters(route: APIRoute, paths: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the query parameters of a route, from the paths of an OpenAPI document and from its query models."""
    for method in route.methods or ():
        for parameter in paths[route.path_format][method.lower()].get("parameters", ()):
            if parameter["in"] == "query":
                choices = parameter["schema"].get("anyOf", [parameter["schema"]])
                yield parameter["name"], any(choice.get("type") == "array" for choice in choices)
    for model in query_models(route.endpoint):
        yield from model.takes_several.items()


class StrictRoute(APIRoute):
    """Authorises the caller, refuses unknown and repeated query parameters, and reads the body within its limits.

    The body must be JSON unless the route declares a form. `body_limit` names the setting with its largest size in
    bytes. A route that takes files lists their media types in `file_types`, and its handler parses them. A handler
    whose transaction the database aborts in favour of another runs again.
    """

    body_limit: ClassVar[str] = "max_body_bytes"
    file_types: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Found out once: the copies of the route in each application share it.
        self.parameters = KnownParameters(self)

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        permission = declared_permission(self)
        media_types = self.file_types or _media_types(self)
        named = " or ".join(media_types if self.file_types else media_types[:1])
        has_body = self.body_field is not None or bool(self.file_types)

        async def strict_handler(plain: Request) -> Response:
            # First: a caller without permission learns nothing about the request, and its body is not read.
            await plain.app.dependency_overrides.get(authorise, authorise)(plain, permission)
            if plain.scope["query_string"]:
                _refuse_unreadable(plain.scope["query_string"])
                _refuse_unknown(plain, self.parameters.takes_several)
                _refuse_repeated(plain, self.parameters.takes_several)
            if not has_body and plain.method == "GET":
                return await run_again_if_aborted(plain, handler)
            request = StrictRequest(plain.scope, plain.receive, getattr(plain.app.state.settings, self.body_limit))
            # Read here: FastAPI would replace the errors of reading by one of its own.
            if has_body and await request.body():
                if media_type(request.headers.get("content-type")) not in media_types:
                    raise UnsupportedMediaType(f"Send the body as {named} in UTF-8.")
                if request.headers.get("content-encoding", _AS_IT_IS).lower() != _AS_IT_IS:
                    detail = "Send the body as it is: none is decompressed here."
                    raise UnsupportedMediaType(detail, headers={"Accept-Encoding": _AS_IT_IS})
            return await self.answer(request, handler)

        return strict_handler

    async def answer(self, request: StrictRequest, handler: Handler) -> Response:
        """Answer a request whose body is read, and not yet parsed."""
        return await run_again_if_aborted(request, handler)


class LargeBodyRoute(StrictRoute):
    """A route for many objects at once, whose bodies may be larger; a few large ones are processed at a time."""

    body_limit = "max_bulk_bytes"

    async def answer(self, request: StrictRequest, handler: Handler) -> Response:
        """Answer a request whose body is read. Raises `ContentTooLarge` for too many values, and `LargeBodiesBusy`."""
        body = await request.body()
        if len(body) <= request.app.state.settings.max_body_bytes:
            return await super().answer(request, handler)
        if "json" in request.headers.get("content-type", ""):
            refuse_too_many_values(body)
        room: Room = request.app.state.room
        with room.taken():
            return await super().answer(request, handler)


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


def _refuse_unreadable(query_string: bytes) -> None:
    """Raise `BadRequest` for bytes that are not UTF-8, or not escaped: what they become would find something else."""
    try:
        unquote_to_bytes(query_string.decode("ascii")).decode()
    except UnicodeDecodeError as error:
        raise BadRequest("What follows the question mark must be UTF-8 with percent-encoding (RFC 3986).") from error


def _refuse_unknown(request: Request, known: Mapping[str, bool]) -> None:
    """Raise `BadRequest` for parameters that the route does not know: a typo must not do more than was asked for."""
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        # To find the nearest of a hundred takes milliseconds, so it is not done of each of many.
        hints = dict.fromkeys(unknown[:MOST_FAULTS], "")
        hints |= {name: hint(name, tuple(known)) for name in unknown[:_MOST_HINTS]}
        faults = [
            Fault(json_pointer([name]), "unknown_parameter", f"There is no such parameter. {told}".strip(), "query")
            for name, told in hints.items()
        ]
        detail = f"There is no parameter {_printable(unknown[0])} here. {hints[unknown[0]]}".strip()
        raise BadRequest(detail, errors=faults)


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
