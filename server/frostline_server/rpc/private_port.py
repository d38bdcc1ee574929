"""The private gRPC port of one process among several: a Unix socket on which the supervisor calls it.

It has the methods of the protocol as this process alone answers them, the numbers of this process, and the word to open
the public port. Nobody is asked for credentials here, and nothing is audited: the process that a client called did both,
and no other user can enter the socket's folder.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from frostline_server.rpc.methods import Methods
from frostline_server.rpc.supervised import UNLIMITED

if TYPE_CHECKING:
    from frostline_server.rpc.oip_service import InferenceService

_SERVICE = "frostline.Process"
METRICS = f"/{_SERVICE}/Metrics"
"""Answers with the metrics, as `metrics.exchange` writes them."""
OPEN = f"/{_SERVICE}/Open"
"""Has the process open its public port."""

Context = grpc.aio.ServicerContext[Any, Any]


class PrivatePort:
    """Answers the supervisor.

    Args:
        socket: path of the Unix socket.
        service: the methods of the protocol.
        metrics: returns the metrics; blocks.

    Attributes:
        opened: set when the supervisor says so.
    """

    def __init__(self, socket: str, service: "InferenceService", metrics: Callable[[], bytes]) -> None:
        self._socket = socket
        self._service = service
        self._metrics = metrics
        self.opened = asyncio.Event()

    async def start(self) -> None:
        """Start to listen."""
        self._server = grpc.aio.server(options=UNLIMITED)
        methods = Methods()
        self._service.register(methods)
        methods.register(self._server)
        handlers = {
            METRICS.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(self._read),
            OPEN.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(self._open),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        self._server.add_insecure_port(f"unix:{self._socket}")
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.stop(0)

    async def _read(self, _: bytes, context: Context) -> bytes:  # noqa: ARG002  the signature is gRPC's
        # In a thread: it takes locks and reads files.
        return await asyncio.to_thread(self._metrics)

    async def _open(self, _: bytes, context: Context) -> bytes:  # noqa: ARG002  the signature is gRPC's
        self.opened.set()
        return b""
