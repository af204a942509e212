"""Filters of lists: typed query parameters and the conditions that they add.

Conditions are combined with AND. The only alternative is a missing value: with `name__null=true`, an object matches
that meets all conditions which require a value of `name`, or that has none.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field
from pydantic_core import PydanticKnownError
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    FromClause,
    and_,
    bindparam,
    or_,
)
from sqlalchemy.types import TypeEngine

from app.domains.shared.models import EXTERNAL_ID_LENGTH
from app.domains.shared.query.reference_parameters import ReferenceParameter
from app.domains.shared.references import MAX_ID
from app.domains.shared.texts import single_line
from app.utils.fault_codes import invalid

MAX_VALUES = 100

# The operand of each parameter of the request, by the parameter's name.
Operands = Mapping[str, Any]

# RFC 3339 has no 24:00:00; `datetime.fromisoformat` reads ISO 8601, which has it.
_INSTANT = re.compile(
    r"(\d{4}-\d{2}-\d{2}T(?:[01]\d|2[0-3]):\d{2}:\d{2}(?:\.\d+)?)(Z|[ +-]\d{2}:[0-5]\d)", re.IGNORECASE | re.ASCII
)


def _parse_instant(value: object) -> object:
    # Pydantic would parse a number as seconds since 1970.
    if not isinstance(value, str):
        return value
    instant = _INSTANT.fullmatch(value)
    if instant is None:
        raise invalid("datetime")
    # An unescaped plus sign in a query string is decoded as a blank.
    offset = "+00:00" if instant[2] in "Zz" else instant[2].replace(" ", "+")
    try:
        return datetime.fromisoformat(instant[1] + offset)
    except ValueError as error:
        raise invalid("datetime:absent") from error


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise invalid("datetime:range") from error


def _check_digits(value: object) -> object:
    # Pydantic would accept `1_0`, `1.0`, `01`, `+1` and surrounding blanks. An integer has one spelling.
    if isinstance(value, str) and not re.fullmatch("0|-?[1-9][0-9]*", value):
        raise PydanticKnownError("int_parsing")
    return value


def _check_decimal(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", value):
        raise PydanticKnownError("float_parsing")
    return value


# Restricts an integer in a query string to digits without leading zeros, and a minus sign.
Digits = BeforeValidator(_check_digits)
InstantParameter = Annotated[AwareDatetime, BeforeValidator(_parse_instant), AfterValidator(_to_utc)]
IntegerParameter = Annotated[int, Field(ge=-MAX_ID, le=MAX_ID), Digits]
NumberParameter = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_check_decimal)]
TextParameter = Annotated[str, *single_line(EXTERNAL_ID_LENGTH)]


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """One query parameter.

    `annotation` is the type of one value; a parameter with `is_list` may be repeated. With a `type`, the value becomes
    a bind parameter of the statement, after `convert`. Without a `type`, it is one of a few constants and is written
    into the statement.
    """

    name: str
    annotation: Any
    description: str
    type: TypeEngine[Any] | None
    is_list: bool = False
    # The collection of the objects to which the values refer, by id or by key. Ids replace keys before the statement.
    target: str | None = None
    convert: Callable[[Any], Any] | None = None
    # With a `shape`, the operand is a pair: what the statement depends on beside the bind parameter, and the latter.
    shape: Callable[[Any], Hashable] | None = None
    # The name of a parameter that must also be present, except with the constant `independent`.
    requires: str | None = None
    independent: str | None = None
    # Another collection whose content the condition reads, and which the caller must be permitted to read.
    reads: str | None = None

    @property
    def field(self) -> tuple[Any, Any]:
        """The annotation and the field, as `create_model` takes them."""
        annotation: Any = self.annotation
        if self.is_list:
            annotation = Annotated[list[annotation], Field(max_length=MAX_VALUES)]
        return annotation | None, Field(None, description=self.description)

    @property
    def argument(self) -> str:
        """The name of the bind parameter."""
        return f"filter_{self.name}"

    def operand(self, constant: Any) -> Any:
        """Return what a condition takes as operand; `constant` is the part that is written into the statement."""
        if self.type is None:
            return constant
        return self.bind() if self.shape is None else (constant, self.bind())

    def bind(self) -> ColumnElement[Any]:
        """Return the bind parameter of the value."""
        assert self.type is not None
        kind: TypeEngine[Any] = ARRAY(self.type) if self.is_list else self.type
        return bindparam(self.argument, type_=kind)


def reference_parameter(
    name: str, target: str, description: str, *, is_list: bool = False, reads: str | None = None
) -> Parameter:
    """Return a parameter that refers to objects of a collection, by id or by key."""
    return Parameter(name, ReferenceParameter, description, BigInteger(), is_list, target, reads=reads)


@dataclass(frozen=True, slots=True, eq=False)
class FixedLink:
    """The link that the path requires of all objects of a list.

    `parameter` is the name of the equivalent link filter, which not every list has, and `ids` is its operand.
    `condition` is the equivalent condition for a request without other filters of these links.
    """

    parameter: str
    ids: ColumnElement[Any]
    condition: Callable[[FromClause], ColumnElement[bool]]


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """A condition and its parameters. The condition applies when the request has at least one of the parameters.

    `field` is the nullable field of which the condition requires a value, or whose absence it states. None if rows
    without a value may match. `describes_fixed_link` returns whether the operands describe the link that the path
    requires, not other links. `join` returns the condition in a form that lets an index find the rows of a small set,
    or None if the operands require no set. One filter of a request has that form: PostgreSQL expects a few rows of the
    join, so that it might compare each of them with all elements of the next set instead of building a hash table.
    """

    parameters: tuple[Parameter, ...]
    condition: Callable[[FromClause, Operands], ColumnElement[bool]]
    field: str | None = None
    describes_fixed_link: Callable[[Operands], bool] = lambda _: False
    join: Callable[[FromClause, Operands], ColumnElement[bool] | None] = lambda _, __: None

    def describes(self, fixed_link: FixedLink, operands: Operands) -> bool:
        """Return whether the operands describe this link: the filter has its parameter, and names no other link."""
        is_same_kind = any(parameter.name == fixed_link.parameter for parameter in self.parameters)
        return is_same_kind and self.describes_fixed_link(operands)


@dataclass(frozen=True, slots=True)
class Selection:
    """The condition for the parameters and the path of one request.

    `parameters` has the name of each parameter, and its value, or the shape of its value, if that is written into the
    statement, else None. So requests that differ only in the values of bind parameters have equal selections, which
    share one statement.
    """

    filters: Sequence[Filter]
    parameters: tuple[tuple[str, Any], ...]
    fixed_link: FixedLink | None = None

    def __call__(self, source: FromClause) -> ColumnElement[bool]:
        """Return the condition on the rows of `source`."""
        constants = dict(self.parameters)
        conditions = []
        # With `name__null=true`: the conditions that require a value of each field, and those that it is missing.
        present: dict[str, list[ColumnElement[bool]]] = {}
        missing: dict[str, ColumnElement[bool]] = {}
        is_joined = False
        applied, fixed_link = self._applied(constants)
        for filter_, operands in applied:
            is_null = f"{filter_.field}__null"
            has_alternative = bool(constants.get(is_null))
            joined = None if is_joined or has_alternative else filter_.join(source, operands)
            is_joined = is_joined or joined is not None
            condition = filter_.condition(source, operands) if joined is None else joined
            if filter_.field is None or not has_alternative:
                conditions.append(condition)
            elif is_null in operands:
                missing[filter_.field] = condition
            else:
                present.setdefault(filter_.field, []).append(condition)
        for field, condition in missing.items():
            conditions.append(or_(and_(*present[field]), condition) if field in present else condition)
        if fixed_link is not None:
            conditions.append(fixed_link.condition(source))
        return and_(*conditions)

    def _applied(self, constants: Mapping[str, Any]) -> tuple[list[tuple[Filter, dict[str, Any]]], FixedLink | None]:
        """Return the filters that the request has, with their operands, and the fixed link unless one describes it."""
        applied, fixed_link = [], self.fixed_link
        for filter_ in self.filters:
            operands = {
                parameter.name: parameter.operand(constants[parameter.name])
                for parameter in filter_.parameters
                if parameter.name in constants
            }
            if not operands:
                continue
            # Link filters apply to the link fixed by the path, unless the query names another.
            if fixed_link and filter_.describes(fixed_link, operands):
                operands[fixed_link.parameter] = fixed_link.ids
                fixed_link = None
            applied.append((filter_, operands))
        return applied, fixed_link


def build_selection(
    filters: Sequence[Filter], values: Mapping[str, Any], fixed_link: FixedLink | None = None
) -> tuple[Selection | None, dict[str, Any]]:
    """Return the selection for these values and the fixed link, and the statement's arguments.

    The selection is None without values and without a link. The arguments of the link are not included.
    """
    parameters: list[tuple[str, Any]] = []
    arguments = {}
    for filter_ in filters:
        for parameter in filter_.parameters:
            if (value := values.get(parameter.name)) is None:
                continue
            if parameter.type is None:
                parameters.append((parameter.name, value))
            else:
                parameters.append((parameter.name, parameter.shape(value) if parameter.shape else None))
                arguments[parameter.argument] = parameter.convert(value) if parameter.convert else value
    selection = Selection(filters, tuple(parameters), fixed_link) if parameters or fixed_link else None
    return selection, arguments
