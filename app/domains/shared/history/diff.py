"""The history: each statement that changes an object adds one row to `changes`, and says only what differs.

`before` and `after` have the members of the object's document that changed, references with the briefs that tell what
they are, and of lists of links only the entries that went or came.
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

from app.domains.shared.history.record import constant

# Every change changes these, and the row of the history has them of its own.
_BOOKKEEPING = ("id", "version", "created_at", "updated_at", "created_by", "updated_by")
_NULL = literal_column("'null'::jsonb", JSONB)
_NOTHING = literal_column("'{}'::jsonb", JSONB)
_EMPTY_LIST = literal_column("'[]'::jsonb", JSONB)


def changed_members(rows: FromClause, members: Mapping[str, tuple[ColumnElement[Any], ...]]) -> CTE:
    """Return the members that differ, as one row: `before` and `after`.

    Each member has two values in JSONB, of the columns of `rows`: as it was and as it is. SQL's NULL says that there is
    nothing to tell.
    """
    befores, afters = (array([both[side] for both in members.values()]) for side in (0, 1))
    member = func.unnest(array([constant(name) for name in members]), befores, afters)
    columns: list[Any] = [column("key", String), column("before", JSONB), column("after", JSONB)]
    each = member.table_valued(*columns).render_derived(name="member")
    sides = (
        func.coalesce(func.jsonb_object_agg(each.c.key, side).filter(side.is_not(None)), _NOTHING).label(name)
        for name, side in (("before", each.c.before), ("after", each.c.after))
    )
    found = select(*sides).select_from(rows.join(each, literal_column("true")))
    return found.where(each.c.before.is_distinct_from(each.c.after)).cte("compared")


def jsonb_or_null(value: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a value of a document as JSONB; that there is none, too, is told."""
    return func.coalesce(func.to_jsonb(value), _NULL)


def nonempty_or_null(entries: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the JSON list of the links that went or came; none are not worth telling."""
    return func.nullif(cast(entries, JSONB), _EMPTY_LIST)


def nonempty_members(document: ColumnElement[Any], briefs: Sequence[str]) -> ColumnElement[Any]:
    """Return the members of a document that say something: of a new object, or of one that goes."""
    return _members(document, _NOTHING, briefs)


def differences(
    before: ColumnElement[Any], after: ColumnElement[Any], briefs: Sequence[str]
) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Return the members that differ between two documents of an object, as they were and as they are."""
    return (
        func.coalesce(_members(before, after, briefs), _NOTHING),
        func.coalesce(_members(after, before, briefs), _NOTHING),
    )


def _members(one: ColumnElement[Any], other: ColumnElement[Any], briefs: Sequence[str]) -> ColumnElement[Any]:
    member = func.jsonb_each(one).table_valued(column("key", String), column("value", JSONB)).alias("member")
    key, value = member.c.key, member.c.value
    # A brief differs when its reference does: that somebody renamed the other object is no change of this one.
    facts: ColumnElement[Any] = key
    if briefs:
        facts = case((key.in_([constant(name) for name in briefs]), key + constant("_id")), else_=key)
    differing = and_(
        key.not_in([constant(name) for name in _BOOKKEEPING]),
        func.coalesce(_member(one, facts), _NULL).is_distinct_from(func.coalesce(_member(other, facts), _NULL)),
    )
    is_list = func.jsonb_typeof(value) == constant("array")
    shown: Label[Any] = case((is_list, _entries(value, _member(other, key))), else_=value).label("value")
    # With an OFFSET PostgreSQL looks at the entries of a list once; else again for the condition outside.
    rows = select(key, shown).select_from(member).where(differing).offset(literal_column("0"))
    # Of each object only its own members.
    columns = (document for document in (one, other) if isinstance(document, ColumnClause))
    sources = [document.table for document in columns if document.table is not None]
    found = (rows.correlate(*sources) if sources else rows).subquery("differing")
    return select(func.jsonb_object_agg(found.c.key, found.c.value)).where(found.c.value.is_not(None)).scalar_subquery()


def _member(document: ColumnElement[Any], key: ColumnElement[str]) -> ColumnElement[Any]:
    return func.jsonb_extract_path(document, key, type_=JSONB)


def _entries(ours: ColumnElement[Any], others: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the entries of a list of links that are not among the others, which may have new names."""
    our, their = (
        func.jsonb_array_elements(entries).table_valued(column("value", JSONB)).alias(name)
        for entries, name in ((ours, "our"), (func.coalesce(others, _EMPTY_LIST), "their"))
    )
    same = _facts(their.c.value) == _facts(our.c.value)
    # As JSONB is ordered: by `id`, which is the shortest of the names, and then by what the link says.
    only_ours = select(func.jsonb_agg(aggregate_order_by(our.c.value, our.c.value))).select_from(our)
    return only_ours.where(not_(exists(select(literal_column("1")).select_from(their).where(same)))).scalar_subquery()


def _facts(entry: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(entry.op("-")(constant("code")).op("-")(constant("name")), JSONB)
