"""A temporary folder that no other user can enter, for the sockets between the processes of one server.

The sockets have no other guard: whoever could connect to one could control the server. A server that is killed leaves
its folder behind; the next one that starts removes it, as its lock tells that its owner is gone.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from frostline_server.errors import StartError
from frostline_server.rpc.unix_socket import MAX_PATH_BYTES

_PREFIX = ".frostline_"
"""Another one than that of releases whose folders have no lock."""
_SOCKET_BYTES = len(f"/{_PREFIX}12345678/255-1000000.sock")
_NEW_S = 60.0
"""A folder that is newer may still be about to be locked."""


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder, for as long as the block.

    Raises:
        StartError: there is nowhere to make it, as in a container whose root file system is read-only.
    """
    candidates: list[str | None] = [os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm"]  # noqa: S108  a private folder is made there
    # The library tries to write a file, and raises where there is no folder that takes it.
    with contextlib.suppress(OSError):
        candidates.insert(0, tempfile.gettempdir())
    parent = next((folder for folder in candidates if folder and _takes_sockets(folder)), None)
    if parent is None:
        raise StartError("several processes need a writable folder for private sockets; set TMPDIR to one")
    _remove_leftovers(Path(parent))
    # Its mode is 0700.
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    # The lock goes with the process, however that ends; the processes that it starts do not inherit it.
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_leftovers(parent: Path) -> None:
    """Remove the folders of this user's servers that were killed."""
    try:
        found = [path for path in parent.iterdir() if path.name.startswith(_PREFIX)]
    except OSError:  # it may be written to and not read
        return
    for folder in found:
        with contextlib.suppress(OSError):  # somebody else's, or just removed by another server
            # Whoever may write here may put a link there.
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if _is_abandoned(lock):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _is_abandoned(folder: int) -> bool:
    """Whether an open folder is this user's, and its server is gone; then it is locked."""
    status = os.fstat(folder)
    own = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == stat.S_IRWXU
    if not own or time.time() - status.st_mtime < _NEW_S:
        return False
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _takes_sockets(folder: str) -> bool:
    fits = len(os.fsencode(folder)) + _SOCKET_BYTES <= MAX_PATH_BYTES
    return fits and os.access(folder, os.W_OK | os.X_OK)
