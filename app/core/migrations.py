"""Alembic, as the rest of the service sees it."""

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from alembic import command
from app.utils.exceptions import ServiceUnavailable

_ROOT = Path(__file__).parents[2]


def alembic_config(url: str | URL | None = None) -> Config:
    """Return Alembic's configuration, for the database of `url` or else that of the settings."""
    config = Config(_ROOT / "alembic.ini")
    config.attributes["url"] = url
    return config


def head_revision() -> str:
    """Return the revision that this version of the service works with."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None
    return head


def upgrade(url: str | URL) -> None:
    """Bring the schema to the head revision. Several processes may do so at once; one works, the others wait.

    Raises `ServiceUnavailable` when the database cannot be reached.
    """
    try:
        command.upgrade(alembic_config(url), "head")
    except OSError as error:
        raise ServiceUnavailable(f"The database cannot be reached: {error}.") from error
    except DBAPIError as error:
        if error.statement is not None or error.orig is None:
            raise
        # Without a statement, it was the connecting that failed.
        cause = error.orig.__cause__ or error.orig
        raise ServiceUnavailable(f"The database cannot be reached: {cause}.") from error
