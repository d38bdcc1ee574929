"""The reorder buffer: it releases the answers of parallel batches in the order in which the batches were taken."""

import threading
from collections.abc import Callable, Sequence


class ReorderBuffer:
    """Gives each batch a sequence number (a turn), and holds back answers that finish before their turn.

    No thread waits for a turn: the thread that finishes the batch whose turn it is also sends the held-back answers
    behind it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given = 0
        self._leaving = 0
        self._done: dict[int, Sequence[Callable[[], None]]] = {}
        self._busy = False

    def take(self) -> int:
        """Take the next turn; call `leave` once for every turn that is taken."""
        self._given += 1
        return self._given - 1

    def leave(self, turn: int, answers: Sequence[Callable[[], None]]) -> None:
        """Call `answers` after those of every earlier turn; possibly later, and from another thread.

        Raises:
            Exception: whatever one of them raised.
        """
        with self._lock:
            self._done[turn] = answers
            if self._busy:
                return
            self._busy = True
        try:
            while (due := self._due()) is not None:
                for answer in due:
                    answer()
        except BaseException:
            # Whoever leaves next goes on with the turn after this one.
            with self._lock:
                self._busy = False
            raise

    def _due(self) -> Sequence[Callable[[], None]] | None:
        with self._lock:
            due = self._done.pop(self._leaving, None)
            if due is None:
                self._busy = False
            else:
                self._leaving += 1
            return due
