"""Query strings as Pydantic models."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


class QueryModel(Generic[M]):
    """A dependency that validates the query string of a request as a model.

    FastAPI's `Annotated[Model, Query()]` looks up each field in turn, which for the hundred filters of a list takes
    longer than the rest of the request. `openapi_parameters` adds the parameters to the OpenAPI document.
    """

    def __init__(self, model: type[M]) -> None:
        self.model = model
        self.repeatable = {name: _is_list(field.annotation) for name, field in model.model_fields.items()}

    async def __call__(self, request: Request) -> M:
        """Return the validated parameters. Raises `RequestValidationError` with all faults."""
        values: dict[str, Any] = {}
        if request.scope["query_string"]:
            for name, value in request.query_params.multi_items():
                if self.repeatable.get(name):
                    values.setdefault(name, []).append(value)
                else:
                    values[name] = value
        try:
            return self.model.model_validate(values)
        except ValidationError as error:
            faults = [fault | {"loc": ("query", *fault["loc"])} for fault in error.errors(include_url=False)]
            raise RequestValidationError(faults) from error


def query_of(model: type[M]) -> QueryModel[M]:
    """Return the dependency that validates a query string as `model`; see `QueryModel`."""
    return QueryModel(model)


def query_models(function: Callable[..., Any]) -> Iterator[QueryModel[Any]]:
    """Yield the query models that an endpoint depends on, directly or through other dependencies."""
    for annotation in get_type_hints(function, include_extras=True).values():
        for dependency in getattr(annotation, "__metadata__", ()):
            if isinstance(dependency, Depends):
                if isinstance(dependency.dependency, QueryModel):
                    yield dependency.dependency
                elif dependency.dependency is not None:
                    yield from query_models(dependency.dependency)


def openapi_parameters(model: type[BaseModel], ref_template: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the OpenAPI parameters of a query model, and the schemas to which they refer."""
    schema = model.model_json_schema(ref_template=ref_template)
    required = schema.get("required", ())
    parameters = []
    for name, field in schema["properties"].items():
        parameter = {"name": name, "in": "query", "required": name in required, "schema": field}
        if "description" in field:
            parameter["description"] = field["description"]
        parameters.append(parameter)
    return parameters, schema.get("$defs", {})


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(_is_list(argument) for argument in get_args(annotation))
