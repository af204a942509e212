"""What lists can be filtered by: typed parameters of the address, and the conditions they stand for.

Several parameters must hold together.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field
from pydantic_core import PydanticCustomError, PydanticKnownError
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    FromClause,
    and_,
    bindparam,
)
from sqlalchemy.types import TypeEngine

from app.domains.shared.models import EXTERNAL_ID_LENGTH
from app.domains.shared.schemas import MAX_ID, SingleLine

MAX_VALUES = 100

# By the names of parameters: what each of those given is compared with.
Given = Mapping[str, Any]

# RFC 3339 ends a day with 23:59:59; ISO 8601, by which Python reads, knows 24:00:00, too.
_INSTANT = re.compile(
    r"(\d{4}-\d{2}-\d{2}T(?:[01]\d|2[0-3]):\d{2}:\d{2}(?:\.\d+)?)(Z|[ +-]\d{2}:[0-5]\d)", re.IGNORECASE | re.ASCII
)


def _rfc_3339(value: object) -> object:
    # Pydantic would take a number for seconds since 1970.
    if not isinstance(value, str):
        return value
    instant = _INSTANT.fullmatch(value)
    if instant is None:
        raise PydanticCustomError("datetime", "Text must be an instant as in RFC 3339, with its offset from UTC")
    # In an address a plus sign stands for a blank, unless it is escaped.
    offset = "+00:00" if instant[2] in "Zz" else instant[2].replace(" ", "+")
    try:
        return datetime.fromisoformat(instant[1] + offset)
    except ValueError as error:
        raise PydanticCustomError("datetime", "There is no such instant, or it is a leap second") from error


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise PydanticCustomError("datetime", "Instant must lie in the years 1 to 9999 of UTC") from error


def _digits(value: object) -> object:
    # Pydantic would take `1_0`, `1.0`, `+1` and blanks around them.
    if isinstance(value, str) and not re.fullmatch("-?[0-9]+", value):
        raise PydanticKnownError("int_parsing")
    return value


def _decimal(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", value):
        raise PydanticKnownError("float_parsing")
    return value


# Lets an integer of an address be written in digits only.
Digits = BeforeValidator(_digits)
InstantParameter = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_in_utc)]
IdParameter = Annotated[int, Field(ge=1, le=MAX_ID), Digits]
IntegerParameter = Annotated[int, Field(ge=-MAX_ID, le=MAX_ID), Digits]
NumberParameter = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_decimal)]
TextParameter = Annotated[str, Field(min_length=1, max_length=EXTERNAL_ID_LENGTH), *SingleLine]


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """One parameter of the address.

    `annotation` is the type of one value; `many` tells whether it may be repeated. With a `type` its value is a
    parameter of the statement, `convert`ed; without, it is one of a few constants and part of the statement.
    """

    name: str
    annotation: Any
    description: str
    type: TypeEngine[Any] | None
    many: bool = False
    convert: Callable[[Any], Any] | None = None
    # Another parameter, without which this one says nothing.
    needs: str | None = None

    @property
    def field(self) -> tuple[Any, Any]:
        """The annotation and the field of the model of all parameters."""
        annotation: Any = self.annotation
        if self.many:
            annotation = Annotated[list[annotation], Field(max_length=MAX_VALUES)]
        return annotation | None, Field(None, description=self.description)

    def bound(self) -> ColumnElement[Any]:
        """Return what stands for the value in a statement."""
        assert self.type is not None
        kind: TypeEngine[Any] = ARRAY(self.type) if self.many else self.type
        return bindparam(f"filter_{self.name}", type_=kind)


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """A condition, and the parameters that it takes: it holds for a list as soon as one of them is given."""

    parameters: tuple[Parameter, ...]
    condition: Callable[[FromClause, Given], ColumnElement[bool]]

    def takes(self, name: str) -> bool:
        """Whether a parameter of that name is among its own."""
        return any(parameter.name == name for parameter in self.parameters)


@dataclass(frozen=True, slots=True, eq=False)
class FixedLink:
    """The link that all objects of a list have, because the path says so.

    `parameter` is the one that would say so in the list of the whole collection, if that has it; `ids` is its value.
    `condition` says the same by itself.
    """

    parameter: str
    ids: ColumnElement[Any]
    condition: Callable[[FromClause], ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class Selection:
    """The condition that the parameters and the path of one request stand for.

    `given` has the names of the parameters, with the value of those that are part of the statement. Equal requests
    but for the values of the others have equal conditions.
    """

    filters: Sequence[Filter]
    given: tuple[tuple[str, Any], ...]
    fixed: FixedLink | None = None

    def __call__(self, source: FromClause) -> ColumnElement[bool]:
        """Return the condition on the rows of `source`."""
        constants = dict(self.given)
        conditions = []
        fixed = self.fixed
        for each in self.filters:
            given = {
                parameter.name: constants[parameter.name] if parameter.type is None else parameter.bound()
                for parameter in each.parameters
                if parameter.name in constants
            }
            if not given:
                continue
            # What is said of a link is said of the fixed one, unless the caller names another.
            if fixed is not None and fixed.parameter not in given and each.takes(fixed.parameter):
                given[fixed.parameter] = fixed.ids
                fixed = None
            conditions.append(each.condition(source, given))
        if fixed is not None:
            conditions.append(fixed.condition(source))
        return and_(*conditions)


def build_selection(
    filters: Sequence[Filter], values: Mapping[str, Any], fixed: FixedLink | None = None
) -> tuple[Selection | None, dict[str, Any]]:
    """Return the condition for the values given and the fixed link, and the parameters of its statement.

    Without any values and without a link it is None; the parameters of the link are not among those returned.
    """
    given: list[tuple[str, Any]] = []
    arguments = {}
    for each in filters:
        for parameter in each.parameters:
            if (value := values.get(parameter.name)) is None:
                continue
            if parameter.type is None:
                given.append((parameter.name, value))
            else:
                given.append((parameter.name, None))
                arguments[f"filter_{parameter.name}"] = parameter.convert(value) if parameter.convert else value
    return (Selection(filters, tuple(given), fixed) if given or fixed else None), arguments
