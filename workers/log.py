"""Logging of a process: structlog, JSON under a service manager and key=value on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from config.logging import LoggingConfig

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure_logging(
    config: LoggingConfig, **context: object
) -> structlog.typing.FilteringBoundLogger:
    """Set this process's logging up and give a logger that carries `context` in every line."""
    console = config.format == "console" or (config.format == "auto" and sys.stderr.isatty())
    last: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[config.level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(**context)
    return log
