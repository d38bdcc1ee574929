"""The reorder buffer: answers of parallel batches leave in the order in which the batches were taken."""

import threading
from collections.abc import Callable, Sequence


class ReorderBuffer:
    """Gives out turns, and holds back what is done before its turn.

    Nobody waits for a turn: whoever finishes the batch whose turn it is answers those behind it that are done already.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given = 0
        self._leaving = 0
        self._done: dict[int, Sequence[Callable[[], None]]] = {}
        self._busy = False

    def take(self) -> int:
        """The next turn; every turn that is taken must leave."""
        self._given += 1
        return self._given - 1

    def leave(self, turn: int, answers: Sequence[Callable[[], None]]) -> None:
        """Call `answers` once every earlier turn's have been called; perhaps later, and from another thread.

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
