"""The native front end: unary inference on the low-level API of pygrpc-native, without a coroutine for each call.

The library owns the port. It delivers calls of the two inference methods to this module as events, many at a time, and
passes every other call to the grpc.aio server behind it. One thread receives the events and runs brief batches
itself; the device threads send all other answers.
"""

import threading
import time
from collections.abc import Iterable
from typing import Any

from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from frostline.protocol import MODEL_INFER, PREDICT
from frostline_server.batching.batcher import Batcher
from frostline_server.batching.entry import Entry
from frostline_server.errors import PredictionError, StartError
from frostline_server.inference import Call, Inference, Refused, encode, unexpected
from frostline_server.rpc.grpc_status import PUSHBACK, status, status_number, trailers

_METHODS = (MODEL_INFER, PREDICT)
_EVENTS = 256
"""The most calls taken while the interpreter lock is acquired once."""


class NativeFrontEnd:
    """Answers inference calls on a port it owns.

    Args:
        inference: takes the calls.
        address: host:port, or unix:/path.
        fallback: path of the Unix socket on which the grpc.aio server answers everything else.
    """

    def __init__(self, inference: Inference, address: str, fallback: str) -> None:
        self._inference = inference
        self._address = address
        self._fallback = fallback
        self._active: dict[int, Entry] = {}
        # One bound method, so that the batcher recognises entries that share it.
        self._reply = self._answer
        self._thread = threading.Thread(target=self._receive, name="native-front", daemon=True)

    def start(self) -> int:
        """Bind the address and start to answer.

        Returns:
            The port; 0 for a Unix socket.

        Raises:
            StartError: the address cannot be bound.
        """
        try:
            self._front = NativeGrpcFront(
                self._address,
                [(method, False) for method in _METHODS],
                call_details=True,
                # As in a grpc.aio server: only connections with calls may send pings.
                keepalive_permit_without_calls=False,
            )
        except (OSError, ValueError) as error:
            raise StartError(f"cannot listen on {self._address}: {error}") from error
        self._front.set_fallback(self._fallback)
        self._front.start()
        self._thread.start()
        return self._front.bound_port

    def close(self) -> None:
        """Close the port and every connection. Call it only after all queues are empty."""
        self._front.close()
        self._thread.join()

    def _receive(self) -> None:
        front = self._front
        while (events := front.recv_batch_details(_EVENTS)) is not None:
            self._take(events)
            # While this thread waits for the next call, it must not keep the last message in memory.
            del events

    def _take(self, events: Iterable[Any]) -> None:
        """Queue what was received together, and run it; a frame of its own, so that an idle thread holds no version."""
        active, inference, reply = self._active, self._inference, self._reply
        now = time.monotonic()
        batchers: list[Batcher] = []
        for kind, call_id, method, payload, _, details in events:
            if kind == EVENT_CANCEL:
                entry = active.pop(call_id, None)
                if entry is not None:
                    inference.cancel(entry)
                continue
            left_s = details[2]
            deadline_s = None if left_s is None else now + left_s
            try:
                entry = inference.prepare(_METHODS[method], payload, deadline_s, reply, call_id)
                # Registered before it is queued, because it may be answered before `submit` returns.
                active[call_id] = entry
                batcher = inference.submit(entry, _METHODS[method], payload, inline=True)
                if batcher not in batchers:
                    batchers.append(batcher)
            except Refused as refused:
                active.pop(call_id, None)
                self._fail(call_id, refused.error, refused.request_id)
            except Exception as error:  # noqa: BLE001  a defect in one request's path must not end the front end
                active.pop(call_id, None)
                self._fail(call_id, unexpected(error), "")

        # What no device's thread was woken for is run here, or wakes one now.
        for batcher in batchers:
            batcher.run_inline()

    def _answer(self, entries: list[Entry]) -> None:
        """Answer one batch's entries; runs in the device thread, so it must not raise."""
        active, respond = self._active, self._front.respond
        for entry in entries:
            call: Call = entry.call
            active.pop(call.token, None)
            response = encode(entry)
            if response is not None:
                respond(call.token, response)
            elif entry.error is not None:
                self._fail(call.token, entry.error, call.request_id)

    def _fail(self, call_id: int, error: PredictionError, request_id: str) -> None:
        _, message = status(error, request_id)
        # The library does not send keys that begin with grpc-.
        self._front.fail(call_id, status_number(error), message, trailers(error, PUSHBACK))
