"""The event loop of the front end: one thread that owns all sockets, reads, answers, and writes once a turn."""

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
from frostline_server.rpc.h2.connection import Connection, ConnectionEnded, ConnectionOver
from frostline_server.rpc.h2.fairness import FIRST_BYTES, LONG_S, MOST_BYTES, SLICE_S, Address, Queues, Share
from frostline_server.rpc.h2.shared import Peer, Shared
from frostline_server.rpc.h2.tls import Handshakes, Tls
from frostline_server.tls import Names

_WRITE_BYTES = 1 << 18
"""The most that is taken from a connection at a time, so that what a client does not read stays in its budget."""
_TICK_S = 1.0
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3))
"""After how many seconds, and how often, the kernel asks whether a silent client is still there."""
_LOG_S = 60.0
_PARTING_S = 5.0
"""How long a client may take to read what it was sent last and to end the connection, in seconds."""
_LAST_PARTING_S = 0.3
"""The same where the port closes."""

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

    __slots__ = (
        "connection",
        "descriptor",
        "late",
        "more",
        "origin",
        "rest",
        "share",
        "socket",
        "stalled_s",
        "tls",
        "writing",
    )

    connection: Connection

    def __init__(self, client: socket.socket, origin: str, address: Address, tls: Tls | None) -> None:
        self.socket = client
        self.descriptor = client.fileno()
        self.origin = origin
        self.tls = tls
        self.share = Share(address)
        # Whether it waits for a turn that has time for it.
        self.late = False
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
        # Who has more to be done than what a turn has time for, in the order in which they go on.
        self._unfinished: dict[int, None] = {}
        # Who waits until there is room for what has come.
        self._owing: dict[int, None] = {}
        # Who can be written to again, in the order in which that was seen.
        self._writers: dict[int, None] = {}
        # Clients that a turn had no time for.
        self._late: Queues[Address, _Client] = Queues()
        # Who has been sent all, and has not ended the connection; and until when that may take.
        self._parting: dict[int, tuple[_Client, float]] = {}
        self._ticked_s = 0.0
        # One for all, as what came is taken at once.
        self._buffer = memoryview(bytearray(MOST_BYTES))
        self._awake = False
        self._closing = False
        self._accepting = False
        self._reserve = Reserve(1)
        self._full = Seldom(_LOG_S)
        self._addresses: dict[str, Address] = {}
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

    @property
    def unsent(self) -> dict[tuple[int, int], int]:
        """Bytes that have not left, by connection and call, and by connection and 0; in the front end's thread."""
        found: dict[tuple[int, int], int] = {}
        for client in self._clients.values():
            number = id(client.connection)
            found |= {(number, stream): size for stream, size in client.connection.unsent.items()}
            if client.rest is not None:
                found[number, 0] = len(client.rest)
        return found

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
        self._part_with_all()

    def _serve(self) -> None:
        """Take turns until the end."""
        poll = self._epoll.poll
        while not self._closing:
            more = self._dirty or self._looks or self._unfinished or self._late.waiting
            self._take_turn(poll(0 if more else _TICK_S))

    def _take_turn(self, ready: list[tuple[int, int]]) -> None:
        """Answer who takes little time. Then go on with what takes long, a slice of time of each kind.

        A frame of its own, so that while the thread waits it holds no client that has gone.
        """
        clients, now_s = self._clients, time.monotonic()
        brief: list[_Client] = []
        others: list[_Client] = []
        listening: list[socket.socket] = []
        for descriptor, events in ready:
            client = clients.get(descriptor)
            if client is None:
                if descriptor == self._wake:
                    os.eventfd_read(self._wake)
                elif descriptor in self._sockets:
                    listening.append(self._sockets[descriptor])
                elif descriptor in self._parting:
                    self._read_parting(descriptor)
                continue
            if events & _OUT:
                self._writers[descriptor] = None
            if events & ~_OUT:
                if not client.late:
                    (others if client.share.takes_long else brief).append(client)
                elif descriptor in self._owing:
                    # Of a client that is not read, the kernel says no more than that it has gone, again and again.
                    self._drop(client)
        if brief or self._late.waiting:
            self._read_brief(brief, now_s)
        self._answer()
        due = now_s - self._ticked_s >= _TICK_S
        if others or listening or self._writers or self._unfinished or self._looks or due:
            for each in listening:
                self._accept(each)
            self._write_on()
            self._read_on(others)
            self._look_around()
            self._answer()

    def _answer(self) -> None:
        """Run what is to be run, and write."""
        self._run_posted()
        self._turn()
        dirty, clients = self._dirty, self._clients
        if dirty:
            until_s = time.monotonic() + SLICE_S
            while dirty:
                client = clients.get(dirty.popitem()[0])
                # Whoever cannot be written to waits for its socket.
                if client is not None and not client.writing:
                    self._write(client, until_s)
            # Answers that have left may have let their streams go on.
            self._turn()
        if self._owing:
            self._settle()

    def _look_around(self) -> None:
        """Once a second, begin to look at every client."""
        now_s = time.monotonic()
        if now_s - self._ticked_s >= _TICK_S:
            self._ticked_s = now_s
            for address in self._addresses.values():
                address.spent_s /= 2
            self._accept_again()
            for descriptor, (_, until_s) in list(self._parting.items()):
                if now_s > until_s:
                    self._close_parting(descriptor)
            self._looks.extend(self._clients.values())
            self._tick(now_s)
        looks, until_s = self._looks, now_s + SLICE_S
        while looks:
            self._look(looks.popleft(), now_s)
            if time.monotonic() > until_s:
                break

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

    def _accept(self, listening: socket.socket) -> None:
        now_s = time.monotonic()
        until_s = now_s + SLICE_S
        while now_s < until_s:
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
            now_s = time.monotonic()

    def _welcome(self, client: socket.socket, address: Any, now_s: float) -> None:
        """Begin with a connection, if there may be one more."""
        # All clients of a Unix socket are one machine's.
        origin = address[0] if isinstance(address, tuple) else ""
        here = self._addresses.get(origin)
        if here is None:
            here = Address()
        if self.connections >= self._crowd.most or (origin and here.connections >= self._crowd.most_each):
            self._shared.count("connections")
            client.close()
            return
        self.connections += 1
        here.connections += 1
        self._addresses[origin] = here
        client.setblocking(False)
        if origin:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                client.setsockopt(socket.IPPROTO_TCP, option, value)
        tag = (origin, _peer_address(client.family, address))
        if self._handshakes is None:
            self._adopt(client, tag, None, {}, now_s)
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
        try:
            names = tls.names()
        except ValueError:  # no text can be made of a name
            client.close()
            self._not_handshaken(tag)
            return
        adopted = self._adopt(client, tag, tls, names, now_s)
        # What came with the end of the handshake.
        self._take(adopted, b"", now_s)

    def _not_handshaken(self, tag: Any) -> None:
        self.post(self._left, tag[0])
        self.post(self._shared.count, "handshake")

    def _adopt(
        self, client: socket.socket, tag: tuple[str, str], tls: Tls | None, names: Names, now_s: float
    ) -> _Client:
        origin, address = tag
        adopted = self._clients[client.fileno()] = _Client(client, origin, self._addresses[origin], tls)
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
        here = self._addresses[origin]
        here.connections -= 1
        if not here.connections:
            del self._addresses[origin]

    # Bytes

    def _read_brief(self, clients: list[_Client], now_s: float) -> None:
        """Read of clients that take little time each; if they are too many, by turns of their addresses."""
        late, until_s = self._late, now_s + LONG_S
        waiting = late.waiting
        if not waiting:
            for done, client in enumerate(clients, 1):
                now_s = self._read(client, now_s)
                if now_s > until_s:
                    clients = clients[done:]
                    break
            else:
                return
        for client in clients:
            client.late = True
            # That it is ready is known; to be told again in every turn would take longer than to ask for silence.
            self._listen(client)
            late.add(client.share.address, client)
        while waiting and late.waiting:
            client = late.next()
            if self._clients.get(client.descriptor) is client:
                client.late = False
                self._listen(client)
                now_s = self._read(client, now_s)
                waiting = now_s <= until_s

    def _read_on(self, clients: list[_Client]) -> None:
        """Read of clients that are new, and then of those that take long, each for a while: first of who has taken least.

        Who is new has taken nothing; a storm of new clients must not keep out the others.
        """
        now_s = time.monotonic()
        # Some may have gone with what was written meanwhile.
        clients = [client for client in clients if self._clients.get(client.descriptor) is client]
        new = [client for client in clients if client.share.new]
        known = [client for client in clients if not client.share.new and client.descriptor not in self._unfinished]
        known += [self._clients[descriptor] for descriptor in self._unfinished]
        known.sort(key=_rank)
        for kind in (new, known):
            until_s = now_s + SLICE_S
            for client in kind:
                now_s = self._read(client, now_s)
                if now_s > until_s:
                    break

    def _write_on(self) -> None:
        """Write to clients that did not take all that there was to be sent, for a while."""
        writers, until_s = self._writers, time.monotonic() + SLICE_S
        while writers:
            descriptor = next(iter(writers))
            del writers[descriptor]
            client = self._clients.get(descriptor)
            if client is not None:
                self._write(client, until_s)
            if time.monotonic() > until_s:
                break

    def _read(self, client: _Client, begun_s: float) -> float:
        """Read of a client, or go on with what was read; returns the time when that is done."""
        share, connection = client.share, client.connection
        if connection.unfinished:
            self._take(client, b"", begun_s)
            ended_s = time.monotonic()
            share.went_on(ended_s - begun_s, unfinished=connection.unfinished)
            return ended_s
        # A client that sends much while others are not finished is not read faster than those.
        most = share.appetite if not self._unfinished else min(share.appetite, FIRST_BYTES)
        try:
            size = client.socket.recv_into(self._buffer, most)
        except BlockingIOError:
            return begun_s
        except OSError:
            size = 0
        if not size:
            self._drop(client)
            return time.monotonic()
        self._take(client, self._buffer[:size], begun_s)
        ended_s = time.monotonic()
        share.took(size, ended_s - begun_s, unfinished=connection.unfinished)
        return ended_s

    def _take(self, client: _Client, data: bytes | memoryview, now_s: float) -> None:
        try:
            if client.tls is not None:
                plain = client.tls.decrypt(data)
                if plain is None:
                    self._drop(client)
                    return
                data = plain
            connection = client.connection
            self._dirty[client.descriptor] = None
            if data:
                connection.receive(data, now_s)
            elif connection.unfinished:
                connection.go_on(now_s)
            if connection.unfinished or self._unfinished:
                self._note_unfinished(client)
            if connection.owed:
                self._wait_for_room(client)
        except ConnectionOver:
            self._say_farewell(client)
        except ssl.SSLError:
            self._drop(client)
        except Exception:  # noqa: BLE001  as in `_run`
            _log.exception("connection failed unexpectedly")
            self._drop(client)

    def _wait_for_room(self, client: _Client) -> None:
        """Read no more of a client until there is room for what has come."""
        client.late = True
        self._owing[client.descriptor] = None
        self._listen(client)

    def _settle(self) -> None:
        """Read on of those for whom there is room by now."""
        for descriptor in list(self._owing):
            client = self._clients[descriptor]
            if client.connection.settle():
                del self._owing[descriptor]
                client.late = False
                self._listen(client)

    def _note_unfinished(self, client: _Client) -> None:
        if client.connection.unfinished:
            self._unfinished[client.descriptor] = None
        else:
            self._unfinished.pop(client.descriptor, None)

    def _write(self, client: _Client, until_s: float) -> None:
        """Send what there is to send, as far as the socket takes it; of what is much, a part, and more until a time."""
        writing = False
        try:
            while True:
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
                if time.monotonic() > until_s:
                    writing = True
                    break
        except BlockingIOError:
            pass
        except ConnectionEnded:
            self._part_with(client)
            return
        except (ConnectionOver, OSError):
            self._drop(client)
            return
        except Exception:  # noqa: BLE001  as in `_run`
            _log.exception("connection failed unexpectedly")
            self._drop(client)
            return
        if client.connection.unfinished:
            self._note_unfinished(client)
        writing = writing or client.rest is not None
        if writing != client.writing:
            client.writing = writing
            self._listen(client)

    def _listen(self, client: _Client) -> None:
        """Have the kernel say what is to be known of a client."""
        self._epoll.modify(client.descriptor, (0 if client.late else _IN) | (_OUT if client.writing else 0))

    def _say_farewell(self, client: _Client) -> None:
        """Send what is left to be said, such as why, and drop the client."""
        try:
            if client.rest is None:
                data = client.connection.to_send(_WRITE_BYTES)
                client.socket.send(data if client.tls is None else client.tls.encrypt(data))
        except (ConnectionOver, OSError, ssl.SSLError):
            pass
        finally:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        # Its descriptor may be another client's by now.
        if self._clients.get(client.descriptor) is not client:
            return
        self._forget(client)
        self._hang_up(client)

    def _forget(self, client: _Client) -> None:
        del self._clients[client.descriptor]
        self._dirty.pop(client.descriptor, None)
        self._writers.pop(client.descriptor, None)
        self._unfinished.pop(client.descriptor, None)
        self._owing.pop(client.descriptor, None)
        client.rest = None
        client.connection.close()

    def _part_with(self, client: _Client, parting_s: float = _PARTING_S) -> None:
        """End a connection over which all has been sent, and wait until the client has ended it too.

        Closed at once, with bytes of the client unread or on their way, the kernel would throw away what the client has not
        read yet.
        """
        try:
            client.socket.shutdown(socket.SHUT_WR)
            self._epoll.modify(client.descriptor, _IN)
        except OSError:
            self._drop(client)
            return
        self._parting[client.descriptor] = client, time.monotonic() + parting_s
        self._forget(client)

    def _read_parting(self, descriptor: int) -> None:
        """Throw away what a client still sends."""
        client, _ = self._parting[descriptor]
        try:
            if client.socket.recv_into(self._buffer):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close_parting(descriptor)

    def _close_parting(self, descriptor: int) -> None:
        client, _ = self._parting.pop(descriptor)
        self._hang_up(client)

    def _hang_up(self, client: _Client) -> None:
        self._epoll.unregister(client.descriptor)
        client.socket.close()
        self._left(client.origin)

    def _part_with_all(self) -> None:
        """End all connections, for a moment in good order; others go elsewhere at once."""
        self._epoll.unregister(self._wake)
        for descriptor, listening in self._sockets.items():
            if self._accepting:
                self._epoll.unregister(descriptor)
            listening.close()
        for client in list(self._clients.values()):
            self._part_with(client, _LAST_PARTING_S)
        until_s = time.monotonic() + _LAST_PARTING_S
        while self._parting and (left_s := until_s - time.monotonic()) > 0:
            for descriptor, _ in self._epoll.poll(left_s):
                self._read_parting(descriptor)
        for descriptor in list(self._parting):
            self._close_parting(descriptor)

    def _look(self, client: _Client, now_s: float) -> None:
        """See whether a client has taken too long for something."""
        if self._clients.get(client.descriptor) is not client:  # it has gone
            return
        client.share.spent_s /= 2
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


def _rank(client: _Client) -> tuple[float, float]:
    return client.share.rank


def _peer_address(family: int, address: Any) -> str:
    """A client's address as grpc writes it."""
    if family == socket.AF_INET6:
        return f"ipv6:[{address[0]}]:{address[1]}"
    return f"ipv4:{address[0]}:{address[1]}" if family == socket.AF_INET else "unix:"
