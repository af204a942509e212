"""The statements that set and remove one link of a locked object."""

from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Executable,
    FromClause,
    String,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert

from app.domains.shared.collection import LinkSet
from app.domains.shared.history.record import change_cte, constant
from app.domains.shared.models import ChangeAction, table_of
from app.domains.shared.query.orders import Condition
from app.domains.shared.writing.single_statement import touch_values


@cache
def add_link(link_set: LinkSet, condition: Condition) -> Executable:
    """Return the statement that sets one link of a locked object and returns the `id` of the target, if it exists.

    Its parameters are `object_id`, `key` of the condition, those of `Caller.signature`, and `detail` if the link has a
    field.
    """
    table, target = link_set.table, _target(link_set, condition)
    values: list[Any] = [bindparam("object_id", type_=BigInteger), target.c.id]
    if link_set.detail is not None:
        values.append(bindparam("detail", type_=String))
    statement = insert(table).from_select([link_set.owner, *link_set.columns], select(*values))
    key = table.primary_key.columns
    if link_set.detail is None or link_set.detail in key:
        statement = statement.on_conflict_do_nothing(index_elements=key)
        before = None
    else:
        new = statement.excluded[link_set.detail]
        statement = statement.on_conflict_do_update(
            index_elements=key, set_={link_set.detail: new}, where=table.c[link_set.detail] != new
        )
        # Reads the old value: a statement sees its snapshot, not the rows that its own CTEs write.
        old = table.alias("old")
        is_old = and_(
            old.c[link_set.owner] == bindparam("object_id", type_=BigInteger), old.c[link_set.target] == target.c.id
        )
        before = _entries(link_set, target, select(old.c[link_set.detail]).where(is_old).subquery("previous"))
    changed = statement.returning(*(table.c[name] for name in link_set.columns)).cte("changed")
    after = _entries(link_set, target, changed)
    return _with_history(link_set, target, changed, "linked", before, after)


@cache
def remove_link(link_set: LinkSet, condition: Condition, *, one_detail: bool) -> Executable:
    """Return the statement that removes an object's links to another, or the one with `detail`; see `add_link`."""
    table, target = link_set.table, _target(link_set, condition)
    statement = delete(table).where(
        table.c[link_set.owner] == bindparam("object_id", type_=BigInteger), table.c[link_set.target] == target.c.id
    )
    if one_detail and link_set.detail is not None:
        statement = statement.where(table.c[link_set.detail] == bindparam("detail", type_=String))
    changed = statement.returning(*(table.c[name] for name in link_set.columns)).cte("changed")
    return _with_history(link_set, target, changed, "unlinked", _entries(link_set, target, changed), None)


def _target(link_set: LinkSet, condition: Condition) -> CTE:
    table = table_of(link_set.target_model)
    return select(table.c.id, table.c.code, table.c.name).where(condition(table)).cte("target")


def _entries(link_set: LinkSet, target: CTE, links: FromClause) -> ColumnElement[Any]:
    """Return the links to the target as the owner's document lists them; NULL if there are none."""
    members: list[Any] = [constant("id"), target.c.id, constant("code"), target.c.code, constant("name"), target.c.name]
    order = []
    if link_set.detail is not None:
        members += [constant(link_set.detail), links.c[link_set.detail]]
        order = [links.c[link_set.detail]]
    array = func.jsonb_agg(aggregate_order_by(func.jsonb_build_object(*members), *order or [target.c.id]))
    entries = select(array.label("links")).select_from(target.join(links, literal_column("true"))).subquery("entries")
    entry = func.jsonb_build_object(constant(link_set.field), entries.c.links)
    return select(entry).where(entries.c.links.is_not(None)).scalar_subquery()


def _with_history(
    link_set: LinkSet,
    target: CTE,
    changed: CTE,
    action: ChangeAction,
    before: ColumnElement[Any] | None,
    after: ColumnElement[Any] | None,
) -> Executable:
    """Return the statement that updates the version of the owner and records the change, if a link changed."""
    owner = table_of(link_set.owner_model)
    touch = update(owner).where(
        owner.c.id == bindparam("object_id", type_=BigInteger), exists(select(changed.c[link_set.target]))
    )
    columns = (owner.c[name] for name in ("id", "code", "name", "updated_at"))
    touched_owner = touch.values(touch_values(owner)).returning(*columns).cte("touched")
    record = change_cte(link_set.owner_model, action, touched_owner, before=before, after=after)
    return select(target.c.id).add_cte(record)
