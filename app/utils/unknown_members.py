"""Limits the unknown members of a value before Pydantic, which creates an error for each, validates the value."""

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

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
        if not isinstance(value, dict):
            return value
        fields, nested = model.model_fields, _nested_fields(model)
        known = {
            name: self._limit_nested(nested[name], value[name]) if name in nested else value[name]
            for name in fields
            if name in value
        }
        if len(known) == len(value):
            return known
        unknown = list(islice((name for name in value if name not in fields), self._left))
        self._left -= len(unknown)
        return known | {name: value[name] for name in unknown}

    def _limit_nested(self, field: "_Nested", value: Any) -> Any:
        if field.max_length is None:
            return self.limit(field.model, value)
        if not isinstance(value, list) or len(value) > field.max_length:
            return value  # a single error, whatever the entries are
        # An object with no more members than fields has few unknown ones; a call for each entry would take long.
        most = 0 if _nested_fields(field.model) else len(field.model.model_fields)
        return [
            self.limit(field.model, each) if isinstance(each, dict) and len(each) > most else each for each in value
        ]


class _Nested(NamedTuple):
    """A field that is an object, or a list of up to `max_length` objects."""

    model: type[BaseModel]
    max_length: int | None = None


@cache
def _nested_fields(model: type[BaseModel]) -> Mapping[str, _Nested]:
    found = {name: _nested_in(field.annotation, field.metadata) for name, field in model.model_fields.items()}
    return {name: nested for name, nested in found.items() if nested is not None}


def _nested_in(annotation: Any, metadata: Sequence[Any]) -> _Nested | None:
    """Return the only model in an annotation such as `Model`, `list[Model]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _Nested(annotation)
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _nested_in(arguments[0], arguments[1:])
    if get_origin(annotation) is list:
        entry = _nested_in(arguments[0], ())
        limits = [each.max_length for each in metadata if hasattr(each, "max_length")]
        return None if entry is None else _Nested(entry.model, min(limits, default=sys.maxsize))
    if get_origin(annotation) in {Union, UnionType}:
        found = [nested for each in arguments if (nested := _nested_in(each, ())) is not None]
        return found[0] if len(found) == 1 else None
    return None
