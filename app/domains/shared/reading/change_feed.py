"""The statements of the feed of changes.

A change has the position `(transaction_id, id)`, or `(0, id)` if it is settled (`history/feed_state.py`). The feed
delivers a change once its transaction is older than all that are still running, so no later commit adds a change before
a position that was delivered. A statement reads either settled changes or the others, through one index each.
"""

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    FromClause,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    case,
    func,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, array

from app.core.prepared import fast_statement
from app.domains.shared.history.feed_state import FeedState, horizon, is_current
from app.domains.shared.history.models import Change
from app.domains.shared.models import table_of
from app.domains.shared.reading.history_rows import ExcludedMembers, select_members
from app.domains.shared.reading.json_text import utf8

# The position before all changes that are not settled; `live_from` takes its place.
BEFORE_LIVE = (1, 0)
# A page looks at this number of changes at most, however few of them the caller may read or asks for.
MAX_ROWS_READ = 10_000


@fast_statement()
def feed_state() -> Select[Any]:
    """Return the statement of the state of the feed: one row, with NULL in `epoch` if there is none.

    The columns are `is_current`, `epoch`, `thinnings` and `thinned_before` of `FeedState`, and `horizon`, the least id
    of a transaction that may still add changes.
    """
    return _select_state()


@fast_statement()
def feed_page(excluded: ExcludedMembers, *, is_settled: bool) -> Select[Any]:
    """Return the statement of a page, which returns one row: the columns of `feed_state`, and

    - `rows`: the number of changes, one more than `limit` if more follow;
    - `positions`, `bodies`: the position and the document of each, at most `limit`; NULL if there are none;
    - `end`: the position of the last of `MAX_ROWS_READ` rows, if the page has no more than `limit` changes because it
      stops there; else NULL.
    """
    table = table_of(Change).alias("change")
    limit = bindparam("limit", type_=BigInteger)
    window = _ahead(select(*table.c), table, is_settled=is_settled).limit(literal_column(str(MAX_ROWS_READ)))
    rows = window.subquery("ahead")
    page = select(*rows.c).where(_matches(rows, is_settled=is_settled)).order_by(*_order(rows, is_settled=is_settled))
    found = page.limit(limit + literal_column("1")).cte("page").prefix_with("MATERIALIZED")
    entry = select(_position(found, is_settled=is_settled).label("position"), _body(found, excluded).label("body"))
    entries = entry.order_by(*_order(found, is_settled=is_settled)).limit(limit).subquery("entry")
    count = select(func.count()).select_from(found).scalar_subquery()
    last = _ahead(select(_position(table, is_settled=is_settled)), table, is_settled=is_settled)
    last = last.offset(literal_column(str(MAX_ROWS_READ - 1))).limit(literal_column("1"))
    return _select_state().add_columns(
        count.label("rows"),
        _collect(entries.c.position, entries.c.position).label("positions"),
        _collect(entries.c.body, entries.c.position).label("bodies"),
        case((count <= limit, last.scalar_subquery())).label("end"),
    )


@fast_statement()
def feed_stream(excluded: ExcludedMembers, *, is_settled: bool) -> Select[Any]:
    """Return the statement of all matching changes ahead, each with its `position` and `body`."""
    table = table_of(Change).alias("change")
    # OFFSET is an optimiser fence: no plan sorts the changes before it returns the first one.
    rows = _ahead(select(*table.c), table, is_settled=is_settled).offset(literal_column("0")).subquery("ahead")
    entry = select(_position(rows, is_settled=is_settled).label("position"), _body(rows, excluded).label("body"))
    return entry.where(_matches(rows, is_settled=is_settled)).order_by(*_order(rows, is_settled=is_settled))


def _select_state() -> Select[Any]:
    state = table_of(FeedState)
    one = select(literal_column("1")).subquery("one")
    return select(
        func.coalesce(is_current(state), literal_column("false", Boolean)).label("is_current"),
        state.c.epoch,
        state.c.thinnings,
        state.c.thinned_before,
        horizon().label("horizon"),
    ).select_from(one.outerjoin(state, literal_column("true")))


def _ahead(query: Select[Any], source: FromClause, *, is_settled: bool) -> Select[Any]:
    """Return the query restricted to the deliverable changes after a position, and in their order."""
    last_id = bindparam("id", type_=BigInteger)
    if is_settled:
        conditions = [source.c.id > last_id, source.c.id <= _of_state("settled_through")]
    else:
        first = func.greatest(bindparam("transaction_id", type_=BigInteger), _of_state("live_from"))
        position = tuple_(first, last_id)
        conditions = [
            tuple_(source.c.transaction_id, source.c.id) > position,
            source.c.transaction_id < horizon(),
        ]
    return query.where(*conditions).order_by(*_order(source, is_settled=is_settled))


def _order(source: FromClause, *, is_settled: bool) -> list[ColumnElement[Any]]:
    return [source.c.id] if is_settled else [source.c.transaction_id, source.c.id]


def _position(source: FromClause, *, is_settled: bool) -> ColumnElement[Any]:
    first: ColumnElement[int] = literal_column("0::bigint", BigInteger) if is_settled else source.c.transaction_id
    return array([first, source.c.id])


def _matches(source: FromClause, *, is_settled: bool) -> ColumnElement[bool]:
    """Return the condition on the types and actions, and, unless `is_settled`, that the change is not settled.

    Settled changes may have the transaction ids of another cluster.
    """
    names = (source.c.type == _any_of("types"), source.c.action == _any_of("actions"))
    return and_(*names) if is_settled else and_(source.c.id > _of_state("settled_through"), *names)


def _any_of(name: str) -> ColumnElement[Any]:
    return any_(bindparam(name, type_=ARRAY(Text)))


def _of_state(name: str) -> ColumnElement[int]:
    return select(table_of(FeedState).alias("state").c[name]).scalar_subquery()


def _body(source: FromClause, excluded: ExcludedMembers) -> ColumnElement[bytes]:
    members = select_members(source, excluded).correlate(source).subquery("d")
    return select(utf8(func.row_to_json(members.table_valued()))).scalar_subquery()


def _collect(value: ColumnElement[Any], order: ColumnElement[Any]) -> ColumnElement[Any]:
    return select(func.array_agg(aggregate_order_by(value, order))).scalar_subquery()
