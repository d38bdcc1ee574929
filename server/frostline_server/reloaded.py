"""A value that is read from files, and read again when they have changed.

Whoever changes the files may replace one after the other, or write one in two steps. So what cannot be read is logged
once, the last valid value stays in use, and the next change is looked at again.
"""

import errno
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from frostline_server.errors import StartError

T = TypeVar("T")

_Stamp = tuple[tuple[int, ...], ...]

_SCARCE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
"""Why a file cannot be read for now, whatever it says."""

_log = structlog.get_logger(__name__)


class Reloaded(Generic[T]):
    """A value and the files it comes from. Any thread may look.

    Args:
        what: what the files hold, in one word: the event of the log lines.
        files: the files.
        read: reads the value; raises `StartError` with a sentence if it cannot.
    """

    def __init__(self, what: str, files: Sequence[Path], read: Callable[[], T]) -> None:
        self._what = what
        self._files = tuple(files)
        self._read = read
        self._seen: _Stamp | None = None
        self._said = ""
        self._lock = threading.Lock()

    def start(self) -> T:
        """Read for the first time.

        Raises:
            StartError: the value cannot be read.
        """
        with self._lock:
            self._seen = _stamp(self._files)
            self._value = self._read()
            return self._value

    def look(self) -> T:
        """Read again if a file has changed. The value is another object only where it was read again."""
        with self._lock:
            stamp = _stamp(self._files)
            if stamp == self._seen:
                return self._value
            self._seen = stamp
            try:
                fresh = self._read()
            except Exception as error:  # noqa: BLE001  whoever looks must go on looking, whatever is in the files
                # Only what is meant to be read is: the message of any other error may hold a secret of the file.
                reason = str(error) if isinstance(error, StartError) else f"unexpected {type(error).__name__}"
                cause = error.__cause__
                if isinstance(cause, OSError) and cause.errno in _SCARCE:
                    # It is no fault of the files, so no change of them will tell when to look again.
                    self._seen = None
                if self._seen is not None or reason != self._said:
                    _log.error(self._what, reason=f"{reason}; the last one that was valid stays in use")
                self._said = reason
                return self._value
            self._said = ""
            if _stamp(self._files) != stamp:
                # Replaced while it was read, so parts of both may have been read. The next look reads it again.
                self._seen = None
                return self._value
            self._value = fresh
            _log.info(self._what, files=[str(file) for file in self._files])
            return fresh


def _stamp(files: Sequence[Path]) -> _Stamp:
    """What changes when a file is written, replaced (also behind a link), or becomes readable."""
    return tuple(map(_stamp_of, files))


def _stamp_of(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:  # reading it will say why
        return ()
    return found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size
