"""The log in the formats of the service."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import pytest
import structlog

from app.utils import logging_middleware, problems
from app.utils.logging_service import configure_logging

LOGGERS = ("", "uvicorn", "uvicorn.error", "uvicorn.access", "alembic")


class Log(io.StringIO):
    """The written lines."""

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().split("\n")[:-1]]


@contextmanager
def configured_log(*, as_json: bool = True, level: str = "INFO") -> Iterator[Log]:
    """Configure logging as a process of the service does, and put everything back afterwards."""
    saved = {name: vars(logging.getLogger(name)).copy() for name in LOGGERS}
    log = Log()
    with pytest.MonkeyPatch.context() as patch:
        # The loggers of modules would keep the first configuration they were used with.
        patch.setattr(logging_middleware, "logger", structlog.get_logger("app.request"))
        patch.setattr(problems, "logger", structlog.get_logger("app.problems"))
        # It belongs to the client of the tests.
        patch.setattr(logging.getLogger("httpx"), "disabled", True)
        with redirect_stderr(log):
            configure_logging(level, as_json=as_json)
        try:
            yield log
        finally:
            structlog.reset_defaults()
            for name, attributes in saved.items():
                logger = logging.getLogger(name)
                logger.handlers = attributes["handlers"]
                logger.propagate, logger.disabled = attributes["propagate"], attributes["disabled"]
                logger.setLevel(attributes["level"])


@pytest.fixture
def log() -> Iterator[Log]:
    """The log in JSON, as in production."""
    with configured_log() as log:
        yield log
