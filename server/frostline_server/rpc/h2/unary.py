"""Unary inference: `ModelInfer` and `Predict`, from a whole message to its answer."""

from collections.abc import Callable

from frostline_server.batching.batcher import Batcher
from frostline_server.batching.entry import Entry, Reply
from frostline_server.codec.message_scan import TakesLong
from frostline_server.inference import Inference, Refused, unexpected
from frostline_server.rpc.h2.answers import AnswerBatch, Answers
from frostline_server.rpc.h2.call import Call, count_full
from frostline_server.rpc.h2.decoding import Decoder, Prepared, decoded_bytes


class UnaryInference:
    """Takes the calls of both methods.

    Args:
        inference: takes the requests.
        batchers: collects what is to be run once all that came together is queued.
        post: runs a function in the front end's thread.
        mine: whether the caller is that thread.
    """

    def __init__(
        self,
        inference: Inference,
        batchers: list[Batcher],
        post: Callable[..., None],
        mine: Callable[[], bool],
    ) -> None:
        self._inference = inference
        self._batchers = batchers
        self._post = post
        # One bound method, so that the batcher recognises entries that share it.
        self._reply: Reply = AnswerBatch(post, mine, _deliver).reply

    def receiver(self, method: str) -> "Method":
        """What takes the calls of one method."""
        return Method(self._inference, method, self._batchers, self._reply, self._post)


class Method:
    """The receiver of one method's calls; see `Receiver`."""

    def __init__(
        self, inference: Inference, method: str, batchers: list[Batcher], reply: Reply, post: Callable[..., None]
    ) -> None:
        self._inference = inference
        self._decoder = Decoder(inference, post)
        self._method = method
        self._batchers = batchers
        self._reply = reply

    def message(self, call: Call, message: bytes) -> None:
        """Queue the request."""
        inference, method = self._inference, self._method
        try:
            # Its answer is delivered by this thread, so it is known by then.
            call.token = entry = inference.prepare(method, message, call.deadline_s, self._reply, call, call)
            batcher = inference.submit(entry, method, message, inline=True, space=call.shared.budget)
        except Refused as refused:
            call.connection.fail(call, refused.error, refused.request_id)
            return
        except TakesLong:
            call.connection.guarded(call, lambda: self._decode(call, message))
            return
        if batcher not in self._batchers:
            self._batchers.append(batcher)

    def _decode(self, call: Call, message: bytes) -> None:
        """Have a message decoded elsewhere, and queue the request then."""

        def decoded(prepared: Prepared | None) -> None:
            if not call.over and prepared is not None:
                call.connection.guarded(call, lambda: self._queue(call, message, prepared))

        call.token = self._decoder.begin(call, self._method, message, self._reply, call, decoded)

    def _queue(self, call: Call, message: bytes, prepared: Prepared) -> None:
        call.token = None
        if isinstance(prepared, Refused):
            call.connection.fail(call, prepared.error, prepared.request_id)
            return
        call.hold(decoded_bytes(prepared))
        try:
            batcher = self._inference.submit(prepared, self._method, message, inline=True, space=call.shared.budget)
        except Refused as refused:
            call.connection.fail(call, refused.error, refused.request_id)
            return
        call.token = prepared
        if batcher not in self._batchers:
            self._batchers.append(batcher)

    def cancelled(self, call: Call) -> None:
        """Give the request up."""
        token, call.token = call.token, None
        if isinstance(token, Entry):
            self._inference.cancel(token)
        elif token is not None:
            token.cancel()

    def finished(self, _: Call) -> None:
        """Not of unary calls."""

    def sent(self, _: Call) -> None:
        """Nothing waits for that."""


def _deliver(answers: Answers) -> None:
    for entry, response in answers:
        call: Call = entry.call.token
        try:
            if response is not None:
                call.connection.answer(call, response)
            elif entry.error is not None:
                count_full(call, entry.error)
                call.connection.fail(call, entry.error, entry.call.request_id)
        except Exception as defect:  # noqa: BLE001  one answer that cannot be sent must not keep back the others
            call.connection.fail(call, unexpected(defect), entry.call.request_id)
