"""The fingerprint of a model's files: it changes when they do.

It is made without reading them, and at every look at the models folder, so how much is looked at is bounded.
"""

import os
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import TypeVar

from frostline_server.regular_files import FileReader
from frostline_server.repository.plan import Fingerprint
from frostline_server.repository.rollout import FILE as ROLLOUT

MAX_ENTRIES = 20_000
"""The most files and folders in a model's folder: more take longer to look at than other models may wait."""
_MAX_DEPTH = 32
"""The most folders in each other that are looked at."""
_NOT_CONTENT = frozenset((ROLLOUT,))
"""Files of a model's folder that select versions and do not change them."""
_FILES = frozenset(("card.json", "golden.npz", "config.pbtxt"))
"""What cannot be read if it is a folder, so that it is a change when it is no longer one."""
_UNREADABLE = -1
"""The size in a fingerprint of a file that cannot be read."""

T = TypeVar("T")


class TooManyEntries(Exception):
    """There are more files and folders in a model's folder than are looked at."""


class Walk:
    """One walk over a model's folder, which is not endless, whatever is in it.

    Args:
        files: knows which links lead out of the models folder.
    """

    def __init__(self, files: FileReader) -> None:
        self._files = files
        self._left = MAX_ENTRIES

    def fingerprint(
        self, folder: Path, folders: Sequence[str] | None, above: Set[tuple[int, int]] = frozenset()
    ) -> Fingerprint:
        """The fingerprint of all files below a folder, except hidden ones.

        Unreadable files are marked, so that the fingerprint changes when they become readable. So is what is too deep,
        and a link to a folder outside the models folder.

        Args:
            folder: the folder.
            folders: the only subfolders to include; all when None.
            above: device and inode of its parent folders, to detect links to one of them.

        Raises:
            OSError: the folder cannot be read.
            TooManyEntries: there is too much in it.
        """
        place = folder.stat()
        above = above | {(place.st_dev, place.st_ino)}
        files: list[tuple[str, int, int, int]] = []
        with os.scandir(folder) as listing:
            entries = sorted(self._counted(listing), key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _NOT_CONTENT:
                continue
            try:
                if entry.is_dir():
                    if entry.name in _FILES:
                        files += unreadable(entry.path)
                    elif folders is None or entry.name in folders:
                        files += self.inside(Path(entry.path), above)
                    continue
                status = entry.stat()
            except FileNotFoundError:  # gone since it was listed, or a link to nothing
                files += unreadable(entry.path) if entry.is_symlink() else ()
                continue
            except OSError:
                files += unreadable(entry.path)
                continue
            size = status.st_size if os.access(entry.path, os.R_OK) else _UNREADABLE
            files.append((entry.path, size, status.st_mtime_ns, status.st_ino))
        return tuple(files)

    def inside(self, folder: Path, above: Set[tuple[int, int]]) -> Fingerprint:
        """The fingerprint of a subfolder; a subfolder that cannot be read does not affect the others.

        Raises:
            TooManyEntries: there is too much in it.
        """
        if len(above) >= _MAX_DEPTH or (folder.is_symlink() and self._files.outside(folder)):
            return unreadable(folder)
        try:
            place = folder.stat()
            return () if (place.st_dev, place.st_ino) in above else self.fingerprint(folder, None, above)
        except FileNotFoundError:  # gone since it was listed
            return ()
        except OSError:
            return unreadable(folder)

    def listed(self, folder: Path) -> Iterator[Path]:
        """What is in a folder.

        Raises:
            OSError: it cannot be read.
            TooManyEntries: there is too much in it.
        """
        return self._counted(folder.iterdir())

    def _counted(self, entries: Iterable[T]) -> Iterator[T]:
        for entry in entries:
            self._left -= 1
            if self._left < 0:
                raise TooManyEntries
            yield entry


def unreadable(path: Path | str) -> Fingerprint:
    """The fingerprint of a file or a folder that cannot be read."""
    return ((os.fspath(path), _UNREADABLE, 0, 0),)
