"""How the arguments of endpoints are found where FastAPI would take long to find them."""

import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import wraps
from typing import Any, Literal, get_args, get_origin

from fastapi import Request, Response
from fastapi._compat import ModelField, get_missing_field_error
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

# How an argument of an endpoint is found.
Argument = Callable[[Request], Awaitable[Any]]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class UnreadableBodyError(RequestValidationError):
    """A body is not JSON."""


class DirectRoute(APIRoute):
    """A route that finds the arguments of its endpoint itself, as far as it can, and otherwise lets FastAPI do it.

    Unlike FastAPI it runs dependencies before it parses a body, and one that two others depend on, twice.
    """

    def get_route_handler(self) -> Handler:
        documented = self.dependant
        whole = _whole_handler(_with_own_dependencies(documented, with_body=True))
        if whole is not None:
            return whole
        # FastAPI reads the body, so that its faults are told together with those of what else it has to find.
        self.dependant = _with_own_dependencies(documented, with_body=False)
        handler = super().get_route_handler()
        self.dependant = documented
        return handler


def _with_own_dependencies(dependant: Dependant, *, with_body: bool) -> Dependant:
    """Return what FastAPI is to run instead: an endpoint that calls its dependencies itself, and reads its models.

    FastAPI works out anew in every request what each dependency needs and how it is to be called, and looks for every
    field of a model of query parameters one by one. That took as long as everything else together.
    """
    endpoint = dependant.call
    assert endpoint is not None
    request_name = dependant.request_param_name or "request"
    passed = dependant.request_param_name is not None
    arguments = _arguments(dependant)
    bodies = [field for field in dependant.body_params if with_body and _is_whole_json(field, dependant)]
    arguments += ((field.name, _body(field)) for field in bodies)
    if not arguments or not inspect.iscoroutinefunction(endpoint):
        return dependant

    @wraps(endpoint)
    async def call(**values: Any) -> Any:
        request = values[request_name] if passed else values.pop(request_name)
        faults: list[Any] = []
        for name, argument in arguments:
            try:
                values[name] = await argument(request)
            except UnreadableBodyError:
                raise
            except RequestValidationError as error:
                faults += error.errors()
        if faults:
            raise RequestValidationError(faults)
        return await endpoint(**values)

    return replace(
        dependant,
        call=call,
        request_param_name=request_name,
        path_params=[field for field in dependant.path_params if not _is_text(field)],
        header_params=[field for field in dependant.header_params if not _is_text(field)],
        query_params=[field for field in dependant.query_params if model_of(field) is None],
        body_params=[field for field in dependant.body_params if field not in bodies],
        dependencies=[inner for inner in dependant.dependencies if not _is_simple(inner)],
    )


def _whole_handler(dependant: Dependant) -> Handler | None:
    """Return the endpoint itself, if nothing is left for FastAPI to do: no argument to find, no response to make."""
    call, request_name = dependant.call, dependant.request_param_name
    left = dependant.path_params + dependant.query_params + dependant.header_params + dependant.cookie_params
    left += dependant.body_params
    if left or dependant.dependencies or _special_parameters(dependant) or request_name is None:
        return None
    if not inspect.iscoroutinefunction(call) or call.__annotations__.get("return") is not Response:
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
    models = [(field, model_of(field)) for field in dependant.query_params]
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
    """Whether an argument comes from a coroutine that needs nothing but the request, models, and others like it."""
    given = dependant.path_params + dependant.header_params + dependant.cookie_params + dependant.body_params
    given += [field for field in dependant.query_params if model_of(field) is None]
    special = _special_parameters(dependant) or dependant.concurrency
    is_plain = not given and not special and inspect.iscoroutinefunction(dependant.call)
    return dependant.name is not None and is_plain and all(map(_is_simple, dependant.dependencies))


def _reader(model: type[BaseModel]) -> Argument:
    repeated = {name for name, member in model.model_fields.items() if is_list(member.annotation)}

    async def read(request: Request) -> Any:
        given = request.query_params
        values = {name: given.getlist(name) if name in repeated else given[name] for name in given}
        try:
            return model.model_validate(values)
        except ValidationError as error:
            faults = [fault | {"loc": ("query", *fault["loc"])} for fault in error.errors(include_url=False)]
            raise RequestValidationError(faults) from error

    return read


def _body(field: ModelField) -> Argument:
    missing = get_missing_field_error(("body",))

    async def read(request: Request) -> Any:
        if await request.body():
            try:
                value, faults = field.validate(await request.json(), loc=("body",))
            except json.JSONDecodeError as error:
                fault = {"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}}
                raise UnreadableBodyError([fault]) from error
        else:
            value, faults = field.get_default(), [missing] if field.field_info.is_required() else []
        if faults:
            raise RequestValidationError(faults)
        return value

    return read


def _is_whole_json(field: ModelField, dependant: Dependant) -> bool:
    """Whether a parameter is the whole body, and JSON."""
    is_json = not isinstance(field.field_info, Form) and not getattr(field.field_info, "embed", None)
    return is_json and len(dependant.body_params) == 1


def _text(field: ModelField, place: Literal["path_params", "headers"]) -> Argument:
    default, name = field.get_default(), field.alias

    async def read(request: Request) -> Any:
        return getattr(request, place).get(name, default)

    return read


def _is_text(field: ModelField) -> bool:
    """Whether a parameter is whatever text stands there, so that there is nothing to check."""
    plain = field.field_info.annotation in (str, str | None) and not field.field_info.metadata
    return plain and field.field_info.alias in (None, field.alias) and "_" not in field.alias


def model_of(field: ModelField) -> type[BaseModel] | None:
    annotation: Any = field.field_info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(is_list(argument) for argument in get_args(annotation))
