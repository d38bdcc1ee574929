"""Real servers for tests: in this process, on free ports, with a device that can be held."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from frostline_server.app import Server
from frostline_server.batching.entry import Entry, RowKind
from frostline_server.config import ServerConfig

_Found = TypeVar("_Found")

TIMEOUT_S = 30.0
"""Longer than anything here takes; a test that waits this long has failed."""

DEFAULTS: Mapping[str, Any] = {
    "port": 0,
    "metrics_port": 0,
    "http": False,
    "http_port": 0,
    "device": "cpu",
    "allow_anonymous": "all",
    "trial_load": "never",
}
"""Everyone may do everything, because most tests are about what is done. The CPU, also where there is a GPU: ONNX Runtime answers there where the CPU refuses, such as zeros for a row a table does not have. No trial loads, which cost each server a second; servers in processes of their own have them."""


def until(holds: Callable[[], _Found], every_s: float = 0.01) -> _Found:
    """Wait until something holds, which is asked every so many seconds, and return what was found."""
    pause = threading.Event()
    for _ in range(int(TIMEOUT_S / every_s)):
        if found := holds():
            return found
        pause.wait(every_s)
    raise AssertionError("it never holds")


class Running:
    """A started server and the thread its event loop runs in.

    Args:
        models: the folder of models.
        new_loop: makes the event loop.
        settings: what differs from `DEFAULTS`.
    """

    def __init__(
        self,
        models: Path,
        *,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        **settings: Any,
    ) -> None:
        self.config = ServerConfig.load(environ={}, models=models, **{**DEFAULTS, **settings})
        self.server = Server(self.config)
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server-loop", daemon=True)

    def start(self) -> None:
        """Start and load."""
        self._thread.start()
        self.call(self.server.start())

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine on the server's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(TIMEOUT_S)

    def begin_drain(self) -> "Future[bool]":
        """Start draining without waiting for it."""
        return asyncio.run_coroutine_threadsafe(self.server.drain(), self._loop)

    def close_loop(self) -> None:
        """End the loop's thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()

    @property
    def address(self) -> str:
        """Where clients connect."""
        return self.server.address

    @property
    def metrics_url(self) -> str:
        """The base URL of /metrics and the probes."""
        return self.server.metrics_url

    @contextmanager
    def held(self, model: str) -> Iterator["Held"]:
        """Keep a model's device busy until the block ends, so that requests queue up behind it."""
        held = Held(self.server, model)
        held.wait_until_busy()
        try:
            yield held
        finally:
            held.release()


class Held:
    """A device kept busy by a row of our own, whose reply blocks the device thread."""

    def __init__(self, server: Server, model: str) -> None:
        self._busy = threading.Event()
        self._released = threading.Event()
        served = server.repository.get(model, "")
        self.batcher = served.batcher
        signature = served.session.signature
        shapes = tuple(tuple(size or 1 for size in spec.shape) for spec in signature.inputs)
        dtypes = tuple(spec.dtype for spec in signature.inputs)
        data = [np.zeros((1, *shape), dtype).tobytes() for shape, dtype in zip(shapes, dtypes, strict=True)]
        entry = Entry(RowKind(shapes, dtypes, dtypes), 1, data, signature.own_outputs, None, self._reply, None)
        self.batcher.submit(entry)

    def _reply(self, entries: list[Entry]) -> None:
        self._busy.set()
        assert self._released.wait(TIMEOUT_S)

    def wait_until_busy(self) -> None:
        """Wait until the device thread is held."""
        assert self._busy.wait(TIMEOUT_S)

    def wait_until_queued(self, rows: int) -> None:
        """Wait until exactly `rows` rows are queued behind."""
        waiting = threading.Event()
        for _ in range(int(TIMEOUT_S * 1000)):
            if self.batcher.queued_rows == rows:
                return
            waiting.wait(0.001)
        raise AssertionError(f"{self.batcher.queued_rows} rows are queued, not {rows}")

    def release(self) -> None:
        """Let the device go on."""
        self._released.set()


@contextmanager
def running(models: Path, **settings: Any) -> Iterator[Running]:
    """A server that is started, and drained when the block ends."""
    instance = Running(models, **settings)
    try:
        instance.start()
        yield instance
        if instance.server.address and not instance.server.unready().startswith(("draining", "stopped")):
            assert instance.call(instance.server.drain())
    finally:
        instance.close_loop()
