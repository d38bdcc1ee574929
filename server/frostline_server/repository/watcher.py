"""The file watcher: it reports that the models folder has changed.

It uses the file system's notifications if there are any, and always scans at intervals as well. Notifications belong to
folders and not to paths, so when a link leads elsewhere, as in a deployment that swaps one, it watches anew.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
import watchfiles

from frostline_server.regular_files import FileReader

_LOOK_AGAIN_MS = 500
"""How soon files that may still be being written are scanned again."""
_MAX_LINKS = 40
"""As many links one after the other as Linux follows."""
_MAX_DEPTH = 34
"""As many folders in each other as are looked at below the models folder, and one more for a model and a version."""
_MAX_FOLDERS = 100_000
"""More are not watched: to find them takes longer than to wait for the next scan."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Places:
    """Where changes of the models folder happen.

    Attributes:
        folders: the folder and all folders in it, links followed, except hidden ones; what changes in them counts. Each
            comes with its device and inode: a watch does not go on in another folder of the same name.
        entries: links that lead to these folders or to files in them, and what they lead to, if that is a file. They may
            be in other folders, where nothing else counts.
    """

    folders: Mapping[Path, tuple[int, int]]
    entries: frozenset[Path]

    @property
    def watched(self) -> list[Path]:
        """The folders to watch, without those inside them."""
        return sorted({*self.folders, *(entry.parent for entry in self.entries)})

    def counts(self, _: watchfiles.Change, path: str) -> bool:
        """Whether a change counts: publishers write into hidden files and folders before they publish."""
        changed = Path(path)
        if changed in self.entries or changed in self.folders:
            return True
        return changed.parent in self.folders and not changed.name.startswith(".")


def places_of(root: Path, files: FileReader | None = None) -> Places:
    """Where changes of a models folder happen.

    Args:
        root: the folder.
        files: knows which links lead out of it, and must not be followed; by default all are followed.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: there are too many folders in it.
    """
    real, links = _follow(root)
    if not real.is_dir():
        raise FileNotFoundError(f"no such folder: {root}")
    folders: dict[Path, tuple[int, int]] = {}
    # With how deep each is, whatever its path is.
    entries, left = set(links), [(real, 0)]
    while left:
        folder, depth = left.pop()
        if folder in folders or depth > _MAX_DEPTH:
            continue
        try:
            found, status = list(os.scandir(folder)), folder.stat()
        except OSError:  # gone since it was listed, or unreadable
            continue
        folders[folder] = status.st_dev, status.st_ino
        if len(folders) > _MAX_FOLDERS:
            raise OSError(f"there are more than {_MAX_FOLDERS} folders")
        for entry in found:
            # A name that is no text cannot be watched; the model in it is FAILED for that.
            if entry.name.startswith(".") or not entry.name.isprintable():
                continue
            if not entry.is_symlink():
                left += [(Path(entry.path), depth + 1)] if entry.is_dir() else []
            else:
                more, linked = _behind(Path(entry.path), files)
                left += [(target, depth + 1) for target in more]
                entries.update(linked)
    return Places(folders, frozenset(entry for entry in entries if os.path.isdir(entry.parent)))  # noqa: PTH112  pathlib would raise for a folder that cannot be read


def _behind(link: Path, files: FileReader | None) -> tuple[list[Path], list[Path]]:
    """The folder that a link leads to, if it is one; and all links on the way, with the file that they lead to."""
    try:
        target, links = _follow(link)
        if files is not None and files.outside(link):
            return [], links
        return ([target], links) if target.is_dir() else ([], [*links, target])
    except OSError:  # gone, or into a folder that cannot be read; the others are watched all the same
        return [], []


def _follow(path: Path) -> tuple[Path, list[Path]]:
    """Where a path leads, and every link on the way."""
    links: list[Path] = []
    here, left = Path(path.anchor or Path.cwd()), [part for part in reversed(path.parts) if part != path.anchor]
    if not path.anchor:
        here = here.resolve()
    while left:
        part = left.pop()
        if part == "..":
            here = here.parent
            continue
        here /= part
        if len(links) < _MAX_LINKS and here.is_symlink():
            links.append(here)
            target = here.readlink()
            here = Path(target.anchor) if target.anchor else here.parent
            left += [part for part in reversed(target.parts) if part != target.anchor]
    return here, links


def _moved(root: Path, places: Places, files: FileReader | None) -> bool:
    """Whether changes now happen elsewhere than in `places`."""
    try:
        return places_of(root, files) != places
    except OSError:
        return True


class Watcher:
    """Calls `reconcile` from its own thread, whenever the folder may have changed.

    The file system does not report every change (not those made on another machine), so `reconcile` is also called every
    `poll_s` seconds.

    Args:
        root: the folder of models.
        reconcile: scans the folder and acts; True asks to be called again soon.
        poll_s: seconds between two calls; None for no calls but those that `look` asks for.
        notified: whether to use the file system's notifications as well.
        files: knows which links lead out of the folder, and must not be followed; by default all are followed.
    """

    def __init__(
        self,
        root: Path,
        reconcile: Callable[[], bool],
        poll_s: float | None,
        *,
        notified: bool,
        files: FileReader | None = None,
    ) -> None:
        self._files = files
        self._root = root
        self._reconcile = reconcile
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._threads = [threading.Thread(target=self._act, name="models", daemon=True)]
        if notified:
            self._threads.append(threading.Thread(target=self._listen, name="models-watch", daemon=True))

    def start(self) -> None:
        """Start to watch."""
        for thread in self._threads:
            thread.start()

    def look(self) -> None:
        """Have the folder scanned now; does not wait for it."""
        self._changed.set()

    def close(self) -> None:
        """Stop watching; does not wait for a `reconcile` in progress."""
        self._stop.set()
        self._changed.set()

    def _act(self) -> None:
        again = False
        while not self._stop.is_set():
            self._changed.wait(_LOOK_AGAIN_MS / 1000 if again else self._poll_s)
            self._changed.clear()
            if self._stop.is_set():
                return
            try:
                again = self._reconcile()
            except BaseException:  # noqa: BLE001  one bad look must not be the last
                again = False
                with contextlib.suppress(Exception):  # there may be no memory, or no room on the disk, for the log
                    _log.exception("reconciling the models folder failed", models=str(self._root))

    def _listen(self) -> None:
        told = ""
        while not self._stop.is_set():
            try:
                self._watch(places_of(self._root, self._files))
            except FileNotFoundError:
                # A folder that was swapped or deleted between two looks; whoever scans complains if it is the models folder.
                self._stop.wait(_LOOK_AGAIN_MS / 1000)
            except BaseException as error:  # noqa: BLE001  watchfiles raises what the system gives, such as no watches left, and its panics are no Exception
                if str(error) != told:
                    told = str(error)
                    _log.warning(
                        "the file system reports no changes, so the models folder is only scanned at intervals",
                        models=str(self._root),
                        poll_s=self._poll_s,
                        error=told,
                    )
                self._stop.wait(self._poll_s)

    def _watch(self, places: Places) -> None:
        """Report changes until they happen elsewhere than in `places`.

        Raises:
            OSError: the file system reports no changes there.
        """
        new = True
        for changes in watchfiles.watch(
            *places.watched,
            watch_filter=places.counts,
            debounce=200,
            stop_event=self._stop,
            rust_timeout=_LOOK_AGAIN_MS,
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
        ):
            if changes or new:
                moved = _moved(self._root, places, self._files)
                # Something may have changed before this watch began, too.
                self._changed.set()
                if moved:
                    return
            new = False
