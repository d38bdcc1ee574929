"""One HTTP/1.1 connection: uvicorn's protocol, with the limits that uvicorn leaves to a proxy in front of it.

uvicorn parses (llhttp), keeps alive, pipelines and applies back pressure. What is added bounds what a client can make the
server hold: the size and the time of a head and of a body, answers that nobody reads, and the memory of all of them.
"""

import asyncio
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from frostline_server.http.statuses import Failure, failure_head
from frostline_server.rpc.h2.budget import Budget

EXCHANGE = "frostline.exchange"
"""Where an ASGI scope has its `Exchange`."""

_BODY_OVERHEAD = 1 << 20
"""Of a request beyond the largest message: the JSON in front of binary tensors, the borders between parts."""
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
"""Only Linux has it."""
_DISCARD_S = 1.0
"""How long the rest of a request that was refused is read, so that the client sees why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may do.

    Attributes:
        head_bytes: the longest head.
        body_bytes: the longest body.
        head_s: seconds that a head may be on its way, and that a new connection may take to begin.
        body_s: seconds that a body may be on its way.
        unread_s: seconds that an answer may stay unread without progress.
        connections: at one time.
        connections_per_address: at one time, from one address.
    """

    head_bytes: int
    body_bytes: int
    head_s: float
    body_s: float
    unread_s: float
    connections: int
    connections_per_address: int

    @classmethod
    def body_of(cls, message_bytes: int) -> int:
        """The longest body that holds a message of so many bytes."""
        return message_bytes + _BODY_OVERHEAD


@dataclass(slots=True)
class Shared:
    """What all connections have in common; used on the event loop only.

    Attributes:
        uvicorn: its settings.
        state: of its connections and tasks.
        loop: the event loop.
        limits: of each connection.
        budget: for what is held of requests and answers.
        refused: how much was refused here, by reason.
        addresses: connections by client address.
    """

    uvicorn: Config
    state: ServerState
    loop: asyncio.AbstractEventLoop
    limits: Limits
    budget: Budget
    refused: "Counter[str]" = field(default_factory=Counter)
    addresses: "Counter[str]" = field(default_factory=Counter)


class Exchange:
    """One request and its answer, as the application sees the connection beneath.

    Attributes:
        peer: the client's address as grpc writes it, such as ipv4:127.0.0.1:50051.
        names: the names in its certificate, under grpc's keys.
        on_lost: called when the client goes away before it is answered.
    """

    __slots__ = ("_cycle", "_held", "_shared", "names", "on_lost", "peer")

    def __init__(
        self, shared: Shared, cycle: RequestResponseCycle, peer: str, names: Mapping[str, tuple[bytes, ...]], held: int
    ) -> None:
        self._shared = shared
        self._cycle = cycle
        self._held = held
        self.peer = peer
        self.names = names
        self.on_lost: Callable[[], None] | None = None

    @property
    def lost(self) -> bool:
        """Whether the client has gone away."""
        return self._cycle.disconnected

    def hold(self, size: int) -> bool:
        """Hold so many more bytes until the exchange is over; False where there is no room."""
        if not self._shared.budget.take(size):
            self._shared.refused["network_full"] += 1
            return False
        self._held += size
        return True

    def release(self) -> None:
        """Hold nothing more."""
        self._shared.budget.give(self._held)
        self._held = 0


class Connection(HttpToolsProtocol):
    """A connection of a client.

    Args:
        shared: what all of them have in common.
    """

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared.uvicorn, shared.state, {}, shared.loop)
        self._shared = shared
        self._limits = shared.limits
        self._head_began_s: float | None = None
        self._body_began_s: float | None = None
        self._head_bytes = self._seen_bytes = self._body_bytes = 0
        self._unsent: tuple[int, float] | None = None
        self._refused = False
        self._socket: Any = None
        self._address = ""
        self._peer = ""
        self._names: Mapping[str, tuple[bytes, ...]] = {}
        self._exchanges: set[Exchange] = set()
        self._reading: Exchange | None = None
        self.waiting_since_s = 0.0
        """When it began to wait for a request, on the `time.monotonic` clock."""

    # As uvicorn calls it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Take a new connection, if there is room."""
        super().connection_made(transport)
        self._head_began_s = self.waiting_since_s = time.monotonic()
        self._socket = transport.get_extra_info("socket")
        if self._socket is not None:
            # An answer is written in two parts, and the second would wait until the client has acknowledged the first.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = transport.get_extra_info("peername")
        self._address = str(name[0]) if isinstance(name, tuple) else ""
        self._peer = _peer(name)
        self._names = certificate_names(transport.get_extra_info("peercert"))
        shared = self._shared
        shared.addresses[self._address] += 1
        if shared.addresses[self._address] > self._limits.connections_per_address:
            self._turn_away("connections_per_address")
        elif len(self.connections) > self._limits.connections and not self._make_way():
            self._turn_away("connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what the client is not there for any more."""
        super().connection_lost(exc)
        addresses = self._shared.addresses
        addresses[self._address] -= 1
        if not addresses[self._address]:
            del addresses[self._address]
        for cycle, _ in self.pipeline:
            cycle.scope[EXCHANGE].release()  # type: ignore[literal-required]  # a key of our own
        self.pipeline.clear()
        for exchange in list(self._exchanges):
            if exchange.on_lost is not None:
                exchange.on_lost()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._unset_keepalive_if_required()
        if self._refused:
            return
        if self._head_began_s is not None:
            self._seen_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # A request to go on with another protocol is answered in this one.
            pass
        except httptools.HttpParserError as error:
            cause = str(error) or "it cannot be parsed"
            self.refuse(Failure(400, f"this is no valid HTTP/1.1 request: {cause}", "bad_request"))
            return
        if self._head_began_s is not None and self._seen_bytes > self._limits.head_bytes:
            self._refuse_head()
        elif self._body_began_s is not None and _QUICKACK is not None and self._socket is not None:
            # Many clients send the body after the head, and their system holds it back until the head is acknowledged, which
            # this one would do only after 40 ms.
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def on_message_begin(self) -> None:
        """Begin with a request."""
        super().on_message_begin()
        self._head_began_s = time.monotonic()
        self._head_bytes = self._seen_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the request's target."""
        self._head_bytes += len(url)
        if self._head_bytes <= self._limits.head_bytes:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes <= self._limits.head_bytes:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer, or refuse before any of the body was read."""
        self._head_began_s = None
        if self._refused:
            return
        if self._head_bytes > self._limits.head_bytes:
            self._refuse_head()
            return
        try:
            size = _announced(self.headers, self.parser.get_http_version())
        except Failure as failure:
            self.refuse(failure)
            return
        if size is not None and size > self._limits.body_bytes:
            self._refuse_body()
            return
        if size and not self._shared.budget.take(size):
            self._shared.refused["network_full"] += 1
            self.refuse(no_room(size))
            return
        self._body_began_s = time.monotonic()
        self._body_bytes = 0
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is before:
            self._shared.budget.give(size or 0)
            return
        exchange = Exchange(self._shared, self.cycle, self._peer, self._names, size or 0)
        self._reading = exchange if size is None else None
        self.scope[EXCHANGE] = exchange  # type: ignore[literal-required]  # a key of our own
        self._exchanges.add(exchange)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if self._refused:
            return
        if self._reading is not None:  # whose size was not announced
            self._body_bytes += len(body)
            if self._body_bytes > self._limits.body_bytes:
                self._refuse_body()
                return
            if not self._reading.hold(len(body)):
                self.refuse(no_room(len(body)))
                return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is there."""
        self._body_began_s = None
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        if self._body_began_s is not None and not self._refused:
            # Answered before its body was read, which might be long: what comes of it is not read.
            self._end_soon()
        self.waiting_since_s = time.monotonic()
        super().on_response_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(lambda done: self._over(done, cycle))

    def _over(self, task: "asyncio.Task[None]", cycle: RequestResponseCycle) -> None:
        self.tasks.discard(task)
        exchange: Exchange = cycle.scope[EXCHANGE]  # type: ignore[literal-required]  # a key of our own
        exchange.on_lost = None
        exchange.release()
        self._exchanges.discard(exchange)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: it is no fault of the server's."""

    # Limits

    def look(self, now_s: float) -> None:
        """End what takes too long; called about once a second.

        Args:
            now_s: the time on the `time.monotonic` clock.
        """
        if self.transport is None or self.transport.is_closing():
            self._abort_if_unread(now_s)
            return
        if self._head_began_s is not None and now_s - self._head_began_s > self._limits.head_s:
            self._shared.refused["slow_head"] += 1
            if self._seen_bytes:
                self.refuse(Failure(408, f"the request's head took longer than {self._limits.head_s:g} s", "slow"))
            else:
                self.transport.close()
        elif self._body_began_s is not None and now_s - self._body_began_s > self._limits.body_s:
            self._shared.refused["slow_body"] += 1
            self.refuse(Failure(408, f"the request's body took longer than {self._limits.body_s:g} s", "slow"))
        else:
            self._abort_if_unread(now_s)

    def _abort_if_unread(self, now_s: float) -> None:
        size = self.transport.get_write_buffer_size() if self.transport is not None else 0
        if not size:
            self._unsent = None
        elif self._unsent is None or size != self._unsent[0]:
            self._unsent = (size, now_s)
        elif now_s - self._unsent[1] > self._limits.unread_s:
            self._shared.refused["unread"] += 1
            self.transport.abort()

    @property
    def idle(self) -> bool:
        """Whether it waits for a request, or for the rest of one's head."""
        return not self._exchanges

    def refuse(self, failure: Failure) -> None:
        """Answer a request that nobody else sees, and end the connection."""
        if self._refused:
            return
        self._refused = True
        self._head_began_s = self._body_began_s = None
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if answering:
            cycle.keep_alive = False
        if not answering or not cycle.response_started:
            if answering:
                # Whoever reads its body is told that there is no more of it.
                cycle.disconnected = True
                cycle.message_event.set()
            self.transport.write(failure_head(failure))
            self._end_soon()
        self.flow.resume_reading()

    def _end_soon(self) -> None:
        self._refused = True
        # Closed at once, with bytes unread, the client's system would drop the answer.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_DISCARD_S, self.transport.close)

    def _refuse_head(self) -> None:
        most = self._limits.head_bytes
        self.refuse(
            Failure(431, f"the request's head is longer than {most} bytes (max_header_bytes)", "head_too_large")
        )

    def _refuse_body(self) -> None:
        most = self._limits.body_bytes
        self.refuse(
            Failure(
                413, f"the body is longer than {most} bytes (max_message_bytes); send fewer rows", "message_too_large"
            )
        )

    def _turn_away(self, reason: str) -> None:
        self._shared.refused[reason] += 1
        self.refuse(Failure(503, f"there are as many connections as there may be ({reason}); try again later", reason))

    def _make_way(self) -> bool:
        """Close the connection that has waited longest for a request; returns whether there was one."""
        waiting = [each for each in self.connections if isinstance(each, Connection) and each is not self and each.idle]
        longest = min(waiting, key=lambda each: each.waiting_since_s, default=None)
        if longest is None or longest.transport.is_closing():
            return False
        longest.transport.abort()
        return True


def no_room(size: int) -> Failure:
    """What a request is told for which there is no memory."""
    return Failure(
        503,
        f"the messages in flight leave no room for {size} bytes (network_bytes); try again later",
        "network_full",
        1,
    )


def certificate_names(certificate: Any) -> Mapping[str, tuple[bytes, ...]]:
    """The names in a client's certificate, as Python's `ssl` gives it, under the keys that grpc uses."""
    if not certificate:
        return {}
    subject = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    others = [value for _, value in certificate.get("subjectAltName", ())]
    return {
        "x509_common_name": tuple(value.encode() for value in subject),
        "x509_subject_alternative_name": tuple(value.encode() for value in others),
    }


def _peer(name: Any) -> str:
    if not isinstance(name, tuple):
        return "unknown"
    host, port = name[:2]
    six = ipaddress.ip_address(str(host).partition("%")[0]).version == 6
    return f"ipv6:[{host}]:{port}" if six else f"ipv4:{host}:{port}"


def _announced(headers: list[tuple[bytes, bytes]], version: str) -> int | None:
    """The size of the body that a request's headers announce; None where it comes in chunks.

    Raises:
        Failure: the headers contradict each other or the protocol.
    """
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise Failure(400, f"a request has exactly one Host header; this one has {len(hosts)}", "bad_request")
    if codings and (lengths or version != "1.1"):
        raise Failure(400, "a request has Content-Length or Transfer-Encoding, not both", "bad_request")
    if codings and codings != [b"chunked"]:
        raise Failure(501, "of the transfer encodings only chunked is understood", "unsupported")
    if codings:
        return None
    if len(lengths) > 1 or any(not length.isdigit() for length in lengths):
        raise Failure(400, "Content-Length is not one whole number", "bad_request")
    return int(lengths[0][:20]) if lengths else 0
