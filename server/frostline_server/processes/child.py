"""A child process: one worker as the supervisor sees it, from its start to its end.

The two ends of a socket connect them. The worker gets its settings on it, and tells how it is; that it closes is how
the supervisor notices its end.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import grpc

from frostline_server.logs import WORKER
from frostline_server.rpc.supervised import UNLIMITED, call
from frostline_server.signals import HANDLED

_LONGEST_LINE = 1 << 26
"""Of what a process says, in bytes: it lists models."""


class Child:
    """One worker.

    Args:
        number: its place, from 0.
        socket: path of the Unix socket on which it answers.

    Attributes:
        loaded: its models are, as far as they can be.
        open: it accepts connections.
        unready: why it is not ready; "" when it is.
        failed: why it could not start; "" when it could, or did not say.
        about: what it says of itself when it opens.
    """

    def __init__(self, number: int, socket: str) -> None:
        self.number = number
        self.socket = socket
        self.loaded = False
        self.open = False
        self.unready = "starting"
        self.failed = ""
        self.about: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """A name that no other worker ever has."""
        return self.socket

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def start(self, config: Mapping[str, Any], supervisor: str) -> None:
        """Start the process.

        Args:
            config: its settings, as JSON has them.
            supervisor: path of the Unix socket on which the supervisor answers.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: as the command `frostline` does, import nothing from the folder that it is started in.
            command = [sys.executable, "-P", "-m", "frostline_server.worker", str(theirs.fileno())]
            # Inherited: the kernel keeps these signals until the worker's event loop takes them.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
            try:
                self._process = subprocess.Popen(  # noqa: S603  the command is this very program
                    command,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, WORKER: str(self.number)},
                    # Ctrl-C goes to the whole group of a terminal, and the supervisor passes it on.
                    process_group=0,
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_LONGEST_LINE)
        assigned = {"config": config, "socket": self.socket, "supervisor": supervisor}
        self._writer.write(f"{json.dumps(assigned)}\n".encode())
        # Its socket is not there at once: try again soon.
        options = (*UNLIMITED, ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200))
        self._channel = grpc.aio.insecure_channel(f"unix:{self.socket}", options=options)

    async def hear(self, silence_s: float) -> bool:
        """Wait for what it says, and note it.

        Args:
            silence_s: how long a process may be silent, in seconds.

        Returns:
            False when it has ended.

        Raises:
            TimeoutError: it said nothing for too long.
        """
        # It is a socket, so the end of a process that was killed may be an error.
        with contextlib.suppress(ConnectionError):
            line = await asyncio.wait_for(self._reader.readline(), silence_s)
            # One that was killed may have said only a part of its last line.
            if line.endswith(b"\n"):
                self._note(json.loads(line))
                return True
        return False

    def _note(self, said: dict[str, Any]) -> None:
        self.unready = said.pop("unready", self.unready)
        self.failed = said.pop("failed", self.failed)
        self.loaded = said.pop("loaded", self.loaded)
        if said.pop("open", False):
            self.open = True
            self.about = said

    async def connect(self) -> None:
        """Wait until it answers. A call would fail at once if one before it came too early, as that of a scrape may."""
        await self._channel.channel_ready()

    async def call(self, method: str, request: bytes = b"", timeout_s: float | None = None) -> bytes:
        """Call it on its private port.

        Args:
            method: the method's path.
            request: the message.
            timeout_s: how long it may take, in seconds.

        Raises:
            PredictionError: it refused, with this error.
            Gone: it has ended, or does not answer.
        """
        return await call(self._channel, method, request, timeout_s)

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        self._process.send_signal(number)

    async def end(self) -> int:
        """Wait for its end, and give up what belongs to it.

        Returns:
            Its exit code; -N if signal N ended it.
        """
        self.open = False
        code = await asyncio.to_thread(self._process.wait)
        self._writer.close()
        await self._channel.close(None)
        return code
