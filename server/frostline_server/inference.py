"""The inference service: one prediction, from request bytes to response bytes.

This is the file to read first. All front ends call it, so a message means the same on each of them. The life of a
request has eight steps:

1. Front end. It takes the bytes of a call: `rpc/h2/` or, on grpc.aio, `rpc/unary.py` and `rpc/stream.py`.
2. Read. `Inference.prepare` checks the size and reads which model the message names: `codec/decoder.py`.
3. Look up. `Inference.prepare` finds the version that answers: `repository/registry.py`.
4. Decode. `Inference.prepare` checks the tensors and finds the rows: `codec/codec.py`, `codec/tensors.py`.
5. Queue. `Inference.submit` admits the request and queues it: `batching/request_queue.py`, `batching/admission.py`.
6. Run. A device thread joins rows into a batch and runs the network: `batching/batcher.py`, `runtime/session.py`.
7. Answer. `encode` serialises the outputs: `codec/codec.py`. The front end sends them.
8. Count. The batcher adds to the model's numbers, after the answers have left: `model/stats.py`, `model/predictions.py`.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import structlog

from frostline_server.batching.batcher import Batcher
from frostline_server.batching.entry import Entry, Reply, Room, Space
from frostline_server.codec.chunks import Serialised
from frostline_server.codec.decoder import RequestDecoder
from frostline_server.codec.message_scan import TakesLong
from frostline_server.codec.outputs import Delivery
from frostline_server.codec.shared_memory import Regions
from frostline_server.codec.typed_answers import Readings
from frostline_server.errors import BatcherClosed, MessageTooLarge, PredictionError, RunFailed, ServerStopping
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.stats import Unrouted
from frostline_server.repository.registry import Repository
from frostline_server.telemetry.finished import Origin
from frostline_server.telemetry.recorder import Recorder

_log = structlog.get_logger(__name__)


class Call:
    """What a front end needs to answer an entry.

    Attributes:
        token: the front end's own handle of the call.
        request_id: the client's id of the request.
        served: what answers it.
        request: what else the answer depends on: the readings asked for in the typed API, how the outputs are delivered
            where the protocol's request says so, or None.
        origin: the call that it came with, for traces and the access log; None where that is not known.
    """

    __slots__ = ("origin", "request", "request_id", "served", "token")

    def __init__(
        self,
        token: Any,
        request_id: str,
        served: LoadedModel,
        request: Readings | tuple[Delivery, ...] | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.token = token
        self.request_id = request_id
        self.served = served
        self.request = request
        self.origin = origin


class Refused(Exception):
    """A request that was not queued, and why; with the id it came with and the model it named."""

    def __init__(self, error: PredictionError, request_id: str = "", model: str = "") -> None:
        super().__init__(str(error))
        self.error = error
        self.request_id = request_id
        self.model = model


class Inference:
    """Prepares, queues and cancels the requests of all front ends.

    Args:
        repository: the models.
        unrouted: counts requests that failed before their version was known.
        max_message_bytes: the largest message accepted.
        regions: the shared memory that tensors may lie in.
        recorder: records what ends before it is queued; None where nothing is recorded.
    """

    def __init__(
        self,
        repository: Repository,
        unrouted: Unrouted,
        max_message_bytes: int,
        regions: Regions,
        recorder: Recorder | None = None,
    ) -> None:
        self.recorder = recorder
        self._repository = repository
        self._unrouted = unrouted
        self._max_message_bytes = max_message_bytes
        self._decoder = RequestDecoder(regions, brief=True)
        self._patient = RequestDecoder(regions)
        self._decoding = ThreadPoolExecutor(1, "decode")
        self._stopping = False
        self.refused_s = -math.inf
        """When a request was last refused because of the stop, on the `time.monotonic` clock."""

    def prepare(
        self,
        method: str,
        payload: bytes,
        deadline_s: float | None,
        reply: Reply,
        token: Any,
        origin: Origin | None = None,
        decoder: RequestDecoder | None = None,
    ) -> Entry:
        """Turn a serialised request into an entry, ready to be submitted: steps 2 to 4.

        Args:
            method: `MODEL_INFER` or `PREDICT`.
            payload: the message.
            deadline_s: when the client stops waiting, on the `time.monotonic` clock; None for never.
            reply: takes the entry once it is finished, from the device thread; its `call` is a `Call`.
            token: becomes `Call.token`.
            origin: becomes `Call.origin`.
            decoder: decodes it; None for the one that gives up on what takes more than some milliseconds.

        Raises:
            Refused: the request cannot be answered; it is counted. Nothing else is raised, whatever the message.
            TakesLong: it takes longer, and `prepare_elsewhere` is to be asked; only without a `decoder`.
        """
        if decoder is None:
            decoder = self._decoder
        model = request_id = ""
        served: LoadedModel | None = None
        try:
            if self._stopping:
                self.refused_s = time.monotonic()
                raise ServerStopping(  # noqa: TRY301  the one handler counts it
                    "Server is stopping, it has stopped accepting new inference requests"
                )
            if len(payload) > self._max_message_bytes:
                raise MessageTooLarge(  # noqa: TRY301  as above
                    f"SERVER: Received message larger than max ({len(payload)} vs. {self._max_message_bytes})"
                )
            model, version, request_id, body = decoder.read(method, payload)
            # Asked once for each request: where traffic is split, the next answer may be another version.
            served = self._repository.get(model, version)
            decoded = decoder.decode(served.codec, body, payload)
        except TakesLong:
            raise
        except Exception as error:
            raise self._refused(error, served, request_id, model, origin) from error
        kind, rows, data, wanted, priority, timeout_s, deliveries = decoded
        call = Call(token, request_id, served, deliveries, origin)
        return Entry(kind, rows, data, wanted, deadline_s, reply, call, priority=priority, timeout_s=timeout_s)

    def prepare_elsewhere(
        self,
        method: str,
        payload: bytes,
        deadline_s: float | None,
        reply: Reply,
        token: Any,
        origin: Origin | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> "Future[Entry | Refused | None]":
        """As `prepare`, in a thread of its own, one message after the other.

        Returns:
            The entry, what `prepare` would raise, or None if the message is not `wanted` any more when its turn comes.
        """

        def prepared() -> Entry | Refused | None:
            if not wanted():
                return None
            try:
                return self.prepare(method, payload, deadline_s, reply, token, origin, self._patient)
            except Refused as refused:
                return refused.with_traceback(None)

        return self._decoding.submit(prepared)

    def submit(
        self, entry: Entry, method: str, payload: bytes, *, inline: bool = False, space: Space | None = None
    ) -> Batcher:
        """Queue a prepared entry: step 5. Its reply will be called exactly once, unless this raises.

        Args:
            entry: from `prepare`.
            method: as given to `prepare`.
            payload: as given to `prepare`.
            inline: whether the caller will call `run_inline` of what this returns; see `Batcher.submit`.
            space: where the answer will be held; None where that has no bound.

        Returns:
            The batcher in whose queue the entry is.

        Raises:
            Refused: as in `prepare`; the queue is full, or the server is stopping.
        """
        while True:
            call: Call = entry.call
            batcher = call.served.batcher
            if space is not None and entry.rows >= call.served.codec.many_rows:
                entry.room = _room(entry, space)
            try:
                batcher.submit(entry, inline=inline)
            except BatcherClosed as error:
                # The version was replaced since the entry was prepared: its successor answers the request.
                again = self.prepare(
                    method, payload, entry.deadline_s, entry.reply, call.token, call.origin, self._patient
                )
                if again.call.served is call.served:  # closing, and nothing took its place yet
                    raise self._refused(error, call.served, call.request_id, call.served.name, call.origin) from error
                entry.rebind(again)
            except Exception as error:
                raise self._refused(error, call.served, call.request_id, call.served.name, call.origin) from error
            else:
                return batcher

    def _refused(
        self, error: Exception, served: LoadedModel | None, request_id: str, model: str, origin: Origin | None
    ) -> Refused:
        """What to raise for a request that ends before it is queued; counts it under the version that was to answer."""
        failure = error if isinstance(error, PredictionError) else unexpected(error)
        (self._unrouted if served is None else served.stats).failed(failure)
        # Their frames hold the message, and whoever keeps the error would keep it too.
        for kept in (error, failure):
            kept.__cause__ = kept.__context__ = None
            kept.__traceback__ = None
        if self.recorder is not None:
            self.recorder.refused(origin, failure, request_id, model, "" if served is None else served.version)
        return Refused(failure, request_id, model)

    def count(self, error: PredictionError, origin: Origin | None = None, model: str = "") -> None:
        """Count a request that a front end had to end before it had its message.

        Args:
            error: why it ends.
            origin: the call that it came with.
            model: the model that it is for, where that is known without the message.
        """
        self._unrouted.failed(error)
        if self.recorder is not None:
            self.recorder.refused(origin, error, model=model)

    @staticmethod
    def cancel(entry: Entry) -> None:
        """Give an entry up; see `Batcher.cancel`."""
        entry.call.served.batcher.cancel(entry)

    def stop(self) -> None:
        """Refuse every further request; what was accepted goes on."""
        self._stopping = True


def encode(entry: Entry) -> Serialised | None:
    """The serialised response of a finished entry, or None if it has an error: step 7.

    An answer that cannot be made, because an output has no room in the shared memory it was to go to, becomes the
    entry's error. So call this before the batcher goes on and counts it.
    """
    if entry.error is not None:
        return None
    call: Call = entry.call
    codec = call.served.codec
    try:
        if call.request is None:
            return codec.encode_infer(entry.wanted, entry.outputs, call.request_id)
        if isinstance(call.request, Readings):
            return codec.encode_predict(call.request, entry.wanted, entry.outputs, call.request_id)
        return codec.deliver_infer(entry.wanted, entry.outputs, call.request_id, call.request)
    except PredictionError as error:
        # Their tracebacks would tie entry and error into a cycle.
        error.__cause__ = error.__context__ = None
        entry.error = error.with_traceback(None)
    except Exception as error:  # noqa: BLE001  a defect in one answer must not end the others
        entry.error = unexpected(error)
    return None


def _room(entry: Entry, space: Space) -> Room | None:
    """What is asked right before an entry is run, so that nothing is computed that would find no room.

    None where its answer is small, or nothing says how large it will be.
    """
    call: Call = entry.call
    names, request = entry.wanted, call.request
    # What is only ranked, or goes into shared memory, is no part of the answer.
    if isinstance(request, Readings):
        names = () if request.top_k else names
    elif request is not None:
        ways = zip(names, request, strict=True)
        names = tuple([name for name, way in ways if way.region is None and not way.classes])
    size = call.served.codec.large_answer_bytes(names, entry.rows)
    return Room(space, size) if size else None


def unexpected(error: Exception) -> RunFailed:
    """What becomes of a defect in one request's path: that request's failure, logged where it is being handled."""
    _log.exception("request failed unexpectedly")
    return RunFailed(f"unexpected {type(error).__name__}: {error}")
