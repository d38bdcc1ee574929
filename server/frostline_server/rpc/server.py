"""The gRPC server: it opens the port, with message limits and TLS, and serves every method.

There are two front ends: grpc.aio, and the native front end, which passes all methods but unary inference on to
grpc.aio. `choose_transport` decides which of them owns the port.
"""

import ipaddress
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from frostline.pb import inference_pb2, model_config_pb2, predictor_pb2
from frostline_server.access.access import Access
from frostline_server.config import ServerConfig
from frostline_server.errors import StartError
from frostline_server.inference import Inference
from frostline_server.rpc.certificate import Certificate
from frostline_server.rpc.guard import guarded
from frostline_server.rpc.health import Health
from frostline_server.rpc.methods import Methods
from frostline_server.rpc.oip_service import InferenceService
from frostline_server.rpc.stream import StreamFrontEnd
from frostline_server.rpc.unary import UnaryFrontEnd
from frostline_server.rpc.unix_socket import SocketFile, folder_for_sockets, is_unix

if TYPE_CHECKING:
    from frostline_server.rpc.native import NativeFrontEnd

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    predictor_pb2.DESCRIPTOR.services_by_name["Predictor"].full_name,
)

_PING_MS = 500
"""How often a connection without data may be pinged; who pings more often loses it after the third ping."""

_COMPRESSIONS = {
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


def choose_transport(
    asked: str,
    host: str,
    *,
    tls: bool,
    compression: bool = False,
    native: bool = True,
    folder: bool = True,
    guarded: bool = False,
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
        folder: whether there is a folder for the private socket that the native front end needs.
        guarded: whether some callers may not ask for predictions; the native front end lets in everyone.

    Returns:
        native or grpcio, and the reason in words.

    Raises:
        StartError: the native front end was asked for and cannot be had.
    """
    if asked == "native" and not native:
        raise StartError("the native transport needs pygrpc-native, which is not installed; use --transport grpcio")
    if asked == "native" and not folder:
        raise StartError(
            "the native transport needs a folder for a private socket, and finds none that is writable; set TMPDIR to "
            "one, or use --transport grpcio"
        )
    if asked == "native" and guarded:
        raise StartError(
            "the native transport answers predictions of every caller; use --transport grpcio, or no --access-file and "
            "--allow-anonymous predict"
        )
    if asked != "auto":
        return asked, "asked for"
    obstacles = {
        "TLS is on, and only grpcio supports it": tls,
        "compression is on, and only grpcio compresses answers": compression,
        "pygrpc-native is not installed": not native,
        "no folder is writable, and the native transport needs one for a private socket": not folder,
        "callers need a role, and only grpcio asks for it": guarded,
        f"other machines can reach {host}, and only grpcio limits a message before it buffers it": not local_only(host),
    }
    for reason, there in obstacles.items():
        if there:
            return "grpcio", reason
    return "native", f"only local clients can reach {'a Unix socket' if is_unix(host) else host}"


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


class Transport:
    """The gRPC server with its front ends: it listens, drains and stops.

    Args:
        config: the server's settings.
        inference: takes inference calls.
        service: answers the protocol's other calls.
        health: answers the health protocol.
        access: who may call what.
        admin_access: the same, on the admin port; None where there is no such port.
    """

    def __init__(
        self,
        config: ServerConfig,
        inference: Inference,
        service: InferenceService,
        health: Health,
        access: Access,
        admin_access: Access | None = None,
    ) -> None:
        self._config = config
        self._inference = inference
        self._service = service
        self._health = health
        self._access = access
        self._admin_access = admin_access
        self._admin: grpc.aio.Server | None = None
        self.admin_address = ""
        """Where the admin port is; "" without one."""
        self._streams = StreamFrontEnd(inference)
        native = find_spec("pygrpc_native") is not None
        self._socket = SocketFile(config.host) if is_unix(config.host) else None
        self._parent = folder_for_sockets(*([self._socket.folder] if self._socket else []))
        self.name, self.reason = choose_transport(
            config.transport,
            config.host,
            tls=bool(config.tls_cert),
            compression=config.compression != "none",
            native=native,
            folder=self._parent is not None,
            guarded=not access.free,
        )
        if self.name == "grpcio" and config.client_certificates == "optional":
            raise StartError(
                "the grpcio transport cannot ask for client certificates without requiring them; write client_certificates "
                "required or off"
            )
        self._native: NativeFrontEnd | None = None
        self._folder: str | None = None
        # One for each port, because gRPC asks for what is new since it last asked for that port.
        self._certificate, self._admin_certificate = _certificate(config), _certificate(config)

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
        else:
            host = _bracketed(host)
            host = f"{host}:{await self._listen(f'{host}:{self._config.port}')}"
        try:
            await self._open_admin_port()
        except StartError:
            await self.stop(0)
            raise
        return host

    async def _open_admin_port(self) -> None:
        """Answer what needs the role `control` on a port of its own, on grpc.aio whatever front end owns the other one."""
        if self._admin_access is None or self._config.admin_port is None:
            return
        host = _bracketed(self._config.admin_host)
        server = self._build(self._admin_access)
        port = _bind(server, f"{host}:{self._config.admin_port}", self._admin_certificate)
        await server.start()
        self._admin, self.admin_address = server, f"{host}:{port}"

    async def _listen(self, address: str) -> int:
        """Have the front end that was chosen listen on an address; returns the port, if it has one."""
        if self.name == "grpcio":
            self._server = self._build(self._access)
            port = _bind(self._server, address, self._certificate)
            await self._server.start()
            return port
        try:
            # Hidden, should it be in the models folder.
            self._folder = tempfile.mkdtemp(prefix=".frostline-", dir=self._parent)
        except OSError as error:
            raise StartError(
                f"cannot make a private folder in {self._parent}: {error}; set TMPDIR to another"
            ) from error
        fallback = str(Path(self._folder) / "grpcio.sock")
        self._server = self._build(self._access)
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
        return port

    def reload(self) -> None:
        """Read the certificate again if its files have changed."""
        for certificate in (self._certificate, self._admin_certificate):
            if certificate is not None:
                certificate.look()

    async def drain(self, timeout_s: float) -> bool:
        """End open streams once all their accepted requests are answered.

        Returns:
            Whether all of them ended within `timeout_s` seconds.
        """
        return await self._streams.drain(timeout_s)

    async def stop(self, grace_s: float) -> None:
        """Stop listening; calls still open get `grace_s` seconds to end."""
        if self._socket is not None:
            self._socket.remove()
        if self._native is not None:
            self._native.close()
        if self._admin is not None:
            await self._admin.stop(grace_s)
        await self._server.stop(grace_s)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _methods(self) -> Methods:
        """Every method that is answered."""
        methods = Methods()
        self._service.register(methods)
        UnaryFrontEnd(self._inference).register(methods)
        self._streams.register(methods)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, methods)
        names = (*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            ReflectionServicer(names, pool=_contracts()), methods
        )
        return methods

    def _build(self, access: Access) -> grpc.aio.Server:
        limit = self._config.max_message_bytes
        server = grpc.aio.server(
            compression=_COMPRESSIONS[self._config.compression],
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                # Otherwise two servers on one port would silently share the clients.
                ("grpc.so_reuseport", 0),
                # Clients may ping to find out that a connection is dead, also while they have no call, as Triton's
                # keepalive does. By default gRPC ends the calls of one that pings more often than every 5 minutes.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", _PING_MS),
            ],
        )
        guarded(self._methods(), access).register(server)
        return server


def _certificate(config: ServerConfig) -> Certificate | None:
    if not (config.tls_cert and config.tls_key):
        return None
    authorities = config.tls_client_ca if config.client_certificates == "required" else None
    return Certificate(config.tls_cert, config.tls_key, authorities)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _bind(server: grpc.aio.Server, address: str, certificate: Certificate | None) -> int:
    try:
        if certificate is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, certificate.credentials())
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address}: {error}") from error
