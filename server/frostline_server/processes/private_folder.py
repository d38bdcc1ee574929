"""A temporary folder that no other user can enter, for the sockets between the processes of one server.

The sockets have no other guard: whoever could connect to one could control the server.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from frostline_server.errors import StartError
from frostline_server.rpc.unix_socket import MAX_PATH_BYTES

_SOCKET_BYTES = len("/.frostline-12345678/255-1000000.sock")


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder, for as long as the block.

    Raises:
        StartError: there is nowhere to make it, as in a container whose root file system is read-only.
    """
    candidates = [os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm"]  # noqa: S108  a private folder is made there
    # The library tries to write a file, and raises where there is no folder that takes it.
    with contextlib.suppress(OSError):
        candidates.insert(0, tempfile.gettempdir())
    parent = next((folder for folder in candidates if folder and _takes_sockets(folder)), None)
    if parent is None:
        raise StartError("several processes need a writable folder for private sockets; set TMPDIR to one")
    # Its mode is 0700.
    folder = tempfile.mkdtemp(prefix=".frostline-", dir=parent)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _takes_sockets(folder: str) -> bool:
    fits = len(os.fsencode(folder)) + _SOCKET_BYTES <= MAX_PATH_BYTES
    return fits and os.access(folder, os.W_OK | os.X_OK)
