"""The gRPC server: it opens the port, with message limits and TLS, and serves every method.

There are two front ends: the HTTP/2 front end of `h2/`, and grpc.aio where its library is not to be had.
`choose_transport` decides which of them owns the port.
"""

import ipaddress
import select
from importlib.util import find_spec
from typing import TYPE_CHECKING

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from frostline.pb import inference_pb2, model_config_pb2, predictor_pb2
from frostline_server.config import ServerConfig
from frostline_server.errors import StartError
from frostline_server.inference import Inference
from frostline_server.metrics.families import Network
from frostline_server.rpc.certificate import Certificate
from frostline_server.rpc.health import Health
from frostline_server.rpc.methods import Methods
from frostline_server.rpc.oip_service import InferenceService
from frostline_server.rpc.stream import StreamFrontEnd
from frostline_server.rpc.unary import UnaryFrontEnd
from frostline_server.rpc.unix_socket import SocketFile, is_unix

if TYPE_CHECKING:
    from frostline_server.rpc.h2.front_end import H2FrontEnd

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    predictor_pb2.DESCRIPTOR.services_by_name["Predictor"].full_name,
)

_PING_MS = 500
"""How often a connection without data may be pinged; who pings more often loses it after the third ping."""

_MOST_PENDING = 100_000
"""Calls that wait for a handler. They hold no message yet, and the models' queues refuse what is too much."""

_COMPRESSIONS = {
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


def choose_transport(asked: str, *, ngh2: bool, epoll: bool = True) -> tuple[str, str]:
    """Which front end owns the port, and why.

    Args:
        asked: auto, h2 or grpcio.
        ngh2: whether the library of the HTTP/2 front end is installed; not every platform has it.
        epoll: whether the platform has what that front end waits with.

    Returns:
        h2 or grpcio, and the reason in words.

    Raises:
        StartError: the HTTP/2 front end was asked for and cannot be had.
    """
    missing = "ngh2 is not installed" if not ngh2 else "" if epoll else "this platform has no epoll"
    if asked == "h2" and missing:
        raise StartError(f"the h2 transport cannot be had: {missing}; use --transport grpcio")
    if asked != "auto":
        return asked, "asked for"
    return ("grpcio", missing) if missing else ("h2", "the default")


def local_only(host: str) -> bool:
    """Whether only clients on this machine can reach an address."""
    return is_unix(host) or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name, which may resolve to anything
        return False


def _contracts() -> DescriptorPool:
    """The contracts of all services in one descriptor pool; by default the libraries' are in another one."""
    pool = DescriptorPool()
    for module in (health_pb2, reflection_pb2, model_config_pb2, inference_pb2, predictor_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool


def _milliseconds(seconds: float) -> int:
    """As gRPC's options have it, where the largest number means never."""
    return round(seconds * 1000) if seconds else 2**31 - 1


class Transport:
    """The gRPC server with its front ends: it listens, drains and stops.

    Args:
        config: the server's settings.
        inference: takes inference calls.
        service: answers the protocol's other calls.
        health: answers the health protocol.
    """

    def __init__(self, config: ServerConfig, inference: Inference, service: InferenceService, health: Health) -> None:
        self._config = config
        self._inference = inference
        self._service = service
        self._health = health
        self._socket = SocketFile(config.host) if is_unix(config.host) else None
        self.name, self.reason = choose_transport(
            config.transport, ngh2=find_spec("ngh2") is not None, epoll=hasattr(select, "epoll")
        )
        self._certificate = Certificate(config.tls_cert, config.tls_key) if config.tls_cert and config.tls_key else None
        self._h2: H2FrontEnd | None = None
        self._server: grpc.aio.Server | None = None
        self._streams = StreamFrontEnd(inference)

    async def start(self) -> str:
        """Start to listen.

        Returns:
            The address clients connect to.

        Raises:
            StartError: the address cannot be bound, or the certificate cannot be read.
        """
        host = self._config.host
        if self._socket is not None:
            self._socket.claim()
            await self._listen(self._socket.private_address)
            try:
                self._socket.publish()
            except StartError:
                await self.stop(0)
                raise
            return host
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"{host}:{await self._listen(f'{host}:{self._config.port}')}"

    async def _listen(self, address: str) -> int:
        """Have the front end that was chosen listen on an address; returns the port, if it has one."""
        if self._certificate is not None:
            self._certificate.open()
        if self.name == "grpcio":
            self._server = self._build()
            port = self._bind(self._server, address)
            await self._server.start()
            return port
        from frostline_server.rpc.h2.front_end import H2FrontEnd  # noqa: PLC0415  its library is not on every platform

        context = None if self._certificate is None else self._certificate.context
        self._h2 = H2FrontEnd(self._inference, self._methods(), self._config, context, self._inference.count)
        return self._h2.start(address)

    def network(self) -> Network | None:
        """What the front end holds and refuses; None where that is gRPC's own affair."""
        h2 = self._h2
        if h2 is None:
            return None
        return Network(h2.budget.used, h2.budget.limit, h2.connections, dict(h2.refused))

    def reload(self) -> None:
        """Read the certificate again if its files have changed."""
        if self._certificate is not None:
            self._certificate.look()

    async def drain(self, timeout_s: float) -> bool:
        """End open streams once all their accepted requests are answered.

        Returns:
            Whether all of them ended within `timeout_s` seconds.
        """
        return await (self._streams if self._h2 is None else self._h2).drain(timeout_s)

    async def stop(self, grace_s: float) -> None:
        """Stop listening; calls still open get `grace_s` seconds to end."""
        if self._socket is not None:
            self._socket.remove()
        if self._h2 is not None:
            self._h2.close()
        if self._server is not None:
            await self._server.stop(grace_s)

    def _methods(self) -> Methods:
        """The handlers of every method."""
        methods = Methods()
        self._service.register(methods)
        UnaryFrontEnd(self._inference).register(methods)
        self._streams.register(methods)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, methods)
        names = (*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        servicer = reflection.aio.ReflectionServicer(names, pool=_contracts())  # type: ignore[attr-defined]  # the library has no annotations
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, methods)
        return methods

    def _build(self) -> grpc.aio.Server:
        config = self._config
        limit = config.max_message_bytes
        server = grpc.aio.server(
            compression=_COMPRESSIONS[config.compression],
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                # Otherwise two servers on one port would silently share the clients.
                ("grpc.so_reuseport", 0),
                # Clients may ping to find out that a connection is dead, also while they have no call, as Triton's
                # keepalive does. By default gRPC ends the calls of one that pings more often than every 5 minutes.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", _PING_MS),
                ("grpc.max_concurrent_streams", config.max_calls_per_connection),
                ("grpc.max_metadata_size", config.max_header_bytes),
                # By default gRPC ends honest calls as CANCELLED when a thousand wait for a handler.
                ("grpc.server.max_pending_requests", _MOST_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", 2 * _MOST_PENDING),
                ("grpc.max_connection_age_ms", _milliseconds(config.max_connection_age_s)),
                ("grpc.max_connection_age_grace_ms", _milliseconds(config.connection_grace_s)),
            ],
        )
        self._methods().register(server)
        return server

    def _bind(self, server: grpc.aio.Server, address: str) -> int:
        try:
            if self._certificate is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, self._certificate.credentials())
        except RuntimeError as error:
            raise StartError(f"cannot listen on {address}: {error}") from error
