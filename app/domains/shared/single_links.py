"""One link at a time, and the lists of what is linked to an object."""

from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    FromClause,
    String,
    bindparam,
    delete,
    exists,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from app.core.database import Statement, prepare
from app.domains.shared.documents import Condition
from app.domains.shared.links import LinkSet
from app.domains.shared.models import model_of, table_of
from app.domains.shared.writes import touched


@cache
def add_link(link_set: LinkSet, condition: Condition) -> Statement:
    """Return the statement that sets one link of a locked object and returns the `id` of its other side, if it exists.

    Its parameters are `id`, `key` of the condition, `caller_id` and, where the link has a field, `detail`.
    """
    table, target = link_set.table, table_of(link_set.target_model)
    found = select(target.c.id).where(condition(target)).cte("target")
    values: list[Any] = [bindparam("id", type_=BigInteger), found.c.id]
    if link_set.detail is not None:
        values.append(bindparam("detail", type_=String))
    statement = insert(table).from_select([link_set.owner, *link_set.columns], select(*values))
    key = table.primary_key.columns
    if link_set.detail is None or link_set.detail in key:
        statement = statement.on_conflict_do_nothing(index_elements=key)
    else:
        new = statement.excluded[link_set.detail]
        statement = statement.on_conflict_do_update(
            index_elements=key, set_={link_set.detail: new}, where=table.c[link_set.detail] != new
        )
    return _touching_owner(link_set, found, statement.returning(literal_column("1").label("n")))


@cache
def remove_link(link_set: LinkSet, condition: Condition, *, one_detail: bool) -> Statement:
    """Return the statement that removes an object's links to another, or the one with `detail`; see `add_link`."""
    table, target = link_set.table, table_of(link_set.target_model)
    found = select(target.c.id).where(condition(target)).cte("target")
    statement = delete(table).where(
        table.c[link_set.owner] == bindparam("id", type_=BigInteger), table.c[link_set.target] == found.c.id
    )
    if one_detail and link_set.detail is not None:
        statement = statement.where(table.c[link_set.detail] == bindparam("detail", type_=String))
    return _touching_owner(link_set, found, statement.returning(literal_column("1").label("n")))


def _touching_owner(link_set: LinkSet, found: CTE, change: Any) -> Statement:
    owner = table_of(link_set.owner_model)
    changed = change.cte("changed")
    touch = update(owner).where(owner.c.id == bindparam("id", type_=BigInteger), exists(select(changed.c.n)))
    return prepare(select(found.c.id).add_cte(touch.values(touched(owner)).returning(owner.c.id).cte("touched")))


@cache
def linked(link_set: LinkSet, end: str, condition: Condition) -> Condition:
    """Return the condition of the objects at one `end` of the links, whose other end `condition` selects."""
    other_end = link_set.owner if end == link_set.target else link_set.target

    def is_linked(source: FromClause) -> ColumnElement[bool]:
        link = link_set.table.alias("link")
        other = table_of(model_of(link_set.table.c[other_end])).alias("linked")
        other_id = select(other.c.id).where(condition(other)).scalar_subquery()
        return exists().where(link.c[end] == source.c.id, link.c[other_end] == other_id)

    return is_linked
