"""Limits the unknown members of a value before Pydantic, which creates an error for each, validates the value."""

from collections.abc import Mapping
from functools import cache
from itertools import islice
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from app.utils.validation import MAX_FAULTS


def without_surplus(model: type[BaseModel], value: Any, max_faults: int = MAX_FAULTS) -> Any:
    """Return a JSON value without the unknown members that no list of `max_faults` faults would have.

    One more unknown member remains, so that the list is known to be incomplete. Values of other types, and objects of
    which `model` is a union of several, are returned unchanged.
    """
    return _Limiter(max_faults + 1).limit(model, value)


class _Limiter:
    """Keeps the first unknown members in the order of Pydantic's errors: members of nested objects come first."""

    def __init__(self, left: int) -> None:
        self._left = left

    def limit(self, model: type[BaseModel], value: Any) -> Any:
        if isinstance(value, list):
            return self._limit_list(model, value)
        if not isinstance(value, dict):
            return value
        fields, nested = model.model_fields, _nested_models(model)
        known = {
            name: self.limit(nested[name], value[name]) if name in nested else value[name]
            for name in fields
            if name in value
        }
        if len(known) == len(value):
            return known
        unknown = list(islice((name for name in value if name not in fields), self._left))
        self._left -= len(unknown)
        return known | {name: value[name] for name in unknown}

    def _limit_list(self, model: type[BaseModel], values: list[Any]) -> list[Any]:
        # An object with no more members than fields has few unknown ones; a call for each entry would take long.
        most = 0 if _nested_models(model) else len(model.model_fields)
        return [self.limit(model, each) if isinstance(each, dict) and len(each) > most else each for each in values]


@cache
def _nested_models(model: type[BaseModel]) -> Mapping[str, type[BaseModel]]:
    """Return the models of the fields that are objects or lists of objects, by field."""
    found = {name: _model_in(field.annotation) for name, field in model.model_fields.items()}
    return {name: nested for name, nested in found.items() if nested is not None}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the only model in an annotation such as `Model`, `list[Model]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is dict:
        return None
    models = [model for argument in get_args(annotation) if (model := _model_in(argument)) is not None]
    return models[0] if len(models) == 1 else None
