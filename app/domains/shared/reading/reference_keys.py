"""The look-up of keys in query parameters.

Ids replace the keys before the statement of the list runs. That statement does not look them up itself: which index is
best depends on how frequent the ids are, and the planner knows that of values only, not of subqueries.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Select, String, bindparam, column, func, literal_column, select

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.core.prepared import fast_statement
from app.domains.shared.models import Base, folded
from app.domains.shared.query.reference_parameters import keys_of

# An id that no object has.
NO_ID = 0


async def replace_keys(
    session: RegisterSession, caller: Caller, values: dict[str, Any], targets: Mapping[str, str]
) -> None:
    """Replace the keys of references among the values by ids, by one statement if there are any.

    `targets` has the names of the values with keys, and the collections of their objects. A key that no object has
    becomes `NO_ID`. Raises `Forbidden` for an external id of a collection that the caller may not read.
    """
    if not targets:
        return
    # By collection and column.
    keys: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, collection in targets.items():
        for column_, key in map(_split, keys_of(values[name])):
            keys[collection, column_].append(key)
    for collection, column_ in keys:
        if column_ == "external_id":
            caller.require(f"{collection}:read")
    arguments = {f"{collection}_{column_}s": each for (collection, column_), each in keys.items()}
    row = await session.fetch(_find_ids(tuple(sorted(keys))), **arguments)
    assert row is not None  # arrays without a table are one row
    ids = {(*place, key): id_ for place in keys for key, id_ in zip(keys[place], row["_".join(place)], strict=True)}

    def id_of(collection: str, reference: int | str) -> int:
        return reference if isinstance(reference, int) else ids[(collection, *_split(reference))]

    for name, collection in targets.items():
        value = values[name]
        is_list = isinstance(value, list)
        values[name] = [id_of(collection, each) for each in value] if is_list else id_of(collection, value)


def _split(reference: str) -> tuple[str, str]:
    """Return the column and the value of a key."""
    column_, _, key = reference.partition(":")
    return column_, key


@fast_statement(256)
def _find_ids(places: tuple[tuple[str, str], ...]) -> Select[Any]:
    """Return the statement with the ids of keys, as one array for each collection and column, in the order of its keys.

    The keys are the parameter of the same name with an `s`.
    """
    return select(*(_ids(collection, column_).label(f"{collection}_{column_}") for collection, column_ in places))


def _ids(collection: str, column_: str) -> ColumnElement[Any]:
    table = Base.metadata.tables[collection].alias()
    values = func.unnest(bindparam(f"{collection}_{column_}s", type_=ARRAY(String)))
    keys = values.table_valued(column("value", String), with_ordinality="n").render_derived()
    stored, key = table.c[column_], keys.c.value
    is_same = folded(stored) == folded(key, "code") if column_ == "code" else stored == key
    ids = select(func.coalesce(table.c.id, literal_column(str(NO_ID)), type_=BigInteger))
    return func.array(ids.select_from(keys.outerjoin(table, is_same)).order_by(keys.c.n).scalar_subquery())
