"""Logging of a process: structlog, JSON under a service manager and key=value on a terminal.

Every line carries the context of its process (worker, pid, generation, incident), those of the
standard library's loggers and of libraries included. A process that logs too much is limited: the
lines left out are counted and reported. A log that cannot be written never ends its process.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import structlog
    from structlog.typing import EventDict, WrappedLogger

    from config.logging import LoggingConfig

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
BURST_S = 10.0  # a burst may be as long as this many seconds of the allowed rate


class LineLimit:
    """A bucket of lines: how many may pass now, and how many were left out."""

    def __init__(self, per_s: float) -> None:
        """Begin full."""
        self._per_s = per_s
        self._tokens = per_s * BURST_S
        self._at = time.monotonic()
        self.left_out = 0

    def passes(self) -> bool:
        """Take one line; False: it is left out."""
        now = time.monotonic()
        self._tokens = min(self._per_s * BURST_S, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1.0:
            self.left_out += 1
            return False
        self._tokens -= 1.0
        return True

    def taken(self) -> int:
        """Return how many lines were left out since the last call."""
        count, self.left_out = self.left_out, 0
        return count


class LimitedStream:
    """A text stream whose lines are limited and whose failures are its own."""

    def __init__(self, stream: TextIO, limit: LineLimit) -> None:
        """Write to `stream` what `limit` lets pass."""
        self._stream = stream
        self._limit = limit
        self._passes = True

    def write(self, text: str) -> int:
        """Write whole lines or leave them out; what has no end of line goes with its line."""
        for line in text.splitlines(keepends=True):
            if self._passes:
                self._put(line)
            if line.endswith("\n"):
                self._passes = self._limit.passes()
                if self._passes and (count := self._limit.taken()):
                    self._put(f"... {count} lines left out: more than may be logged\n")
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's own."""
        return getattr(self._stream, name)

    def _put(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed, or the disk is full
            self._stream.write(text)


class _ToStructlog(logging.Handler):
    """Lines of the standard library's loggers, in our form and context."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except (TypeError, ValueError) as error:  # a wrong format must not hide the line
            text = f"{record.msg} ({error})"
        info = record.exc_info if record.exc_info and record.exc_info[0] else None
        self._log.log(record.levelno, text, logger=record.name, exc_info=info)


def limit_output(config: LoggingConfig) -> None:
    """Bound what this process writes to its standard streams, print() included."""
    limit = LineLimit(config.max_lines_per_s)
    sys.stdout = LimitedStream(_bare(sys.stdout), limit)
    sys.stderr = LimitedStream(_bare(sys.stderr), limit)


def _bare(stream: TextIO) -> TextIO:
    """Return the stream behind a limit that was inherited through a fork."""
    return stream._stream if isinstance(stream, LimitedStream) else stream  # noqa: SLF001 - its own


@contextlib.contextmanager
def without_rich() -> Iterator[None]:
    """Import structlog without rich, which it loads where it finds it.

    structlog wants rich for coloured tracebacks, which these logs never show; rich costs a process
    50 ms and 5 MB. An entry of None in `sys.modules` is how Python is told that a module cannot be
    imported (import system reference, 5.3.1); it goes again at the end of the block.
    """
    if "rich" in sys.modules:
        yield
        return
    sys.modules["rich"] = None  # type: ignore[assignment] # see the docstring
    try:
        yield
    finally:
        del sys.modules["rich"]


def configure_logging(
    config: LoggingConfig, **context: object
) -> structlog.typing.FilteringBoundLogger:
    """Set up this process's logging and return a logger with `context` in every line.

    structlog is imported here: adoption by a new daemon does not wait for it.
    """
    with without_rich():
        import structlog  # noqa: PLC0415 - see above
    console = config.format == "console" or (config.format == "auto" and sys.stderr.isatty())
    last: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())  # key=value
        if console
        else structlog.processors.JSONRenderer(default=str)
    )

    def with_context(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**context, **event}

    level = LEVELS[config.level]
    structlog.configure(
        processors=[
            with_context,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    libraries = level if config.level == "debug" else max(level, logging.WARNING)
    logging.basicConfig(handlers=[_ToStructlog(log)], level=libraries, force=True)
    logging.captureWarnings(capture=True)
    return log
