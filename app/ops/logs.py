"""Logs to standard error, as text for people or JSON lines for machines."""

import logging
import sys
from typing import TextIO

import structlog

from app.config import Settings
from app.security import printable

# Whose news are wanted at the configured level; of other libraries only warnings are.
OURS = ("app", "worker", "celery", "uvicorn")


class _Output(logging.StreamHandler[TextIO]):
    """Ours, so that configuring twice doesn't print twice."""


def _without_colours(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.pop("color_message", None)  # uvicorn's second copy of its message
    return event


def _on_one_line(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A message that holds what somebody sent must not look like another entry, nor move a terminal's cursor. Values are
    quoted by the renderer, JSON escapes by itself."""
    event["event"] = printable(str(event.get("event", ""))).replace("\n", "\\n")
    return event


def configure(settings: Settings) -> None:
    """One format for our own events and for what libraries log."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_colours,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if settings.log_json
        else [
            _on_one_line,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    handler = _Output(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if not isinstance(other, _Output)), handler]
    root.setLevel("WARNING")
    for name in OURS:
        logging.getLogger(name).setLevel(settings.log_level.upper())
    # It would log paths as they were sent, and with them links' tokens; app.requests logs each request instead.
    logging.getLogger("uvicorn.access").disabled = True
