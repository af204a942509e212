"""The database of the tests that commit."""

import pytest

from app.core.database import Database
from tests.conftest import Committed


@pytest.fixture
def database(committed: Committed) -> Database:
    database: Database = committed.app.state.database
    return database
