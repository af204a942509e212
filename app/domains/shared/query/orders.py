"""Orders of lists: what they can be sorted by, and the part of one that begins at a position."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.types import TypeEngine

from app.domains.shared.query.field_filters import rank_column

Start = Literal["first", "after", "before"]
Condition = Callable[[FromClause], ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class SortKey:
    """What a list is ordered by: expressions that are never NULL, so that any two rows can be compared."""

    expressions: Callable[[FromClause], tuple[ColumnElement[Any], ...]]
    types: tuple[TypeEngine[Any], ...]


_INSTANT = DateTime(timezone=True)

# What every collection can be sorted by; each has its index in `models.register_table`.
OBJECT_SORTS: dict[str, SortKey] = {
    "id": SortKey(lambda source: (source.c.id,), (BigInteger(),)),
    "code": SortKey(
        lambda source: (func.num_nulls(source.c.code), func.coalesce(func.lower(source.c.code), literal_column("''"))),
        (Integer(), Text()),
    ),
    "name": SortKey(lambda source: (func.lower(source.c.name),), (Text(),)),
    "created_at": SortKey(lambda source: (source.c.created_at,), (_INSTANT,)),
    "updated_at": SortKey(lambda source: (source.c.updated_at,), (_INSTANT,)),
}


def text_sort(name: str, *, ignoring_case: bool = False) -> dict[str, SortKey]:
    """Sort by a text that is always there."""
    return {name: SortKey(lambda source: (func.lower(source.c[name]) if ignoring_case else source.c[name],), (Text(),))}


def rank_sort(name: str, values: Any) -> dict[str, SortKey]:
    """Sort by a field that may have one of a few values, in their order; what has none comes last."""
    ranks = get_args(values)
    return {name: SortKey(lambda source: (rank_column(source, name, ranks),), (Integer(),))}


class Sortable(Protocol):
    """What has orders, such as the declaration of a list. Statements are kept for each, so it must be hashable."""

    @property
    def sorts(self) -> Mapping[str, SortKey]: ...


def opaque_parameter(name: str, kind: TypeEngine[Any] | None = None) -> ColumnElement[Any]:
    """Return a parameter whose value PostgreSQL's planner does not see, a number unless of another `kind`.

    What it sees makes a plan for these very values look cheaper than one for all, so that it would plan anew each time.
    That takes ten times as long as to read the page.
    """
    return select(bindparam(name, type_=kind or BigInteger())).scalar_subquery()


@dataclass(frozen=True, slots=True)
class Order:
    """The ORDER BY of `sort`. It always ends in the primary key.

    The key follows the last direction, so that the index of that column serves it, read backwards if need be.
    """

    sort: str
    declaration: Sortable

    @property
    def _sorts(self) -> list[SortKey]:
        return [self.declaration.sorts[name.removeprefix("-")] for name in self._names]

    @property
    def _names(self) -> list[str]:
        names = self.sort.split(",")
        if not re.search(r"(^|,)-?id(,|$)", self.sort):
            names.append("-id" if names[-1].startswith("-") else "id")
        return names

    def keys(self, source: FromClause) -> list[ColumnElement[Any]]:
        """Return the sort keys of a table's rows."""
        return [key for sort in self._sorts for key in sort.expressions(source)]

    @property
    def _types(self) -> list[TypeEngine[Any]]:
        return [kind for sort in self._sorts for kind in sort.types]

    @property
    def _descending(self) -> list[bool]:
        named = zip(self._names, self._sorts, strict=True)
        return [name.startswith("-") for name, sort in named for _ in sort.types]

    def clauses(self, source: FromClause, *, backwards: bool = False) -> Sequence[ColumnElement[Any]]:
        """Return what ORDER BY takes; `backwards`, the other way round."""
        pairs = zip(self.keys(source), self._descending, strict=True)
        return [key.desc() if descending != backwards else key for key, descending in pairs]

    def page(self, source: FromClause, condition: Condition | None, start: Start) -> Select[Any]:
        """Select a page of the rows for which a condition holds, and one more if there are more.

        Its parameters are `limit`, `offset`, those of the condition and of the position.
        """
        return self.limit_to_page(self.matching(source, condition, start), source, start, replan=condition is not None)

    def limit_to_page(
        self, rows: Select[Any], source: FromClause, start: Start, *, replan: bool = False
    ) -> Select[Any]:
        """Order rows, and leave what is on the page and one more.

        Which index is best depends on what is filtered by. Where the planner sees the limit, no plan for all values
        looks better to it than one for these, so that the page is `replan` each time.
        """
        limit, offset = (
            bindparam(name, type_=BigInteger) if replan else opaque_parameter(name) for name in ("limit", "offset")
        )
        ordered = rows.order_by(*self.clauses(source, backwards=start == "before"))
        return ordered.limit(limit + literal_column("1")).offset(offset)

    def matching(self, source: FromClause, condition: Condition | None, start: Start) -> Select[Any]:
        """Select the rows beyond the position for which a condition holds."""
        rows = select(*source.c)
        if condition is not None:
            rows = rows.where(condition(source))
        return rows if start == "first" else rows.where(self.beyond(source, start))

    def beyond(self, source: FromClause, start: Start) -> ColumnElement[bool]:
        """Select what comes after, or before, the position in the parameters `key_0`, `key_1`, …"""
        keys = self.keys(source)
        values = [cast(opaque_parameter(f"key_{n}", Text()), kind) for n, kind in enumerate(self._types)]
        greater = [descending == (start == "before") for descending in self._descending]
        if len(set(greater)) == 1:  # one comparison of rows, which an index can answer
            ours, theirs = tuple_(*keys), tuple_(*values)
            return ours > theirs if greater[0] else ours < theirs
        steps = []
        for place, up in enumerate(greater):
            same = [keys[before] == values[before] for before in range(place)]
            steps.append(and_(*same, keys[place] > values[place] if up else keys[place] < values[place]))
        # The first condition says nothing new, but gives the index of the first key where to begin.
        begin = keys[0] >= values[0] if greater[0] else keys[0] <= values[0]
        return and_(begin, or_(*steps))
