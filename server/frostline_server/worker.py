"""The process of one worker: a server that shares its address with others, under a supervisor.

The supervisor starts it with a socket, on which it sends the settings, and then hears how the worker is. If that socket
closes, the supervisor is gone, and the worker ends as after SIGTERM.
"""

import asyncio
import contextlib
import json
import socket
import sys

from frostline_server import logs
from frostline_server.app import Server
from frostline_server.config import ServerConfig
from frostline_server.errors import StartError
from frostline_server.main import loop_factory, serve
from frostline_server.model.memory_return import use_one_heap
from frostline_server.rpc.supervised import Place

BEAT_S = 1.0
"""How often it says that its event loop runs, in seconds."""


class Lifeline:
    """The socket between a worker and its supervisor.

    Args:
        connected: the worker's end.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def assignment(self) -> tuple[ServerConfig, Place]:
        """What this worker is to be; blocks."""
        with self._socket.makefile(encoding="utf-8") as lines:
            assigned = json.loads(lines.readline())
        config = ServerConfig.model_validate(assigned["config"])
        return config, Place(assigned["socket"], assigned["supervisor"], self.report)

    def report(self, **fields: object) -> None:
        """Tell the supervisor; the fields are those of `processes.child.Child`."""
        with contextlib.suppress(OSError):  # it is gone: `watch` sees to that
            self._socket.sendall(f"{json.dumps(fields)}\n".encode())

    def watch(self, stopped: asyncio.Event) -> None:
        """Set `stopped` when the supervisor is gone; on the event loop."""
        asyncio.get_running_loop().add_reader(self._socket, self._gone, stopped)

    def _gone(self, stopped: asyncio.Event) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        stopped.set()

    async def beat(self) -> None:
        """Report every `BEAT_S` seconds, without end."""
        while True:
            self.report()
            await asyncio.sleep(BEAT_S)


async def _serve(config: ServerConfig, place: Place, lifeline: Lifeline) -> int:
    stopped = asyncio.Event()
    lifeline.watch(stopped)
    beating = asyncio.create_task(lifeline.beat())
    try:
        return await serve(Server(config, place), stopped)
    finally:
        beating.cancel()


def run(descriptor: int) -> int:
    """Serve as the supervisor says.

    Args:
        descriptor: of the socket to the supervisor.

    Returns:
        The process's exit code.
    """
    lifeline = Lifeline(socket.socket(fileno=descriptor))
    config, place = lifeline.assignment()
    use_one_heap()
    logs.configure(config.log_format, config.log_level)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_serve(config, place, lifeline))
    except StartError as error:
        lifeline.report(failed=str(error))
        return 2


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1])))
