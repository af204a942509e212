"""A collection that is added is known wherever collections are named one by one."""

import re
from pathlib import Path
from typing import get_args

from sqlalchemy.ext.asyncio import AsyncConnection

from app.domains.change.schemas import ChangeType
from app.domains.collections import in_order_of_references
from app.domains.search.schemas import TYPES
from app.models import RegisterObject
from tests.test_contract import COLLECTIONS

TABLES = {model.__tablename__ for model in RegisterObject.__subclasses__()}


def test_every_collection_is_searched_exported_and_recorded() -> None:
    assert set(TYPES) == TABLES
    assert {entry.name for entry in in_order_of_references()} == TABLES
    assert set(get_args(ChangeType)) == TABLES | {"api_tokens"}


def test_contract_is_held_by_every_collection() -> None:
    assert set(COLLECTIONS) == TABLES


async def test_words_of_every_collection_are_noted(connection: AsyncConnection) -> None:
    rows = await connection.exec_driver_sql(
        "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal"
    )
    assert {tuple(row) for row in rows} >= {
        (table, f"note_search_words_{event}") for table in TABLES for event in ("insert", "update")
    }


def test_vocabulary_is_filled_again_from_every_collection(root: Path) -> None:
    page = (root / "docs" / "07-operations.md").read_text("utf-8")
    assert set(re.findall(r"SELECT search_text FROM (\w+)", page)) == TABLES
