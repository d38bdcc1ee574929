"""Logging: configures how log lines look.

Lines are readable text on a console and one JSON object each for machines; they always go to standard error.
"""

import logging
import sys
from collections.abc import Collection

import structlog

LEVELS = ("debug", "info", "warning", "error")
"""The levels of a line, least severe first."""

# Without local variables: they hold what clients sent.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def configure(style: str, level: str) -> None:
    """Set up logging for the process.

    Args:
        style: console or json.
        level: debug, info, warning or error.
    """
    show(style, LEVELS[LEVELS.index(level) :])


def show(style: str, levels: Collection[str]) -> None:
    """Log lines of these levels only, from now on.

    Args:
        style: console or json.
        levels: any of `LEVELS`.
    """
    # Those that are not shown cost least when the logger itself drops them; the rest a processor must.
    least = next((level for level in LEVELS if level in levels), "critical")
    threshold = logging.getLevelNamesMapping()[least.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _only(levels),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if style == "json":
        shared += [_TRACEBACKS, structlog.processors.JSONRenderer()]
    else:
        shared.append(
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        )
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        # Lines written before this call must not fix how lines look after it.
        cache_logger_on_first_use=False,
    )
    # Libraries, grpc among them, log through the standard library.
    logging.basicConfig(stream=sys.stderr, level=max(threshold, logging.WARNING), force=True)


def _only(levels: Collection[str]) -> structlog.typing.Processor:
    def drop(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if event["level"] in LEVELS and event["level"] not in levels:
            raise structlog.DropEvent
        return event

    return drop
