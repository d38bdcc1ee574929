"""Hands the answers of batches over to the front end's thread, no faster than it takes large ones."""

import threading
from collections.abc import Callable

from frostline_server.batching.entry import Entry
from frostline_server.codec.chunks import Serialised
from frostline_server.inference import encode

Answers = list[tuple[Entry, Serialised | None]]
"""Finished entries, each with its serialised response; None for one that has an error."""

_MOST_BYTES = 4 << 20
"""Answers that wait for the front end's thread at most, apart from one: they are in no budget yet."""
_LONGEST_WAIT_S = 1.0


class AnswerBatch:
    """The reply callback of entries; see `Entry`.

    Args:
        post: runs a function in the front end's thread.
        mine: whether the caller is that thread.
        deliver: takes answers, in that thread.
    """

    def __init__(self, post: Callable[..., None], mine: Callable[[], bool], deliver: Callable[[Answers], None]) -> None:
        self._post = post
        self._mine = mine
        self._deliver = deliver

    def reply(self, entries: list[Entry]) -> None:
        """Answer one batch's entries; runs in the device thread or in the front end's, so it must not raise."""
        answers: Answers = []
        size = 0
        for entry in entries:
            response = encode(entry)
            answers.append((entry, response))
            if response is not None:
                size += len(response)
                if size > _MOST_BYTES:
                    self._hand_over(answers, wait=True)
                    answers, size = [], 0
        self._hand_over(answers)

    def _hand_over(self, answers: Answers, *, wait: bool = False) -> None:
        if self._mine():
            self._deliver(answers)
            return
        self._post(self._deliver, answers)
        if wait:
            # Only then are they in the budget, or refused. Nothing ever waits in the other direction.
            taken = threading.Event()
            self._post(taken.set)
            taken.wait(_LONGEST_WAIT_S)
