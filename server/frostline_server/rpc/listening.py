"""Sockets that listen: on all that a name stands for, or in a file."""

import errno
import socket

from frostline_server.errors import StartError

_BACKLOG = 4096


def bound(address: str, *, reuse_port: bool = False) -> list[socket.socket]:
    """Sockets that listen on an address; several where a name stands for several.

    Args:
        address: host:port, or unix:/path.
        reuse_port: whether other processes listen on the same port, each for its share of the connections.

    Raises:
        StartError: it cannot be bound.
    """
    sockets: list[socket.socket] = []
    try:
        if address.startswith("unix:"):
            sockets.append(_unix(address.removeprefix("unix:")))
        else:
            _bind_all(address, sockets, reuse_port=reuse_port)
    except OSError as error:
        for listening in sockets:
            listening.close()
        raise StartError(f"cannot listen on {address}: {error.strerror or error}") from error
    for listening in sockets:
        listening.setblocking(False)
    return sockets


def _unix(path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(path)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _bind_all(address: str, sockets: list[socket.socket], *, reuse_port: bool) -> None:
    """Bind whatever a name stands for, all on one port; an address that this machine lacks is left out."""
    host, _, digits = address.rpartition(":")
    port = int(digits)
    lacking: OSError | None = None
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A name may stand for one address twice.
    for family, _, _, _, name in dict.fromkeys(found):
        # `::` is every address, of version 4 too.
        both = name[0] == "::" and socket.has_dualstack_ipv6()
        try:
            listening = socket.create_server(
                (name[0], port), family=family, backlog=_BACKLOG, reuse_port=reuse_port, dualstack_ipv6=both
            )
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            lacking = error
            continue
        sockets.append(listening)
        port = listening.getsockname()[1]
    if lacking is not None and not sockets:
        raise lacking
