"""Signals to a server's process: which end it, which has it read its files again, and which it only notes.

The default action of most is to end a process at once. Here none does that but those of a crash, SIGKILL, and a second
Ctrl-C: a signal that a tool, a terminal or a slip of the finger sends costs no accepted request.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import structlog

_log = structlog.get_logger(__name__)


def _there(*names: str) -> tuple[int, ...]:
    """Those of these signals that the platform has."""
    return tuple(int(getattr(signal, name)) for name in names if hasattr(signal, name))


def _real_time() -> Sequence[int]:
    return range(signal.SIGRTMIN, signal.SIGRTMAX + 1) if hasattr(signal, "SIGRTMIN") else ()


END = _there("SIGTERM", "SIGINT", "SIGQUIT", "SIGPWR", "SIGXCPU")
"""Start the drain. SIGPWR is how containers of LXC are stopped; after SIGXCPU the kernel allows some more seconds."""
RELOAD = int(signal.SIGHUP)
"""Has the server read its files again."""
NOTED = (
    *_there("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGSTKFLT"),
    *_real_time(),
)
"""Mean nothing to the server: a line of the log, and no more. Python itself ignores SIGPIPE and SIGXFSZ."""
HANDLED = (*END, RELOAD, *NOTED)
"""All that are handled. A process that is to become a server holds them back until `handled`."""


@contextmanager
def handled(loop: asyncio.AbstractEventLoop, end: Callable[[int], None], reload: Callable[[], None]) -> Iterator[None]:
    """Take all of them on an event loop, also those that were held back until now; afterwards all but Ctrl-C are ignored.

    Args:
        loop: of the main thread.
        end: starts the drain; is told the signal's number.
        reload: reads the files again.
    """
    actions: dict[int, Callable[[], None]] = {number: partial(_note, number) for number in NOTED}
    actions |= {number: partial(_end, number, end) for number in END}
    actions[RELOAD] = reload

    def take(number: int, _: object) -> None:
        loop.call_soon_threadsafe(actions[number])

    # Of the event loop, which wakes up for all others too from here on, whichever thread the kernel interrupts.
    loop.add_signal_handler(signal.SIGINT, actions[signal.SIGINT])
    others = set(HANDLED) - {signal.SIGINT}
    for number in others:
        signal.signal(number, take)
        signal.siginterrupt(number, False)
    # Whoever started this process may have held them back, as `frostline serve` does from its first moment.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    try:
        yield
    finally:
        # The process ends by itself now, and its exit code says how the drain went. Who waits at a terminal need not.
        # Not by way of the event loop, which restores the default action, so that a signal would end it after all.
        for number in others:
            signal.signal(number, signal.SIG_IGN)


def _end(number: int, end: Callable[[int], None]) -> None:
    _log.info("signal", signal=name(number))
    end(number)


def _note(number: int) -> None:
    _log.warning(
        "signal", signal=name(number), warning="ignored; SIGTERM ends the server, SIGHUP has it read its files"
    )


def name(number: int) -> str:
    """A signal's name, such as SIGTERM."""
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have none
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
