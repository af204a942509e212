"""The service's interface to Alembic."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from app.utils.exceptions import ServiceUnavailable

if TYPE_CHECKING:
    from alembic.config import Config

_ROOT = Path(__file__).parents[2]
_REVISION_LINE = re.compile(r'^(down_revision|revision)\b.* = "(\w+)"$', re.MULTILINE)


class MigrationRejectedError(Exception):
    """A revision cannot be applied to the data; the message names the objects and the remedy."""


def alembic_config(url: str | URL | None = None) -> "Config":
    """Return Alembic's configuration for the database of `url`, or else for that of the settings."""
    from alembic.config import Config  # noqa: PLC0415 - saves servers the 10 MB of Alembic

    config = Config(_ROOT / "alembic.ini")
    config.attributes["url"] = url
    return config


def head_revision() -> str:
    """Return the head revision: the one that this version of the service requires and no other follows."""
    (head,) = known_revisions() - _revisions("down_revision")
    return head


def known_revisions() -> set[str]:
    """Return all revisions of this version of the service."""
    return _revisions("revision")


def _revisions(kind: str) -> set[str]:
    scripts = (path.read_text("utf-8") for path in (_ROOT / "alembic" / "versions").glob("*.py"))
    return {revision for script in scripts for name, revision in _REVISION_LINE.findall(script) if name == kind}


def upgrade(url: str | URL) -> None:
    """Upgrade the schema to the head revision. Concurrent processes wait for the first.

    Raises `MigrationRejectedError`, and `ServiceUnavailable` if the database cannot be reached.
    """
    from alembic.util import CommandError  # noqa: PLC0415 - as above

    from alembic import command  # noqa: PLC0415 - as above

    try:
        command.upgrade(alembic_config(url), "head")
    except CommandError as error:
        raise MigrationRejectedError(str(error)) from error
    except OSError as error:
        raise ServiceUnavailable(f"The database cannot be reached: {error}.") from error
    except DBAPIError as error:
        if error.statement is not None or error.orig is None:
            raise
        # Without a statement, the connection attempt failed.
        cause = error.orig.__cause__ or error.orig
        raise ServiceUnavailable(f"The database cannot be reached: {cause}.") from error
