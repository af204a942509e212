"""Filters by one field of an object.

A domain declares its filters in its `lists.py` with the functions of this module. Each function yields all filters that
suit the type of one field:

    name            equal to one of the values
    name__not       equal to none of the values; rows without a value match
    name__null      true: has no value, or meets the other conditions; false: has a value
    name__ic        contains, ignoring case      only text with `partial`
    name__sw        starts with, ignoring case   only text with `partial`
    name__gt __gte __lt __lte
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, get_args

from pydantic import AfterValidator
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

from app.domains.shared.models import EXTERNAL_ID_LENGTH, Base, folded, folded_key, referenced_name
from app.domains.shared.query.filters import (
    Filter,
    InstantParameter,
    IntegerParameter,
    NumberParameter,
    Operands,
    Parameter,
)
from app.domains.shared.query.reference_parameters import ReferenceParameter
from app.domains.shared.texts import key_text, multiple_lines, part_of_line, part_of_lines, single_line


def choice(name: str, values: Any) -> Iterable[Filter]:
    """Yield the filters of a field with few values; `values` is their `Literal`."""
    all_values = get_args(values)

    def complement(excluded: list[Any]) -> list[Any]:
        return [value for value in all_values if value not in excluded]

    yield from _choice(name, values, String(), lambda source: source.c[name], list, complement)


def ranked_choice(name: str, values: Any) -> Iterable[Filter]:
    """Yield the filters of a nullable field with few values; `values` is their `Literal` in ascending order."""
    ranks = get_args(values)

    def convert(included: list[Any]) -> list[int]:
        return [ranks.index(value) + 1 for value in included]

    def complement(excluded: list[Any]) -> list[int]:
        return [rank for rank in range(1, len(ranks) + 2) if rank not in convert(excluded)]

    def rank(source: FromClause) -> ColumnElement[int]:
        return rank_column(source, name, ranks)

    # Compares ranks because the index, which also serves the sort order, is over the rank.
    yield from _choice(name, values, Integer(), rank, convert, complement)
    is_null = Parameter(f"{name}__null", bool, _describe_absence(name), None)
    null_rank = literal_column(str(len(ranks) + 1), Integer())
    yield Filter(
        (is_null,),
        lambda source, operands: rank(source) == null_rank if operands[is_null.name] else rank(source) < null_rank,
        field=name,
    )


def rank_column(source: FromClause, name: str, values: Sequence[str]) -> ColumnElement[int]:
    """Return the rank of a field's value among `values`, from 1; NULL ranks last. Equals the index of `rank_sql`."""
    array = literal_column(f"ARRAY[{', '.join(repr(value) for value in values)}]::text[]", ARRAY(Text))
    position = func.array_position(array, cast(source.c[name], Text), type_=Integer)
    return func.coalesce(position, literal_column(str(len(values) + 1), Integer()), type_=Integer)


def flag(name: str) -> Iterable[Filter]:
    """Yield the filter of a Boolean field."""
    description = _describe(name, "equals this value")
    yield _single(name, bool, description, Boolean(), lambda field, value: field == value)


def own_id(model: type[Base]) -> Iterable[Filter]:
    """Yield the filters of the object's own `id`."""
    yield from _equality("id", ReferenceParameter, BigInteger(), model.__tablename__)
    # Not a reference: a client that pages by id begins with `id__gt=0`.
    yield from _comparisons("id", IntegerParameter, BigInteger())


def identifier(name: str, model: type[Base]) -> Iterable[Filter]:
    """Yield the filters of a nullable reference of the objects of `model`."""
    yield from _equality(name, ReferenceParameter, BigInteger(), referenced_name(model.__tablename__, name))
    yield _null_filter(name)


def number(name: str, annotation: Any = NumberParameter, *, nullable: bool = False) -> Iterable[Filter]:
    """Yield the filters of a number."""
    kind: TypeEngine[Any] = BigInteger() if annotation is IntegerParameter else Double()
    yield from _equality(name, annotation, kind)
    yield from _comparisons(name, annotation, kind)
    if nullable:
        yield _null_filter(name)


def instant(name: str) -> Iterable[Filter]:
    """Yield the filters of an instant (RFC 3339)."""
    kind = DateTime(timezone=True)
    yield from _equality(name, InstantParameter, kind)
    yield from _comparisons(name, InstantParameter, kind)


def text(
    name: str,
    *,
    partial: bool = False,
    nullable: bool = True,
    ignore_case: bool = False,
    length: int = EXTERNAL_ID_LENGTH,
    multiline: bool = False,
    is_key: bool = False,
    whole: Callable[[str], str] = str,
    part: Callable[[str], str] = str,
) -> Iterable[Filter]:
    """Yield the filters of text; `partial` adds `__ic` and `__sw`.

    List a partial field in `texts` of `register_table` (trigram index) and any other in `exact_texts`.
    `ignore_case` also makes equality ignore case. `length` is the maximum length of a value in characters. `multiline`
    allows line breaks. Values of `is_key` are compared as they are, without trimming more than blanks. `whole` and
    `part` convert a value, or a part of one, to the form that is stored.
    """
    line = key_text(length) if is_key else single_line(length)
    whole_text = Annotated[str, *(multiple_lines(length) if multiline else line), AfterValidator(whole)]
    for suffix, negated in (("", False), ("__not", True)):
        # The trigram index serves equality, too, but a B-tree is faster: `code` and `email` have one of whole texts.
        uses_tree = name == "name" or not partial
        yield _text_equality(
            name, suffix, whole_text, ignore_case=ignore_case, negated=negated, uses_folded_key=uses_tree
        )
    if partial:
        part_text = Annotated[
            str, *(part_of_lines(length) if multiline else part_of_line(length)), AfterValidator(part)
        ]
        for suffix, verb, before in (("__ic", "contains", "%"), ("__sw", "starts with", "")):
            yield _pattern(name, suffix, part_text, _describe(name, f"{verb} this text, ignoring case"), before)
    if nullable:
        yield _null_filter(name, uses_num_nulls=True)


def _describe(name: str, condition: str) -> str:
    """Return the description of a parameter that filters by a field."""
    return f"Only objects whose `{name}` {condition}."


def _describe_equality(name: str, *, negated: bool = False, ignore_case: bool = False) -> str:
    values = f"equals {'none' if negated else 'one'} of these values"
    return _describe(name, f"{values}, ignoring case" if ignore_case else values)


def _describe_absence(name: str) -> str:
    absence = f"`true`: only objects without a value of `{name}`, or also these if `{name}` has other conditions"
    return f"{absence}; `false`: only objects with a value."


def _single(
    name: str,
    annotation: Any,
    description: str,
    kind: TypeEngine[Any],
    compare: Callable[[ColumnElement[Any], Any], ColumnElement[bool]],
) -> Filter:
    field = name.partition("__")[0]
    parameter = Parameter(name, annotation, description, kind)
    return Filter((parameter,), lambda source, operands: compare(source.c[field], operands[name]), field=field)


def _equality(name: str, annotation: Any, kind: TypeEngine[Any], target: str | None = None) -> Iterable[Filter]:
    equal = Parameter(name, annotation, _describe_equality(name), kind, is_list=True, target=target)
    yield Filter((equal,), lambda source, operands: source.c[name] == any_(operands[name]), field=name)
    negation = f"{name}__not"
    description = _describe_equality(name, negated=True)
    unequal = Parameter(negation, annotation, description, kind, is_list=True, target=target)
    yield Filter((unequal,), lambda source, operands: is_not(source.c[name] == any_(operands[negation])))


def _choice(
    name: str,
    annotation: Any,
    kind: TypeEngine[Any],
    field: Callable[[FromClause], ColumnElement[Any]],
    convert: Callable[[list[Any]], list[Any]],
    complement: Callable[[list[Any]], list[Any]],
) -> Iterable[Filter]:
    # `__not` is an equality with the other values, which an index can serve.
    for parameter_name, negated, to_operand in ((name, False, convert), (f"{name}__not", True, complement)):
        description = _describe_equality(name, negated=negated)
        parameter = Parameter(parameter_name, annotation, description, kind, is_list=True, convert=to_operand)
        yield _choice_filter(parameter, field, None if negated else name)


def _choice_filter(
    parameter: Parameter, column: Callable[[FromClause], ColumnElement[Any]], field: str | None
) -> Filter:
    return Filter((parameter,), lambda source, operands: column(source) == any_(operands[parameter.name]), field=field)


def _text_equality(
    name: str, suffix: str, annotation: Any, *, ignore_case: bool, negated: bool, uses_folded_key: bool
) -> Filter:
    """Return the filter for whole texts; `uses_folded_key` if the index is over `folded_key`."""
    parameter_name = name + suffix
    description = _describe_equality(name, negated=negated, ignore_case=ignore_case)
    parameter = Parameter(parameter_name, annotation, description, String(), is_list=True)

    def condition(source: FromClause, operands: Operands) -> ColumnElement[bool]:
        values = operands[parameter_name]
        field = source.c[name]
        # The index is over the folded value.
        if uses_folded_key:
            equal = folded_key(field) == any_(func.fold_keys(values, type_=ARRAY(Text)))
        else:
            equal = folded(field) == any_(_fold_all(name, values))
        if not ignore_case:
            equal = and_(equal, field == any_(values))
        return is_not(equal) if negated else equal

    return Filter((parameter,), condition, field=None if negated else name)


def _fold_all(name: str, values: ColumnElement[Any]) -> ColumnElement[Any]:
    # Not a subquery, whose values the planner could not estimate. U+001F is a safe separator: texts cannot contain it.
    separator = literal_column("chr(31)", String())
    return func.string_to_array(folded(func.array_to_string(values, separator), name), separator, type_=ARRAY(Text))


def _pattern(name: str, suffix: str, annotation: Any, description: str, before: str) -> Filter:
    """Return the filter for a part of a text; `before` is the pattern of what may precede it."""
    parameter = Parameter(name + suffix, annotation, description, String())

    def condition(source: FromClause, operands: Operands) -> ColumnElement[bool]:
        part = folded(operands[parameter.name], name)
        # Escaped after folding, which makes characters of LIKE from some others.
        escaped = func.regexp_replace(part, _constant(r"([\\%_])"), _constant(r"\\\1"), _constant("g"), type_=Text)
        return folded(source.c[name]).like(_constant(before) + escaped + _constant("%"))

    return Filter((parameter,), condition, field=name)


def _constant(value: str) -> ColumnElement[str]:
    # Not a bind parameter, which a prepared statement must not hold.
    return literal_column(f"'{value}'", Text())


def _comparisons(name: str, annotation: Any, kind: TypeEngine[Any]) -> Iterable[Filter]:
    is_instant = annotation is InstantParameter
    comparisons: tuple[tuple[str, str, str, Callable[[Any, Any], Any]], ...] = (
        ("__gt", "is greater than this value", "is after this instant", operator.gt),
        ("__gte", "is at least this value", "is at or after this instant", operator.ge),
        ("__lt", "is less than this value", "is before this instant", operator.lt),
        ("__lte", "is at most this value", "is at or before this instant", operator.le),
    )
    for suffix, of_number, of_instant, compare in comparisons:
        description = _describe(name, of_instant if is_instant else of_number)
        yield _single(name + suffix, annotation, description, kind, compare)


def _null_filter(name: str, *, uses_num_nulls: bool = False) -> Filter:
    """Return the filter for a missing value; `uses_num_nulls` if the index is over `num_nulls` of the field."""
    parameter_name = f"{name}__null"
    # No bind parameter: the planner needs a constant to use the index.
    parameter = Parameter(parameter_name, bool, _describe_absence(name), None)

    def condition(source: FromClause, operands: Operands) -> ColumnElement[bool]:
        field = source.c[name]
        if uses_num_nulls:
            return func.num_nulls(field) == literal_column("1" if operands[parameter_name] else "0")
        return field.is_(None) if operands[parameter_name] else field.is_not(None)

    return Filter((parameter,), condition, field=name)


def is_not(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the negation of a condition, which also holds where the condition is NULL."""
    return not_(func.coalesce(condition, literal_column("false"), type_=Boolean))
