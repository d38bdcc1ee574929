"""Has requests answered by the batcher for calls on an event loop: ModelInfer and Predict, over message bytes."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from frostline_server.access.access import Access
from frostline_server.batching.batcher import Batcher
from frostline_server.batching.entry import Entry, Reply
from frostline_server.codec.chunks import Serialised
from frostline_server.codec.decoder import RequestDecoder
from frostline_server.codec.message_scan import TakesLong
from frostline_server.errors import (
    InvalidInput,
    MessageTooLarge,
    ModelNotFound,
    ModelNotReady,
    NetworkFull,
    PermissionDenied,
    PredictionError,
    RateLimited,
    Unauthenticated,
)
from frostline_server.http.call import Call, ClientGone
from frostline_server.http.h1.shared import HELD_BYTES, Exchange
from frostline_server.http.statuses import Failure, failure_of
from frostline_server.inference import Inference, Refused
from frostline_server.rpc.h2.answers import AnswerBatch, Answers
from frostline_server.rpc.h2.decoding import decoded_bytes

_OF_KINDS: Mapping[str, type[PredictionError]] = {
    each.kind: each for each in (MessageTooLarge, NetworkFull, ModelNotFound, ModelNotReady)
}
"""What a failure of HTTP itself is counted as; others are bad requests."""
_REFUSALS: Mapping[str, type[PredictionError]] = {
    each.kind: each for each in (Unauthenticated, PermissionDenied, RateLimited)
}
"""What a caller may be told who asks for an answer."""
_Answered = asyncio.Future[Serialised | int | None]
"""An answer; or the size of one for which there is no room; or None for one that has an error."""
_Token = tuple[_Answered, Exchange]
"""What an entry is recognised by: who waits for its answer, and the budget it is held in."""


class InferenceCalls:
    """Sends requests to the batcher; used on the event loop only.

    Args:
        inference: takes the requests.
        decoder: decodes them; used by nobody else.
        access: who may predict.
        loop: the event loop.
    """

    def __init__(
        self, inference: Inference, decoder: RequestDecoder, access: Access, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._inference = inference
        self._decoder = decoder
        self._access = access
        self._free = access.free
        self._loop = loop
        self._thread = threading.get_ident()
        # One bound method, so that the batcher recognises entries that share it.
        self._reply: Reply = AnswerBatch(self._post, lambda: threading.get_ident() == self._thread, _deliver).reply
        self._batchers: list[Batcher] = []

    def admit(self, call: Call, method: str) -> None:
        """Let a caller in, or not.

        Raises:
            Failure: it may not use the method, or not now.
        """
        if self._free:  # to predict, which is all that is asked for here
            return
        try:
            call.admit(self._access, method)
        except Failure as failure:
            self._count(_REFUSALS[failure.kind](failure.sentence), call)
            raise

    @contextmanager
    def counting(self, call: Call) -> Iterator[None]:
        """Count what fails in the block before it is a request to the batcher, which counts its own."""
        try:
            yield
        except Failure as failure:
            if not failure.code and not call.queued:
                self._count(_OF_KINDS.get(failure.kind, InvalidInput)(failure.sentence), call)
            raise

    def _count(self, error: PredictionError, call: Call) -> None:
        """Count a request that has no message yet, under the model that its path names."""
        self._inference.count(error, call, call.parameters.get("model", ""))

    async def answer(self, call: Call, method: str, message: bytes, factor: int = 1) -> Serialised:
        """The serialised response to a serialised request.

        Args:
            call: the call that it came with.
            method: `MODEL_INFER` or `PREDICT`.
            message: the request.
            factor: how many bytes one of the response becomes, for which there must be room before it is run.

        Raises:
            NeverRoom: there could never be room for it.
            Failure: it cannot be answered.
            ClientGone: the client went away before it was answered.
        """
        answered: _Answered = self._loop.create_future()
        exchange = call.exchange
        call.queued = False
        entry: Entry | None = None

        def lost() -> None:
            if entry is not None:
                self._inference.cancel(entry)
            if not answered.done():
                answered.set_result(None)

        try:
            entry = await self._prepared(method, message, (answered, exchange), call)
            if exchange.lost:
                raise ClientGone
            exchange.on_lost = lost
            batcher = self._inference.submit(entry, method, message, inline=True, space=exchange.space(factor))
            call.queued = True
            self._run_soon(batcher)
            response = await answered
            if isinstance(response, int):
                raise exchange.no_room(factor * response)
            if response is not None and len(response) > HELD_BYTES:
                # From here on it is held as what it becomes.
                exchange.give(len(response))
        except Refused as refused:
            raise failure_of(refused.error, refused.request_id) from None
        finally:
            exchange.on_lost = None
        if response is not None:
            return response
        if entry.error is not None:
            if isinstance(entry.error, NetworkFull | MessageTooLarge) and entry.room is not None:
                raise exchange.no_room(factor * entry.room.size)
            raise failure_of(entry.error, entry.call.request_id)
        raise ClientGone

    async def _prepared(self, method: str, message: bytes, token: _Token, call: Call) -> Entry:
        """As `Inference.prepare`, without holding up the loop.

        Raises:
            Refused: as there.
            Failure: there is no room for what was decoded.
            ClientGone: the client went away meanwhile.
        """
        try:
            return self._inference.prepare(method, message, None, self._reply, token, call, self._decoder)
        except TakesLong:
            wanted = lambda: not token[1].lost  # noqa: E731  a line
        prepared = await asyncio.wrap_future(
            self._inference.prepare_elsewhere(method, message, None, self._reply, token, call, wanted)
        )
        if isinstance(prepared, Refused):
            # Another one, because an exception that is raised here would be in the frame of its own traceback.
            raise Refused(prepared.error, prepared.request_id, prepared.model)
        if prepared is None:
            raise ClientGone
        more = decoded_bytes(prepared)
        if not call.exchange.hold(more):
            raise call.exchange.no_room(more)
        return prepared

    def _post(self, function: object, *arguments: object) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]  # as `AnswerBatch` calls it

    def _run_soon(self, batcher: Batcher) -> None:
        """Offer to run what has come once everything that came together is queued."""
        if batcher not in self._batchers:
            self._batchers.append(batcher)
            if len(self._batchers) == 1:
                self._loop.call_soon(self._run_inline)

    def _run_inline(self) -> None:
        batchers, self._batchers = self._batchers, []
        for batcher in batchers:
            batcher.run_inline()


def _deliver(answers: Answers) -> None:
    for entry, response in answers:
        token: _Token = entry.call.token
        answered, exchange = token
        if answered.done():
            continue
        size = 0 if response is None else len(response)
        if size > HELD_BYTES and not exchange.hold(size):
            # No exception, which would be in the frame of its own traceback, and all of the answer with it.
            answered.set_result(size)
        else:
            answered.set_result(response)
