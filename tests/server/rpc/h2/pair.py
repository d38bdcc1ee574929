"""A connection of the front end and a client's side of it, in memory: no socket, no thread, and time is a number."""

import gzip
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ngh2 import (
    Configuration,
    DataReceived,
    Event,
    GoAwayReceived,
    ResponseReceived,
    Role,
    StreamClosed,
    TrailersReceived,
)
from ngh2 import (
    Connection as Session,
)

from frostline_server.errors import PredictionError
from frostline_server.rpc.h2.budget import Budget
from frostline_server.rpc.h2.call import Call
from frostline_server.rpc.h2.connection import Connection
from frostline_server.rpc.h2.framing import prefixed
from frostline_server.rpc.h2.shared import Limits, Peer, Route, Shared

UNARY, STREAM = "/t.T/Unary", "/t.T/Stream"

LIMITS = Limits(
    max_message_bytes=1 << 20,
    max_calls=100,
    max_header_bytes=16384,
    message_timeout_s=10,
    answer_timeout_s=20,
    handshake_timeout_s=5,
    resets_per_s=100,
    max_age_s=math.inf,
    age_grace_s=math.inf,
)


class Kept:
    """A receiver that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[tuple[Call, bytes]] = []
        self.finished_calls: list[Call] = []
        self.cancelled_calls: list[Call] = []
        self.sent_calls: list[Call] = []

    def message(self, call: Call, message: bytes) -> None:
        """Keep it."""
        self.messages.append((call, message))

    def finished(self, call: Call) -> None:
        """Keep it."""
        self.finished_calls.append(call)

    def cancelled(self, call: Call) -> None:
        """Keep it."""
        self.cancelled_calls.append(call)

    def sent(self, call: Call) -> None:
        """Keep it."""
        self.sent_calls.append(call)


@dataclass
class Answer:
    """What the client has of one call."""

    status: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    closed: int | None = None

    @property
    def code(self) -> int:
        """The status of gRPC; -1 if there is none."""
        return int({**self.headers, **self.trailers}.get("grpc-status", "-1"))

    @property
    def text(self) -> str:
        """The message of the status, as it is on the wire."""
        return {**self.headers, **self.trailers}.get("grpc-message", "")


class Pair:
    """Both ends.

    Args:
        budget: bytes that may be held.
        client_window: what the client lets the server send at first, for each call.
        compression: of answers.
        limits: changes to `LIMITS`.
    """

    def __init__(
        self, *, budget: int = 1 << 30, client_window: int = 1 << 20, compression: bytes = b"", **limits: Any
    ) -> None:
        self.kept = Kept()
        self.counted: list[PredictionError] = []
        self.later: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        routes = {
            UNARY.encode(): Route(lambda _: self.kept, unary=True),
            STREAM.encode(): Route(lambda _: self.kept, unary=False, lasting=True),
        }
        self.shared = Shared(
            routes,
            Budget(budget),
            replace(LIMITS, **limits),
            lambda function, then: self.later.append((function, then)),
            lambda error, _: self.counted.append(error),
            compression,
        )
        self.now_s = 1000.0
        self.touched = 0
        self.answers: dict[int, Answer] = {}
        self.goaways: list[int] = []
        self.connect(client_window)
        self.exchange()

    def connect(self, client_window: int = 1 << 20) -> None:
        """Begin with another connection, of which neither side has sent anything yet."""
        self.server = Connection(self.shared, Peer("ipv4:127.0.0.1:1"), self.now_s, self._touch)
        self.client = Session(Role.CLIENT, Configuration(auto_window_update=False))
        self.client.initiate_connection({4: client_window})

    def _touch(self) -> None:
        self.touched += 1

    @property
    def held(self) -> int:
        """Bytes of the budget that are held."""
        return self.shared.budget.used

    def exchange(self, piece: int | None = None) -> None:
        """Carry bytes to and fro until neither side has more; to the server in pieces of this size, if given."""
        while True:
            data = self.client.data_to_send()
            for at in range(0, len(data), piece or max(1, len(data))):
                self.receive(data[at : at + (piece or len(data))])
            answer = self.server.to_send(1 << 16)
            self.finish()
            if answer:
                self.hear(answer)
            if not data and not answer:
                return

    def receive(self, data: bytes) -> None:
        """Have the server take bytes, to the end."""
        self.finish()
        self.server.receive(data, self.now_s)
        self.finish()

    def finish(self) -> None:
        """Have the server go on until it has done all that came."""
        while self.server.unfinished:
            self.server.go_on(self.now_s)

    def hear(self, data: bytes) -> None:
        """Carry bytes to the client."""
        self.client.receive_data(data)
        for event in self.client.events():
            self._note(event)

    def _note(self, event: Event) -> None:
        if isinstance(event, GoAwayReceived):
            self.goaways.append(event.last_stream_id)
        elif isinstance(event, ResponseReceived):
            headers = {name.decode(): value.decode() for name, value in event.headers}
            self.answers[event.stream_id] = Answer(headers[":status"], headers)
        elif isinstance(event, DataReceived):
            self.answers[event.stream_id].body += event.data
        elif isinstance(event, TrailersReceived):
            self.answers[event.stream_id].trailers = {n.decode(): v.decode() for n, v in event.headers}
        elif isinstance(event, StreamClosed):
            self.answers.setdefault(event.stream_id, Answer()).closed = event.error_code

    def begin(self, path: str = UNARY, **headers: str) -> int:
        """Begin a call; returns its stream."""
        usual = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "t",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.send_request([(n.encode(), v.encode()) for n, v in {**usual, **named}.items()])

    def call(self, message: bytes = b"hello", /, path: str = UNARY, **headers: str) -> int:
        """Begin a call, and send its only message."""
        stream = self.begin(path, **headers)
        self.client.send_data(stream, prefixed(message), end_stream=True)
        self.exchange()
        return stream

    def look(self, after_s: float) -> None:
        """Let time pass, and have the server look."""
        self.now_s += after_s
        self.server.look(self.now_s)
        self.exchange()

    def read(self, stream: int, size: int) -> None:
        """Let the client read so many bytes of an answer."""
        self.client.acknowledge_received_data(size, stream)
        self.exchange()


def packed(message: bytes) -> bytes:
    """A message as gRPC sends it with gzip."""
    return prefixed(gzip.compress(message, mtime=0), compressed=True)
