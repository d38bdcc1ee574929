"""Unary inference on grpc.aio: `ModelInfer` and `Predict`, one coroutine for each call.

Both methods take and return message bytes, so grpc.aio neither parses nor serialises a message.
"""

import asyncio
import time
from functools import partial
from typing import Any

import grpc

from frostline.protocol import MODEL_INFER, PREDICT
from frostline_server.batching.entry import Entry
from frostline_server.codec.chunks import Serialised
from frostline_server.codec.message_scan import TakesLong
from frostline_server.inference import Call, Inference, Refused, encode
from frostline_server.rpc.call_report import OriginOf
from frostline_server.rpc.grpc_status import ending
from frostline_server.rpc.methods import Methods
from frostline_server.telemetry.finished import Origin

Context = grpc.aio.ServicerContext[Any, Any]


class UnaryFrontEnd:
    """The two inference methods as coroutines over message bytes.

    Args:
        inference: takes the calls.
        origin_of: what a call is to traces and the access log; None where there are none.
    """

    def __init__(self, inference: Inference, origin_of: OriginOf | None = None) -> None:
        self._inference = inference
        self._origin_of = origin_of
        # One bound method, so that the batcher recognises entries that share it.
        self._reply = self._answer
        self._loop: asyncio.AbstractEventLoop | None = None

    def register(self, methods: Methods) -> None:
        """Add the handlers of both methods, without (de)serialisers: `Inference` parses and serialises the bytes."""
        for method in (MODEL_INFER, PREDICT):
            _, service, name = method.split("/")
            handlers = {name: grpc.unary_unary_rpc_method_handler(partial(self._call, method))}
            methods.add_registered_method_handlers(service, handlers)

    async def _call(self, method: str, payload: bytes, context: Context) -> bytes:
        self._loop = asyncio.get_running_loop()
        answered: asyncio.Future[Serialised | None] = self._loop.create_future()
        left_s = context.time_remaining()
        deadline_s = None if left_s is None else time.monotonic() + left_s
        entry: Entry | None = None
        origin = None if self._origin_of is None else self._origin_of(method, context)
        try:
            try:
                entry = self._inference.prepare(method, payload, deadline_s, self._reply, answered, origin)
            except TakesLong:
                entry = await self._prepared(method, payload, deadline_s, answered, origin)
            self._inference.submit(entry, method, payload)
        except Refused as refused:
            end = ending(refused.error, refused.request_id)
        else:
            try:
                response = await answered
            except asyncio.CancelledError:
                self._inference.cancel(entry)
                raise
            if entry.error is None:
                assert response is not None, "without an error there is an answer"  # noqa: S101  an invariant, not a check
                return bytes(response)
            end = ending(entry.error, entry.call.request_id)
        # gRPC keeps an abort's exception, and with it this frame, until the next call: no message or version in it.
        del payload, entry, answered
        # The server ends a call with a status and never cancels it: the client would keep waiting.
        return await context.abort(*end)

    async def _prepared(
        self,
        method: str,
        payload: bytes,
        deadline_s: float | None,
        answered: "asyncio.Future[Serialised | None]",
        origin: Origin | None,
    ) -> Entry:
        """As `Inference.prepare`, without holding up the loop.

        Raises:
            Refused: as there.
        """
        prepared = await asyncio.wrap_future(
            self._inference.prepare_elsewhere(method, payload, deadline_s, self._reply, answered, origin)
        )
        if isinstance(prepared, Refused):
            # Another one, because an exception that is raised here would be in the frame of its own traceback.
            raise Refused(prepared.error, prepared.request_id, prepared.model)
        assert prepared is not None, "nobody has said that it is not wanted"  # noqa: S101  an invariant, not a check
        return prepared

    def _answer(self, entries: list[Entry]) -> None:
        """Wake the loop once for a whole batch; runs in the device thread."""
        assert self._loop is not None, "an entry can only come from a call"  # noqa: S101  an invariant, not a check
        self._loop.call_soon_threadsafe(_set_answered, [(entry.call, encode(entry)) for entry in entries])


def _set_answered(answers: list[tuple[Call, Serialised | None]]) -> None:
    for call, response in answers:
        if not call.token.done():
            call.token.set_result(response)
