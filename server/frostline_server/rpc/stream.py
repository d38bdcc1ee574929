"""Streaming inference on grpc.aio: `ModelStreamInfer`.

Many requests of one stream are in flight together. Each is answered when its batch finishes, so answers may leave in
another order than the requests came.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER
from frostline_server.batching.batcher import Batcher
from frostline_server.batching.entry import Entry, Reply
from frostline_server.codec.chunks import Serialised
from frostline_server.codec.message_scan import TakesLong
from frostline_server.errors import PredictionError, ServerStopping
from frostline_server.inference import Inference, Refused, encode
from frostline_server.rpc.call_report import OriginOf
from frostline_server.rpc.grpc_status import Ending, ending
from frostline_server.rpc.methods import Methods
from frostline_server.rpc.stream_messages import MAX_OPEN, MAX_OPEN_BYTES, Expected, answer_message, error_message
from frostline_server.telemetry.finished import Origin

Context = grpc.aio.ServicerContext[Any, Any]

_MOST_TURNS = 64
"""Turns of the event loop, some microseconds each, in which messages are gathered before they are run, at most."""


class StreamFrontEnd:
    """The streaming inference method, over message bytes.

    Args:
        inference: takes the requests.
        origin_of: what a call is to traces and the access log; None where there are none.
    """

    def __init__(self, inference: Inference, origin_of: OriginOf | None = None) -> None:
        self._inference = inference
        self._origin_of = origin_of
        # One bound method, so that the batcher recognises entries that share it.
        self._reply = self._answer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        # Whose queues have something new that is not offered yet, and whether any of it came in this turn of the loop.
        self._batchers: list[Batcher] = []
        self._more = False
        self._streams: dict[_Stream, asyncio.Task[Any]] = {}
        self._stopping = False

    def register(self, methods: Methods) -> None:
        """Add the method's handler."""
        _, service, name = MODEL_STREAM_INFER.split("/")
        methods.add_registered_method_handlers(service, {name: grpc.stream_stream_rpc_method_handler(self._call)})

    async def drain(self, timeout_s: float) -> bool:
        """Accept no more requests; each stream ends with UNAVAILABLE once its accepted requests are answered.

        Returns:
            Whether all of them did within `timeout_s` seconds.
        """
        self._stopping = True
        for stream in self._streams:
            stream.stop()
        if not self._streams:
            return True
        _, left = await asyncio.wait(list(self._streams.values()), timeout=timeout_s)
        return not left

    async def _call(self, _: Any, context: Context) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        origin = None if self._origin_of is None else self._origin_of(MODEL_STREAM_INFER, context)
        stream = _Stream(self._inference, context, self._reply, self._run_soon, origin)
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"  # noqa: S101  an invariant, not a check
        self._streams[stream] = task
        try:
            if self._stopping:
                stream.stop()
            await stream.run()
        finally:
            del self._streams[stream]

    def _run_soon(self, batcher: Batcher) -> None:
        """Offer to run what has come, once a turn of the loop brings nothing more on any stream.

        So messages that come in a row share a batch: a run for each of them doubles a stream's CPU time.
        """
        self._more = True
        if batcher not in self._batchers:
            self._batchers.append(batcher)
            if len(self._batchers) == 1:
                asyncio.get_running_loop().call_soon(self._run_inline, _MOST_TURNS)

    def _run_inline(self, turns: int) -> None:
        if self._more and turns:
            self._more = False
            asyncio.get_running_loop().call_soon(self._run_inline, turns - 1)
            return
        batchers, self._batchers = self._batchers, []
        for batcher in batchers:
            batcher.run_inline()

    def _answer(self, entries: list[Entry]) -> None:
        """Deliver a whole batch, and wake the loop for it only once; runs in the device thread, or in the loop's own."""
        answers = [(entry, encode(entry)) for entry in entries]
        if threading.get_ident() == self._thread:
            _deliver(answers)
            return
        assert self._loop is not None, "an entry can only come from a stream"  # noqa: S101  an invariant, not a check
        self._loop.call_soon_threadsafe(_deliver, answers)


class _Stream:
    """One stream: a task that reads requests, and the handler's own, which writes answers.

    Args:
        inference: takes the requests.
        context: the call.
        reply: takes finished entries, whose token is this stream.
        run_soon: takes the batcher of each entry that was queued.
        origin: the call, for traces and the access log; None where there are none.
    """

    def __init__(
        self,
        inference: Inference,
        context: Context,
        reply: Reply,
        run_soon: Callable[[Batcher], None],
        origin: Origin | None,
    ) -> None:
        self._inference = inference
        self._context = context
        self._reply = reply
        self._run_soon = run_soon
        self._origin = origin
        left_s = context.time_remaining()
        self._deadline_s = None if left_s is None else time.monotonic() + left_s
        metadata = context.invocation_metadata() or ()
        self._ends_on_error = any(tuple(entry) == ("triton_grpc_error", "true") for entry in metadata)
        # Accepted and not answered, each with the size of its request and the size that its answer may have.
        self._accepted: dict[Entry, tuple[int, int]] = {}
        self._expected = Expected()
        self._answers: deque[bytes] = deque()
        # Requests whose answer has not left, and the bytes of them and of their answers.
        self._open = 0
        self._open_bytes = 0
        self._read_all = False
        self._broken = False
        # The status that the stream ends with, not the error: that would keep the request and its version in memory.
        self._failure: Ending | None = None
        self._something = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Answer until the client has sent its last request and all are answered, or the stream is to end."""
        reader = self._reader = asyncio.create_task(self._read())
        reader.add_done_callback(_looked_at)
        if self._read_all:
            reader.cancel()
        try:
            await self._write()
            if self._failure is not None:
                # The server ends a call with a status and never cancels it: the client would keep waiting.
                await self._context.abort(*self._failure)
            await reader
        finally:
            reader.cancel()
            # What still runs knows this stream, and nobody reads its answers any more.
            self._answers.clear()
            accepted, self._accepted = self._accepted, {}
            for entry in accepted:
                self._inference.cancel(entry)

    def stop(self) -> None:
        """Accept no more requests; end with UNAVAILABLE once all accepted requests are answered."""
        if not self._read_all and self._failure is None:
            self._failure = ending(
                ServerStopping("Server is stopping, it has stopped accepting new inference requests")
            )
            self._end_reading()
            if self._reader is not None:
                self._reader.cancel()

    def deliver(self, entry: Entry, response: Serialised | None) -> None:
        """Queue the answer of a finished entry, or its error, to be written."""
        sizes = self._accepted.pop(entry, None)
        if sizes is None:  # the stream has ended
            return
        size, expected = sizes
        self._open_bytes -= expected
        if response is not None:
            self._expected.came(len(response))
            self._answer(size, bytes(answer_message(response)))
        elif entry.error is not None:
            self._refuse(size, entry.error, entry.call.request_id, entry.call.served.name)

    async def _read(self) -> None:
        read = self._context.read
        try:
            while (payload := await read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs forget it
                try:
                    self._take(payload)
                except TakesLong:
                    await self._decode(payload)
                # An old payload must not stay in memory while this waits for the next.
                del payload
                while self._open >= MAX_OPEN or self._open_bytes >= MAX_OPEN_BYTES:
                    # While the stream is not read, gRPC's flow control holds the client back.
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._end_reading()

    def _end_reading(self) -> None:
        self._read_all = True
        self._something.set()

    def _take(self, payload: bytes) -> None:
        size = len(payload)
        self._open += 1
        self._open_bytes += size
        try:
            entry = self._inference.prepare(MODEL_INFER, payload, self._deadline_s, self._reply, self, self._origin)
            self._queue(entry, payload)
        except Refused as refused:
            self._refuse(size, refused.error, refused.request_id, refused.model)

    async def _decode(self, payload: bytes) -> None:
        """Have a message decoded elsewhere, and queue the request then."""
        prepared = await asyncio.wrap_future(
            self._inference.prepare_elsewhere(MODEL_INFER, payload, self._deadline_s, self._reply, self, self._origin)
        )
        if isinstance(prepared, Refused):
            self._refuse(len(payload), prepared.error, prepared.request_id, prepared.model)
            return
        assert prepared is not None, "nobody has said that it is not wanted"  # noqa: S101  an invariant, not a check
        try:
            self._queue(prepared, payload)
        except Refused as refused:
            self._refuse(len(payload), refused.error, refused.request_id, refused.model)

    def _queue(self, entry: Entry, payload: bytes) -> None:
        batcher = self._inference.submit(entry, MODEL_INFER, payload, inline=True)
        # Its answer is delivered by the loop, so never before this line.
        expected = self._expected.of(entry)
        self._open_bytes += expected
        self._accepted[entry] = len(payload), expected
        self._run_soon(batcher)

    def _refuse(self, size: int, error: PredictionError, request_id: str, model: str) -> None:
        if self._ends_on_error:
            if not self._broken:
                self._broken, self._failure = True, ending(error, request_id)
                self._something.set()
            return
        self._answer(size, bytes(error_message(error, request_id, model)))

    def _answer(self, size: int, message: bytes) -> None:
        """Queue an answer to be written, in whose place its request no longer counts."""
        self._open_bytes += len(message) - size
        self._answers.append(message)
        self._something.set()

    async def _write(self) -> None:
        answers, write, something = self._answers, self._context.write, self._something
        while True:
            while answers:
                message = answers.popleft()
                await write(message)
                self._open -= 1
                self._open_bytes -= len(message)
                self._room.set()
            if self._broken:
                return
            if self._read_all and not self._accepted and not answers:
                return
            something.clear()
            await something.wait()


def _looked_at(task: asyncio.Task[None]) -> None:
    """Keep asyncio from reporting an exception of a reader that nobody awaits, because its stream ended before."""
    if not task.cancelled():
        task.exception()


def _deliver(answers: list[tuple[Entry, Serialised | None]]) -> None:
    for entry, response in answers:
        stream: _Stream = entry.call.token
        stream.deliver(entry, response)
