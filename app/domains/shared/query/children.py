"""The search for the children of an object in the tree that `parent_id` forms, which uses the index of that column.

PostgreSQL has no useful statistics for this search: the table may just have been filled, its rows may be in any order,
and one object may have most of the children. The condition leads to the index whatever the statistics are.
"""

from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, literal_column, select


def select_children(child: FromClause, parent_id: ColumnElement[int], *columns: ColumnElement[Any]) -> Select[Any]:
    """Select columns of the children of an object, for a subquery per row: LATERAL, EXISTS or a scalar.

    `child` is the table of the tree or an alias of it, `parent_id` the id of the object, a column of the outer query.
    """
    # With `=` alone, PostgreSQL expects as many rows for each object as there are per parent on average: all rows of a
    # flat tree. The range, which is redundant, makes it expect at most half a percent of that.
    condition = child.c.parent_id == parent_id, child.c.parent_id.between(parent_id, parent_id)
    # The OFFSET keeps PostgreSQL from joining the whole table to the outer rows, for a recursion at each of its steps.
    return select(*columns).where(*condition).correlate_except(child).offset(literal_column("0"))
