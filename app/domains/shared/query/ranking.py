"""Pages of the objects that match `q`, in the order of ranks or in another order.

No page reads all matches. Ranks are queried one after the other until the page is full. Rare matches are found fastest
in the index of words; common matches by scanning the collection in list order, until there are enough. A sample of the
collection decides between the two. The planner must not decide, because it cannot estimate the number of matches.
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

from app.domains.shared.query.orders import (
    FIRST_POSITION,
    LAST_POSITION,
    Condition,
    Order,
    SortKey,
    Start,
    opaque_parameter,
)
from app.domains.shared.query.pages import ListDeclaration
from app.domains.shared.query.search import (
    EQUAL,
    MATCHING,
    SIMILAR,
    has_code,
    has_name,
    is_equal,
    matches_search,
    search_rank,
)

BY_RANK = "rank"

# The places of the sample, the rows read at each, and the number of places with a match that makes matches common.
_PLACES, _ROWS, _COMMON_PLACES = 32, 16, 3
_ZERO: ColumnElement[int] = literal_column("0")
_RANK = SortKey(lambda source: (search_rank(source),), (SmallInteger(),))


@dataclass(frozen=True, slots=True)
class SearchOrder(Order):
    """The order of a list with `q`, by rank or by `sort`. Its conditions are those of the filters other than `q`."""

    def page(self, source: FromClause, condition: Condition | None, start: Start) -> Select[Any]:
        if self.sort == BY_RANK:
            rows = rows_by_id(source, ranked_ids(source, condition, start))
        else:
            rows = self._sorted(source, condition, start)
        return self.limit_to_page(select(*rows.c), rows, start)

    def _sorted(self, source: FromClause, condition: Condition | None, start: Start) -> FromClause:
        rows = self.select_matching(source, condition, start)
        sample = _Sample(source, condition)
        scan_rows = rows.where(sample.prefers_scan(SIMILAR), matches_search(source, use_index=False))
        index_rows = (
            _optimizer_fence(rows.where(preferred, matches_search(source, use_index=use_index)), f"index_rows_{number}")
            for number, (preferred, use_index) in enumerate(sample.prefers_index(SIMILAR))
        )
        parts = [self._limit_part(scan_rows, source, start)]
        parts += [self._limit_part(select(*part.c), part, start) for part in index_rows]
        return union_all(*(select(*part.subquery().c) for part in parts)).subquery("s")

    def _limit_part(self, rows: Select[Any], source: FromClause, start: Start) -> Select[Any]:
        return rows.order_by(*self.clauses(source, backwards=start == "before")).limit(_page_end())


def search_order(sort: str | None, declaration: ListDeclaration) -> SearchOrder:
    """Return the order of a list with `q`: by `sort`, or by rank without it."""
    return _rank_order(declaration) if sort is None else SearchOrder(sort, declaration)


@cache
def _rank_order(declaration: ListDeclaration) -> SearchOrder:
    return SearchOrder(BY_RANK, replace(declaration, sorts={**declaration.sorts, BY_RANK: _RANK}))


def ranked_ids(source: FromClause, condition: Condition | None, start: Start, name: str = "") -> FromClause:
    """Return `id` and `rank` of the first matches, for each rank at least as many as the page needs.

    The parameters of the position are `key_0` (a rank) and `key_1` (an id), each with the suffix `name`, which must
    differ between several uses in one statement.
    """
    sample = _Sample(source, condition, name)
    tiers: list[CTE] = []
    for rank in sorted((EQUAL, *MATCHING), reverse=start == "before"):
        conditions = []
        if condition is not None:
            conditions.append(condition(source))
        if tiers:
            conditions.append(_count_rows(tiers) < _page_end())
        rows = select(source.c.id, literal_column(str(rank), SmallInteger).label("rank")).where(*conditions)
        scan, *index_parts = _equal_parts(rows, source) if rank == EQUAL else _tier_parts(rows, source, rank, sample)
        if start != "first":
            # `id + 0` keeps the planner from scanning the primary key where the index of words is to be used.
            scan = scan.where(_keyset_condition(source.c.id, rank, start, name))
            index_parts = [
                part.where(_keyset_condition(source.c.id + _ZERO, rank, start, name)) for part in index_parts
            ]
        fenced = (_optimizer_fence(part, f"index_rows_{number}") for number, part in enumerate(index_parts))
        parts = [scan, *(select(*part.c) for part in fenced)]
        tiers.append(_tier(f"rank_{rank}{name}", parts, backwards=start == "before"))
    return union_all(*(select(*tier.c) for tier in tiers)).subquery(f"found_ids{name}")


def rows_by_id(source: FromClause, ids: FromClause) -> FromClause:
    """Return the rows with these ids, and their ranks."""
    # LATERAL with OFFSET 0 forces one index lookup per row. The planner overestimates the number of ids, and would
    # otherwise choose a sequential scan.
    row = select(*source.c).where(source.c.id == ids.c.id).offset(_ZERO).lateral("row")
    return select(*row.c, ids.c.rank).select_from(ids.join(row, true())).subquery("s")


class _Sample:
    """A sample of rows at equal distances in the range of ids, to estimate how common matches are."""

    def __init__(self, source: FromClause, condition: Condition | None, name: str = "") -> None:
        first, last = (select(edge(source.c.id)).scalar_subquery() for edge in (func.min, func.max))
        places = func.generate_series(_ZERO, literal_column(str(_PLACES - 1)))
        place = places.table_valued(column("number", Integer)).render_derived(name="place")
        begin = first + (last - first) // literal_column(str(_PLACES), Integer) * place.c.number
        rows = select(*source.c).where(source.c.id >= begin).order_by(source.c.id).limit(literal_column(str(_ROWS)))
        row = rows.lateral("sampled")
        self._has_filters = condition is not None
        selected = literal_column("true") if condition is None else condition(row)
        query = select(place.c.number, row.c.search_name, row.c.search_text, selected.label("selected"))
        self._rows = query.select_from(place.join(row, true())).cte(f"sample{name}").prefix_with("MATERIALIZED")
        self._judgements = {rank: self._judge(rank).cte(f"judgement_{rank}{name}") for rank in MATCHING}

    def prefers_scan(self, rank: int) -> ColumnElement[bool]:
        """Return the condition that matches which pass the filters are common, so that a scan soon fills the page."""
        return self._judgement(rank, "selected")

    def prefers_index(self, rank: int) -> Sequence[tuple[ColumnElement[bool], bool]]:
        """Return the alternatives to the scan, each a condition and the `use_index` of its search.

        Rare words are looked up in the index of words. If the words are common but few matches pass the filters, the
        index of words is avoided, so that the indexes of the filters are used.
        """
        no_scan = not_(self.prefers_scan(rank))
        if not self._has_filters:
            return ((no_scan, True),)
        common_words = self._judgement(rank, "matching")
        return (and_(no_scan, not_(common_words)), True), (and_(no_scan, common_words), False)

    def _judgement(self, rank: int, name: str) -> ColumnElement[bool]:
        return select(self._judgements[rank].c[name]).scalar_subquery()

    def _judge(self, rank: int) -> Select[bool, bool]:
        rows = self._rows
        # Count places, not rows: similar objects are often created together, so their ids lie close to each other.
        places = func.count(rows.c.number.distinct())
        threshold: ColumnElement[int] = literal_column(str(_COMMON_PLACES))
        matching = (places >= threshold).label("matching")
        selected = (places.filter(rows.c.selected) >= threshold).label("selected")
        return select(matching, selected).where(MATCHING[rank](rows, use_index=False))


def _equal_parts(rows: Select[Any], source: FromClause) -> Sequence[Select[Any]]:
    by_name = rows.where(has_name(source), not_(func.coalesce(has_code(source), literal_column("false"))))
    return rows.where(has_code(source)), by_name


def _tier_parts(rows: Select[Any], source: FromClause, rank: int, sample: _Sample) -> Sequence[Select[Any]]:
    matching = MATCHING[rank]
    rows = rows.where(not_(is_equal(source)))
    for better in range(EQUAL + 1, rank):
        rows = rows.where(not_(MATCHING[better](source, use_index=False)))
    scan = rows.where(sample.prefers_scan(rank), matching(source, use_index=False))
    index_parts = (
        rows.where(preferred, matching(source, use_index=use_index))
        for preferred, use_index in sample.prefers_index(rank)
    )
    return scan, *index_parts


def _optimizer_fence(rows: Select[Any], name: str) -> FromClause:
    """Return rows as a subquery that the planner does not pull up, because of its OFFSET 0.

    The outer ORDER BY therefore cannot make the planner scan the rows in list order.
    """
    return rows.offset(_ZERO).subquery(name)


def _tier(name: str, parts: Sequence[Select[Any]], *, backwards: bool) -> CTE:
    """Return the CTE of the first rows of one rank, limited to the end of the page."""
    limited = []
    for part in parts:
        key = part.selected_columns.id
        limited.append(part.order_by(key.desc() if backwards else key).limit(_page_end()).subquery())
    return union_all(*(select(*part.c) for part in limited)).cte(name).prefix_with("MATERIALIZED")


def _keyset_condition(id_: ColumnElement[int], rank: int, start: Start, name: str) -> ColumnElement[bool]:
    """Return the condition that a row of this rank comes after, or before, the position."""
    position_rank = cast(opaque_parameter(f"key_0{name}", Text()), SmallInteger)
    position_id = cast(opaque_parameter(f"key_1{name}", Text()), BigInteger)
    own_rank: ColumnElement[int] = literal_column(str(rank))
    if start == "after":
        return id_ > case(
            (position_rank == own_rank, position_id), (position_rank < own_rank, FIRST_POSITION), else_=LAST_POSITION
        )
    return id_ < case(
        (position_rank == own_rank, position_id), (position_rank > own_rank, LAST_POSITION), else_=FIRST_POSITION
    )


def _count_rows(tiers: Sequence[CTE]) -> ColumnElement[int]:
    counts = [select(func.count()).select_from(tier).scalar_subquery() for tier in tiers]
    return sum(counts[1:], start=counts[0])


def _page_end() -> ColumnElement[int]:
    return opaque_parameter("limit") + opaque_parameter("offset") + literal_column("1")
