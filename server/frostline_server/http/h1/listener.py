"""Accepts HTTP connections, as many as there may be, those in TLS's handshake included.

Where there are too many, the one that has waited longest for a request makes way, so that idle ones lock nobody out.
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from frostline_server.http.h1.connection import Connection
from frostline_server.http.h1.peer import peer_name
from frostline_server.http.h1.shared import Shared
from frostline_server.http.statuses import Failure, failure_head
from frostline_server.logs import Seldom
from frostline_server.reserve import OUT_OF_FILES, Reserve

_ACCEPTS = 64
"""New connections accepted in a turn, so that a storm of them leaves time for the others."""
_LEAVING = 64
"""Of those turned away, so many at a time are told why."""
_LEAVE_S = 1.0
"""How long those stay open, so that their systems do not drop what they were told."""
_PAUSE_S = 0.2
"""Until it is tried again to accept connections, where no file can be opened."""
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3))
"""After how many seconds, and how often, the kernel asks whether a silent client is still there."""
_LOG_S = 60.0

_log = structlog.get_logger(__name__)


class Listener:
    """Accepts connections on a socket; used on the event loop only.

    Args:
        listening: the socket.
        shared: what all connections have in common.
        context: gives the TLS of a new connection; None for no TLS.

    Attributes:
        open: how many connections there are, handshakes included.
    """

    def __init__(self, listening: socket.socket, shared: Shared, context: Callable[[], ssl.SSLContext] | None) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._shared = shared
        self._context = context
        self._addresses: Counter[str] = Counter()
        self._connecting: set[asyncio.Task[None]] = set()
        self._leaving: dict[socket.socket, asyncio.TimerHandle] = {}
        self._reserve = Reserve(1)
        self._full = Seldom(_LOG_S)
        self._again: asyncio.TimerHandle | None = None
        self.open = 0

    def start(self) -> None:
        """Start to accept."""
        self._again = None
        self._reserve.fill()
        self._shared.loop.add_reader(self._listening, self._accept)

    async def close(self) -> None:
        """Accept no more, and end what is in the middle of its handshake."""
        if self._again is not None:
            self._again.cancel()
        self._shared.loop.remove_reader(self._listening)
        self._listening.close()
        self._reserve.close()
        for client, timer in self._leaving.items():
            timer.cancel()
            client.close()
        connecting = list(self._connecting)
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                client, address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_FILES:
                    self._accept_from_reserve(error)
                    return
                continue  # it went away before it was accepted
            self._welcome(client, address)

    def _accept_from_reserve(self, error: OSError) -> None:
        """Close a connection that waits, so that its client goes elsewhere: it would be reported again and again."""
        if times := self._full.times():
            _log.error("cannot accept connections", port="http", reason=str(error), times=times)
        self._shared.refused["files"] += 1
        accepted = self._reserve.accept(self._listening)
        if accepted is not None:
            accepted[0].close()
        if self._make_way() or not self._reserve.fill():
            # What that leaves fills the reserve.
            self._shared.loop.remove_reader(self._listening)
            self._again = self._shared.loop.call_later(_PAUSE_S, self.start)

    def _welcome(self, client: socket.socket, address: Any) -> None:
        """Begin with a connection, if there may be one more."""
        limits, host = self._shared.limits, str(address[0])
        if self._addresses[host] >= limits.connections_per_address:
            self._turn_away(client, "max_connections_per_address")
            return
        if self.open >= limits.connections and not self._make_way():
            self._turn_away(client, "max_connections")
            return
        client.setblocking(False)
        # An answer is written in two parts, and the second would wait until the client has acknowledged the first.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            client.setsockopt(socket.IPPROTO_TCP, option, value)
        self.open += 1
        self._addresses[host] += 1
        connection = Connection(self._shared, client, peer_name(address), partial(self._left, host))
        self._shared.waiting[connection] = None
        connection.connecting = task = self._shared.loop.create_task(self._connect(connection, client))
        self._connecting.add(task)
        task.add_done_callback(partial(self._connected, connection, client))

    async def _connect(self, connection: Connection, client: socket.socket) -> None:
        secure: dict[str, Any] = {}
        limits = self._shared.limits
        if self._context is not None:
            secure = {
                "ssl": self._context(),
                "ssl_handshake_timeout": limits.head_s,
                "ssl_shutdown_timeout": min(limits.head_s, limits.unread_s),
            }
        # Its errors are the client's: a handshake that fails, takes too long or is broken off.
        with suppress(OSError, EOFError):
            await self._shared.loop.connect_accepted_socket(lambda: connection, client, **secure)

    def _connected(self, connection: Connection, client: socket.socket, task: "asyncio.Task[None]") -> None:
        self._connecting.discard(task)
        if connection.transport is None:
            self._shared.refused["handshake"] += 1
            self._shared.waiting.pop(connection, None)
            connection.forgotten()
            client.close()

    def _left(self, host: str) -> None:
        self.open -= 1
        self._addresses[host] -= 1
        if not self._addresses[host]:
            del self._addresses[host]

    def _make_way(self) -> bool:
        """End the connection that has waited longest for a request; returns whether there was one."""
        for connection in self._shared.waiting:
            del self._shared.waiting[connection]
            connection.make_way()
            return True
        return False

    def _turn_away(self, client: socket.socket, setting: str) -> None:
        self._shared.refused["connections"] += 1
        if self._context is not None or len(self._leaving) >= _LEAVING:
            client.close()
            return
        client.setblocking(False)
        why = Failure(
            503, f"there are as many connections as there may be ({setting}); try again later", "connections", 1
        )
        with suppress(OSError):
            client.send(failure_head(why))
            client.shutdown(socket.SHUT_WR)
        self._leaving[client] = self._shared.loop.call_later(_LEAVE_S, self._leave, client)

    def _leave(self, client: socket.socket) -> None:
        del self._leaving[client]
        client.close()
