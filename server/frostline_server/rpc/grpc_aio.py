"""gRPC's own asynchronous server: its options, its port and its TLS."""

import grpc

from frostline_server.config import ServerConfig
from frostline_server.errors import StartError
from frostline_server.rpc.certificate import Certificate
from frostline_server.rpc.listening import bound
from frostline_server.rpc.methods import Methods
from frostline_server.rpc.unix_socket import is_unix

_PING_MS = 500
"""How often a connection without data may be pinged; who pings more often loses it after the third ping."""

_MOST_PENDING = 100_000
"""Calls that wait for a handler. They hold no message yet, and the models' queues refuse what is too much."""

_COMPRESSIONS = {
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


def build(config: ServerConfig, methods: Methods, *, reuse_port: bool = False) -> grpc.aio.Server:
    """A server that answers the methods, without a port.

    Args:
        config: the server's settings.
        methods: what it answers.
        reuse_port: whether other processes listen on its port too.
    """
    server = grpc.aio.server(
        compression=_COMPRESSIONS[config.compression],
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            # Otherwise two servers on one port would silently share the clients.
            ("grpc.so_reuseport", int(reuse_port)),
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
    methods.register(server)
    return server


def bind(
    server: grpc.aio.Server,
    address: str,
    certificate: Certificate | None,
    flags: tuple[str, str],
    *,
    reuse_port: bool = False,
) -> int:
    """Give a server its port; returns its number, if it has one.

    Args:
        server: the server.
        address: host:port, or unix:/path.
        certificate: of the port; None for no TLS.
        flags: those of the host and of the port, for messages.
        reuse_port: as for `build`.

    Raises:
        StartError: the address cannot be bound, or the certificate cannot be read.
    """
    try:
        if certificate is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, certificate.credentials())
    except RuntimeError as error:
        try:
            _try_to_bind(address, reuse_port=reuse_port)
        except StartError as refused:
            raise refused.naming(*flags) from refused.__cause__
        raise StartError(f"cannot listen on {address}: {error}") from error


def _try_to_bind(address: str, *, reuse_port: bool) -> None:
    """Find out why an address cannot be bound, which gRPC keeps to itself.

    Raises:
        StartError: it still cannot be.
    """
    if not is_unix(address):
        for listening in bound(address, reuse_port=reuse_port):
            listening.close()


def certificate(config: ServerConfig) -> Certificate | None:
    """The certificate of a port, as the settings say; None for no TLS."""
    if not (config.tls_cert and config.tls_key):
        return None
    authorities = config.tls_client_ca if config.client_certificates == "required" else None
    return Certificate(config.tls_cert, config.tls_key, authorities)


def _milliseconds(seconds: float) -> int:
    """As gRPC's options have it, where the largest number means never."""
    return round(seconds * 1000) if seconds else 2**31 - 1
