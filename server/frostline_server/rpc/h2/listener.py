"""The event loop of the front end: one thread that owns all sockets, reads, answers, and writes once a turn."""

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from frostline_server.logs import Seldom
from frostline_server.reserve import OUT_OF_FILES, Reserve
from frostline_server.rpc.h2.connection import Connection, ConnectionOver
from frostline_server.rpc.h2.fairness import LONG_S, MOST_BYTES, Share
from frostline_server.rpc.h2.shared import Peer, Shared
from frostline_server.rpc.h2.tls import Handshakes, Tls
from frostline_server.tls import Names

_WRITE_BYTES = 1 << 18
"""The most that is taken from a connection at a time, so that what a client does not read stays in its budget."""
_WRITES = 16
"""How often that is done in a turn, so that a client that reads fast leaves time for the others."""
_ACCEPTS = 64
"""New connections accepted in a turn, so that a storm of them leaves time for the others."""
_TICK_S = 1.0
_LOOKS = 500
"""Connections looked at in a turn, so that many of them hold up none."""
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3))
"""After how many seconds, and how often, the kernel asks whether a silent client is still there."""
_LOG_S = 60.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many connections there may be.

    Attributes:
        most: in all.
        most_each: from one address.
    """

    most: int
    most_each: int


class _Client:
    """One socket, and what is behind it."""

    __slots__ = ("connection", "descriptor", "more", "origin", "rest", "share", "socket", "stalled_s", "tls", "writing")

    connection: Connection

    def __init__(self, client: socket.socket, origin: str, tls: Tls | None) -> None:
        self.socket = client
        self.descriptor = client.fileno()
        self.origin = origin
        self.tls = tls
        self.share = Share()
        self.rest: memoryview | None = None
        # Whether there may be more to be sent than what was taken to be.
        self.more = False
        self.writing = False
        self.stalled_s = 0.0


class Listener:
    """Accepts connections and moves their bytes.

    Args:
        sockets: listening already.
        shared: what all connections have in common.
        crowd: how many there may be.
        context: gives the TLS of a new connection; None for no TLS.
        turn: called after everything that came in one turn has been taken.
        tick: called about once a second.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        shared: Shared,
        crowd: Crowd,
        context: Callable[[], ssl.SSLContext] | None,
        turn: Callable[[], None],
        tick: Callable[[float], None],
    ) -> None:
        self._sockets = {listening.fileno(): listening for listening in sockets}
        self._shared = shared
        self._crowd = crowd
        self._turn = turn
        self._tick = tick
        self._clients: dict[int, _Client] = {}
        self._dirty: dict[int, None] = {}
        self._posted: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._looks: deque[_Client] = deque()
        self._ticked_s = 0.0
        # One for all, as what came is taken at once.
        self._buffer = memoryview(bytearray(MOST_BYTES))
        self._awake = False
        self._closing = False
        self._accepting = False
        self._reserve = Reserve(1)
        self._full = Seldom(_LOG_S)
        self._origins: dict[str, int] = {}
        self._handshakes = (
            Handshakes(context, shared.limits.handshake_timeout_s, self._handshaken, self._not_handshaken)
            if context is not None
            else None
        )
        self.connections = 0
        """How many connections are open, handshakes included."""
        self._thread = threading.Thread(target=self._run, name="h2-front", daemon=True)

    @property
    def mine(self) -> bool:
        """Whether the caller is the listener's thread."""
        return threading.get_ident() == self._thread.ident

    def start(self) -> None:
        """Start the thread."""
        self._ticked_s = time.monotonic()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, _IN)
        self._reserve.fill()
        self._accept_again()
        if self._handshakes is not None:
            self._handshakes.start()
        self._thread.start()

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run a function in the front end's thread; from any thread."""
        self._posted.append((function, arguments))
        # Looked at after the append: whoever finds it set knows that the thread has yet to look.
        if not self._awake:
            self._awake = True
            os.eventfd_write(self._wake, 1)

    @property
    def calls(self) -> int:
        """How many calls are open, on all connections."""
        return sum([client.connection.open_calls for client in self._clients.values()])

    def leave(self) -> None:
        """Tell all clients to make their next calls elsewhere; in the front end's thread."""
        now_s = time.monotonic()
        for client in self._clients.values():
            client.connection.leave(now_s)
            self._dirty[client.descriptor] = None

    def close(self) -> None:
        """Close all sockets, and end the thread; what is still to be sent is tried once."""
        self.post(self._close)
        self._thread.join()
        # Nobody is left to be woken; the descriptor that would do it is closed below.
        self._awake = True
        if self._handshakes is not None:
            self._handshakes.close()
        for listening in self._sockets.values():
            listening.close()
        self._epoll.close()
        self._reserve.close()
        os.close(self._wake)

    def _close(self) -> None:
        self._closing = True

    # The thread

    def _run(self) -> None:
        while not self._closing:
            try:
                self._serve()
            except Exception:  # noqa: BLE001  a defect met by one client must not end all others
                _log.exception("front end failed unexpectedly")
        for client in list(self._clients.values()):
            self._drop(client)

    def _serve(self) -> None:
        """Take turns until the end."""
        poll = self._epoll.poll
        while not self._closing:
            self._take_turn(poll(0 if self._looks else _TICK_S))

    def _take_turn(self, ready: list[tuple[int, int]]) -> None:
        """Read what came, run what is to be run, and write.

        A frame of its own, so that while the thread waits it holds no client that has gone.
        """
        dirty, clients, now_s = self._dirty, self._clients, time.monotonic()
        busy: list[_Client] = []
        for descriptor, events in ready:
            client = clients.get(descriptor)
            if client is None:
                self._ready(descriptor, now_s)
                continue
            if events & _OUT:
                dirty[descriptor] = None
            if events & ~_OUT:
                if client.share.busy:
                    busy.append(client)
                else:
                    self._read(client, now_s)
        if busy:
            self._read_busy(busy, now_s)
        self._run_posted()
        self._turn()
        if now_s - self._ticked_s >= _TICK_S or self._looks:
            self._look_around(now_s)
        while dirty:
            client = clients.get(dirty.popitem()[0])
            if client is not None:
                self._write(client)

    def _look_around(self, now_s: float) -> None:
        """Once a second, begin to look at every client."""
        if now_s - self._ticked_s >= _TICK_S:
            self._ticked_s = now_s
            self._accept_again()
            self._looks.extend(self._clients.values())
            self._tick(now_s)
        for _ in range(min(_LOOKS, len(self._looks))):
            self._look(self._looks.popleft(), now_s)

    def _ready(self, descriptor: int, now_s: float) -> None:
        if descriptor == self._wake:
            os.eventfd_read(self._wake)
        elif descriptor in self._sockets:
            self._accept(self._sockets[descriptor], now_s)

    def _run_posted(self) -> None:
        """Run what other threads have for this one."""
        # Set back before it is emptied; see `post`.
        self._awake = False
        posted = self._posted
        while posted:
            function, arguments = posted.popleft()
            try:
                function(*arguments)
            except Exception:  # noqa: BLE001  as in `_run`
                _log.exception("front end failed unexpectedly")

    # Connections

    def _accept_again(self) -> None:
        self._reserve.fill()
        if not self._accepting:
            self._accepting = True
            for descriptor in self._sockets:
                self._epoll.register(descriptor, _IN)

    def _accept(self, listening: socket.socket, now_s: float) -> None:
        for _ in range(_ACCEPTS):
            try:
                client, address = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_FILES:
                    self._turn_away(listening, error)
                    return
                continue  # it went away before it was accepted
            self._welcome(client, address, now_s)

    def _welcome(self, client: socket.socket, address: Any, now_s: float) -> None:
        """Begin with a connection, if there may be one more."""
        # All clients of a Unix socket are one machine's.
        origin = address[0] if isinstance(address, tuple) else ""
        here = self._origins.get(origin, 0)
        if self.connections >= self._crowd.most or (origin and here >= self._crowd.most_each):
            self._shared.count("connections")
            client.close()
            return
        self.connections += 1
        self._origins[origin] = here + 1
        client.setblocking(False)
        if origin:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                client.setsockopt(socket.IPPROTO_TCP, option, value)
        tag = (origin, _peer_address(client.family, address))
        if self._handshakes is None:
            self._adopt(client, tag, None, now_s)
        else:
            self._handshakes.begin(client, tag)

    def _turn_away(self, listening: socket.socket, error: OSError) -> None:
        """Close the connections that wait, so that their clients go elsewhere: the kernel would report them again and again.

        Where not even that can be done, all wait until the next tick.
        """
        self._shared.count("files")
        if times := self._full.times():
            _log.error("cannot accept connections", port="grpc", reason=str(error), times=times)
        accepted = self._reserve.accept(listening)
        if accepted is not None:
            accepted[0].close()
            if self._reserve.fill():
                return
        self._accepting = False
        for descriptor in self._sockets:
            self._epoll.unregister(descriptor)

    def _handshaken(self, client: socket.socket, tag: Any, tls: Tls) -> None:
        self.post(self._adopt_handshaken, client, tag, tls)

    def _adopt_handshaken(self, client: socket.socket, tag: Any, tls: Tls) -> None:
        now_s = time.monotonic()
        adopted = self._adopt(client, tag, tls, now_s)
        # What came with the end of the handshake.
        self._take(adopted, b"", now_s)

    def _not_handshaken(self, tag: Any) -> None:
        self.post(self._left, tag[0])
        self.post(self._shared.count, "handshake")

    def _adopt(self, client: socket.socket, tag: tuple[str, str], tls: Tls | None, now_s: float) -> _Client:
        origin, address = tag
        names: Names = {} if tls is None else tls.names()
        adopted = self._clients[client.fileno()] = _Client(client, origin, tls)
        adopted.connection = Connection(
            self._shared, Peer(address, names), now_s, partial(self._touched, client.fileno())
        )
        self._epoll.register(client.fileno(), _IN)
        self._dirty[adopted.descriptor] = None
        return adopted

    def _touched(self, descriptor: int) -> None:
        """Note that a client has something to be sent."""
        self._dirty[descriptor] = None

    def _left(self, origin: str) -> None:
        self.connections -= 1
        left = self._origins[origin] - 1
        if left:
            self._origins[origin] = left
        else:
            del self._origins[origin]

    # Bytes

    def _read_busy(self, clients: list[_Client], now_s: float) -> None:
        """Read of the clients that take long, for a while: first of those that have taken least."""
        clients.sort(key=lambda client: client.share.spent_s(now_s))
        begun_s = time.monotonic()
        for client in clients:
            self._read(client, now_s)
            if time.monotonic() - begun_s > LONG_S:
                break  # the rest is as ready in the next turn

    def _read(self, client: _Client, now_s: float) -> None:
        begun_s = time.monotonic()
        try:
            size = client.socket.recv_into(self._buffer, client.share.appetite)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._drop(client)
            return
        self._take(client, self._buffer[:size], now_s)
        client.share.took(size, begun_s, time.monotonic())

    def _take(self, client: _Client, data: bytes | memoryview, now_s: float) -> None:
        try:
            if client.tls is not None:
                plain = client.tls.decrypt(data)
                if plain is None:
                    self._drop(client)
                    return
                data = plain
            self._dirty[client.descriptor] = None
            if data:
                client.connection.receive(data, now_s)
        except ConnectionOver:
            self._say_farewell(client)
        except ssl.SSLError:
            self._drop(client)
        except Exception:  # noqa: BLE001  as in `_run`
            _log.exception("connection failed unexpectedly")
            self._drop(client)

    def _write(self, client: _Client) -> None:
        """Send what there is to send, as far as the socket takes it, and it is this client's turn."""
        writing = False
        try:
            for _ in range(_WRITES):
                if client.rest is None:
                    data = client.connection.to_send(_WRITE_BYTES)
                    client.more = len(data) >= _WRITE_BYTES
                    if client.tls is not None:
                        data = client.tls.encrypt(data)
                    if not data:
                        break
                    client.rest = memoryview(data)
                size = len(client.rest)
                sent = client.socket.send(client.rest)
                client.stalled_s = 0.0
                client.rest = client.rest[sent:] if sent < size else None
                if client.rest is None and not client.more and not client.connection.ending:
                    break
            else:
                writing = True
        except BlockingIOError:
            pass
        except (ConnectionOver, OSError):
            self._drop(client)
            return
        except Exception:  # noqa: BLE001  as in `_run`
            _log.exception("connection failed unexpectedly")
            self._drop(client)
            return
        writing = writing or client.rest is not None
        if writing != client.writing:
            client.writing = writing
            self._epoll.modify(client.descriptor, _IN | _OUT if writing else _IN)

    def _say_farewell(self, client: _Client) -> None:
        """Send what is left to be said, such as why, and drop the client."""
        with contextlib.suppress(ConnectionOver, OSError, ssl.SSLError):
            if client.rest is None:
                data = client.connection.to_send(_WRITE_BYTES)
                client.socket.send(data if client.tls is None else client.tls.encrypt(data))
        self._drop(client)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.descriptor, None) is None:
            return
        self._dirty.pop(client.descriptor, None)
        self._epoll.unregister(client.descriptor)
        client.socket.close()
        client.rest = None
        self._left(client.origin)
        client.connection.close()

    def _look(self, client: _Client, now_s: float) -> None:
        """See whether a client has taken too long for something."""
        if self._clients.get(client.descriptor) is not client:  # it has gone
            return
        try:
            client.connection.look(now_s)
        except ConnectionOver:
            self._say_farewell(client)
            return
        if client.rest is None:
            return
        if not client.stalled_s:
            client.stalled_s = now_s
        elif now_s - client.stalled_s > self._shared.limits.answer_timeout_s:
            self._shared.count("answer_timeout")
            self._drop(client)


def _peer_address(family: int, address: Any) -> str:
    """A client's address as grpc writes it."""
    if family == socket.AF_INET6:
        return f"ipv6:[{address[0]}]:{address[1]}"
    return f"ipv4:{address[0]}:{address[1]}" if family == socket.AF_INET else "unix:"
