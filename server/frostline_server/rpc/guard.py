"""The guard of RPC handlers: it asks who the caller is, and whether it may call.

A guarded handler is a handler again, so it works on every front end. All it asks of a call's context are
`invocation_metadata()`, `auth_context()`, `peer()` and `abort()`, with grpc.aio's meanings. A handler that needs no
guard, because its method is open to everybody or everybody may predict here, stays as it is.

Every call that needs the role `control` is a line of the audit log, also if it is refused.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any
from weakref import WeakKeyDictionary

import grpc
from google.protobuf.message_factory import GetMessageClass

from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER, PREDICT
from frostline_server.access.access import Access
from frostline_server.access.identity import Identity
from frostline_server.access.permissions import CONTROL, NEEDED, SETTINGS
from frostline_server.access.rate_limit import RateLimit
from frostline_server.errors import PredictionError
from frostline_server.rpc import audit
from frostline_server.rpc.call_report import AioOrigin
from frostline_server.rpc.grpc_status import ending
from frostline_server.rpc.methods import Methods
from frostline_server.telemetry.finished import Origin
from frostline_server.tls import listed

Handler = Any
"""A `grpc.RpcMethodHandler`; at run time that type takes no parameters."""

Refused = Callable[[PredictionError, Origin], None]
"""Is told why a request was refused, and where it came from."""

_SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def guarded(methods: Methods, access: Access, refused: Refused | None = None) -> Methods:
    """The same methods, each with its guard.

    Args:
        methods: the methods.
        access: the policy of the port.
        refused: told of requests for an answer that are refused here; None where nobody counts them.

    Raises:
        KeyError: a method is in no line of `permissions.NEEDED`.
    """
    result = Methods()
    for path, handler in methods:
        _, service, name = path.split("/")
        result.add_registered_method_handlers(service, {name: guard(path, handler, access, refused=refused)})
    return result


def guard(
    method: str,
    handler: Handler,
    access: Access,
    *,
    refused: Refused | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> Handler:
    """A handler that only answers callers that may call it.

    Args:
        method: the method's path.
        handler: what answers, as coroutines or asynchronous generators.
        access: the policy of the port.
        refused: told of requests for an answer that are refused here; None where nobody counts them.
        clock: the time in seconds, on a monotonic clock.
        sleep: waits so many seconds.

    Raises:
        KeyError: the method is in no line of `permissions.NEEDED`.
    """
    needed = NEEDED[method]
    if not needed or (access.free and "predict" in needed):
        return handler
    asks = method in (MODEL_INFER, PREDICT, MODEL_STREAM_INFER)
    entrance = _Entrance(method, access, clock, refused if asks else None)
    answer: Any = handler.unary_unary  # the stubs know blocking handlers only
    if answer is not None:
        watched = needed == CONTROL or method in SETTINGS
        return grpc.unary_unary_rpc_method_handler(
            _watched(entrance, answer) if watched else _unary(entrance, answer),
            handler.request_deserializer,
            handler.response_serializer,
        )
    answer = handler.stream_stream
    if answer is None:
        raise TypeError(f"{method} streams in one direction only, and no guard has been written for that")
    stream = _generated(entrance, answer) if inspect.isasyncgenfunction(answer) else _paced(entrance, answer, sleep)
    return grpc.stream_stream_rpc_method_handler(stream, handler.request_deserializer, handler.response_serializer)


class _Entrance:
    """Whether a call may come in."""

    def __init__(self, method: str, access: Access, clock: Callable[[], float], refused: Refused | None) -> None:
        self.method = method
        self.clock = clock
        self._access = access
        self._refused = refused

    def identify(self, context: Any) -> Identity:
        """Who calls.

        Raises:
            Unauthenticated: the credentials are not known.
        """
        access = self._access
        if not access.asks:
            return access.identify(None)
        shown = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        # More than one is one that nobody has.
        authorization = ",".join(shown).encode(errors="replace") if shown else None
        return access.identify(authorization, listed(context.auth_context()) if access.reads_certificates else ())

    def permit(self, identity: Identity, *, changes: bool = False) -> None:
        """Let the caller in.

        Raises:
            Unauthenticated: it must show who it is.
            PermissionDenied: it may not.
        """
        self._access.permit(identity, self.method, changes=changes)

    def refuse(self, context: Any, error: PredictionError) -> Awaitable[Any]:
        """End a call that may not be made."""
        if self._refused is not None:
            self._refused(error, AioOrigin(self._access, self.method, context))
        ended: Awaitable[Any] = context.abort(*ending(error))
        return ended

    def admit(self, context: Any) -> None:
        """All of it: who calls, whether it may, and whether it may now.

        Raises:
            PredictionError: it may not.
        """
        identity = self.identify(context)
        self.permit(identity)
        identity.admit(self.clock())


def _unary(entrance: _Entrance, answer: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        try:
            entrance.admit(context)
        except PredictionError as error:
            ended = entrance.refuse(context, error)
        else:
            ended = answer(request, context)
        # gRPC keeps an abort's exception, and with it this frame, until the next call: no message in it.
        del request
        return await ended

    return call


def _generated(entrance: _Entrance, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(requests: Any, context: Any) -> AsyncIterator[Any]:
        try:
            entrance.admit(context)
        except PredictionError as error:
            await context.abort(*ending(error))
        async with aclosing(answer(requests, context)) as responses:
            async for response in responses:
                yield response

    return call


def _paced(
    entrance: _Entrance, answer: Callable[[Any, Any], Awaitable[Any]], sleep: Callable[[float], Awaitable[Any]]
) -> Callable[[Any, Any], Awaitable[Any]]:
    # Streams of one caller wait in the order in which they came.
    turns: WeakKeyDictionary[RateLimit, asyncio.Lock] = WeakKeyDictionary()

    def paced(context: Any, limit: RateLimit) -> _Paced:
        return _Paced(context, limit, turns.setdefault(limit, asyncio.Lock()), entrance.clock, sleep)

    async def call(requests: Any, context: Any) -> Any:
        try:
            identity = entrance.identify(context)
            entrance.permit(identity)
        except PredictionError as error:
            ended = entrance.refuse(context, error)
        else:
            limit = identity.limit
            ended = answer(requests, context if limit is None else paced(context, limit))
        return await ended

    return call


class _Paced:
    """The context of a stream that is read no faster than its caller may send requests."""

    def __init__(
        self,
        context: Any,
        limit: RateLimit,
        turn: asyncio.Lock,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[Any]],
    ) -> None:
        self._context = context
        self._limit = limit
        self._turn = turn
        self._clock = clock
        self._sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """The next request, when it is its time."""
        message = await self._context.read()
        if message is not grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs forget it
            # Only the first who waits has a token reserved, and gives it back where its call ends before.
            async with self._turn:
                if wait_s := self._limit.reserve(self._clock()):
                    try:
                        await self._sleep(wait_s)
                    except BaseException:
                        self._limit.give_back()
                        raise
        return message


def _watched(entrance: _Entrance, answer: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    """A guarded method whose calls are lines of the audit log, if they need the role `control`."""
    name = entrance.method.rpartition("/")[2]
    message = GetMessageClass(_SERVICE.methods_by_name[name].input_type)
    only_control = NEEDED[entrance.method] == CONTROL
    refusals = audit.Refusals()

    async def call(request: Any, context: Any) -> Any:
        parsed = audit.parsed(message, request)
        changes = bool(not only_control and parsed is not None and parsed.settings)
        watched = audit.Audited(context, name, audit.subject(parsed)) if only_control or changes else None
        inner = watched or context
        try:
            identity = entrance.identify(context)
            if watched is not None:
                watched.identity = identity
            entrance.permit(identity, changes=changes)
            identity.admit(entrance.clock())
        except PredictionError as error:
            if watched is not None:
                watched.calls = refusals.stands_for(context.peer(), entrance.clock())
                if not watched.calls:
                    watched, inner = None, context
            ended: Awaitable[Any] = inner.abort(*ending(error))
        else:
            ended = answer(request, inner)
        del request, parsed  # as above
        return await (ended if watched is None else watched.until_answered(ended))

    return call
