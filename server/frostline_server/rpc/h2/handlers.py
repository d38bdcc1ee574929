"""Runs the handlers of all other methods, which are coroutines on the event loop as in grpc.aio.

Such a handler sees the part of grpc.aio's context that the handlers here use; see `Context`. Only so many begin in a
millisecond: a loop that is never idle would leave the front end, whose every system call lets go of the interpreter, to
wait for a turn after each of them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NoReturn

import grpc
import structlog

from frostline_server.errors import PredictionError
from frostline_server.rpc.call_report import host_of
from frostline_server.rpc.grpc_status import ending
from frostline_server.rpc.h2.call import Call
from frostline_server.rpc.h2.fairness import Queues

_RESERVED = (b":", b"grpc-", b"content-type", b"te")

BURST = 4
"""Calls that may begin in `REST_S`; one takes a tenth of a millisecond or two."""
REST_S = 0.001

_log = structlog.get_logger(__name__)


class Aborted(Exception):
    """A handler ended its call with a status."""

    def __init__(self, code: grpc.StatusCode, text: str, trailers: tuple[tuple[str, str], ...]) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.trailers = trailers


class Context:
    """A handler's view of its call.

    Args:
        call: the call.
    """

    def __init__(self, call: Call) -> None:
        self._call = call

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, str], ...] = ()
    ) -> NoReturn:
        """End the call with a status."""
        raise Aborted(code, details, tuple(trailing_metadata))

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """What the client sent along; not HTTP's and gRPC's own headers."""
        return tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in self._call.headers.items()
            if not name.startswith(_RESERVED)
        )

    def peer(self) -> str:
        """The client's address, such as ipv4:127.0.0.1:50051."""
        return self._call.connection.peer.address

    def auth_context(self) -> Mapping[str, tuple[bytes, ...]]:
        """The names in the client's certificate, under grpc's keys."""
        return self._call.connection.peer.names

    def time_remaining(self) -> float | None:
        """Seconds until the client stops waiting; None for never."""
        deadline_s = self._call.deadline_s
        return None if deadline_s is None else max(0.0, deadline_s - time.monotonic())


class Handlers:
    """Runs handlers on an event loop.

    Args:
        loop: where they run.
        post: runs a function in the front end's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, post: Callable[..., None]) -> None:
        self._loop = loop
        self._post = post
        # Calls that have not begun, by the host they came from.
        self._waiting: Queues[str, Handling] = Queues()
        self._left = BURST
        self._counting = False

    def receiver(self, handler: "grpc.RpcMethodHandler[Any, Any]") -> Callable[[Call], "Handling"]:
        """What takes the calls of one method."""
        return lambda call: Handling(call, handler, self._loop, self._post, self._enter)

    # On the event loop

    def _enter(self, handling: "Handling") -> None:
        """Have a call begin, now or as soon as it is its turn."""
        self._waiting.add(handling.host, handling)
        if not self._counting:
            self._count()
        self._begin()

    def _count(self) -> None:
        self._counting = True
        self._loop.call_later(REST_S, self._rested)

    def _begin(self) -> None:
        while self._left and self._waiting.waiting:
            # One that was given up meanwhile costs nothing.
            self._left -= self._waiting.next().start()

    def _rested(self) -> None:
        self._left, self._counting = BURST, False
        if self._waiting.waiting:
            self._count()
            self._begin()


def _release(call: Call, size: int) -> None:
    """Hold a message no longer that has been taken, unless the call is over, which gave up all."""
    if not call.over:
        call.release(size)


class Handling:
    """The receiver of one call; see `Receiver`.

    Args:
        call: the call.
        handler: of its method.
        loop: where that runs.
        post: runs a function in the front end's thread.
        enter: has it begin when it is its turn; called on the loop.

    Attributes:
        host: where the call came from, without the port.
    """

    def __init__(
        self,
        call: Call,
        handler: "grpc.RpcMethodHandler[Any, Any]",
        loop: asyncio.AbstractEventLoop,
        post: Callable[..., None],
        enter: Callable[["Handling"], None],
    ) -> None:
        self.host = host_of(call.connection.peer.address)
        self._enter = enter
        self._call = call
        self._handler = handler
        self._loop = loop
        self._post = post
        self._task: asyncio.Task[None] | None = None
        self._given_up = False
        self._message: bytes | None = None
        self._requests: asyncio.Queue[bytes | None] | None = None
        if handler.request_streaming:
            self._requests = asyncio.Queue()
            loop.call_soon_threadsafe(enter, self)

    # In the front end's thread

    def message(self, _: Call, message: bytes) -> None:
        """Pass a message on to the handler."""
        if self._requests is None:
            self._message = message
            self._loop.call_soon_threadsafe(self._enter, self)
        else:
            self._loop.call_soon_threadsafe(self._requests.put_nowait, message)

    def finished(self, _: Call) -> None:
        """Tell the handler that there are no more."""
        if self._requests is not None:
            self._loop.call_soon_threadsafe(self._requests.put_nowait, None)

    def cancelled(self, _: Call) -> None:
        """Cancel the handler."""
        self._loop.call_soon_threadsafe(self._cancel)

    def sent(self, _: Call) -> None:
        """Nothing waits for that."""

    # On the event loop

    def start(self) -> bool:
        """Begin, if the call was not given up meanwhile; whether it was not."""
        if not self._given_up:
            self._task = self._loop.create_task(self._run())
        return not self._given_up

    def _cancel(self) -> None:
        self._given_up = True
        self._message = None
        if self._task is not None:
            self._task.cancel()
            self._task = None  # it knows this object

    async def _run(self) -> None:
        call, context = self._call, Context(self._call)
        left_s = context.time_remaining()
        try:
            if left_s == 0:
                # The timeout would come only once the handler waits, and by then it may have changed something.
                self._too_late()
                return
            async with asyncio.timeout(left_s):
                await self._handle(context)
        except Aborted as end:
            self._post(call.connection.finish, call, end.code, end.text, end.trailers)
        except TimeoutError:
            self._too_late()
        except asyncio.CancelledError:
            # Either the call is over, or the server ends.
            raise
        except Exception as defect:  # noqa: BLE001  a defect in one handler must not leave its client waiting
            _log.exception("handler failed unexpectedly", method=call.headers[b":path"].decode("latin-1"))
            self._post(
                call.connection.finish, call, grpc.StatusCode.UNKNOWN, f"unexpected {type(defect).__name__}: {defect}"
            )
        finally:
            self._task = None

    def _too_late(self) -> None:
        call = self._call
        self._post(call.connection.finish, call, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    async def _handle(self, context: Context) -> None:
        handler, call = self._handler, self._call
        # Which of the four it has, its two flags say.
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        message, self._message = self._message, None
        request: Any = self._parsed(message) if self._requests is None else self._stream(self._requests)
        del message
        if handler.response_streaming:
            async for response in behaviour(request, context):
                self._post(call.connection.send, call, [self._serialised(response)])
            self._post(call.connection.end, call)
        else:
            response = await behaviour(request, context)
            self._post(call.connection.answer, call, self._serialised(response))

    async def _stream(self, requests: "asyncio.Queue[bytes | None]") -> AsyncIterator[Any]:
        while (message := await requests.get()) is not None:
            self._post(_release, self._call, len(message))
            yield self._parsed(message)

    def _parsed(self, message: bytes | None) -> Any:
        if self._handler.request_deserializer is None:
            return message
        try:
            return self._handler.request_deserializer(message)
        except PredictionError as error:
            end = Aborted(*ending(error))
        # Outside, so that the error and its frames, which hold the message, are not kept with it.
        raise end

    def _serialised(self, response: Any) -> bytes:
        serializer = self._handler.response_serializer
        return bytes(response) if serializer is None else serializer(response)
