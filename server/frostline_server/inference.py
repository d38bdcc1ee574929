"""The inference service: one prediction, from request bytes to response bytes.

It decodes the request, finds the model version, queues the rows and encodes the answer. Both front ends call it, so a
message means the same on each of them.
"""

import math
import time
from typing import Any

import structlog

from frostline.pb import inference_pb2, predictor_pb2
from frostline.protocol import MODEL_INFER
from frostline_server.batching.batcher import Batcher
from frostline_server.batching.entry import Entry, Reply
from frostline_server.codec.codec import parse
from frostline_server.codec.header_cache import Headers
from frostline_server.codec.outputs import Delivery
from frostline_server.codec.shared_memory import Regions
from frostline_server.errors import BatcherClosed, MessageTooLarge, PredictionError, RunFailed, ServerStopping
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.stats import Unrouted
from frostline_server.repository.registry import Repository

_log = structlog.get_logger(__name__)


class Call:
    """What a front end needs to answer an entry.

    Attributes:
        token: the front end's own handle of the call.
        request_id: the client's id of the request.
        served: what answers it.
        request: what else the answer depends on: the request itself in the typed API, how the outputs are delivered where
            the protocol's request says so, or None.
    """

    __slots__ = ("request", "request_id", "served", "token")

    def __init__(
        self,
        token: Any,
        request_id: str,
        served: LoadedModel,
        request: predictor_pb2.PredictRequest | tuple[Delivery, ...] | None = None,
    ) -> None:
        self.token = token
        self.request_id = request_id
        self.served = served
        self.request = request


class Refused(Exception):
    """A request that was not queued, and why; with the id it came with and the model it named."""

    def __init__(self, error: PredictionError, request_id: str = "", model: str = "") -> None:
        super().__init__(str(error))
        self.error = error
        self.request_id = request_id
        self.model = model


def encode(entry: Entry) -> bytes | None:
    """The serialised response of a finished entry, or None if it has an error.

    An answer that cannot be made, because an output has no room in the shared memory it was to go to, becomes the entry's
    error. So call this before the batcher goes on and counts it.
    """
    if entry.error is not None:
        return None
    call: Call = entry.call
    codec = call.served.codec
    try:
        if call.request is None:
            return codec.encode_infer(entry.wanted, entry.outputs, call.request_id)
        if isinstance(call.request, tuple):
            return codec.deliver_infer(entry.wanted, entry.outputs, call.request_id, call.request)
        return codec.encode_predict(call.request, entry.wanted, entry.outputs)
    except PredictionError as error:
        # Its traceback would tie entry and error into a cycle.
        entry.error = error.with_traceback(None)
    except Exception as error:  # noqa: BLE001  a defect in one answer must not end the others
        entry.error = unexpected(error)
    return None


def unexpected(error: Exception) -> RunFailed:
    """What becomes of a defect in one request's path: that request's failure, logged where it is being handled."""
    _log.exception("request failed unexpectedly")
    return RunFailed(f"unexpected {type(error).__name__}: {error}")


class Inference:
    """Takes requests off the front ends' hands.

    Args:
        repository: the models.
        unrouted: counts requests that failed before their model was known.
        max_message_bytes: the largest message accepted.
        regions: the shared memory that tensors may lie in.
    """

    def __init__(self, repository: Repository, unrouted: Unrouted, max_message_bytes: int, regions: Regions) -> None:
        self._repository = repository
        self._unrouted = unrouted
        self._max_message_bytes = max_message_bytes
        self._regions = regions
        self._headers = Headers()
        self._stopping = False
        self.refused_s = -math.inf
        """When a request was last refused because of the stop, on the `time.monotonic` clock."""

    def prepare(self, method: str, payload: bytes, deadline_s: float | None, reply: Reply, token: Any) -> Entry:
        """Turn a serialised request into an entry, ready to be submitted.

        Args:
            method: `MODEL_INFER` or `PREDICT`.
            payload: the message.
            deadline_s: when the client stops waiting, on the `time.monotonic` clock; None for never.
            reply: takes the entry once it is finished, from the device thread; its `call` is a `Call`.
            token: becomes `Call.token`.

        Raises:
            Refused: the request cannot be answered.
        """
        request_id = model = ""
        served: LoadedModel | None = None
        try:
            if self._stopping:
                self.refused_s = time.monotonic()
                raise ServerStopping("Server is stopping, it has stopped accepting new inference requests")
            if len(payload) > self._max_message_bytes:
                raise MessageTooLarge(
                    f"SERVER: Received message larger than max ({len(payload)} vs. {self._max_message_bytes})"
                )
            if method == MODEL_INFER:
                rows = None
                seen = self._headers.find(payload)
                if seen is not None:
                    header, request_id, elements = seen
                    model = header.model
                    served = self._repository.get(model, header.version)
                    rows = served.codec.recognise(header, elements)
                if served is None or rows is None:
                    infer = parse(inference_pb2.ModelInferRequest, payload)
                    request_id, model = infer.id, infer.model_name
                    # Asked once for each request: where traffic is split, the next answer may be another version.
                    served = served or self._repository.get(model, infer.model_version)
                    rows = served.codec.decode_infer(infer, self._regions)
                    unseen = self._headers.remember(payload, infer) if rows.repeats else None
                    if unseen is not None:
                        served.codec.remember(unseen, rows)
                call = Call(token, request_id, served, rows.deliveries)
            else:
                predict = parse(predictor_pb2.PredictRequest, payload)
                request_id = predict.id
                served = self._repository.get(predict.model, predict.version)
                rows = served.codec.decode_predict(predict)
                call = Call(token, request_id, served, predict)
        except PredictionError as error:
            (self._unrouted if served is None else served.stats).failed(error)
            raise Refused(error, request_id, model) from error
        return Entry(
            rows.kind,
            rows.rows,
            rows.data,
            rows.wanted,
            deadline_s,
            reply,
            call,
            priority=rows.priority,
            timeout_s=rows.timeout_s,
        )

    def submit(self, entry: Entry, method: str, payload: bytes, *, inline: bool = False) -> Batcher:
        """Queue a prepared entry; its reply will be called exactly once, unless this raises.

        Args:
            entry: from `prepare`.
            method: as given to `prepare`.
            payload: as given to `prepare`.
            inline: whether the caller will call `run_inline` of what this returns; see `Batcher.submit`.

        Returns:
            The batcher in whose queue the entry is.

        Raises:
            Refused: the queue is full, or the server is stopping.
        """
        while True:
            call: Call = entry.call
            batcher = call.served.batcher
            try:
                batcher.submit(entry, inline=inline)
            except BatcherClosed as error:
                # The version was replaced since the entry was prepared: the request goes to the one that took its place.
                again = self.prepare(method, payload, entry.deadline_s, entry.reply, call.token)
                if again.call.served is call.served:  # closing, and nothing took its place yet
                    call.served.stats.failed(error)
                    raise Refused(error, call.request_id, call.served.name) from error
                entry.rebind(again)
            except PredictionError as error:
                call.served.stats.failed(error)
                raise Refused(error, call.request_id, call.served.name) from error
            else:
                return batcher

    @staticmethod
    def cancel(entry: Entry) -> None:
        """Give an entry up; see `Batcher.cancel`."""
        entry.call.served.batcher.cancel(entry)

    def stop(self) -> None:
        """Refuse every further request; what was accepted goes on."""
        self._stopping = True
