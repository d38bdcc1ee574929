"""The file watcher: it reports that the models folder has changed.

It uses the file system's notifications if there are any, and always scans at intervals as well.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import structlog
import watchfiles

_LOOK_AGAIN_MS = 500
"""How soon files that may still be being written are scanned again."""

_log = structlog.get_logger(__name__)


class Watcher:
    """Calls `reconcile` from its own thread, whenever the folder may have changed.

    The file system does not report every change (not those made on another machine, or behind a link), so `reconcile`
    is also called every `poll_s` seconds.

    Args:
        root: the folder of models.
        reconcile: scans the folder and acts; True asks to be called again soon.
        poll_s: seconds between two calls; None for no calls but those that `look` asks for.
        notified: whether to use the file system's notifications as well.
    """

    def __init__(self, root: Path, reconcile: Callable[[], bool], poll_s: float | None, *, notified: bool) -> None:
        self._root = root.resolve()
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
        """Whether a change counts: publishers write into hidden files and folders before they publish."""
        return not any(part.startswith(".") for part in Path(path).parts[len(self._root.parts) :])
