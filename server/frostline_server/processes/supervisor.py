"""The supervisor process: it starts the workers that share one address, and starts those again that end.

It speaks for all of them where one answer is wanted (metrics, readiness, control calls), and is not in the way of a
prediction: connections are the kernel's and the workers'.
"""

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import structlog

from frostline_server import logs, signals
from frostline_server.access.credentials import Credentials
from frostline_server.config import ServerConfig
from frostline_server.errors import StartError
from frostline_server.metrics.http import MetricsServer
from frostline_server.processes.address import Address
from frostline_server.processes.backoff import Backoff
from frostline_server.processes.child import Child
from frostline_server.processes.private_folder import private_folder
from frostline_server.processes.relay import Relay
from frostline_server.processes.scrape import Scrape
from frostline_server.repository.layout import why_no_folder
from frostline_server.rpc.private_port import OPEN
from frostline_server.rpc.supervised import Gone

SILENCE_S = 60.0
"""How long a worker's event loop may stand still before the worker is taken for dead; it reports every second."""
_OVERTIME_S = 15.0
"""How much longer than `grace_s` a worker may take to end."""

_log = structlog.get_logger(__name__)


def run(config: ServerConfig) -> int:
    """Serve with `config.processes` workers until a signal ends them, then drain them.

    Returns:
        The process's exit code: 0 when every worker finished what it had accepted.

    Raises:
        StartError: the server cannot start.
    """
    logs.configure(config.log_format, config.log_level)
    for sentence in config.warnings:
        _log.warning("configuration", warning=sentence)
    if reason := why_no_folder(config.models):
        raise StartError(reason)
    with ExitStack() as stack:
        ports = {"port": _taken(config.host, config.port, ("--host", "--port"), stack)}
        if config.http:
            ports["http_port"] = _taken(config.host, config.http_port, ("--host", "--http-port"), stack)
        if config.admin_port is not None:
            flags = ("--admin-host", "--admin-port")
            ports["admin_port"] = _taken(config.admin_host, config.admin_port, flags, stack)
        folder = stack.enter_context(private_folder())
        return asyncio.run(Supervisor(config.model_copy(update=ports), folder).run())


def _taken(host: str, port: int, flags: tuple[str, str], stack: ExitStack) -> int:
    """Take a port for as long as the stack; `flags` are those of the host and of the port, for messages."""
    address = Address(host, port)
    stack.callback(address.close)
    try:
        return address.take()
    except StartError as error:
        raise error.naming(*flags) from error.__cause__


class Supervisor:
    """Keeps the workers of one server running.

    Args:
        config: the server's settings, with the ports that are taken.
        folder: a private folder for sockets.
    """

    def __init__(self, config: ServerConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._phase = "starting"
        self._began_s = time.monotonic()
        self._children: dict[int, Child] = {}
        self._restarts = dict.fromkeys(range(config.processes), 0)
        self._failure: tuple[int, str] | None = None
        # The workers have their own; here it is for whoever reads the metrics.
        asks = config.metrics_access != "open"
        self._credentials = Credentials(config.access_file) if asks and config.access_file else None

    async def run(self) -> int:
        """Serve until told to stop.

        Returns:
            The exit code.

        Raises:
            StartError: a port cannot be had, or a worker cannot start.
        """
        self._stopped = asyncio.Event()
        self._relay = Relay()
        self._scrape = Scrape(asyncio.get_running_loop(), self._children, self._restarts, self.unready)
        metrics = MetricsServer.of(self._config, self._scrape.registry, self.unready, self._credentials)
        async with AsyncExitStack() as stack:
            stack.enter_context(signals.handled(asyncio.get_running_loop(), self._end, self._reload))
            if self._credentials is not None:
                self._credentials.start()
                stack.callback(self._credentials.close)
            self._metrics_url = metrics.start()
            stack.callback(metrics.close)
            await self._relay.start(self._socket("supervisor"))
            stack.push_async_callback(self._relay.stop)
            keepers = [asyncio.create_task(self._keep(number)) for number in self._restarts]
            stopping = asyncio.create_task(self._stopped.wait())
            # One that ends by itself has failed.
            await asyncio.wait({stopping, *keepers}, return_when=asyncio.FIRST_COMPLETED)
            codes = await self._drain(keepers)
        if self._failure is None:
            _log.info("stopped", finished=not any(codes))
            return 1 if any(codes) else 0
        code, reason = self._failure
        if reason:
            raise StartError(reason)
        return code

    # Signals

    def _end(self, number: int) -> None:
        if number == signal.SIGINT and self._stopped.is_set():
            # Ctrl-C again: whoever sits there does not want to wait for the drain.
            self._signal(signal.SIGKILL)
            os._exit(130)
        self._stopped.set()

    def _reload(self) -> None:
        # The metrics port looks at the certificate's files for each connection anyway. The workers forget what clients
        # have changed about the log, so a later one need not be told.
        self._relay.forget_log()
        if self._credentials is not None:
            self._credentials.look()
        self._signal(signal.SIGHUP)

    def _signal(self, number: int) -> None:
        for child in self._children.values():
            child.signal(number)

    # Workers

    async def _keep(self, number: int) -> int:
        """Have a worker run, again and again, until the server stops.

        Returns:
            The exit code of the last.
        """
        backoff = Backoff()
        while True:
            began_s = time.monotonic()
            child = Child(number, self._socket(f"{number}-{self._restarts[number]}"))
            served, code = await self._live(child)
            if self._stopped.is_set():
                return code
            _log.error("process ended", process=number, **_ending(code), **_reason(child))
            if not served and (self._phase == "starting" or not self._open()):
                # It would not be otherwise the next time, and nobody else serves meanwhile.
                self._fail(code, child.failed)
                return code
            self._restarts[number] += 1
            try:
                await asyncio.wait_for(self._stopped.wait(), backoff.wait_s(time.monotonic() - began_s))
            except TimeoutError:
                continue
            return 0

    async def _live(self, child: Child) -> tuple[bool, int]:
        """Have one process run, and hear what it says, until its end.

        Returns:
            Whether it ever served, and its exit code.
        """
        try:
            await child.start(self._config.model_dump(mode="json"), self._socket("supervisor"))
        except OSError as error:  # there is no memory for it, or as many processes as may be
            child.failed = f"cannot start a process: {error.strerror}"
            return False, 1
        if self._stopped.is_set():
            child.signal(signal.SIGTERM)
        _log.info("process started", process=child.number, pid=child.pid)
        self._children[child.number] = child
        self._scrape.begin(child)
        joining: asyncio.Task[None] | None = None
        served = False
        try:
            while await child.hear(SILENCE_S):
                if child.loaded and joining is None:
                    joining = asyncio.create_task(self._join(child))
                if child.open and not served:
                    served = True
                    self._opened(child)
        except TimeoutError:
            _log.error("process does not react", process=child.number, pid=child.pid, seconds=SILENCE_S)
            child.signal(signal.SIGKILL)
        if joining is not None:
            joining.cancel()
            await asyncio.wait({joining})
        self._relay.dismiss(child.number)
        del self._children[child.number]
        code = await child.end()
        self._scrape.end(child)
        return served, code

    async def _join(self, child: Child) -> None:
        """Make a worker whose models are loaded like the others, and have it open the address."""
        try:
            await child.connect()
            await self._relay.admit(child.number, child.call)
            await child.call(OPEN)
        except Gone as error:
            # If it has not ended, it would never serve.
            _log.error("process does not answer", process=child.number, reason=str(error))
            child.signal(signal.SIGKILL)

    def _opened(self, child: Child) -> None:
        """A worker accepts connections; once all do, the server is there."""
        if self._phase != "starting" or len(self._open()) < self._config.processes:
            return
        self._phase = "serving"
        unready = self.unready()
        host = self._config.host
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        _log.info(
            "not ready" if unready else "ready",
            address=f"{host}:{self._config.port}",
            metrics=self._metrics_url,
            processes=self._config.processes,
            **child.about,
            seconds=round(time.monotonic() - self._began_s, 3),
            **({"unready": unready} if unready else {}),
        )

    def _open(self) -> Sequence[Child]:
        return [child for child in list(self._children.values()) if child.open]

    def _fail(self, code: int, reason: str) -> None:
        """End the server, because a worker cannot start."""
        if self._failure is None:
            self._failure = code if code > 0 else 128 - code, reason
        self._stopped.set()

    async def _drain(self, keepers: "list[asyncio.Task[int]]") -> list[int]:
        """Have all workers drain at the same time.

        Returns:
            Their exit codes.
        """
        self._stopped.set()
        self._phase = "draining"
        _log.info("draining", grace_s=self._config.grace_s)
        self._signal(signal.SIGTERM)
        _, late = await asyncio.wait(keepers, timeout=self._config.grace_s + _OVERTIME_S)
        if late:
            _log.error("processes do not end", processes=sorted(self._children))
            self._signal(signal.SIGKILL)
        return await asyncio.gather(*keepers)

    # What it says for all

    def unready(self) -> str:
        """Why the server is not ready; "" when it is.

        At the start every worker must be; later, every worker that accepts connections, and at least one.
        """
        if self._phase != "serving":
            return self._phase
        serving = self._open()
        if not serving:
            return "no process serves"
        return "; ".join(f"process {child.number}: {child.unready}" for child in serving if child.unready)

    def _socket(self, name: str) -> str:
        return str(self._folder / f"{name}.sock")


def _ending(code: int) -> Mapping[str, object]:
    return {"signal": signal.Signals(-code).name} if code < 0 else {"code": code}


def _reason(child: Child) -> Mapping[str, object]:
    return {"reason": child.failed} if child.failed else {}
