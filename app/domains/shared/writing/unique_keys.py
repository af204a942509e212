"""The unique columns of a collection."""

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
from app.domains.shared.models import RegisterObject, folded, table_of


@cache
def unique_keys(model: type[RegisterObject]) -> dict[str, bool]:
    """Return the unique columns, and whether their index ignores case."""
    table = table_of(model)
    names = {f"uq_{table.name}_{column.name}": column.name for column in table.c}
    return {
        names[str(index.name)]: not isinstance(index.expressions[0], Column)
        for index in sorted(table.indexes, key=lambda index: str(index.name))
        if index.name in names
    }


@cache
def find_key_owners(model: type[RegisterObject]) -> Executable:
    """Return the statement that folds keys as their indexes do, and finds the objects that have them.

    Each unique column has an array of values, `{column}_values`. The rows are `key`, the column; `n`, the position in
    its array, from 1; `value`, folded; and the `id` of the object that has the value, or NULL.
    """
    table = table_of(model)
    queries = []
    for name, ignores_case in unique_keys(model).items():
        values = bindparam(f"{name}_values", type_=ARRAY(Text))
        rows = func.unnest(values).table_valued(column("value", Text), with_ordinality="n", name=f"requested_{name}")
        rows = rows.render_derived()
        value: ColumnElement[Any] = folded(rows.c.value, name) if ignores_case else rows.c.value
        stored: ColumnElement[Any] = folded(table.c[name]) if ignores_case else table.c[name]
        query = select(constant(name).label("key"), rows.c.n, value.label("value"), table.c.id)
        queries.append(query.select_from(rows.outerjoin(table, stored == value)))
    return union_all(*queries)
