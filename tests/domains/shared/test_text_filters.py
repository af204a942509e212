"""Filters by text, and the indexes that the table has for them."""

import re
from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import Column, ColumnElement, MetaData, String, Table, Text, literal, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domains.shared.models import Base, register_table
from app.domains.shared.query.field_filters import text
from app.domains.shared.query.filters import Filter
from tests.catalogue import LISTS
from tests.domains.shared.test_declarations import partial_texts


def names(filters: Iterable[Filter]) -> set[str]:
    return {parameter.name for each in filters for parameter in each.parameters}


def unindexed(table: Table, declared: set[str]) -> set[str]:
    """Return the declared text parameters that no index of the table serves."""
    in_trigrams = partial_texts(table)
    first = {str(next(iter(index.expressions))) for index in table.indexes}
    texts = [column.name for column in table.columns if isinstance(column.type, String)]
    served = {f"{name}{suffix}" for name in in_trigrams for suffix in ("", "__not", "__ic", "__sw")}
    served |= {f"{name}{suffix}" for name in texts if f"fold_key({name})" in first for suffix in ("", "__not")}
    served |= {f"{name}__null" for name in texts if f"num_nulls({name})" in first}
    # Enumerations are compared without folding.
    served |= {f"{name}{suffix}" for name in texts if f"{table.name}.{name}" in first for suffix in ("", "__not")}
    return {name for name in declared if name.partition("__")[0] in texts} - served


def things(**texts: tuple[str, ...]) -> Table:
    columns = {"code": String(64), "external_id": String(512), "name": String(500), "description": Text()}
    numbers = ("id", "version", "created_at", "updated_at", "created_by_id", "updated_by_id")
    words = ("search_name", "search_text")
    own = {name: String(64) for group in texts.values() for name in group}
    return Table(
        "things",
        MetaData(),
        *(Column(name, kind) for name, kind in (columns | own).items()),
        *(Column(name, postgresql.BIGINT) for name in numbers),
        *(Column(name, postgresql.TSVECTOR) for name in words),
        *register_table("things", **texts),  # type: ignore[arg-type]
    )


def test_text_is_filtered_by_equality_unless_declared_partial() -> None:
    assert names(text("cost_center")) == {"cost_center", "cost_center__not", "cost_center__null"}
    assert names(text("cost_center", partial=True)) - names(text("cost_center")) == {
        "cost_center__ic",
        "cost_center__sw",
    }
    assert names(text("cost_center", nullable=False)) == {"cost_center", "cost_center__not"}


@pytest.mark.parametrize("collection", LISTS)
def test_every_filter_by_text_has_its_index(collection: str) -> None:
    declared = set(LISTS[collection].declaration.parameters)
    # The index of this enumeration is over its rank.
    ranked = {"criticality", "criticality__not", "criticality__null"}
    assert unindexed(Base.metadata.tables[collection], declared - ranked) == set()


def test_text_filter_without_an_index_is_detected() -> None:
    partial, whole = names(text("note", partial=True)), names(text("note"))
    assert unindexed(things(texts=("note",)), partial) == set()
    assert unindexed(things(exact_texts=("note",)), whole) == set()
    assert unindexed(things(exact_texts=("note",)), partial) == {"note__ic", "note__sw"}
    bare = things(exact_texts=("note",))
    bare.indexes = {index for index in bare.indexes if "note" not in str(index.name)}
    assert unindexed(bare, whole) == whole


async def test_equality_of_text_uses_its_indexes(connection: AsyncConnection) -> None:
    table = things(exact_texts=("note",))
    await connection.run_sync(table.create)
    await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    given: dict[str, Any] = {"note": literal(["a", "b"], postgresql.ARRAY(String)), "note__null": True}
    for filter_ in text("note"):
        (parameter,) = filter_.parameters
        if parameter.name != "note__not":  # matches nearly all rows
            index = f"ix_things_{parameter.name.replace('__', '_')}"
            plan = await plan_of(connection, table, filter_.condition(table, given))
            assert re.search(rf"\b{index}\b", plan), plan


async def plan_of(connection: AsyncConnection, table: Table, condition: ColumnElement[bool]) -> str:
    statement = select(table.c.id).where(condition).order_by(table.c.id)
    sql = statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    return "\n".join((await connection.exec_driver_sql(f"EXPLAIN {sql}".replace("%", "%%"))).scalars())
