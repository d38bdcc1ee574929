"""Runs the handlers of all other methods, which are coroutines on the event loop as in grpc.aio.

Such a handler sees the part of grpc.aio's context that the handlers here use; see `Context`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NoReturn

import grpc
import structlog

from frostline_server.errors import PredictionError
from frostline_server.rpc.grpc_status import ending
from frostline_server.rpc.h2.call import Call

_RESERVED = (b":", b"grpc-", b"content-type", b"te")

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

    def receiver(self, handler: "grpc.RpcMethodHandler[Any, Any]") -> Callable[[Call], "Handling"]:
        """What takes the calls of one method."""
        return lambda call: Handling(call, handler, self._loop, self._post)


class Handling:
    """The receiver of one call; see `Receiver`.

    Args:
        call: the call.
        handler: of its method.
        loop: where that runs.
        post: runs a function in the front end's thread.
    """

    def __init__(
        self,
        call: Call,
        handler: "grpc.RpcMethodHandler[Any, Any]",
        loop: asyncio.AbstractEventLoop,
        post: Callable[..., None],
    ) -> None:
        self._call = call
        self._handler = handler
        self._loop = loop
        self._post = post
        self._task: asyncio.Task[None] | None = None
        self._requests: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._given_up = False
        if handler.request_streaming:
            loop.call_soon_threadsafe(self._start)

    # In the front end's thread

    def message(self, _: Call, message: bytes) -> None:
        """Pass a message on to the handler."""
        self._loop.call_soon_threadsafe(self._requests.put_nowait, message)
        if not self._handler.request_streaming:
            self._loop.call_soon_threadsafe(self._start)

    def finished(self, _: Call) -> None:
        """Tell the handler that there are no more."""
        self._loop.call_soon_threadsafe(self._requests.put_nowait, None)

    def cancelled(self, _: Call) -> None:
        """Cancel the handler."""
        self._loop.call_soon_threadsafe(self._cancel)

    def sent(self, _: Call) -> None:
        """Nothing waits for that."""

    # On the event loop

    def _start(self) -> None:
        if not self._given_up:
            self._task = self._loop.create_task(self._run())

    def _cancel(self) -> None:
        self._given_up = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        call, context = self._call, Context(self._call)
        try:
            async with asyncio.timeout(context.time_remaining()):
                await self._handle(context)
        except Aborted as end:
            self._post(call.connection.finish, call, end.code, end.text, end.trailers)
        except TimeoutError:
            self._post(call.connection.finish, call, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        except asyncio.CancelledError:
            # Either the call is over, or the server ends.
            raise
        except Exception as defect:  # noqa: BLE001  a defect in one handler must not leave its client waiting
            _log.exception("handler failed unexpectedly", method=call.headers[b":path"].decode("latin-1"))
            self._post(
                call.connection.finish, call, grpc.StatusCode.UNKNOWN, f"unexpected {type(defect).__name__}: {defect}"
            )

    async def _handle(self, context: Context) -> None:
        handler, call = self._handler, self._call
        # Which of the four it has, its two flags say.
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        request: Any = self._stream() if handler.request_streaming else self._parsed(await self._requests.get())
        if handler.response_streaming:
            async for response in behaviour(request, context):
                self._post(call.connection.send, call, [self._serialised(response)])
            self._post(call.connection.end, call)
        else:
            response = await behaviour(request, context)
            self._post(call.connection.answer, call, self._serialised(response))

    async def _stream(self) -> AsyncIterator[Any]:
        while (message := await self._requests.get()) is not None:
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
