"""The server process: its event loop, its signal handlers and its exit code.

`signals` says what each signal does. The first SIGTERM or SIGINT starts the drain; a second Ctrl-C ends the process at
once. SIGHUP has the server read what may have changed on the disk.
"""

import asyncio
import os
import signal
import sys

import structlog

from frostline_server import logs, signals
from frostline_server.app import LINGER_S, Server
from frostline_server.config import ServerConfig
from frostline_server.model.memory_return import use_one_heap

_log = structlog.get_logger(__name__)


def run(config: ServerConfig) -> int:
    """Serve until a signal ends it, then drain.

    Returns:
        The process's exit code: 0 when everything accepted was finished.

    Raises:
        StartError: the server cannot start.
    """
    use_one_heap()
    logs.configure(config.log_format, config.log_level)
    for sentence in config.warnings:
        _log.warning("configuration", warning=sentence)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(serve(Server(config), asyncio.Event()))


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """The fastest event loop there is on this platform; None for asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415  not on every platform
    except ImportError:
        return None
    return uvloop.Loop


async def serve(server: Server, stopped: asyncio.Event) -> int:
    """Serve until a signal comes or `stopped` is set, then drain.

    Returns:
        The process's exit code.

    Raises:
        StartError: the server cannot start.
    """

    def end(number: int) -> None:
        if number == signal.SIGINT and stopped.is_set():
            # Ctrl-C again: whoever sits there does not want to wait for the drain.
            os._exit(130)
        stopped.set()

    with signals.handled(asyncio.get_running_loop(), end, server.reload):
        return await _serve(server, stopped)


async def _serve(server: Server, stopped: asyncio.Event) -> int:
    starting, stopping = asyncio.create_task(server.start()), asyncio.create_task(stopped.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        # Told to stop while models are still loading: the rest need not be.
        server.hurry()
        await asyncio.wait({starting}, timeout=LINGER_S)
    if starting.done():
        await starting
    broken = asyncio.create_task(server.broken.wait())
    await asyncio.wait({stopping, broken}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    broken.cancel()
    code = 0 if await server.drain() and not server.broken.is_set() else 1
    ended = await server.end_runs()
    if server.reconciler.busy or not ended:
        # It cannot be interrupted: waited for, it may take minutes, and left alone it would abort the process as that ends.
        _log.warning("ending in the middle of a load" if ended else "ending in the middle of a run")
        sys.stderr.flush()
        os._exit(code)
    return code
