"""Streaming inference: `ModelStreamInfer`, many requests of one call in flight together.

Each is answered when its batch finishes, so answers may leave in another order than the requests came.
"""

from collections import deque
from collections.abc import Callable

from frostline.protocol import MODEL_INFER
from frostline_server.access.rate_limit import RateQueue
from frostline_server.batching.batcher import Batcher
from frostline_server.batching.entry import Entry, Reply
from frostline_server.codec.chunks import Serialised
from frostline_server.codec.message_scan import TakesLong
from frostline_server.errors import NetworkFull, PredictionError, ServerStopping
from frostline_server.inference import Inference, Refused
from frostline_server.rpc.h2.answers import AnswerBatch, Answers
from frostline_server.rpc.h2.call import EMPTY, Call, count_full
from frostline_server.rpc.h2.decoding import Decoder, Decoding, Prepared, decoded_bytes
from frostline_server.rpc.h2.framing import PREFIX_BYTES
from frostline_server.rpc.stream_messages import MAX_OPEN, MAX_OPEN_BYTES, Expected, answer_message, error_message


class StreamInference:
    """Takes the calls of the streaming method.

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
        self._decoder = Decoder(inference, post)
        # One bound method, so that the batcher recognises entries that share it.
        self._reply: Reply = AnswerBatch(post, mine, _deliver).reply
        self._paced = RateQueue()
        self._streams: dict[Stream, None] = {}
        self._stopping = False
        self._ended: Callable[[], None] | None = None

    def receiver(self, call: Call) -> "Stream":
        """What takes one call's messages."""
        stream = Stream(call, self._inference, self._batchers, self._reply, self._decoder, self._paced, self._forget)
        self._streams[stream] = None
        if self._stopping:
            stream.refuse_more()
            # The call is not whole yet here.
            self._post(stream.stop)
        return stream

    def stop(self, ended: Callable[[], None]) -> None:
        """Accept no more requests; each stream ends once its accepted requests are answered, with UNAVAILABLE if it is open.

        Args:
            ended: called when all have; in the front end's thread.
        """
        self._stopping, self._ended = True, ended
        for stream in list(self._streams):
            stream.stop()
        if not self._streams:
            ended()

    def _forget(self, stream: "Stream") -> None:
        self._streams.pop(stream, None)
        if self._ended is not None and not self._streams:
            self._ended()


class Stream:
    """The receiver of one stream's messages; see `Receiver`.

    Args:
        call: the stream.
        inference: takes the requests.
        batchers: takes the batcher of each entry that is queued.
        reply: takes finished entries, whose token is this stream.
        decoder: decodes what takes long.
        paced: where it waits for its caller's rate.
        ended: told once, when nothing of it is left.
    """

    __slots__ = (
        "_accepted",
        "_asleep",
        "_batchers",
        "_call",
        "_decoder",
        "_decoding",
        "_dropped",
        "_end",
        "_ends_on_error",
        "_expected",
        "_inference",
        "_leaving",
        "_leaving_bytes",
        "_limit",
        "_open_bytes",
        "_outbox",
        "_paced",
        "_read_all",
        "_reply",
        "_stop",
        "_waiting",
    )

    def __init__(
        self,
        call: Call,
        inference: Inference,
        batchers: list[Batcher],
        reply: Reply,
        decoder: Decoder,
        paced: RateQueue,
        ended: Callable[["Stream"], None],
    ) -> None:
        self._call = call
        self._inference = inference
        self._batchers = batchers
        self._reply = reply
        self._decoder = decoder
        self._paced = paced
        self._end = ended
        self._ends_on_error = call.headers.get(b"triton_grpc_error") == b"true"
        self._limit = None if call.identity is None else call.identity.limit
        # Accepted and not answered, each with what is held for its request, and the size that its answer may have.
        self._accepted: dict[Entry, tuple[int, int]] = {}
        self._expected = Expected()
        # What is decoded elsewhere; no other message is taken meanwhile.
        self._decoding: Decoding | None = None
        # What came while as many were open as may be.
        self._waiting: deque[bytes] = EMPTY
        # The sizes of answers that have not left, oldest first, their sum, and the size of all that is open.
        self._leaving: deque[int] = EMPTY
        self._leaving_bytes = 0
        # Answers of one turn, which leave together.
        self._outbox: list[Serialised] = []
        self._open_bytes = 0
        self._read_all = False
        self._asleep = False
        self._stop = False
        # Whether a request came that was not accepted because of that.
        self._dropped = False

    def message(self, call: Call, message: bytes) -> None:
        """Queue the request, now or when there is room."""
        if self._waiting is EMPTY:
            self._waiting = deque()
        self._waiting.append(message)
        self._take_waiting()
        if self._waiting:
            call.paused = True

    def finished(self, _: Call) -> None:
        """End once all is answered."""
        self._read_all = True
        self._end_if_done()

    def cancelled(self, _: Call) -> None:
        """Give up what is queued."""
        self._waiting.clear()
        self._wait_no_more()
        self._outbox.clear()
        if self._decoding is not None:
            self._decoding.cancel()
        accepted, self._accepted = self._accepted, {}
        for entry in accepted:
            self._inference.cancel(entry)
        self._end(self)

    def sent(self, call: Call) -> None:
        """Read on, if answers that have left make room."""
        leaving = self._leaving
        # An answer has left when those after it account for all that is still queued.
        while leaving and self._leaving_bytes - leaving[0] >= call.queued:
            size = leaving.popleft()
            self._leaving_bytes -= size
            self._open_bytes -= size
        self._go_on()

    def refuse_more(self) -> None:
        """Accept no more requests."""
        self._stop = True
        self._dropped = self._dropped or bool(self._waiting)
        self._waiting.clear()
        self._wait_no_more()

    def stop(self) -> None:
        """Accept no more requests; end once all accepted requests are answered, with UNAVAILABLE if there may be others."""
        self.refuse_more()
        self._end_if_done()

    def deliver(self, entry: Entry, response: Serialised | None) -> None:
        """Take the answer of a finished entry, or its error; `flush` sends it."""
        sizes = self._accepted.pop(entry, None)
        if sizes is None:  # the stream has ended
            return
        size, expected = sizes
        self._open_bytes -= expected
        if response is not None:
            self._expected.came(len(response))
            self._answer(size, answer_message(response))
        elif entry.error is not None:
            count_full(self._call, entry.error)
            self._refuse(size, entry.error, entry.call.request_id, entry.call.served.name)

    def flush(self) -> None:
        """Send what was taken, and end if that was all."""
        messages, self._outbox = self._outbox, []
        if messages:
            self._call.connection.send(self._call, messages)
        self._end_if_done()

    def _go_on(self) -> None:
        call = self._call
        self._take_waiting()
        if call.paused and not self._waiting and not self._full():
            call.connection.resume(call)
        self._end_if_done()

    def _take_waiting(self) -> None:
        """Queue what came, as far as there is room, and no faster than the caller may send."""
        call, waiting, limit = self._call, self._waiting, self._limit
        while waiting and not self._asleep and self._decoding is None and not self._full() and not call.over:
            if limit is not None and not self._paced.admit(limit, self, call.shared.after):
                self._asleep = True
                return
            self._take(waiting.popleft())

    def woken(self) -> None:
        """Take the message whose time has come."""
        self._asleep = False
        if self._waiting and not self._call.over:
            self._take(self._waiting.popleft())
            self._go_on()

    def _wait_no_more(self) -> None:
        if self._asleep and self._limit is not None:
            self._asleep = False
            self._paced.leave(self._limit, self)

    def _full(self) -> bool:
        return len(self._accepted) + len(self._leaving) >= MAX_OPEN or self._open_bytes >= MAX_OPEN_BYTES

    def _take(self, message: bytes) -> None:
        if self._stop:
            self._dropped = True
            return
        call, inference, size = self._call, self._inference, len(message)
        self._open_bytes += size
        try:
            entry = inference.prepare(MODEL_INFER, message, call.deadline_s, self._reply, self, call)
            self._queue(entry, message, size)
        except Refused as refused:
            self._refuse(size, refused.error, refused.request_id, refused.model)
            self.flush()
        except TakesLong:
            self._decode(message)

    def _queue(self, entry: Entry, message: bytes, size: int) -> None:
        """Queue a prepared request, for which so many bytes are held.

        Raises:
            Refused: see `Inference.submit`.
        """
        # Its answer is delivered by this thread, so never before it is known to be accepted.
        batcher = self._inference.submit(entry, MODEL_INFER, message, inline=True, space=self._call.shared.budget)
        expected = self._expected.of(entry)
        self._open_bytes += expected
        self._accepted[entry] = size, expected
        if batcher not in self._batchers:
            self._batchers.append(batcher)

    def _decode(self, message: bytes) -> None:
        """Have a message decoded elsewhere, and queue the request then."""
        call, size = self._call, len(message)

        def decoded(prepared: Prepared | None) -> None:
            self._decoding = None
            if call.over or prepared is None:
                return
            self._decoded(prepared, message)
            self.flush()
            self._go_on()

        try:
            self._decoding = self._decoder.begin(call, MODEL_INFER, message, self._reply, self, decoded)
        except NetworkFull as error:
            self._count(error)
            self._refuse(size, error, "", "")
            self.flush()

    def _decoded(self, prepared: Prepared, message: bytes) -> None:
        size = len(message)
        if isinstance(prepared, Refused):
            self._refuse(size, prepared.error, prepared.request_id, prepared.model)
            return
        try:
            more = decoded_bytes(prepared)
            self._call.hold(more)
            self._open_bytes += more
            size += more
            self._queue(prepared, message, size)
        except Refused as refused:
            self._refuse(size, refused.error, refused.request_id, refused.model)
        except NetworkFull as error:
            self._count(error)
            self._refuse(size, error, prepared.call.request_id, prepared.call.served.name)

    def _count(self, error: NetworkFull) -> None:
        self._inference.count(error, self._call)
        self._call.shared.count(error.kind)

    def _refuse(self, size: int, error: PredictionError, request_id: str, model: str) -> None:
        if self._ends_on_error:
            self.cancelled(self._call)
            self._call.connection.fail(self._call, error, request_id)
            return
        self._answer(size, error_message(error, request_id, model))

    def _answer(self, size: int, message: Serialised) -> None:
        """Take an answer, in whose place the request is no longer held."""
        length = len(message) + PREFIX_BYTES
        self._call.release(size)
        self._open_bytes += length - size
        if self._leaving is EMPTY:
            self._leaving = deque()
        self._leaving.append(length)
        self._leaving_bytes += length
        self._outbox.append(message)

    def _end_if_done(self) -> None:
        if self._accepted or self._waiting or self._decoding is not None or self._call.over:
            return
        if self._read_all and not self._dropped:
            self._call.connection.end(self._call)
        elif self._stop:
            error = ServerStopping("Server is stopping, it has stopped accepting new inference requests")
            self._call.connection.fail(self._call, error)
        else:
            return
        self._end(self)


def _deliver(answers: Answers) -> None:
    streams: dict[Stream, None] = {}
    for entry, response in answers:
        stream: Stream = entry.call.token
        stream.deliver(entry, response)
        streams[stream] = None
    for stream in streams:
        stream.flush()
