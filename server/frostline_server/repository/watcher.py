"""The file watcher: it reports that the models folder has changed.

It uses the file system's notifications where it has them, and looks at intervals otherwise.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import structlog
import watchfiles

_LOOK_AGAIN_MS = 500
"""How soon files that may still be being written are looked at again."""

_log = structlog.get_logger(__name__)


class Watcher:
    """Calls `reconcile` from a thread of its own, whenever there may be something new.

    The file system does not tell of everything (changes made on another machine, behind a link), so the folder is also looked
    at every `poll_s` seconds.

    Args:
        root: the folder of models.
        reconcile: looks, and acts; True asks to be called again soon.
        poll_s: seconds between two looks.
        notified: whether to be told by the file system as well.
    """

    def __init__(self, root: Path, reconcile: Callable[[], bool], poll_s: float, *, notified: bool) -> None:
        self._root = root.resolve()
        self._reconcile = reconcile
        self._poll_s = poll_s
        self._notified = notified
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._threads = [threading.Thread(target=self._act, name="models", daemon=True)]
        if notified:
            self._threads.append(threading.Thread(target=self._listen, name="models-watch", daemon=True))

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop watching; a `reconcile` under way is not waited for."""
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
            except Exception:  # noqa: BLE001  one bad look must not be the last
                _log.exception("reconciling the models folder failed", models=str(self._root))
                again = False

    def _listen(self) -> None:
        try:
            for _ in watchfiles.watch(self._root, watch_filter=self._counts, stop_event=self._stop, debounce=200):
                self._changed.set()
        except Exception as error:  # noqa: BLE001  watchfiles raises what the system gives: no watches left, no folder
            _log.warning(
                "the file system reports no changes, so the models folder is only scanned at intervals",
                models=str(self._root),
                poll_s=self._poll_s,
                error=str(error),
            )

    def _counts(self, _: watchfiles.Change, path: str) -> bool:
        """Whether a change can matter: hidden files and folders are what publishers write before they publish."""
        return not any(part.startswith(".") for part in Path(path).parts[len(self._root.parts) :])
