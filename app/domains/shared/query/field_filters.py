"""Filters by one field of an object.

A domain declares its filters in its `lists.py`, with the functions of this module; each of them gives one field all
the parameters that suit its type:

    name            equal to one of the values given
    name__not       equal to none of them; what has no value is among these
    name__null      whether there is no value
    name__ic        contains, ignoring case      only where text is declared with `partial`
    name__sw        starts with, ignoring case   likewise
    name__gt __gte __lt __lte
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, get_args

from pydantic import Field
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Double,
    FromClause,
    Integer,
    String,
    Text,
    and_,
    any_,
    cast,
    func,
    literal_column,
    not_,
)
from sqlalchemy.types import TypeEngine

from app.domains.shared.models import EXTERNAL_ID_LENGTH
from app.domains.shared.query.filters import (
    Filter,
    Given,
    IdParameter,
    InstantParameter,
    IntegerParameter,
    NumberParameter,
    Parameter,
)
from app.domains.shared.schemas import MultipleLines, PartOfLine, PartOfLines, SingleLine


def choice(name: str, values: Any) -> Iterable[Filter]:
    """Filter by a field that has one of a few values; `values` is their `Literal`."""
    all_of_them = get_args(values)

    def others(given: list[Any]) -> list[Any]:
        return [value for value in all_of_them if value not in given]

    yield from _choice(name, values, String(), lambda source: source.c[name], list, others)


def ranked_choice(name: str, values: Any) -> Iterable[Filter]:
    """Filter by a field that may have one of a few values, of which each is more than the one before."""
    ranks = get_args(values)

    def convert(given: list[Any]) -> list[int]:
        return [ranks.index(value) + 1 for value in given]

    def others(given: list[Any]) -> list[int]:
        return [rank for rank in range(1, len(ranks) + 2) if rank not in convert(given)]

    def rank(source: FromClause) -> ColumnElement[int]:
        return rank_column(source, name, ranks)

    # The index is over the rank, for the order.
    yield from _choice(name, values, Integer(), rank, convert, others)
    absent = Parameter(f"{name}__null", bool, "Whether it has no value.", None)
    none = literal_column(str(len(ranks) + 1), Integer())
    yield Filter(
        (absent,),
        lambda source, given: rank(source) == none if given[absent.name] else rank(source) < none,
    )


def rank_column(source: FromClause, name: str, values: Sequence[str]) -> ColumnElement[int]:
    """Return the place of a field's value among `values`, as `models.ranked` has it in an index."""
    array = literal_column(f"ARRAY[{', '.join(repr(value) for value in values)}]::text[]", ARRAY(Text))
    place = func.array_position(array, cast(source.c[name], Text), type_=Integer)
    return func.coalesce(place, literal_column(str(len(values) + 1), Integer()), type_=Integer)


def flag(name: str) -> Iterable[Filter]:
    """Filter by a field that is true or false."""
    yield _single(name, bool, "Only those for which it is so, or not.", Boolean(), lambda field, value: field == value)


def own_id() -> Iterable[Filter]:
    """Filter by the `id` of the object itself."""
    yield from _equality("id", IdParameter, BigInteger())
    # Greater than 0, too: where somebody begins who has none yet.
    yield from _comparisons("id", IntegerParameter, BigInteger())


def identifier(name: str) -> Iterable[Filter]:
    """Filter by the `id` of another object that this one may refer to."""
    yield from _equality(name, IdParameter, BigInteger())
    yield _absence(name)


def number(name: str, annotation: Any = NumberParameter, *, nullable: bool = False) -> Iterable[Filter]:
    """Filter by a number."""
    kind: TypeEngine[Any] = BigInteger() if annotation is IntegerParameter else Double()
    yield from _equality(name, annotation, kind)
    yield from _comparisons(name, annotation, kind)
    if nullable:
        yield _absence(name)


def instant(name: str) -> Iterable[Filter]:
    """Filter by an instant (RFC 3339)."""
    kind = DateTime(timezone=True)
    yield from _equality(name, InstantParameter, kind)
    yield from _comparisons(name, InstantParameter, kind)


def text(
    name: str,
    *,
    partial: bool = False,
    nullable: bool = True,
    ignoring_case: bool = False,
    length: int = EXTERNAL_ID_LENGTH,
    several_lines: bool = False,
) -> Iterable[Filter]:
    """Filter by text. With `partial` also by what it contains and starts with.

    `register_table` takes the name of a partial text in `texts`, which is the trigram index, and that of any other in
    `exact_texts`. With `ignoring_case` equality does not look at case, either. `length` is at least that of the longest
    text the field may have, and `several_lines` whether it may have those.
    """
    whole = _text_parameter(length, MultipleLines if several_lines else SingleLine)
    for suffix, negated in (("", False), ("__not", True)):
        yield _text_equality(name, suffix, whole, ignoring_case=ignoring_case, negated=negated)
    if partial:
        part = _text_parameter(length, PartOfLines if several_lines else PartOfLine)
        patterns = (("__ic", "Contains, ignoring case.", "%{}%"), ("__sw", "Starts with, ignoring case.", "{}%"))
        for suffix, description, pattern in patterns:
            yield _pattern(name, suffix, part, description, pattern)
    if nullable:
        yield _absence(name, counted=True)


def _text_parameter(length: int, rules: tuple[Any, ...]) -> Any:
    return Annotated[str, Field(min_length=1, max_length=length), *rules]


def _single(
    name: str,
    annotation: Any,
    description: str,
    kind: TypeEngine[Any],
    compare: Callable[[ColumnElement[Any], Any], ColumnElement[bool]],
) -> Filter:
    field = name.partition("__")[0]
    parameter = Parameter(name, annotation, description, kind)
    return Filter((parameter,), lambda source, given: compare(source.c[field], given[name]))


def _equality(name: str, annotation: Any, kind: TypeEngine[Any]) -> Iterable[Filter]:
    equal = Parameter(name, annotation, "Equal to one of these.", kind, many=True)
    yield Filter((equal,), lambda source, given: source.c[name] == any_(given[name]))
    other = f"{name}__not"
    unequal = Parameter(other, annotation, "Equal to none of these.", kind, many=True)
    yield Filter((unequal,), lambda source, given: _is_not(source.c[name] == any_(given[other])))


def _choice(
    name: str,
    annotation: Any,
    kind: TypeEngine[Any],
    field: Callable[[FromClause], ColumnElement[Any]],
    convert: Callable[[list[Any]], list[Any]],
    others: Callable[[list[Any]], list[Any]],
) -> Iterable[Filter]:
    # To be none of them is to be one of the others, which can be looked up.
    parts = (name, "Equal to one of these.", convert), (f"{name}__not", "Equal to none of these.", others)
    for parameter_name, description, converted in parts:
        parameter = Parameter(parameter_name, annotation, description, kind, many=True, convert=converted)
        yield _of_choice(parameter, field)


def _of_choice(parameter: Parameter, field: Callable[[FromClause], ColumnElement[Any]]) -> Filter:
    return Filter((parameter,), lambda source, given: field(source) == any_(given[parameter.name]))


def _text_equality(name: str, suffix: str, annotation: Any, *, ignoring_case: bool, negated: bool) -> Filter:
    parameter_name = name + suffix
    description = f"Equal to {'none' if negated else 'one'} of these{', ignoring case' if ignoring_case else ''}."
    parameter = Parameter(parameter_name, annotation, description, String(), many=True)

    def condition(source: FromClause, given: Given) -> ColumnElement[bool]:
        values = given[parameter_name]
        # The index is over the folded value.
        equal = func.lower(source.c[name]) == any_(_lower_each(values))
        if not ignoring_case:
            equal = and_(equal, source.c[name] == any_(values))
        return _is_not(equal) if negated else equal

    return Filter((parameter,), condition)


def _lower_each(values: ColumnElement[Any]) -> ColumnElement[Any]:
    # Unlike those of a subquery, the planner can see these values. No text has a control character.
    between = literal_column("chr(31)", String())
    return func.string_to_array(func.lower(func.array_to_string(values, between)), between, type_=ARRAY(String))


def _pattern(name: str, suffix: str, annotation: Any, description: str, pattern: str) -> Filter:
    parameter_name = name + suffix

    def convert(value: str) -> str:
        return pattern.format(re.sub(r"([\\%_])", r"\\\1", value))

    parameter = Parameter(parameter_name, annotation, description, String(), convert=convert)
    return Filter(
        (parameter,), lambda source, given: func.lower(source.c[name]).like(func.lower(given[parameter_name]))
    )


def _comparisons(name: str, annotation: Any, kind: TypeEngine[Any]) -> Iterable[Filter]:
    yield _single(f"{name}__gt", annotation, "Greater.", kind, lambda field, value: field > value)
    yield _single(f"{name}__gte", annotation, "Greater or equal.", kind, lambda field, value: field >= value)
    yield _single(f"{name}__lt", annotation, "Less.", kind, lambda field, value: field < value)
    yield _single(f"{name}__lte", annotation, "Less or equal.", kind, lambda field, value: field <= value)


def _absence(name: str, *, counted: bool = False) -> Filter:
    """Return the filter by whether a field has a value; `counted` when its index is over the number of NULLs."""
    parameter_name = f"{name}__null"
    # A constant, so that PostgreSQL can look it up in the index.
    parameter = Parameter(parameter_name, bool, "Whether it has no value.", None)

    def condition(source: FromClause, given: Given) -> ColumnElement[bool]:
        field = source.c[name]
        if counted:
            return func.num_nulls(field) == literal_column("1" if given[parameter_name] else "0")
        return field.is_(None) if given[parameter_name] else field.is_not(None)

    return Filter((parameter,), condition)


def _is_not(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return not_(func.coalesce(condition, literal_column("false"), type_=Boolean))
