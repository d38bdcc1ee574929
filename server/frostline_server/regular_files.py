"""Reading of regular files, bounded in place and in size.

A pipe would wait for ever, a device such as /dev/zero never ends, and a link may lead to a file outside the models folder.
What is judged is the file that was opened, not what its path meant a moment before.
"""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_TEXT_BYTES = 8 << 20
"""The most bytes of a text file, such as a card, a list of labels or an access file."""
_TRIES = 3
_MAX_GROWTH_BYTES = 1 << 20


class OutsideFolders(OSError):
    """A path that leads out of the folders that it must not leave; the message says where and what to do."""


class FileTooLarge(OSError):
    """A file of more bytes than are read of it.

    Attributes:
        size: how many it has at least.
    """

    def __init__(self, size: int, most_bytes: int) -> None:
        super().__init__(f"it has {size} bytes; the most is {most_bytes}")
        self.size = size


def open_regular(path: Path, check: Callable[[str], None] | None = None) -> BinaryIO:
    """A regular file, or a link to one, open to be read.

    Args:
        path: the file.
        check: is given where the file really is, before it is opened; raises `OSError` if it must not be.

    Raises:
        OSError: it cannot be opened, or is no regular file; or from `check`.
    """
    # Without O_PATH the file is opened before it is looked at; with it, not even a device notices.
    located = getattr(os, "O_PATH", 0)
    try:
        descriptor = os.open(path, located | os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:  # a name with a NUL in it
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    try:
        _check_kind(descriptor, path)
        if check is not None:
            check(_place(descriptor))
        if located:
            opened = _reopened(descriptor, path)
            os.close(descriptor)
            descriptor = opened
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_kind(descriptor: int, path: Path) -> None:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def _place(descriptor: int) -> str:
    """The path of an open file, links resolved; on macOS the system says it otherwise."""
    try:
        import fcntl  # noqa: PLC0415  what it has depends on the platform

        if hasattr(fcntl, "F_GETPATH"):
            found: bytes = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
            return os.fsdecode(found.rstrip(b"\0"))
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except FileNotFoundError:
        # Not as a file that is not there: a card, for one, need not be.
        raise OSError(errno.ENOSYS, "The server needs /proc, and it is not mounted") from None


def _reopened(descriptor: int, path: Path) -> int:
    """The same file, whatever its path means by now, open to be read."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def read_regular(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file, wherever it is.

    Args:
        path: the file.
        most_bytes: the most bytes it may have.

    Raises:
        OSError: it cannot be read, is no regular file, or has more bytes.
    """
    with open_regular(path) as file:
        return _content(file, most_bytes)


def _content(file: BinaryIO, most_bytes: int) -> bytes:
    size = os.fstat(file.fileno()).st_size
    # Room is made for what is asked for, so no more is than what is there. It may grow meanwhile.
    content = file.read(size + 1) if size <= most_bytes else b""
    if len(content) > size:
        content += file.read(_MAX_GROWTH_BYTES)
        if file.read(1):
            raise OSError(errno.EAGAIN, "The file grows while it is read")
    if max(size, len(content)) > most_bytes:
        raise FileTooLarge(max(size, len(content)), most_bytes)
    return content


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reads the files of models: regular ones that lie in the models folder, whatever their paths and links are.

    A publisher can put a link into a model's folder, and what the server's user may read is more than what it should show
    to clients, as labels or in weights.

    Attributes:
        root: the models folder. It may be a link itself, and lead elsewhere later.
        linked: folders that links may lead to besides.
    """

    root: Path
    linked: tuple[Path, ...] = ()

    def open(self, path: Path) -> BinaryIO:
        """A regular file, open to be read.

        Raises:
            OSError: it cannot be opened, is no regular file, or lies outside the folders.
        """
        for _ in range(_TRIES):
            try:
                return open_regular(path, lambda place: self._check(path, place))
            except FileNotFoundError:
                if path.is_symlink():
                    # Not as a file that is not there: whoever put the link meant one to be.
                    raise OSError(errno.ENOLINK, "A link to nothing", str(path)) from None
                raise
            except OutsideFolders as error:
                outside = error
                if self.outside(path):
                    raise
                # A link, perhaps the models folder itself, was given another target meanwhile.
        raise outside

    def read(self, path: Path, most_bytes: int) -> bytes:
        """The content of a file.

        Args:
            path: the file.
            most_bytes: the most bytes it may have.

        Raises:
            OSError: it cannot be read, is no regular file, lies outside the folders, or has more bytes.
        """
        with self.open(path) as file:
            return _content(file, most_bytes)

    def text(self, path: Path, most_bytes: int = MAX_TEXT_BYTES) -> str:
        """The content of a file of UTF-8 text, without a byte order mark.

        Args:
            path: the file.
            most_bytes: the most bytes it may have.

        Raises:
            OSError: it cannot be read, is no regular file, lies outside the folders, or has more bytes.
            UnicodeDecodeError: it is not UTF-8.
        """
        return self.read(path, most_bytes).decode("utf-8-sig")

    def outside(self, path: Path) -> str:
        """Why a path must not be followed, because it leads out of the folders, or "".

        It is about the moment, so it decides about what is listed and not about what is read.
        """
        try:
            self._check(path, os.path.realpath(path))
        except OutsideFolders as error:
            return str(error)
        return ""

    def _check(self, path: Path, place: str) -> None:
        if self._holds(place):
            return
        link = path
        with_parents = [path, *path.parents]
        for link in reversed(with_parents[: with_parents.index(self.root)] if self.root in with_parents else [path]):
            if not self._holds(os.path.realpath(link)):
                place = os.path.realpath(link)
                break
        allowed = place if os.path.isdir(place) else os.path.dirname(place)  # noqa: PTH112, PTH120  pathlib raises for what cannot be read
        raise OutsideFolders(
            f"the link {link} leads to {place}, outside the models folder {self.root}; put what is there into the folder, "
            f"or allow links to it with the setting linked_folders (--linked-folders {allowed})"
        )

    def _holds(self, place: str) -> bool:
        for folder in (self.root, *self.linked):
            real = os.path.realpath(folder)
            if place == real or place.startswith(real.rstrip("/") + "/"):
                return True
        return False
