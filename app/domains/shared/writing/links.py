"""Statements that replace a list of links, given as arrays: one statement for any number of links."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    Executable,
    Select,
    String,
    and_,
    any_,
    bindparam,
    cast,
    column,
    delete,
    exists,
    func,
    literal_column,
    null,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert

from app.core.database import RegisterSession
from app.domains.shared.collection import LinkSet
from app.domains.shared.history.record import constant
from app.domains.shared.query.orders import opaque_parameter
from app.domains.shared.rules import Link


def add_missing_links(link_set: LinkSet, owner: ColumnElement[int], after: CTE | None = None) -> CTE:
    """Return the CTE that adds the links of the request which are missing, after the CTE `after` has run."""
    query: Select[Any] = select(owner, *link_rows(link_set).c)
    if after is not None:
        # PostgreSQL runs one data-modifying CTE before another only if the second reads from the first. Links must be
        # removed before others are added, because a unique index may allow an owner only one link with some detail.
        removed = select(func.count()).select_from(after).scalar_subquery()
        query = query.where(removed >= literal_column("0"))
    statement = insert(link_set.table).from_select([link_set.owner, *link_set.columns], query)
    if after is not None:
        statement = statement.on_conflict_do_nothing(index_elements=link_set.table.primary_key.columns)
    return statement.returning(*(link_set.table.c[name] for name in link_set.columns)).cte(f"added_{link_set.field}")


def remove_other_links(link_set: LinkSet, owner: ColumnElement[int]) -> CTE:
    """Return the CTE that removes the links which the request does not list."""
    table, rows = link_set.table, link_rows(link_set)
    same = and_(*(rows.c[name] == table.c[name] for name in link_set.columns))
    statement = delete(table).where(table.c[link_set.owner] == owner, ~exists().where(same))
    return statement.returning(*(table.c[name] for name in link_set.columns)).cte(f"removed_{link_set.field}")


def link_rows(link_set: LinkSet) -> Any:
    """Return the links of the request as rows, with the columns of the link table except the owner."""
    types: dict[str, Any] = {name: BigInteger() if name == link_set.target else String() for name in link_set.columns}
    arrays = [opaque_parameter(f"{link_set.field}_{name}", ARRAY(kind)) for name, kind in types.items()]
    columns: list[Any] = [column(name, kind) for name, kind in types.items()]
    return func.unnest(*arrays).table_valued(*columns).render_derived(name=f"requested_{link_set.field}")


@cache
def _select_links(links: Sequence[LinkSet]) -> Executable:
    """Return the statement that reads the links of the objects with `ids`.

    Its rows are `field`, `owner`, `target` and `detail`.
    """
    queries = []
    for link in links:
        table = link.table
        detail = null() if link.detail is None else table.c[link.detail]
        owner, target = table.c[link.owner], table.c[link.target]
        columns = (constant(link.field).label("field"), owner.label("owner"), target.label("target"))
        is_owned = owner == any_(bindparam("ids", type_=ARRAY(BigInteger)))
        queries.append(select(*columns, cast(detail, String).label("detail")).where(is_owned))
    return union_all(*queries)


async def read_links(
    session: RegisterSession, links: Sequence[LinkSet], ids: Sequence[int]
) -> dict[tuple[str, int], set[Link]]:
    """Return the links of the objects with these ids, by field and owner."""
    found: dict[tuple[str, int], set[Link]] = defaultdict(set)
    if links and ids:
        for row in await session.execute(_select_links(tuple(links)), {"ids": list(ids)}):
            found[row.field, row.owner].add((row.target, row.detail))
    return found
