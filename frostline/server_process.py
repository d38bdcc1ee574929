"""A server in a child process, for as long as a `with` block."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any

Event = dict[str, Any]

PROGRAM = (sys.executable, "-m", "frostline", "serve")
START_S = 120.0
STOP_S = 45.0
_REFUSED = 2
"""The exit code of a server that cannot start with its settings."""


class ServerFailed(Exception):
    """The server did not start, or did not stop as it should; the message says how, and its log was passed on."""


class ServerRefused(ServerFailed):
    """The server cannot start with its settings; the message has its own sentence."""


@dataclass(frozen=True)
class Served:
    """A server that is ready.

    Attributes:
        address: Its gRPC address, host:port.
        metrics: The URL of its HTTP port.
        ready: All fields of its "ready" event.
        pid: Its process, for whoever measures what it costs.
    """

    address: str
    metrics: str
    ready: Event
    pid: int


@contextmanager
def serve(
    flags: Sequence[str],
    on_event: Callable[[Event], None],
    *,
    program: Sequence[str] = PROGRAM,
    settings: bool = True,
) -> Iterator[Served]:
    """Runs `frostline serve` on free ports, and stops it with SIGTERM at the end of the block.

    The child ends with this process' block whatever happens in it, an exception, Ctrl-C or SIGTERM included.

    Args:
        flags: Further flags, such as `--models`.
        on_event: Called in this thread with every event the server logs until it is ready, and with those after it
            when the block ends.  A line that is no event comes as the event of that text.
        program: What to run.
        settings: Whether settings in the environment hold; they may be those of another server.

    Yields:
        The ready server.

    Raises:
        ServerRefused: It cannot start with its settings.
        ServerFailed: It did not become ready, or ended with another code than 0.
    """
    command = [*program, "--port", "0", "--metrics-port", "0", "--http-port", "0", "--log-format", "json", *flags]
    environment = {name: value for name, value in os.environ.items() if settings or not name.startswith("FROSTLINE_")}
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        # S603: the command is this very program.
        with subprocess.Popen(  # noqa: S603
            command, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment
        ) as process:
            events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
            reader = threading.Thread(target=_read, args=(process.stderr, events), name="server-log")
            reader.start()
            try:
                ready = _until_ready(process, events, on_event)
                yield Served(ready["address"], ready["metrics"], ready, process.pid)
                process.terminate()
                code = _code(process)
            finally:
                _end(process)
                reader.join()
                while (event := events.get()) is not None:
                    on_event(event)
            if code != 0:
                raise ServerFailed(f"the server ended with code {code} instead of 0 after SIGTERM")
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _read(lines: IO[str], events: "queue.SimpleQueue[Event | None]") -> None:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        events.put(event if isinstance(event, dict) else {"event": line.rstrip()})
    events.put(None)


def _until_ready(
    process: subprocess.Popen[str], events: "queue.SimpleQueue[Event | None]", on_event: Callable[[Event], None]
) -> Event:
    deadline = time.monotonic() + START_S
    last: Event = {}
    while True:
        try:
            event = events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise ServerFailed(f"the server was not ready within {START_S:g} s") from None
        if event is None:
            # The reader's end mark is still owed to who drains the queue.
            events.put(None)
            raise _ended(_code(process), last)
        on_event(event)
        last = event
        if event.get("event") == "ready":
            return event
        if event.get("event") == "not ready":
            raise ServerFailed(f"the server is not ready: {event.get('unready', 'it does not say why')}")


def _ended(code: int, last: Event) -> ServerFailed:
    """What a server that ended before it was ready said last: why it cannot start, or the end of a traceback."""
    said = str(last.get("reason") or last.get("event") or "").removeprefix("frostline: ")
    kind = ServerRefused if code == _REFUSED else ServerFailed
    return kind(f"the server ended with code {code} before it was ready{f': {said}' if said else ''}")


def _code(process: subprocess.Popen[str]) -> int:
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        raise ServerFailed(f"the server did not end within {STOP_S:g} s") from None


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
