"""Decodes in another thread what takes long, with the budget held meanwhile."""

from collections.abc import Callable

from frostline_server.batching.entry import Entry, Reply
from frostline_server.inference import Inference, Refused
from frostline_server.rpc.h2.call import Call

_STRING_BYTES = 96
"""What a short string takes: an object, and its place in an array."""

Prepared = Entry | Refused


class Decoding:
    """A message that is decoded, or waits for it.

    Attributes:
        wanted: whether somebody still waits.
    """

    __slots__ = ("wanted",)

    def __init__(self) -> None:
        self.wanted = True

    def cancel(self) -> None:
        """Do not decode it if that has not begun; it is in memory until its turn would have come."""
        self.wanted = False


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
            then: takes what became of it, in the front end's thread; None if nobody wanted it any more when
                its turn came.

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

        decoding = Decoding()
        try:
            future = self._inference.prepare_elsewhere(
                method, message, call.deadline_s, reply, token, call, lambda: decoding.wanted
            )
        except BaseException:  # such as where no thread can be started
            budget.give(size)
            raise
        future.add_done_callback(lambda done: self._post(finish, done.result()))
        return decoding


def decoded_bytes(entry: Entry) -> int:
    """About how much memory the elements of an entry take that were decoded elsewhere."""
    # What is a view is a part of the message, which is held already.
    return sum(
        len(data) if isinstance(data, bytes) else _STRING_BYTES * len(data)
        for data in entry.data
        if not isinstance(data, memoryview)
    )
