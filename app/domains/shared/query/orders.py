"""Sort orders of lists, and keyset pagination: the rows after or before a position."""

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

from app.domains.shared.models import folded, folded_key
from app.domains.shared.query.field_filters import rank_column
from app.domains.shared.references import MAX_ID

Start = Literal["first", "after", "before"]
Condition = Callable[[FromClause], ColumnElement[bool]]

# Positions before and after all ids.
FIRST_POSITION, LAST_POSITION = literal_column("0", BigInteger), literal_column(str(MAX_ID), BigInteger)


@dataclass(frozen=True, slots=True)
class SortKey:
    """The expressions of one sort field. They are never NULL, so that any two rows can be compared."""

    expressions: Callable[[FromClause], tuple[ColumnElement[Any], ...]]
    types: tuple[TypeEngine[Any], ...]


_INSTANT = DateTime(timezone=True)

# The sort fields of every collection; each has its index in `models.register_table`.
OBJECT_SORTS: dict[str, SortKey] = {
    "id": SortKey(lambda source: (source.c.id,), (BigInteger(),)),
    "code": SortKey(
        lambda source: (func.num_nulls(source.c.code), func.coalesce(folded(source.c.code), literal_column("''"))),
        (Integer(), Text()),
    ),
    "name": SortKey(lambda source: (folded_key(source.c.name),), (Text(),)),
    "created_at": SortKey(lambda source: (source.c.created_at,), (_INSTANT,)),
    "updated_at": SortKey(lambda source: (source.c.updated_at,), (_INSTANT,)),
}


def text_sort(name: str, *, ignore_case: bool = False) -> dict[str, SortKey]:
    """Return the sort by a text that is never NULL."""
    return {name: SortKey(lambda source: (folded_key(source.c[name]) if ignore_case else source.c[name],), (Text(),))}


def rank_sort(name: str, values: Any) -> dict[str, SortKey]:
    """Return the sort by a nullable field with few values, in the order of their `Literal`; NULL comes last."""
    ranks = get_args(values)
    return {name: SortKey(lambda source: (rank_column(source, name, ranks),), (Integer(),))}


class Sortable(Protocol):
    """A declaration with sort fields. It must be hashable, because it is part of the key of cached statements."""

    @property
    def sorts(self) -> Mapping[str, SortKey]: ...


def opaque_parameter(name: str, kind: TypeEngine[Any] | None = None) -> ColumnElement[Any]:
    """Return a parameter, by default a BIGINT, whose value is hidden from the planner by a subquery.

    If the planner saw the value, a custom plan would look cheaper than the generic plan, so PostgreSQL would replan the
    statement at each execution. Planning takes ten times as long as reading the page.
    """
    return select(bindparam(name, type_=kind or BigInteger())).scalar_subquery()


@dataclass(frozen=True, slots=True)
class Order:
    """The ORDER BY of `sort`, which always ends in the primary key.

    The primary key has the direction of the last sort field, so that the index on that field and `id` serves the order,
    by a backward scan if descending.
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
        """Return the expressions of the sort keys, of the rows of `source`."""
        return [key for sort in self._sorts for key in sort.expressions(source)]

    @property
    def _types(self) -> list[TypeEngine[Any]]:
        return [kind for sort in self._sorts for kind in sort.types]

    @property
    def _descending(self) -> list[bool]:
        pairs = zip(self._names, self._sorts, strict=True)
        return [name.startswith("-") for name, sort in pairs for _ in sort.types]

    def clauses(self, source: FromClause, *, backwards: bool = False) -> Sequence[ColumnElement[Any]]:
        """Return the expressions of ORDER BY, in reverse order if `backwards`."""
        pairs = zip(self.keys(source), self._descending, strict=True)
        return [key.desc() if descending != backwards else key for key, descending in pairs]

    def page(self, source: FromClause, condition: Condition | None, start: Start) -> Select[Any]:
        """Select a page of the rows that match a condition, and one more row if more follow.

        The parameters are `limit`, `offset`, and those of the condition and of the position.
        """
        rows = self.select_matching(source, condition, start)
        return self.limit_to_page(rows, source, start, replan=condition is not None)

    def limit_to_page(
        self, rows: Select[Any], source: FromClause, start: Start, *, replan: bool = False
    ) -> Select[Any]:
        """Sort rows and limit them to the page and one more row.

        `replan` shows the limit to the planner, so that it makes a custom plan at each execution: the best index for a
        filtered list depends on the values of the filters. Without `replan` the generic plan is kept.
        """
        limit, offset = (
            bindparam(name, type_=BigInteger) if replan else opaque_parameter(name) for name in ("limit", "offset")
        )
        ordered = rows.order_by(*self.clauses(source, backwards=start == "before"))
        return ordered.limit(limit + literal_column("1")).offset(offset)

    def select_matching(self, source: FromClause, condition: Condition | None, start: Start) -> Select[Any]:
        """Select the rows that match a condition, after or before the position."""
        rows = select(*source.c)
        if condition is not None:
            rows = rows.where(condition(source))
        return rows if start == "first" else rows.where(self.keyset_condition(source, start))

    def keyset_condition(self, source: FromClause, start: Start) -> ColumnElement[bool]:
        """Return the condition that a row comes after, or before, the position in the parameters `key_0`, `key_1`, …"""
        keys = self.keys(source)
        values = [cast(opaque_parameter(f"key_{n}", Text()), kind) for n, kind in enumerate(self._types)]
        greater = [descending == (start == "before") for descending in self._descending]
        if len(set(greater)) == 1:  # one row comparison, which an index can serve
            row, position = tuple_(*keys), tuple_(*values)
            return row > position if greater[0] else row < position
        steps = []
        for n, is_greater in enumerate(greater):
            equal = [keys[before] == values[before] for before in range(n)]
            steps.append(and_(*equal, keys[n] > values[n] if is_greater else keys[n] < values[n]))
        # The first condition is redundant, but bounds the scan of the first key's index.
        bound = keys[0] >= values[0] if greater[0] else keys[0] <= values[0]
        return and_(bound, or_(*steps))
