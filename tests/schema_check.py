"""Compares the models with the head revision: `python -m tests.schema_check`, part of `make check`.

Exits with 0 if they agree. Otherwise Alembic prints the operations of an automatic revision.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from alembic.util import CommandError
from sqlalchemy import URL, make_url

from alembic import command
from app.core.local_postgres import EmbeddedPostgres
from app.core.migrations import alembic_config, upgrade
from tests.conftest import FAST, new_database


@contextmanager
def migrated_database() -> Iterator[URL]:
    """Create a database at the head revision, on the server of `DATABASE_URL` or on a temporary server."""
    with ExitStack() as stack:
        server = os.environ.get("DATABASE_URL") or stack.enter_context(
            EmbeddedPostgres(
                Path(stack.enter_context(tempfile.TemporaryDirectory())), report=lambda _: None, settings=FAST
            )
        )
        runner = stack.enter_context(asyncio.Runner())
        database = new_database(make_url(server))
        url = runner.run(database.__aenter__())
        try:
            upgrade(url)
            yield url
        finally:
            runner.run(database.__aexit__(None, None, None))


def main() -> int:
    with migrated_database() as url:
        try:
            command.check(alembic_config(url))
        except CommandError as error:
            print(error, file=sys.stderr)  # noqa: T201
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
