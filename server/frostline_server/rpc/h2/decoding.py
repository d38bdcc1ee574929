"""Decodes in another thread what takes long, with the budget held meanwhile."""

from collections.abc import Callable
from concurrent.futures import Future

from frostline_server.batching.entry import Entry, Reply
from frostline_server.inference import Inference, Refused
from frostline_server.rpc.h2.call import Call

_STRING_BYTES = 96
"""What a short string takes: an object, and its place in an array."""

Prepared = Entry | Refused
Decoding = Future[Prepared]


class Decoder:
    """Has messages prepared elsewhere.

    Args:
        inference: prepares them.
        post: runs a function in the front end's thread.
    """

    def __init__(self, inference: Inference, post: Callable[..., None]) -> None:
        self._inference = inference
        self._post = post

    def begin(
        self,
        call: Call,
        method: str,
        message: bytes,
        reply: Reply,
        token: object,
        then: Callable[[Prepared | None], None],
    ) -> Decoding:
        """Begin with a message.

        Args:
            call: it came with.
            method: see `Inference.prepare`.
            message: the bytes.
            reply: see `Inference.prepare`.
            token: see `Inference.prepare`.
            then: takes what became of it, in the front end's thread; None if it was cancelled before it began.

        Raises:
            NetworkFull: there is no room.
        """
        size = len(message)
        # Not the call's, because the message is in memory until it is decoded, whether or not somebody still waits.
        call.hold(size)
        call.held -= size
        budget = call.shared.budget

        def finish(prepared: Prepared | None) -> None:
            budget.give(size)
            then(prepared)

        def finished(done: Decoding) -> None:
            self._post(finish, None if done.cancelled() else done.result())

        decoding = self._inference.prepare_elsewhere(method, message, call.deadline_s, reply, token)
        decoding.add_done_callback(finished)
        return decoding


def decoded_bytes(entry: Entry) -> int:
    """About how much memory the elements of an entry take that were decoded elsewhere."""
    return sum(len(data) if isinstance(data, bytes) else _STRING_BYTES * len(data) for data in entry.data)
