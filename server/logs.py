"""How log lines look: readable on a console, one JSON object each for machines; always on standard error."""

import logging
import sys

import structlog

# Without local variables: they hold what clients sent.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def configure(style: str, level: str) -> None:
    """Set up logging for the process.

    Args:
        style: console or json.
        level: debug, info, warning or error.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
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
