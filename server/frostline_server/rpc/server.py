"""The gRPC server: it opens the ports and serves every method on them.

There are two front ends: the HTTP/2 front end of `h2/`, and grpc.aio where its library is not to be had.
`choose_transport` decides which of them owns the port.
"""

import asyncio
import select
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2_grpc

from frostline.pb import inference_pb2, predictor_pb2
from frostline_server.access.access import Access
from frostline_server.config import ServerConfig
from frostline_server.errors import StartError
from frostline_server.inference import Inference
from frostline_server.metrics.families import Network
from frostline_server.reloaded import Reloaded
from frostline_server.rpc import grpc_aio
from frostline_server.rpc.call_report import AioOrigin
from frostline_server.rpc.guard import guarded
from frostline_server.rpc.health import Health
from frostline_server.rpc.methods import Methods
from frostline_server.rpc.oip_service import InferenceService
from frostline_server.rpc.reflection import add_reflection
from frostline_server.rpc.stream import StreamFrontEnd
from frostline_server.rpc.unary import UnaryFrontEnd
from frostline_server.rpc.unix_socket import SocketFile, is_unix
from frostline_server.tls import server_context

if TYPE_CHECKING:
    from frostline_server.rpc.h2.front_end import H2FrontEnd

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    predictor_pb2.DESCRIPTOR.services_by_name["Predictor"].full_name,
)


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


class Transport:
    """The gRPC server with its front ends: it listens, drains and stops.

    Args:
        config: the server's settings.
        inference: takes inference calls.
        service: answers the protocol's other calls.
        health: answers the health protocol.
        access: who may call what.
        admin_access: the same, on the admin port; None where there is no such port.
        report: gives the server's load, for balancing clients; None for no reports.
        reuse_port: whether other processes listen on the same ports, each for its share of the connections.
    """

    def __init__(
        self,
        config: ServerConfig,
        inference: Inference,
        service: InferenceService,
        health: Health,
        access: Access,
        admin_access: Access | None = None,
        report: Callable[[float], bytes] | None = None,
        *,
        reuse_port: bool = False,
    ) -> None:
        self._config = config
        self._reuse_port = reuse_port
        self._inference = inference
        self._service = service
        self._health = health
        self._access = access
        self._admin_access = admin_access
        self._report = report
        self.admin_address = ""
        """Where the admin port is; "" without one."""
        self._socket = SocketFile(config.host) if is_unix(config.host) else None
        self.name, self.reason = choose_transport(
            config.transport, ngh2=find_spec("ngh2") is not None, epoll=hasattr(select, "epoll")
        )
        if self.name == "grpcio" and config.client_certificates == "optional":
            raise StartError(
                "the grpcio transport cannot ask for client certificates without requiring them; write client_certificates "
                "required or off"
            )
        self._h2: H2FrontEnd | None = None
        self._server: grpc.aio.Server | None = None
        self._admin: grpc.aio.Server | None = None
        self._origin_of = None if inference.recorder is None else partial(AioOrigin, access)
        self._streams = StreamFrontEnd(inference, self._origin_of)
        # One for each port, because gRPC asks for what is new since it last asked for that port.
        self._certificate, self._admin_certificate = grpc_aio.certificate(config), grpc_aio.certificate(config)
        self._contexts = tls_contexts(config, "h2")

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

    async def _listen(self, address: str) -> int:
        """Have the front end that was chosen listen on an address; returns the port, if it has one."""
        if self.name == "grpcio":
            self._server = grpc_aio.build(
                self._config,
                guarded(self._methods(), self._access, self._inference.count),
                reuse_port=self._reuse_port,
            )
            port = grpc_aio.bind(
                self._server, address, self._certificate, ("--host", "--port"), reuse_port=self._reuse_port
            )
            await self._server.start()
            return port
        from frostline_server.rpc.h2.front_end import H2FrontEnd  # noqa: PLC0415  its library is not on every platform

        context: Callable[[], ssl.SSLContext] | None = None
        if self._contexts is not None:
            self._contexts.start()
            context = self._contexts.look
        methods = guarded(self._methods(), self._access)
        self._h2 = H2FrontEnd(self._inference, methods, self._config, context, self._access, self._report)
        try:
            return self._h2.start(address, reuse_port=self._reuse_port)
        except StartError as error:
            raise (error if is_unix(self._config.host) else error.naming("--host", "--port")) from error.__cause__

    async def _open_admin_port(self) -> None:
        """Answer what needs the role `control` on a port of its own, on grpc.aio whatever front end owns the other one."""
        if self._admin_access is None or self._config.admin_port is None:
            return
        host = _bracketed(self._config.admin_host)
        server = grpc_aio.build(self._config, guarded(self._methods(), self._admin_access), reuse_port=self._reuse_port)
        port = grpc_aio.bind(
            server,
            f"{host}:{self._config.admin_port}",
            self._admin_certificate,
            ("--admin-host", "--admin-port"),
            reuse_port=self._reuse_port,
        )
        await server.start()
        self._admin, self.admin_address = server, f"{host}:{port}"

    def network(self) -> Network | None:
        """What the front end holds and refuses; None where that is gRPC's own affair."""
        h2 = self._h2
        if h2 is None:
            return None
        return Network(h2.budget.used, h2.budget.limit, h2.connections, dict(h2.refused))

    def reload(self) -> None:
        """Read the certificate again if its files have changed."""
        if self._h2 is not None:
            if self._contexts is not None:
                self._contexts.look()
        elif self._certificate is not None:
            self._certificate.look()
        if self._admin is not None and self._admin_certificate is not None:
            self._admin_certificate.look()

    async def drain(self, timeout_s: float) -> bool:
        """End open streams once all their accepted requests are answered.

        Returns:
            Whether all of them ended within `timeout_s` seconds.
        """
        return await (self._streams if self._h2 is None else self._h2).drain(timeout_s)

    async def unsent(self) -> Mapping[tuple[int, int], int]:
        """Bytes of answers that have not left, by call; none with grpcio, which does not tell."""
        return {} if self._h2 is None else await self._h2.unsent()

    async def stop(self, grace_s: float) -> None:
        """Stop listening; calls still open get `grace_s` seconds to end."""
        if self._socket is not None:
            self._socket.remove()
        if self._h2 is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._h2.close)
        for server in (self._admin, self._server):
            if server is not None:
                await server.stop(grace_s)

    def _methods(self) -> Methods:
        """Every method that is answered."""
        methods = Methods()
        self._service.register(methods)
        UnaryFrontEnd(self._inference, self._origin_of).register(methods)
        self._streams.register(methods)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, methods)
        add_reflection((*SERVICES, "grpc.health.v1.Health"), methods)
        return methods


def tls_contexts(config: ServerConfig, protocol: str) -> Reloaded[ssl.SSLContext] | None:
    """The TLS of new connections; None for no TLS.

    Args:
        config: the server's settings.
        protocol: what is spoken within, by its name in ALPN.
    """
    if not (config.tls_cert and config.tls_key):
        return None
    chain, key = config.tls_cert, config.tls_key
    asked = config.client_certificates
    authorities = None if asked == "off" else config.tls_client_ca

    def read() -> ssl.SSLContext:
        context = server_context(chain, key, authorities, required=asked == "required")
        context.set_alpn_protocols([protocol])
        return context

    return Reloaded("certificate", list(filter(None, (chain, key, authorities))), read)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
