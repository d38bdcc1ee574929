"""Unary inference: `ModelInfer` and `Predict`, from a whole message to its answer."""

import threading
from collections.abc import Callable

from frostline_server.batching.batcher import Batcher
from frostline_server.batching.entry import Entry, Reply
from frostline_server.errors import PredictionError
from frostline_server.inference import Inference, Refused, encode, unexpected
from frostline_server.rpc.h2.call import Call

_MOST_BYTES = 4 << 20
"""Answers that wait for the front end's thread at most, apart from one: they are in no budget yet."""
_LONGEST_WAIT_S = 1.0

_Answer = tuple[Call, bytes | None, PredictionError | None, str]


class UnaryInference:
    """Takes the calls of both methods.

    Args:
        inference: takes the requests.
        batchers: collects what is to be run once all that came together is queued.
        post: runs a function in the front end's thread.
    """

    def __init__(self, inference: Inference, batchers: list[Batcher], post: Callable[..., None]) -> None:
        self._inference = inference
        self._batchers = batchers
        self._post = post
        self._thread = 0
        # One bound method, so that the batcher recognises entries that share it.
        self._reply: Reply = self._answer

    def receiver(self, method: str) -> "Method":
        """What takes the calls of one method."""
        return Method(self._inference, method, self._batchers, self._reply)

    def run_in(self, thread: int) -> None:
        """Say which thread the front end's is."""
        self._thread = thread

    def _answer(self, entries: list[Entry]) -> None:
        """Answer one batch's entries; runs in the device thread or in the front end's, so it must not raise."""
        mine = threading.get_ident() == self._thread
        answers: list[_Answer] = []
        size = 0
        for entry in entries:
            response = encode(entry)
            answers.append((entry.call.token, response, entry.error, entry.call.request_id))
            if response is not None:
                size += len(response)
                if size > _MOST_BYTES:
                    self._hand_over(answers, mine=mine, wait=True)
                    answers, size = [], 0
        self._hand_over(answers, mine=mine)

    def _hand_over(self, answers: list[_Answer], *, mine: bool, wait: bool = False) -> None:
        if mine:
            _deliver(answers)
            return
        self._post(_deliver, answers)
        if wait:
            # Only then are they in the budget, or refused. Nothing ever waits in the other direction.
            taken = threading.Event()
            self._post(taken.set)
            taken.wait(_LONGEST_WAIT_S)


class Method:
    """The receiver of one method's calls; see `Receiver`."""

    def __init__(self, inference: Inference, method: str, batchers: list[Batcher], reply: Reply) -> None:
        self._inference = inference
        self._method = method
        self._batchers = batchers
        self._reply = reply

    def message(self, call: Call, message: bytes) -> None:
        """Queue the request."""
        inference, method = self._inference, self._method
        try:
            # Its answer is delivered by this thread, so it is known by then.
            call.token = entry = inference.prepare(method, message, call.deadline_s, self._reply, call)
            batcher = inference.submit(entry, method, message, inline=True)
        except Refused as refused:
            call.connection.fail(call, refused.error, refused.request_id)
            return
        if batcher not in self._batchers:
            self._batchers.append(batcher)

    def cancelled(self, call: Call) -> None:
        """Give the request up."""
        if call.token is not None:
            self._inference.cancel(call.token)

    def finished(self, _: Call) -> None:
        """Not of unary calls."""

    def sent(self, _: Call) -> None:
        """Nothing waits for that."""


def _deliver(answers: list[_Answer]) -> None:
    for call, response, error, request_id in answers:
        try:
            if response is not None:
                call.connection.answer(call, response)
            elif error is not None:
                call.connection.fail(call, error, request_id)
        except Exception as defect:  # noqa: BLE001  one answer that cannot be sent must not keep back the others
            call.connection.fail(call, unexpected(defect), request_id)
