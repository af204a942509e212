"""Structured logs without credentials: one JSON object per line in production, readable lines elsewhere.

The standard library's loggers, uvicorn's included, use the same processors, so all lines have the same format.
"""

import json
import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from app.utils.redaction import redact

# `json.dumps` with arguments would create an encoder for each line.
_encode = json.JSONEncoder(ensure_ascii=False).encode


def configure_logging(level: str, *, as_json: bool) -> None:
    """Send all logs of this process to standard error in one format."""
    common: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor]
    # Tracebacks omit local variables, which contain clients' data and can take minutes to format. They are rendered
    # before `redact`, which cleans them, too.
    if as_json:
        tracebacks = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
        renderer = [tracebacks, redact, _to_json]
    else:
        plain = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
        renderer = [structlog.processors.format_exc_info, redact, console]
    # The service's loggers bypass the standard library, which would take three times as long.
    structlog.configure(
        processors=[*common, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=partial(_Writer, sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "alembic"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    # SQLAlchemy silences its own pools below warnings by their logger name, which this pool does not share.
    logging.getLogger("app.core.engine.FairPool").setLevel(logging.WARNING)
    # The service logs its own line per request, which has more details.
    logging.getLogger("uvicorn.access").disabled = True


class _Writer(structlog.WriteLogger):
    """Writes the lines of the logger `name`.

    A line that cannot be written is lost, as with the standard library's handlers: a request or a shutdown must not
    fail because the reader of a pipe has ended or a disk is full.
    """

    def __init__(self, file: TextIO, name: str) -> None:
        super().__init__(file)
        self.name = name

    def msg(self, message: str) -> None:
        """Write a line."""
        with suppress(OSError):
            super().msg(message)

    debug = info = warning = error = critical = exception = msg


def _to_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    return _encode(event)
