"""Routes: authorisation, known query parameters, and the reading of bodies."""

import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.params import Form
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from app.core.database import retry_if_aborted
from app.core.http.authorisation import authorise, forget_caller
from app.core.http.bodies import StrictRequest, media_type, reject_too_many_tokens
from app.core.http.hints import name_hint
from app.core.http.query_models import query_models
from app.core.permissions import DECLARATION
from app.core.places import SharedPlaces
from app.core.threads import ended_by
from app.utils.exceptions import (
    BadRequest,
    Fault,
    MethodNotAllowed,
    UnsupportedMediaType,
)
from app.utils.validation import MAX_FAULTS, json_pointer
from app.utils.wording import counted, joined

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_MAX_HINTS = 10
# A filter takes up to 100 values, each as a parameter.
MAX_PARAMETERS = 1_000
# Names the setting that limits a route's large body; declared beside its permission in `openapi_extra`.
BODY_LIMIT = "x-body-limit"
LARGE_BODY = {BODY_LIMIT: "MAX_BULK_BYTES"}
# If a body takes longer to arrive, its caller is authorised again.
RECHECK_SECONDS = 1.0
# The content coding of an uncompressed body (RFC 9110, section 12.5.3).
_IDENTITY = "identity"
_FORM = "application/x-www-form-urlencoded"


class UndeclaredPermissionError(RuntimeError):
    """A route declares no permission or does not enforce it, so the service must not start."""


class KnownParameters:
    """The query parameters of a route, as the OpenAPI document and its query models declare them."""

    def __init__(self, route: APIRoute) -> None:
        self._route = route

    @cached_property
    def repeatable(self) -> dict[str, bool]:
        """Whether each parameter may be repeated, by name."""
        paths = get_openapi(title="", version="", routes=[self._route])["paths"]
        return dict(_query_parameters(self._route, paths))


def collect_known_parameters(routes: Iterable[BaseRoute], paths: Mapping[str, Any]) -> None:
    """Read the parameters of all strict routes from the paths of the application's OpenAPI document.

    Otherwise the first request to each route would take 10 ms longer.
    """
    for route in routes:
        if isinstance(route, StrictRoute):
            route.parameters.repeatable = dict(_query_parameters(route, paths))


def _query_parameters(route: APIRoute, paths: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the query parameters of a route, from the paths of an OpenAPI document and from its query models."""
    for method in route.methods or ():
        for parameter in paths[route.path_format][method.lower()].get("parameters", ()):
            if parameter["in"] == "query":
                choices = parameter["schema"].get("anyOf", [parameter["schema"]])
                yield parameter["name"], any(choice.get("type") == "array" for choice in choices)
    for model in query_models(route.endpoint):
        yield from model.repeatable.items()


class StrictRoute(APIRoute):
    """Authorises the caller, rejects unknown and repeated query parameters, and reads the body within its limits.

    The body must be JSON unless the route declares a form, or in its `openapi_extra` a `requestBody` of other media
    types, which its handler parses. `LARGE_BODY` in `openapi_extra` allows larger bodies, of which a process handles a
    few at a time. A handler runs again if the database aborts its transaction in favour of another.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Computed once and shared by the copies of the route in each application.
        self.parameters = KnownParameters(self)

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        permission = declared_permission(self)
        accepted = _AcceptedBody(self)
        is_large = BODY_LIMIT in (self.openapi_extra or {})
        model = _body_model(self)

        async def strict_handler(request: Request) -> Response:
            # Authorise first: a caller without permission gets no other error, and the body is not read.
            await _authorise(request, permission)
            if request.scope["query_string"]:
                _check_query(request, self.parameters.repeatable)
            if not accepted.exists and request.method == "GET":
                return await retry_if_aborted(request, handler)
            settings = request.app.state.settings
            limit = settings.max_bulk_bytes if is_large else settings.max_body_bytes
            request = StrictRequest(request.scope, request.receive, limit, model)
            started = time.monotonic()
            size = await accepted.read(request) if accepted.exists else 0
            if time.monotonic() - started > RECHECK_SECONDS:
                # The caller may have lost the permission while the body arrived.
                await _authorise(request, permission)
            if size > settings.max_body_bytes:
                large_bodies: SharedPlaces = request.app.state.large_bodies
                with large_bodies.place(), ended_by(request.disconnect):
                    return await retry_if_aborted(request, handler)
            return await retry_if_aborted(request, handler)

        return strict_handler


async def authorise_again(request: Request) -> None:
    """Authorise a request for its route again, by a new look-up of its caller.

    Raises `Unauthorized` and `Forbidden`, and `ServiceUnavailable` as every statement does.
    """
    forget_caller(request)
    await _authorise(request, declared_permission(request.scope["route"]))


async def _authorise(request: Request, permission: str) -> None:
    """Call `authorise`, or its replacement in `app.dependency_overrides`."""
    await request.app.dependency_overrides.get(authorise, authorise)(request, permission)


class _AcceptedBody:
    """The body that a route accepts: a form, the media types of its own `requestBody`, or else JSON."""

    def __init__(self, route: APIRoute) -> None:
        file_types = _file_types(route)
        self.exists = route.body_field is not None or bool(file_types)
        self._media_types = file_types or _media_types(route)
        self._usual_types = " or ".join(file_types or self._media_types[:1])

    async def read(self, request: StrictRequest) -> int:
        """Read the body, and return its length; FastAPI would replace the errors of reading by its own.

        Raises the errors of `StrictRequest.body`, `UnsupportedMediaType`, `BadRequest` for a form with the same field
        twice, and `ContentTooLarge` for a large body with too many JSON tokens.
        """
        # Also without a body: FastAPI parses the header of a form.
        sent_type = media_type(request.headers.get("content-type"))
        body = await request.body()
        if not body:
            return 0
        if sent_type not in self._media_types:
            raise UnsupportedMediaType(f"Send the body as {self._usual_types} in UTF-8.")
        if request.headers.get("content-encoding", _IDENTITY).lower() != _IDENTITY:
            detail = "Compressed bodies are not supported. Remove Content-Encoding."
            raise UnsupportedMediaType(detail, headers={"Accept-Encoding": _IDENTITY})
        if sent_type == _FORM:
            await _reject_repeated_fields(request)
        if len(body) > request.app.state.settings.max_body_bytes and "json" in sent_type:
            reject_too_many_tokens(body)
        return len(body)


def method_not_allowed(allowed: Iterable[str]) -> MethodNotAllowed:
    """Return the 405 of an address that supports the `allowed` methods only."""
    methods = sorted(allowed)
    detail = f"Only {joined(methods)} {'is' if len(methods) == 1 else 'are'} allowed here."
    return MethodNotAllowed(detail, headers={"Allow": ", ".join(methods)})


class _MethodNotAllowedEndpoint:
    """Rejects the methods that no earlier route of its path allows."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = tuple(allowed)

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        raise method_not_allowed(self._allowed)


def reject_other_methods(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    """Yield the routes, and after those of a fixed path that could also be an object's, one that rejects other methods.

    Otherwise `DELETE /processes/bulk` would delete an object called `bulk`.
    """
    api_routes = [route for route in routes if isinstance(route, APIRoute)]
    for number, route in enumerate(routes):
        yield route
        if not isinstance(route, APIRoute) or "{" in route.path:
            continue
        same_path = [other for other in api_routes if other.path == route.path]
        later = [other for other in routes[number + 1 :] if isinstance(other, APIRoute) and "{" in other.path]
        matches_object = any(other.path_regex.match(route.path) for other in later)
        if route is same_path[-1] and matches_object:
            methods = {method for other in same_path for method in other.methods or ()}
            yield Route(route.path, _MethodNotAllowedEndpoint(methods | ({"HEAD"} if "GET" in methods else set())))


def declared_permission(route: APIRoute) -> str:
    """Return the permission that a route declares with `permissions.requires`. Raises `UndeclaredPermissionError`."""
    permission = (route.openapi_extra or {}).get(DECLARATION)
    if not isinstance(permission, str):
        raise UndeclaredPermissionError(f"{', '.join(route.methods or ())} {route.path} declares no permission")
    return permission


def _file_types(route: APIRoute) -> tuple[str, ...]:
    """Return the media types of a request body that the route documents and parses itself."""
    return tuple((route.openapi_extra or {}).get("requestBody", {}).get("content", ()))


def _body_model(route: APIRoute) -> type[BaseModel] | None:
    """Return the model of a body, if it is a single one."""
    annotation = None if route.body_field is None else route.body_field.field_info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _media_types(route: APIRoute) -> tuple[str, ...]:
    if route.body_field is not None and isinstance(route.body_field.field_info, Form):
        return (_FORM,)
    if "PATCH" in (route.methods or ()):
        return ("application/json", "application/merge-patch+json")
    return ("application/json",)


def _check_query(request: Request, repeatable: Mapping[str, bool]) -> None:
    """Raise `BadRequest` unless the query string is valid and has only known parameters, repeated if `repeatable`."""
    _reject_too_many_parameters(request.scope["query_string"])
    _reject_undecodable(request.scope["query_string"])
    _reject_unknown(request, repeatable)
    _reject_repeated(request, repeatable)


def _reject_too_many_parameters(query_string: bytes) -> None:
    if query_string.count(b"&") >= MAX_PARAMETERS:
        raise BadRequest(f"A query string may have at most {counted(MAX_PARAMETERS, 'parameter')}.")


def _reject_undecodable(query_string: bytes) -> None:
    """Raise `BadRequest` for bytes that are not percent-encoded UTF-8: their replacement would find other objects."""
    try:
        unquote_to_bytes(query_string.decode("ascii")).decode()
    except UnicodeDecodeError as error:
        raise BadRequest("The query string must be UTF-8 with percent-encoding (RFC 3986).") from error


def _reject_unknown(request: Request, known: Mapping[str, bool]) -> None:
    """Raise `BadRequest` for unknown parameters: a typo must not have a wider effect than the client intended."""
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        # Finding the nearest of a hundred names takes milliseconds, so only the first few unknown ones get a hint.
        hints = dict.fromkeys(unknown[:MAX_FAULTS], "")
        hints |= {name: name_hint(name, tuple(known), "parameters") for name in unknown[:_MAX_HINTS]}
        faults = [
            Fault.of(json_pointer([name]), "unknown_parameter", source="query", hint=hint)
            for name, hint in hints.items()
        ]
        detail = f"There is no parameter {_printable(unknown[0])} here. {hints[unknown[0]]}".strip()
        raise BadRequest(detail, errors=faults)


def _reject_repeated(request: Request, repeatable: Mapping[str, bool]) -> None:
    """Raise `BadRequest` for repeated parameters that take one value: no value may be dropped silently."""
    counts = Counter([name for name, _ in request.query_params.multi_items()])
    repeated = [name for name, count in counts.items() if count > 1 and not repeatable[name]]
    if repeated:
        faults = [Fault.of(json_pointer([name]), "repeated_parameter", source="query") for name in repeated]
        raise BadRequest(f"The parameter {repeated[0]} takes one value, but was sent with several.", errors=faults)


async def _reject_repeated_fields(request: Request) -> None:
    """Raise `BadRequest` for a form with the same field twice (RFC 6749, section 3.2), as for an object of JSON."""
    form = await request.form()
    if len(form) < len(form.multi_items()):
        raise BadRequest("The form has the same field twice.")


def _printable(name: str) -> str:
    return "".join(character for character in name[:64] if character.isprintable())
