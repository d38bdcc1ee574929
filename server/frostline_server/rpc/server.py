"""The gRPC server: it opens the port, with message limits and TLS, and serves every method.

There are two front ends: grpc.aio, and the native front end, which passes all methods but unary inference on to
grpc.aio. `choose_transport` decides which of them owns the port.
"""

import ipaddress
import shutil
import ssl
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from frostline.pb import inference_pb2, model_config_pb2, predictor_pb2
from frostline_server.config import ServerConfig
from frostline_server.errors import StartError
from frostline_server.inference import Inference
from frostline_server.rpc.health import Health
from frostline_server.rpc.oip_service import InferenceService
from frostline_server.rpc.stream import StreamFrontEnd
from frostline_server.rpc.unary import UnaryFrontEnd

if TYPE_CHECKING:
    from frostline_server.rpc.native import NativeFrontEnd

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    predictor_pb2.DESCRIPTOR.services_by_name["Predictor"].full_name,
)

_COMPRESSIONS = {
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


def choose_transport(
    asked: str, host: str, *, tls: bool, compression: bool = False, native: bool = True
) -> tuple[str, str]:
    """Which front end owns the port, and why.

    The native front end buffers a whole message before the server's limit can refuse it. So `auto` chooses it only
    where every client can use this machine's memory anyway.

    Args:
        asked: auto, native or grpcio.
        host: the address to listen on.
        tls: whether TLS is on.
        compression: whether answers are to be compressed.
        native: whether the native front end's library is installed; not every platform has it.

    Returns:
        native or grpcio, and the reason in words.

    Raises:
        StartError: the native front end was asked for and cannot be had.
    """
    if asked == "native" and not native:
        raise StartError("the native transport needs pygrpc-native, which is not installed; use --transport grpcio")
    if asked != "auto":
        return asked, "asked for"
    if tls or compression:
        return (
            "grpcio",
            "TLS is on, and only grpcio supports it"
            if tls
            else "compression is on, and only grpcio compresses answers",
        )
    if not native:
        return "grpcio", "pygrpc-native is not installed"
    if host.startswith("unix:"):
        return "native", "only local clients can reach a Unix socket"
    if _is_loopback(host):
        return "native", f"only local clients can reach {host}"
    return "grpcio", f"other machines can reach {host}, and only grpcio limits a message before it buffers it"


def local_only(host: str) -> bool:
    """Whether only clients on this machine can reach an address."""
    return host.startswith("unix:") or _is_loopback(host)


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
        self._streams = StreamFrontEnd(inference)
        native = find_spec("pygrpc_native") is not None
        self.name, self.reason = choose_transport(
            config.transport,
            config.host,
            tls=bool(config.tls_cert),
            compression=config.compression != "none",
            native=native,
        )
        self._native: NativeFrontEnd | None = None
        self._folder: str | None = None

    async def start(self) -> str:
        """Start to listen.

        Returns:
            The address clients connect to.

        Raises:
            StartError: the address cannot be bound, or the certificate cannot be read.
        """
        address = self._config.host
        if not address.startswith("unix:"):
            host = f"[{address}]" if ":" in address and not address.startswith("[") else address
            address = f"{host}:{self._config.port}"
        if self.name == "grpcio":
            self._server = self._build()
            port = self._bind(address)
            await self._server.start()
        else:
            self._folder = tempfile.mkdtemp(prefix="frostline-")
            fallback = str(Path(self._folder) / "grpcio.sock")
            self._server = self._build()
            self._server.add_insecure_port(f"unix:{fallback}")
            await self._server.start()
            from frostline_server.rpc.native import NativeFrontEnd  # noqa: PLC0415  its library is not on every platform

            native = NativeFrontEnd(self._inference, address, fallback)
            try:
                port = native.start()
            except StartError:
                await self.stop(0)
                raise
            self._native = native
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    async def drain(self, timeout_s: float) -> bool:
        """End open streams once all their accepted requests are answered.

        Returns:
            Whether all of them ended within `timeout_s` seconds.
        """
        return await self._streams.drain(timeout_s)

    async def stop(self, grace_s: float) -> None:
        """Stop listening; calls still open get `grace_s` seconds to end."""
        if self._native is not None:
            self._native.close()
        await self._server.stop(grace_s)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _build(self) -> grpc.aio.Server:
        limit = self._config.max_message_bytes
        server = grpc.aio.server(
            compression=_COMPRESSIONS[self._config.compression],
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                # Otherwise two servers on one port would silently share the clients.
                ("grpc.so_reuseport", 0),
            ],
        )
        self._service.register(server)
        UnaryFrontEnd(self._inference).register(server)
        self._streams.register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, pool=_contracts())
        return server

    def _bind(self, address: str) -> int:
        try:
            if self._config.tls_cert is None or self._config.tls_key is None:
                return self._server.add_insecure_port(address)
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._config.tls_cert, self._config.tls_key)
            pair = (self._config.tls_key.read_bytes(), self._config.tls_cert.read_bytes())
            return self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except ssl.SSLError as error:
            raise StartError(
                f"tls_cert and tls_key are not a certificate and its private key: {error.reason or error}"
            ) from error
        except OSError as error:
            raise StartError(f"cannot read the TLS files: {error}") from error
        except RuntimeError as error:
            raise StartError(f"cannot listen on {address}: {error}") from error
