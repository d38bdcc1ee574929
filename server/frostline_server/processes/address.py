"""A TCP port shared by several processes: the kernel spreads connections over those that listen (SO_REUSEPORT).

The kernel would let another server of the same user listen there too, and take its share of the clients. So the
supervisor makes sure that nobody does, and keeps the port for as long as it lives.
"""

import errno
import os
import socket
import sys

from frostline_server.errors import StartError


class Address:
    """A port that is one server's.

    Args:
        host: address to listen on.
        port: port to listen on; 0 picks a free one.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host.strip("[]")
        self._port = port
        self._held: list[socket.socket] = []

    def take(self) -> int:
        """Take the port; the kernel gives these sockets no connection, because they do not listen.

        Returns:
            The port.

        Raises:
            StartError: it cannot be bound, or another server listens or starts there.
        """
        if sys.platform != "linux":
            raise StartError("several processes share a port only on Linux; use --processes 1")
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error
        lacking: OSError | None = None
        try:
            for family, kind, _, _, address in dict.fromkeys(found):  # a name may stand for one address twice
                try:
                    self._take(family, kind, str(address[0]))
                except OSError as error:
                    if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                        raise
                    lacking = error  # as ::1, for which a name may stand too, without IPv6
        except OSError as error:
            self.close()
            raise self._refused(os.strerror(error.errno or 0)) from error
        if not self._held:
            raise self._refused(str(lacking and lacking.strerror)) from lacking
        return self._port

    def close(self) -> None:
        """Give the port up."""
        while self._held:
            self._held.pop().close()

    def _take(self, family: int, kind: int, host: str) -> None:
        held = self._bound(family, kind, host, shared=True)
        self._held.append(held)
        self._port = held.getsockname()[1]
        # Without SO_REUSEPORT this fails if anybody listens there, with or without it.
        self._bound(family, kind, host, shared=False).close()
        # Another supervisor may have come as far as this. The name is as wide as the port: of the network namespace.
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._held.append(name)
        name.bind(f"\0frostline {host} {self._port}")

    def _bound(self, family: int, kind: int, host: str, *, shared: bool) -> socket.socket:
        bound = socket.socket(family, kind)
        try:
            # Connections of an earlier server that are about to be forgotten do not count.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
            bound.bind((host, self._port))
        except OSError:
            bound.close()
            raise
        return bound

    def _refused(self, reason: str) -> StartError:
        return StartError(f"cannot listen on {self._host}:{self._port}: {reason}")
