"""Logging: configures how log lines look.

Lines are readable text on a console and one JSON object each for machines; they always go to standard error. That
holds for this server's lines, for those of libraries, and for what Python itself would write there: warnings, and
exceptions that nothing catches. A line that cannot be written, because a disk is full or nobody reads any more, is dropped
and counted: what a server does must not depend on its log.
"""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any, TextIO

import structlog

LEVELS = ("debug", "info", "warning", "error")
"""The levels of a line, least severe first."""
WORKER = "FROSTLINE_WORKER"
"""The environment variable with the number of this process among several that log to one place."""

# Without local variables: they hold what clients sent.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))

_log = structlog.get_logger(__name__)

_AUDIT = "audit"
SETTINGS = "log settings"
"""The event of a line that says what a client has changed about the log."""
ALWAYS = frozenset((_AUDIT, SETTINGS, "access", "certificate", "signal", "draining", "stopped"))
"""Events that are logged whatever levels are shown: who may do what, who did it, and how the server ended. Whoever is
watched cannot switch them off, and whoever looks for a server that is gone finds why."""


class Lines:
    """A stream of lines of which some may be lost; see the module.

    Args:
        stream: standard error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost = 0
        """Lines that could not be written."""

    def write(self, text: str) -> None:
        """Write a line, or drop it."""
        try:
            self._write(text)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self.lost += 1

    def _write(self, text: str) -> None:
        try:
            descriptor = self._stream.fileno()
        except OSError:  # it is kept in memory
            self._stream.write(text)
            return
        # Not through the stream: what it cannot write it would keep, and try again as the process ends.
        data = text.encode(errors="backslashreplace")
        while data:
            data = data[os.write(descriptor, data) :]

    def flush(self) -> None:
        """Nothing waits."""


@lru_cache(maxsize=1)
def _lines(stream: TextIO) -> Lines:
    return Lines(stream)


def lost_lines() -> int:
    """Lines of the log that could not be written."""
    return _lines(sys.stderr).lost


def configure(style: str, level: str) -> None:
    """Set up logging for the process.

    Args:
        style: console or json.
        level: debug, info, warning or error.
    """
    show(style, LEVELS[LEVELS.index(level) :])
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _uncaught_in_thread


def show(style: str, levels: Collection[str]) -> None:
    """Log lines of these levels only, from now on.

    Args:
        style: console or json.
        levels: any of `LEVELS`.
    """
    # Those that are not shown cost least when the logger itself drops them; the rest a processor must: `ALWAYS` are
    # written at any level from info on.
    least = min((level for level in LEVELS if level in levels), key=LEVELS.index, default="error")
    threshold = logging.getLevelNamesMapping()[least.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _only(levels),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if WORKER in os.environ:
        shared.append(_numbered(int(os.environ[WORKER])))
    if style == "json":
        last: list[structlog.typing.Processor] = [_TRACEBACKS, structlog.processors.JSONRenderer()]
    else:
        last = [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(min(threshold, logging.INFO)),
        # A line and its end in one write: other processes may write to the same place.
        logger_factory=structlog.WriteLoggerFactory(_lines(sys.stderr)),  # type: ignore[arg-type]  # all that it uses
        # Lines written before this call must not fix how lines look after it.
        cache_logger_on_first_use=False,
    )
    # Libraries, grpc and asyncio among them, log through the standard library.
    handler = logging.StreamHandler(_lines(sys.stderr))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    handler.addFilter(lambda record: _shown(record.levelname.lower(), levels))
    # A record whose arguments do not fit its text would otherwise be a traceback between the lines.
    handler.handleError = _unwritable  # type: ignore[method-assign]  # the standard library's own way is a subclass
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)


def audit(*, calls: int = 1, **fields: Any) -> None:
    """Write one line of the event "audit", whatever levels are shown.

    Args:
        calls: for how many calls it stands; told where it is more than one.
        fields: what it tells.
    """
    if calls > 1:
        fields["calls"] = calls
    _log.info(_AUDIT, **fields)


class Seldom:
    """Says when a line about something that may happen very often can be written; for one thread.

    Args:
        period_s: the least time between two lines, in seconds.
        clock: gives seconds.
    """

    def __init__(self, period_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._period_s = period_s
        self._clock = clock
        self._next_s = -math.inf
        self._times = 0

    def times(self) -> int:
        """To be called each time; returns how often it was since the last line, or 0 while it is too early for another."""
        self._times += 1
        now_s = self._clock()
        if now_s < self._next_s:
            return 0
        self._next_s, times, self._times = now_s + self._period_s, self._times, 0
        return times


def _only(levels: Collection[str]) -> structlog.typing.Processor:
    def drop(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if not _shown(event["level"], levels) and event["event"] not in ALWAYS:
            raise structlog.DropEvent
        return event

    return drop


def _numbered(process: int) -> structlog.typing.Processor:
    def add(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    return add


def _shown(level: str, levels: Collection[str]) -> bool:
    return level not in LEVELS or level in levels


def _unwritable(record: logging.LogRecord) -> None:
    _log.error("a log line could not be written", logger=record.name, line=str(record.msg))


def _uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    _log.critical("uncaught exception", exc_info=(kind, error, trace))


def _uncaught_in_thread(what: threading.ExceptHookArgs) -> None:
    if what.exc_type is SystemExit or what.exc_value is None:
        return
    name = what.thread.name if what.thread else None
    _log.critical("uncaught exception", thread=name, exc_info=(what.exc_type, what.exc_value, what.exc_traceback))


def _unraisable(what: Any) -> None:
    # As when `__del__` raises, and nobody can be told.
    error = what.exc_value
    _log.error(what.err_msg or "exception ignored", where=repr(what.object), exc_info=error is not None and error)
