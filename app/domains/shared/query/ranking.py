"""Pages of what `q` finds, in the order of ranks or in another.

No page looks at all that is found. Ranks are looked into one after the other, until the page is full. What few objects
match is looked up in the index; of what many match the first ones are soon come upon by walking along the order of the
list. A sample of the collection tells which it is. The planner has no choice in it: it cannot know how many match.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    SmallInteger,
    Text,
    and_,
    case,
    cast,
    column,
    func,
    literal_column,
    not_,
    select,
    true,
    union_all,
)

from app.domains.shared.query.orders import Condition, Order, SortKey, Start, opaque_parameter
from app.domains.shared.query.pages import ListDeclaration
from app.domains.shared.query.search import (
    EQUAL,
    LEAST,
    MATCHING,
    has_code,
    has_name,
    is_equal,
    matches_search,
    search_rank,
)

BY_RANK = "rank"

# At how many places the sample is taken, how many rows at each, and at how many something is found of what is many.
_PLACES, _ROWS, _MANY = 32, 16, 3
_ZERO: ColumnElement[int] = literal_column("0")
_BELOW_ALL, _ABOVE_ALL = literal_column("0", BigInteger), literal_column(str(2**63 - 1), BigInteger)
_RANK = SortKey(lambda source: (search_rank(source),), (SmallInteger(),))


@dataclass(frozen=True, slots=True)
class SearchOrder(Order):
    """The order of a list with `q`, by rank or as `sort` has it. The condition is that of the other filters."""

    def page(self, source: FromClause, condition: Condition | None, start: Start) -> Select[Any]:
        if self.sort == BY_RANK:
            rows = rows_by_id(source, ranked_ids(source, condition, start))
        else:
            rows = self._sorted(source, condition, start)
        return self.limit_to_page(select(*rows.c), rows, start)

    def _sorted(self, source: FromClause, condition: Condition | None, start: Start) -> FromClause:
        matching = self.matching(source, condition, start)
        sample = _Sample(source, condition)
        walked = matching.where(sample.walks(LEAST), matches_search(source, walking=True))
        looked_up = (
            _optimizer_fence(matching.where(chosen, matches_search(source, walking=walking)), f"looked_up_{number}")
            for number, (chosen, walking) in enumerate(sample.looks_up(LEAST))
        )
        parts = [self._first(walked, source, start)]
        parts += [self._first(select(*each.c), each, start) for each in looked_up]
        return union_all(*(select(*part.subquery().c) for part in parts)).subquery("s")

    def _first(self, rows: Select[Any], source: FromClause, start: Start) -> Select[Any]:
        return rows.order_by(*self.clauses(source, backwards=start == "before")).limit(_page_end())


@cache
def search_order(sort: str | None, declaration: ListDeclaration) -> SearchOrder:
    """Return the order of a list with `q`: by rank, unless it is to be sorted."""
    if sort is not None:
        return SearchOrder(sort, declaration)
    return SearchOrder(BY_RANK, replace(declaration, sorts={**declaration.sorts, BY_RANK: _RANK}))


def ranked_ids(source: FromClause, condition: Condition | None, start: Start, name: str = "") -> FromClause:
    """Return `id` and `rank` of what is found first, of each rank at least as many as the page needs.

    The position is in the parameters `key_0`, a rank, and `key_1`, an id, followed by `name`, which tells several of
    these apart in one statement.
    """
    sample = _Sample(source, condition, name)
    tiers: list[CTE] = []
    for rank in sorted((EQUAL, *MATCHING), reverse=start == "before"):
        conditions = []
        if condition is not None:
            conditions.append(condition(source))
        if tiers:
            conditions.append(_rows_of(tiers) < _page_end())
        rows = select(source.c.id, literal_column(str(rank), SmallInteger).label("rank")).where(*conditions)
        walked, *looked_up = _equal_parts(rows, source) if rank == EQUAL else _tier_parts(rows, source, rank, sample)
        if start != "first":
            # Along the index of the ids only where they are walked along: elsewhere it would lead through all of them.
            walked = walked.where(_beyond(source.c.id, rank, start, name))
            looked_up = [part.where(_beyond(source.c.id + _ZERO, rank, start, name)) for part in looked_up]
        apart = (_optimizer_fence(part, f"looked_up_{number}") for number, part in enumerate(looked_up))
        parts = [walked, *(select(*each.c) for each in apart)]
        tiers.append(_tier(f"rank_{rank}{name}", parts, backwards=start == "before"))
    return union_all(*(select(*tier.c) for tier in tiers)).subquery(f"found_ids{name}")


def rows_by_id(source: FromClause, found: FromClause) -> FromClause:
    """Return the rows of what was found, and their ranks."""
    # One by one: the planner, which expects more of them, would read the whole table.
    row = select(*source.c).where(source.c.id == found.c.id).offset(_ZERO).lateral("row")
    return select(*row.c, found.c.rank).select_from(found.join(row, true())).subquery("s")


class _Sample:
    """Some rows from all over a collection, by which to judge how many match."""

    def __init__(self, source: FromClause, condition: Condition | None, name: str = "") -> None:
        first, last = (select(edge(source.c.id)).scalar_subquery() for edge in (func.min, func.max))
        places = func.generate_series(_ZERO, literal_column(str(_PLACES - 1)))
        place = places.table_valued(column("number", Integer)).render_derived(name="place")
        begin = first + (last - first) // literal_column(str(_PLACES), Integer) * place.c.number
        rows = select(*source.c).where(source.c.id >= begin).order_by(source.c.id).limit(literal_column(str(_ROWS)))
        row = rows.lateral("sampled")
        self._filtered = condition is not None
        selected = literal_column("true") if condition is None else condition(row)
        query = select(place.c.number, row.c.search_name, row.c.search_text, selected.label("selected"))
        self._rows = query.select_from(place.join(row, true())).cte(f"sample{name}").prefix_with("MATERIALIZED")
        self._judged = {rank: self._judge(rank).cte(f"judged_{rank}{name}") for rank in MATCHING}

    def walks(self, rank: int) -> ColumnElement[bool]:
        """Tell whether so many match that one need not go far to come upon them."""
        return self._told(rank, "selected")

    def looks_up(self, rank: int) -> Sequence[tuple[ColumnElement[bool], bool]]:
        """Tell when otherwise to look them up by their words, and when, as many have these, by the other filters."""
        few = not_(self.walks(rank))
        if not self._filtered:
            return ((few, False),)
        many = self._told(rank, "matching")
        return (and_(few, not_(many)), False), (and_(few, many), True)

    def _told(self, rank: int, name: str) -> ColumnElement[bool]:
        return select(self._judged[rank].c[name]).scalar_subquery()

    def _judge(self, rank: int) -> Select[bool, bool]:
        rows = self._rows
        # Places, not rows: what was added at once stands together, and may be nowhere else.
        places = func.count(rows.c.number.distinct())
        least: ColumnElement[int] = literal_column(str(_MANY))
        matching = (places >= least).label("matching")
        selected = (places.filter(rows.c.selected) >= least).label("selected")
        return select(matching, selected).where(MATCHING[rank](rows, walking=True))


def _equal_parts(rows: Select[Any], source: FromClause) -> Sequence[Select[Any]]:
    by_name = rows.where(has_name(source), not_(func.coalesce(has_code(source), literal_column("false"))))
    return rows.where(has_code(source)), by_name


def _tier_parts(rows: Select[Any], source: FromClause, rank: int, sample: _Sample) -> Sequence[Select[Any]]:
    matching = MATCHING[rank]
    rows = rows.where(not_(is_equal(source)))
    for better in range(EQUAL + 1, rank):
        rows = rows.where(not_(MATCHING[better](source, walking=True)))
    walked = rows.where(sample.walks(rank), matching(source, walking=True))
    looked_up = (rows.where(chosen, matching(source, walking=walking)) for chosen, walking in sample.looks_up(rank))
    return walked, *looked_up


def _optimizer_fence(rows: Select[Any], name: str) -> FromClause:
    """Return rows with no order for whose sake the planner might walk: the OFFSET keeps it out."""
    return rows.offset(_ZERO).subquery(name)


def _tier(name: str, parts: Sequence[Select[Any]], *, backwards: bool) -> CTE:
    """Return the CTE of the first rows of one rank: as many as are needed if no other rank had any."""
    firsts = []
    for part in parts:
        key = part.selected_columns.id
        firsts.append(part.order_by(key.desc() if backwards else key).limit(_page_end()).subquery())
    return union_all(*(select(*first.c) for first in firsts)).cte(name).prefix_with("MATERIALIZED")


def _beyond(id_: ColumnElement[int], rank: int, start: Start, name: str) -> ColumnElement[bool]:
    """Select the rows of one rank that come after, or before, the position."""
    at = cast(opaque_parameter(f"key_0{name}", Text()), SmallInteger)
    edge = cast(opaque_parameter(f"key_1{name}", Text()), BigInteger)
    this: ColumnElement[int] = literal_column(str(rank))
    if start == "after":
        return id_ > case((at == this, edge), (at < this, _BELOW_ALL), else_=_ABOVE_ALL)
    return id_ < case((at == this, edge), (at > this, _ABOVE_ALL), else_=_BELOW_ALL)


def _rows_of(tiers: Sequence[CTE]) -> ColumnElement[int]:
    counts = [select(func.count()).select_from(tier).scalar_subquery() for tier in tiers]
    return sum(counts[1:], start=counts[0])


def _page_end() -> ColumnElement[int]:
    return opaque_parameter("limit") + opaque_parameter("offset") + literal_column("1")
