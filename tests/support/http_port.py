"""The HTTP port as a raw socket sees it, and what must be true of it after every client."""

import asyncio
import gc
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog.testing
import uvloop
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from frostline_server.http.call import Call
from frostline_server.http.front_end import HttpFrontEnd
from frostline_server.http.h1.connection import Connection
from frostline_server.http.h1.shared import Exchange
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S, Running, running, until

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
"""Tests start servers on asyncio's own loop; served is on uvloop, whose transports are other code."""

ROW = json.dumps(
    {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}]}
).encode()
INFER = "/v2/models/digits/infer"
ZEROS = "/v2/models/zeros/infer"


def zeros(count: int) -> bytes:
    """What `zeros` answers with so many zeros, of four bytes each."""
    asked = {"name": "shape", "shape": [1], "datatype": "INT64", "data": [count]}
    return json.dumps({"inputs": [asked], "parameters": {"binary_data_output": True}}).encode()


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: the HTTP status.
        headers: by their names in small letters.
        body: whole.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The sentence of an answer that is a failure."""
        return str(json.loads(self.body)["error"])


class Client:
    """A connection that sends what it is told to.

    Args:
        plain: the socket.
    """

    def __init__(self, plain: socket.socket) -> None:
        self.socket = plain
        self._got = b""

    def send(self, data: bytes) -> None:
        """Send, whatever it is."""
        self.socket.sendall(data)

    def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer."""
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        size = 0 if head_only else int(headers.get("content-length", 0))
        while len(self._got) < size:
            self._more()
        body, self._got = self._got[:size], self._got[size:]
        return Answer(int(head[0].split()[1]), headers, body)

    def ended(self) -> bool:
        """Whether nothing more comes but the end."""
        if self._got:
            return False
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _until(self, end: bytes) -> bytes:
        while end not in self._got:
            self._more()
        found, _, self._got = self._got.partition(end)
        return found

    def _more(self) -> None:
        part = self.socket.recv(1 << 20)
        if not part:
            raise EOFError(f"the server has hung up after {self._got[:100]!r}")
        self._got += part


class Port:
    """The HTTP port of a server in this process.

    Args:
        server: the server.
    """

    def __init__(self, server: Running) -> None:
        self.server = server
        host, _, port = server.server.http_url.partition("://")[2].rpartition(":")
        self.address = (host, int(port))
        self.host = f"{host}:{port}"

    @property
    def front_end(self) -> HttpFrontEnd:
        """Its front end."""
        front_end = self.server.server._http
        assert front_end is not None
        return front_end

    @property
    def connections(self) -> list[Connection]:
        """The connections that it has."""
        shared = self.front_end._shared
        assert shared is not None
        return [each for each in list(shared.state.connections) if isinstance(each, Connection)]

    def refused(self, reason: str) -> int:
        """How often it has refused something."""
        return self.front_end.refused.get(reason, 0)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A connection."""
        with socket.create_connection(self.address, TIMEOUT_S) as plain:
            yield Client(plain)

    def ask(self, data: bytes) -> Answer:
        """The first answer to what is sent."""
        with self.client() as client:
            client.send(data)
            return client.answer()

    def request(self, path: str = INFER, body: bytes = ROW, *more: str, method: str = "POST") -> bytes:
        """A request, with the length of its body."""
        return head(method, path, f"Host: {self.host}", f"Content-Length: {len(body)}", *more) + body

    def get(self, path: str = "/v2/health/live", *more: str) -> bytes:
        """A request without a body."""
        return head("GET", path, f"Host: {self.host}", *more)

    def works(self) -> None:
        """Check that somebody else is answered."""
        answer = self.ask(self.request())
        assert answer.status == 200, answer.body
        assert json.loads(answer.body)["outputs"][0]["shape"] == [1, 3]

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the server's loop busy until the block ends, once it has all connections so far."""
        self.wait_until(lambda: len(self.connections) == self.front_end.connections > 0)
        ready, done = threading.Event(), threading.Event()

        def wait() -> None:
            ready.set()
            assert done.wait(TIMEOUT_S)

        self.server._loop.call_soon_threadsafe(wait)
        assert ready.wait(TIMEOUT_S)
        try:
            yield
        finally:
            done.set()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something has happened on the server's side."""
        until(condition, 0.002)

    def look(self, later_s: float) -> None:
        """Look at all connections, so many seconds later."""

        async def look() -> None:
            shared = self.front_end._shared
            assert shared is not None
            for each in self.connections:
                each.look(shared.loop.time() + later_s)

        self.server.call(look())

    def wait_until_quiet(self) -> None:
        """Wait until nobody is there any more; then nothing may be held, and nothing run."""
        shared = self.front_end._shared
        assert shared is not None
        self.wait_until(lambda: not (self.front_end.connections or shared.state.tasks))
        self.wait_until(lambda: not (shared.state.connections or shared.waiting))
        assert self.front_end.budget.used == 0


def head(method: str, path: str, *lines: str, version: str = "HTTP/1.1") -> bytes:
    """The head of a request."""
    return "\r\n".join((f"{method} {path} {version}", *lines, "", "")).encode("latin-1")


@contextmanager
def port(models: Path, loop: str = "asyncio", expected: str = "", **settings: Any) -> Iterator[Port]:
    """A server's HTTP port; at the end it is quiet again, and nothing unexpected was logged that somebody would look into."""
    with running(models, new_loop=LOOPS[loop], http=True, **settings) as server, quiet(expected):
        opened = Port(server)
        yield opened
        opened.wait_until_quiet()


@contextmanager
def nothing_for_the_collector() -> Iterator[None]:
    """A stretch of time after which no request is in memory any more, though no garbage was collected meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
        left = [
            each for each in gc.get_objects() if isinstance(each, Call | Exchange | RequestResponseCycle | Connection)
        ]
        assert not left, f"{len(left)} are left, such as {left[:5]}"
    finally:
        gc.enable()


@contextmanager
def quiet(expected: str = "") -> Iterator[None]:
    """A stretch of time in which nothing is logged that somebody would look into, but for one event."""
    with structlog.testing.capture_logs() as lines:
        yield
    loud = [line for line in lines if line["log_level"] not in ("debug", "info") and line["event"] != expected]
    assert not loud, loud


def write_models(folder: Path) -> Path:
    """The models that the port serves: `digits`, which is `linear`, and `zeros`."""
    onnx_models.write_artifact(folder, "digits")
    onnx_models.write_artifact(folder, "zeros", model=onnx_models.zeros(["n"]), golden=False, card=False)
    return folder
