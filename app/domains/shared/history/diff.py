"""The differences that the history records: `before` and `after` of a change.

Both have only the members of the object's document that changed: references together with their briefs, and of lists of
links only the entries that were removed or added.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnClause,
    ColumnElement,
    FromClause,
    Label,
    String,
    and_,
    case,
    cast,
    column,
    exists,
    func,
    literal_column,
    not_,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by, array

from app.domains.shared.collection import BOOKKEEPING
from app.domains.shared.history.record import constant

_NULL = literal_column("'null'::jsonb", JSONB)
_NOTHING = literal_column("'{}'::jsonb", JSONB)
_EMPTY_LIST = literal_column("'[]'::jsonb", JSONB)


def changed_members(rows: FromClause, members: Mapping[str, tuple[ColumnElement[Any], ...]]) -> CTE:
    """Return the CTE of the members that differ, as one row: `before` and `after`.

    `members` has, by name, the old and the new value as JSONB, expressions over the columns of `rows`. A value that is
    SQL NULL is left out.
    """
    befores, afters = (array([values[side] for values in members.values()]) for side in (0, 1))
    member = func.unnest(array([constant(name) for name in members]), befores, afters)
    columns: list[Any] = [column("key", String), column("before", JSONB), column("after", JSONB)]
    row = member.table_valued(*columns).render_derived(name="member")
    sides = (
        func.coalesce(func.jsonb_object_agg(row.c.key, side).filter(side.is_not(None)), _NOTHING).label(name)
        for name, side in (("before", row.c.before), ("after", row.c.after))
    )
    query = select(*sides).select_from(rows.join(row, literal_column("true")))
    return query.where(row.c.before.is_distinct_from(row.c.after)).cte("compared")


def jsonb_or_null(value: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a value as JSONB; SQL NULL becomes JSON null, so that it is recorded."""
    return func.coalesce(func.to_jsonb(value), _NULL)


def nonempty_or_null(entries: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a JSON list of links as JSONB; the empty list becomes SQL NULL, so that it is left out."""
    return func.nullif(cast(entries, JSONB), _EMPTY_LIST)


def nonempty_members(document: ColumnElement[Any], briefs: Sequence[str]) -> ColumnElement[Any]:
    """Return the nonempty members of the document of a created or deleted object."""
    return _members(document, _NOTHING, briefs)


def differences(
    before: ColumnElement[Any], after: ColumnElement[Any], briefs: Sequence[str]
) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Return the members that differ between two documents of an object, with the old and with the new values."""
    return (
        func.coalesce(_members(before, after, briefs), _NOTHING),
        func.coalesce(_members(after, before, briefs), _NOTHING),
    )


def _members(document: ColumnElement[Any], other: ColumnElement[Any], briefs: Sequence[str]) -> ColumnElement[Any]:
    member = func.jsonb_each(document).table_valued(column("key", String), column("value", JSONB)).alias("member")
    key, value = member.c.key, member.c.value
    # A brief differs if its reference does: renaming the referenced object does not change this document.
    key_: ColumnElement[Any] = key
    if briefs:
        key_ = case((key.in_([constant(name) for name in briefs]), key + constant("_id")), else_=key)
    differing = and_(
        key.not_in([constant(name) for name in BOOKKEEPING]),
        func.coalesce(_member(document, key_), _NULL).is_distinct_from(func.coalesce(_member(other, key_), _NULL)),
    )
    is_list = func.jsonb_typeof(value) == constant("array")
    recorded: Label[Any] = case((is_list, _entries(value, _member(other, key))), else_=value).label("value")
    # OFFSET 0 is an optimiser fence: without it the entries of a list are computed again for the outer condition.
    rows = select(key, recorded).select_from(member).where(differing).offset(literal_column("0"))
    # Correlate, so that each document is compared with the other document of the same object.
    columns = (column_ for column_ in (document, other) if isinstance(column_, ColumnClause))
    sources = [column_.table for column_ in columns if column_.table is not None]
    members = (rows.correlate(*sources) if sources else rows).subquery("differing")
    query = select(func.jsonb_object_agg(members.c.key, members.c.value)).where(members.c.value.is_not(None))
    return query.scalar_subquery()


def _member(document: ColumnElement[Any], key: ColumnElement[str]) -> ColumnElement[Any]:
    return func.jsonb_extract_path(document, key, type_=JSONB)


def _entries(links: ColumnElement[Any], other_links: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the entries of a list of links without an equal one in the other list, ignoring codes and names."""
    entry, other = (
        func.jsonb_array_elements(entries).table_valued(column("value", JSONB)).alias(name)
        for entries, name in ((links, "entry"), (func.coalesce(other_links, _EMPTY_LIST), "other"))
    )
    is_equal = _without_names(other.c.value) == _without_names(entry.c.value)
    # The order of JSONB: by `id`, whose name is the shortest, then by the link's own field.
    query = select(func.jsonb_agg(aggregate_order_by(entry.c.value, entry.c.value))).select_from(entry)
    return query.where(not_(exists(select(literal_column("1")).select_from(other).where(is_equal)))).scalar_subquery()


def _without_names(entry: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(entry.op("-")(constant("code")).op("-")(constant("name")), JSONB)
