"""A minimal gRPC client over one HTTP/2 connection, for load generators.

It sends prepared bytes, and reads no more of an answer than it must. A load generator shares the machine with the
server it measures, so every microsecond it takes is one the server lacks. This one needs about a tenth of grpc.aio's
time for a call. It knows what a benchmark on loopback needs and nothing else: no TLS, no compression, no retries.
"""

import socket
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import hpack

from frostline.tune.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)

_LARGEST_WINDOW = 2**31 - 1
_UNAVAILABLE = 14


class ConnectionBroken(Exception):
    """The server closed the connection, or broke the protocol in a way this client does not expect."""


@dataclass(slots=True)
class Answer:
    """A finished call.

    Attributes:
        stream: the number that `request` returned.
        status: gRPC's status code, 0 for OK; a refused stream counts as UNAVAILABLE.
        body: the length-prefixed messages, as they came.
        trailers: the last block of headers.
    """

    stream: int
    status: int
    body: bytes
    trailers: dict[str, str]

    def messages(self) -> list[bytes]:
        """The messages without their prefixes."""
        found, at = [], 0
        while at < len(self.body):
            length = int.from_bytes(self.body[at + 1 : at + 5], "big")
            found.append(self.body[at + 5 : at + 5 + length])
            at += 5 + length
        return found


@dataclass(slots=True)
class _Rest:
    """What is left of a body that flow control holds back, and the window of its stream."""

    stream: int
    body: memoryview
    window: int


class Connection:
    """One connection to a server.

    Args:
        address: host:port.
        method: the method that every call goes to, such as /package.Service/Method.
        timeout_s: the deadline every call carries; None for none.
    """

    def __init__(self, address: str, method: str, timeout_s: float | None = None) -> None:
        self.method = method
        self._address = address
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": address,
            "te": "trailers",
            "content-type": "application/grpc",
        }
        if timeout_s is not None:
            headers["grpc-timeout"] = f"{round(timeout_s * 1e6)}u"
        # Never indexed, so that one block of bytes is right for every call.
        block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in headers.items()])
        self._headers = block
        self._next = 1
        self._waiting: deque[tuple[int, bytes]] = deque()  # calls that the server's limits hold back
        self._rest: _Rest | None = None
        self._unsent = bytearray()
        self._received = b""
        self._bodies: dict[int, list[bytes]] = {}
        self._blocks: dict[bytes, dict[str, str]] = {}
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = self._decoder.header_table_size = 0
        self._window = 65535
        self._first_window = 65535
        self._frame = 16384
        self._unacknowledged = 0
        self._most = 2**31  # calls that may be open at once, as the server's settings say

    def open(self) -> None:
        """Connect, and wait for the server's settings."""
        host, _, port = self._address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # No dynamic table: equal blocks then mean equal headers, and each is decoded once.
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, _LARGEST_WINDOW)
        self._unsent += PREFACE + frame(SETTINGS, 0, 0, settings)
        self._unsent += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - 65535))
        self.flush()
        self._socket.settimeout(10)
        while self._most == 2**31:
            self.receive()
        self._socket.setblocking(False)

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    @property
    def blocked(self) -> bool:
        """Whether `flush` left something that the socket did not take."""
        return bool(self._unsent)

    def request(self, body: bytes) -> int:
        """Begin a call with length-prefixed messages; they leave with the next `flush`.

        Returns:
            The number of its stream: 1, 3, 5, ...
        """
        stream = self._next
        self._next += 2
        self._waiting.append((stream, body))
        self._start()
        return stream

    def _start(self) -> None:
        """Begin waiting calls while the server allows another, and the one before has left whole."""
        while self._waiting and self._rest is None and len(self._bodies) < self._most:
            stream, body = self._waiting.popleft()
            size = len(body)
            self._bodies[stream] = []
            self._unsent += HEAD.pack(0, len(self._headers), HEADERS, END_HEADERS, stream) + self._headers
            if size <= self._frame and size <= self._window and size <= self._first_window:
                self._window -= size
                self._unsent += HEAD.pack(size >> 8, size & 255, DATA, END_STREAM, stream) + body
            else:
                self._rest = _Rest(stream, memoryview(body), self._first_window)
                self._pump()

    def _pump(self) -> None:
        """Send of the body that flow control holds back what the windows allow."""
        while (rest := self._rest) is not None:
            size = min(len(rest.body), self._frame, self._window, rest.window)
            if size <= 0:
                return
            last = size == len(rest.body)
            self._unsent += frame(DATA, END_STREAM if last else 0, rest.stream, rest.body[:size])
            self._window -= size
            rest.window -= size
            rest.body = rest.body[size:]
            if last:
                self._rest = None

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return

    def receive(self) -> list[Answer]:
        """Read what has arrived; returns the calls it finished.

        Raises:
            ConnectionBroken: the server closed the connection.
        """
        try:
            chunk = self._socket.recv(1 << 20)
        except BlockingIOError:
            return []
        if not chunk:
            raise ConnectionBroken(f"{self._address} closed the connection")
        data = self._received + chunk
        at, end, finished = 0, len(data), []
        while end - at >= 9:
            high, low, kind, flags, stream = HEAD.unpack_from(data, at)
            stop = at + 9 + (high << 8 | low)
            if stop > end:
                break
            payload = data[at + 9 : stop]
            at = stop
            if kind == DATA:
                self._bodies[stream].append(payload)
                self._unacknowledged += len(payload)
            elif kind != HEADERS:
                answer = self._control(kind, flags, stream, payload)
                if answer is not None:
                    finished.append(answer)
                continue
            if flags & END_STREAM:
                trailers = self._decoded(payload) if kind == HEADERS else {}
                body = b"".join(self._bodies.pop(stream))
                finished.append(Answer(stream, int(trailers.get("grpc-status", "2")), body, trailers))
        self._received = data[at:]
        self._start()
        if self._unacknowledged > 2**30:
            self._unsent += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unacknowledged))
            self._unacknowledged = 0
        if self._unsent:
            self.flush()
        return finished

    def _decoded(self, block: bytes) -> dict[str, str]:
        headers = self._blocks.get(block)
        if headers is None:
            decoded = self._decoder.decode(block)
            headers = self._blocks[block] = {str(name): str(value) for name, value in decoded}
        return headers

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> Answer | None:
        if kind == SETTINGS and not flags & ACK:
            said = dict(struct.iter_unpack(">HI", payload))
            self._most = said.get(3, min(self._most, 2**31 - 1))
            self._frame = said.get(5, self._frame)
            change = said.get(4, self._first_window) - self._first_window
            self._first_window += change
            if self._rest is not None:
                self._rest.window += change
            self._unsent += frame(SETTINGS, ACK, 0, b"")
            self._pump()
        elif kind == PING and not flags & ACK:
            self._unsent += frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE:
            (more,) = struct.unpack(">I", payload)
            if stream == 0:
                self._window += more
            elif self._rest is not None and stream == self._rest.stream:
                self._rest.window += more
            self._pump()
        elif kind == GOAWAY:
            raise ConnectionBroken(f"{self._address} sent GOAWAY: {payload[8:].decode(errors='replace')}")
        elif kind == RST_STREAM and stream in self._bodies:
            if self._rest is not None and self._rest.stream == stream:
                self._rest = None
            return Answer(stream, _UNAVAILABLE, b"".join(self._bodies.pop(stream)), {})
        return None


@contextmanager
def connected(address: str, method: str, count: int, timeout_s: float | None = None) -> Iterator[list[Connection]]:
    """`count` open connections for as long as the block; see `Connection`."""
    connections = [Connection(address, method, timeout_s) for _ in range(count)]
    with ExitStack() as closing:
        for connection in connections:
            connection.open()
            closing.callback(connection.close)
        yield connections
