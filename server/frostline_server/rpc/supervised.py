"""The control methods of a server that is one of several processes: each call is passed on to the supervisor.

The supervisor has every process do what was asked, or asks every process and puts the answers together. So it does not
matter which of them a client reached.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from frostline.pb import inference_pb2 as pb
from frostline.protocol import ERROR_KIND
from frostline_server.errors import PredictionError, ServerStopping

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
CONTROL: Mapping[str, str] = {
    "RepositoryModelLoad": "models",
    "RepositoryModelUnload": "models",
    "LogSettings": "log",
    "TraceSetting": "trace",
    "SystemSharedMemoryRegister": "regions",
    "SystemSharedMemoryUnregister": "regions",
}
"""The methods that change a process, and so have to reach all, each with its topic: calls of one topic keep their order."""
QUESTIONS = ("RepositoryIndex", "ModelStatistics")
"""The methods whose answer takes all processes."""
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""Options of a private channel: what passes it was limited where it came in."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of one process among several that share an address.

    Attributes:
        socket: path of the Unix socket on which it answers the supervisor.
        supervisor: path of the Unix socket on which the supervisor answers it.
        report: tells the supervisor how it is; the fields are those of `processes.child.Child`.
    """

    socket: str
    supervisor: str
    report: Callable[..., None]


class Gone(Exception):
    """The process that was called has ended, or does not answer."""


async def call(channel: grpc.aio.Channel, method: str, request: bytes, timeout_s: float | None = None) -> bytes:
    """Call another process of this server.

    Args:
        channel: to its private port.
        method: the method's path.
        request: the message.
        timeout_s: how long it may take, in seconds.

    Raises:
        PredictionError: it refused, with this error.
        Gone: it has ended, or does not answer.
    """
    asked = channel.unary_unary(method, None, None)
    try:
        answer: bytes = await asked(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        kinds = [value for key, value in error.trailing_metadata() if key == ERROR_KIND]  # type: ignore[misc,has-type]  # the stubs know no pairs
        known = {each.kind: each for each in _subclasses(PredictionError)}
        if kinds and kinds[0] in known:
            raise known[str(kinds[0])](error.details() or "") from error
        raise Gone(f"{error.code().name}: {error.details()}") from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody cancelled this: so gRPC ends a call whose channel is closed.
        raise Gone("it has ended") from None
    return answer


def path_of(method: str) -> str:
    """A method of the protocol as it goes over the wire."""
    return f"/{SERVICE.full_name}/{method}"


class ControlOfAll:
    """Answers the control methods for all processes, each under the method's name.

    Args:
        supervisor: path of the supervisor's Unix socket.
    """

    def __init__(self, supervisor: str) -> None:
        self._supervisor = supervisor
        self._channel: grpc.aio.Channel | None = None

    def __getattr__(self, name: str) -> Callable[[Any], Awaitable[Any]]:
        if name not in (*CONTROL, *QUESTIONS):
            raise AttributeError(name)

        async def ask(request: Any) -> Any:
            return await self._ask(name, request)

        return ask

    async def _ask(self, method: str, request: Any) -> Any:
        if self._channel is None:  # a channel belongs to the event loop that it is made on
            self._channel = grpc.aio.insecure_channel(f"unix:{self._supervisor}", options=UNLIMITED)
        message = GetMessageClass(SERVICE.methods_by_name[method].output_type)
        try:
            return message.FromString(await call(self._channel, path_of(method), request.SerializeToString()))
        except Gone as error:
            raise ServerStopping(f"the supervisor does not answer: {error}") from error


def _subclasses(error: type[PredictionError]) -> Iterator[type[PredictionError]]:
    for subclass in error.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
