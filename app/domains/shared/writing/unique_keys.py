"""The columns that no two objects of a collection may share."""

from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Executable,
    Text,
    bindparam,
    column,
    func,
    select,
    union_all,
)

from app.domains.shared.history.record import constant
from app.domains.shared.models import RegisterObject, table_of


@cache
def unique_keys(model: type[RegisterObject]) -> dict[str, bool]:
    """Return the columns that no two objects may share, and whether case is ignored."""
    table = table_of(model)
    names = {f"uq_{table.name}_{column.name}": column.name for column in table.c}
    return {
        names[str(index.name)]: not isinstance(index.expressions[0], Column)
        for index in sorted(table.indexes, key=lambda index: str(index.name))
        if index.name in names
    }


@cache
def find_key_owners(model: type[RegisterObject]) -> Executable:
    """Return the statement that folds wanted keys as their indexes do, and finds who has them.

    Each unique column has an array of values. The rows are `key`, the column; `n`, the place in its array from one on;
    `value`, folded; and the `id` of the object that has it, if one does.
    """
    table = table_of(model)
    queries = []
    for name, folded in unique_keys(model).items():
        values = bindparam(f"{name}_values", type_=ARRAY(Text))
        wanted = func.unnest(values).table_valued(column("value", Text), with_ordinality="n", name=f"wanted_{name}")
        wanted = wanted.render_derived()
        value: ColumnElement[Any] = func.lower(wanted.c.value) if folded else wanted.c.value
        held: ColumnElement[Any] = func.lower(table.c[name]) if folded else table.c[name]
        query = select(constant(name).label("key"), wanted.c.n, value.label("value"), table.c.id)
        queries.append(query.select_from(wanted.outerjoin(table, held == value)))
    return union_all(*queries)
