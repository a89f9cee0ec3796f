"""Structured logs on standard error: one line an event, as text or as JSON."""

import logging
import sys
from typing import Any

import structlog


def configure_logs(level: str, style: str) -> None:
    """Send all logs, ours and the libraries', to standard error.

    Args:
        level: The least that is logged: debug, info, warning or error.
        style: `console` for people, `json` for machines.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.processors.JSONRenderer()
    if style == "console":
        # The other way of showing an exception, if rich is there, shows local variables: secrets may be among them.
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
    else:
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),  # what is not logged costs next to nothing
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Its own words about each connection and request say nothing that ours do not.
    for name in ("uvicorn", "alembic", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
