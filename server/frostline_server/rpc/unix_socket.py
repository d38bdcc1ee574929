"""The file of a Unix socket: it is taken from a server that is gone, never from one that lives.

gRPC's library replaces any socket that has the name it binds, and when it closes it deletes whatever has that name by
then. So the front ends bind a private name, and this module alone makes and removes the public one.
"""

import errno
import os
import secrets
import socket
import stat
from pathlib import Path

from frostline_server.errors import StartError

_SCHEME = "unix:"
MAX_PATH_BYTES = 107
"""The longest path of a socket, in bytes; the kernel's structure has room for 108, the last being zero."""


def is_unix(address: str) -> bool:
    """Whether an address names a Unix socket."""
    return address.startswith(_SCHEME)


class SocketFile:
    """The public name of one server's socket.

    Args:
        address: unix:path or unix:///path.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        # The form with an authority, which is always empty.
        self._path = Path(address.removeprefix(_SCHEME).removeprefix("//"))
        if not self._path.name:
            raise StartError(f"cannot listen on {address}: it names no file; write unix:/path/to/a.sock")
        # Not longer than most names, so that a path that can be bound can be bound with this name too.
        self._private = self._path.with_name(f".{secrets.token_hex(3)}")
        self._identity: tuple[int, int] | None = None

    @property
    def folder(self) -> Path:
        """The folder that it is in."""
        return self._path.parent

    @property
    def private_address(self) -> str:
        """What the library is to bind."""
        return f"{_SCHEME}{self._private}"

    def claim(self) -> None:
        """Make sure that the name is free, or that nobody listens there any more.

        Raises:
            StartError: a server listens there, or the name is of something else than a socket, or cannot be used.
        """
        if max(len(os.fsencode(path)) for path in (self._path, self._private)) > MAX_PATH_BYTES:
            raise self._refused(f"the path of a Unix socket has at most {MAX_PATH_BYTES} bytes; choose a shorter one")
        try:
            mode = self._path.lstat().st_mode
            if not stat.S_ISSOCK(mode):
                raise self._refused("there is a file that is no socket; remove it, or choose another path")
            self._probe()
            self._path.unlink()
        except FileNotFoundError:
            # Nobody has the name. Whether the folder can take it, binding will show, but not in plain words.
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise self._refused(f"{self.folder} is no folder in which this user can create files") from None
        except OSError as error:
            raise self._refused(str(error)) from error

    def publish(self) -> None:
        """Give the socket that is bound its public name.

        Raises:
            StartError: another server was quicker, or the file system does not allow it.
        """
        try:
            # Unlike a renaming, this never replaces what has the name meanwhile.
            os.link(self._private, self._path)
            self._identity = _identity(self._path)
            self._private.unlink()
        except FileExistsError:
            raise self._refused(_TAKEN) from None
        except OSError as error:
            raise self._refused(str(error)) from error

    def remove(self) -> None:
        """Remove the public name, if it is still this server's."""
        try:
            if self._identity is not None and _identity(self._path) == self._identity:
                self._path.unlink()
        except OSError:  # it is gone, or its folder is
            pass

    def _probe(self) -> None:
        """Connect, to see whether somebody listens.

        Raises:
            StartError: somebody does.
        """
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            refusal = client.connect_ex(str(self._path))
        if refusal == errno.ECONNREFUSED:
            return
        if refusal in (0, errno.EAGAIN):  # accepted, or the queue of those who wait to be is full
            raise self._refused(_TAKEN)
        raise self._refused(f"there is a socket that this server cannot connect to: {os.strerror(refusal)}")

    def _refused(self, reason: str) -> StartError:
        return StartError(f"cannot listen on {self._address}: {reason}")


_TAKEN = "another server listens there; stop it, or choose another path"


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
