"""TLS over memory: what comes is decrypted, what goes is encrypted, and handshakes have a thread of their own.

A handshake takes up to some milliseconds of a CPU, and its client as long as it likes. In a thread of its own it holds up
no connection that has one behind it.
"""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from os import EFD_CLOEXEC, EFD_NONBLOCK, close, eventfd, eventfd_read, eventfd_write

import structlog

from frostline_server.tls import Names, certificate_names

_log = structlog.get_logger(__name__)

_READ_BYTES = 1 << 16
_TICK_S = 1.0


class Tls:
    """One connection's TLS, over memory.

    Args:
        context: with the server's certificate.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)

    def handshake(self, data: bytes) -> tuple[bool, bytes]:
        """Take what came; returns whether the handshake is done, and what is to be sent.

        Raises:
            ssl.SSLError: it failed.
        """
        self._in.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False, self._out.read()
        return True, self._out.read()

    def alert(self) -> bytes:
        """What is still to be sent after a handshake that failed."""
        return self._out.read()

    def names(self) -> Names:
        """The names in the client's certificate, under the keys that grpc uses."""
        return certificate_names(self._tls.getpeercert())

    def decrypt(self, data: bytes | memoryview) -> bytes | None:
        """What came, in plain; b"" if that is nothing yet, None at the end.

        Raises:
            ssl.SSLError: it is damaged.
        """
        if data:
            self._in.write(data)
        parts: list[bytes] = []
        with contextlib.suppress(ssl.SSLWantReadError):
            while part := self._tls.read(_READ_BYTES):
                parts.append(part)
            if not parts:
                return None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def encrypt(self, data: bytes) -> bytes:
        """What is to be sent for `data`, and for TLS itself."""
        if data:
            self._tls.write(data)
        return self._out.read()


class Handshakes:
    """Does the handshakes of new connections in a thread of its own.

    Args:
        context: gives what a new connection is encrypted with.
        timeout_s: how long a handshake may take.
        done: takes each connection that has one behind it; called from that thread.
        failed: is told the tag of each that has not.
    """

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        timeout_s: float,
        done: Callable[[socket.socket, object, Tls], None],
        failed: Callable[[object], None],
    ) -> None:
        self._context = context
        self._timeout_s = timeout_s
        self._done = done
        self._failed = failed
        self._new: deque[tuple[socket.socket, object]] = deque()
        self._pending: dict[int, _Handshake] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tls-handshakes", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread.start()

    def begin(self, client: socket.socket, tag: object) -> None:
        """Begin with a connection; `tag` comes back with it."""
        self._new.append((client, tag))
        eventfd_write(self._wake, 1)

    def close(self) -> None:
        """End the thread, and with it what has not ended."""
        self._closing = True
        eventfd_write(self._wake, 1)
        self._thread.join()
        for handshake in self._pending.values():
            handshake.client.close()
        self._epoll.close()
        close(self._wake)

    def _run(self) -> None:
        swept_s = time.monotonic()
        while not self._closing:
            for descriptor, _ in self._epoll.poll(_TICK_S if self._pending else None):
                if descriptor == self._wake:
                    eventfd_read(self._wake)
                else:
                    self._step(self._pending[descriptor])
            while self._new:
                self._begin(*self._new.popleft())
            if (now_s := time.monotonic()) - swept_s >= _TICK_S:
                swept_s = now_s
                for handshake in list(self._pending.values()):
                    if now_s - handshake.begun_s > self._timeout_s:
                        self._give_up(handshake)

    def _begin(self, client: socket.socket, tag: object) -> None:
        try:
            handshake = _Handshake(client, tag, Tls(self._context()), time.monotonic())
            self._epoll.register(client.fileno(), select.EPOLLIN)
        except Exception:  # noqa: BLE001  as in `_step`; the kernel may have no room for one more
            _log.exception("handshake failed unexpectedly")
            client.close()
            self._failed(tag)
        else:
            self._pending[client.fileno()] = handshake

    def _step(self, handshake: "_Handshake") -> None:
        client = handshake.client
        try:
            data = client.recv(_READ_BYTES)
            if not data:
                self._give_up(handshake)
                return
            done, answer = handshake.tls.handshake(data)
            # A few kilobytes, for which a new connection has room.
            if answer:
                client.send(answer)
        except BlockingIOError:
            return
        except ssl.SSLError:
            with contextlib.suppress(OSError):
                client.send(handshake.tls.alert())
            self._give_up(handshake)
        except OSError:
            self._give_up(handshake)
        except Exception:  # noqa: BLE001  a defect met by one client must not end all others
            _log.exception("handshake failed unexpectedly")
            self._give_up(handshake)
        else:
            if done:
                self._forget(handshake)
                self._done(client, handshake.tag, handshake.tls)

    def _forget(self, handshake: "_Handshake") -> None:
        del self._pending[handshake.client.fileno()]
        self._epoll.unregister(handshake.client.fileno())

    def _give_up(self, handshake: "_Handshake") -> None:
        self._forget(handshake)
        handshake.client.close()
        self._failed(handshake.tag)


class _Handshake:
    __slots__ = ("begun_s", "client", "tag", "tls")

    def __init__(self, client: socket.socket, tag: object, tls: Tls, begun_s: float) -> None:
        self.client = client
        self.tag = tag
        self.tls = tls
        self.begun_s = begun_s
