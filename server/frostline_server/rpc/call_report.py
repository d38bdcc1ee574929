"""What is told of a gRPC call in traces and the access log, by OpenTelemetry's conventions.

https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
"""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from frostline.protocol import MODEL_STREAM_INFER
from frostline_server.access.access import Access
from frostline_server.access.access_file import ANONYMOUS
from frostline_server.errors import PredictionError
from frostline_server.telemetry.finished import Attributes, Origin, Report
from frostline_server.tls import listed

OriginOf = Callable[[str, Any], Origin]
"""What the call of a method's path with a context of grpc.aio is to traces and the access log."""

_FAULTY = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
"""The statuses that are the server's fault; all others are the client's."""


def grpc_report(
    path: str, peer: str, identity: str | None, received_s: float | None, error: PredictionError | None
) -> Report:
    """The report of a call; see `Report`.

    Args:
        path: of the method, such as /package.Service/Method.
        peer: the client's address.
        identity: the caller's name; None where nobody asks.
        received_s: when the call began; not used for streams, which are many requests.
        error: how it failed; None if it was answered.
    """
    method, status = path.removeprefix("/"), "OK" if error is None else error.code
    return Report(
        method,
        "grpc",
        path,
        status,
        status in _FAULTY,
        ANONYMOUS if identity is None else identity,
        peer,
        None if path == MODEL_STREAM_INFER else received_s,
        _attributes(method, status, peer),
    )


@lru_cache(maxsize=1024)
def _attributes(method: str, status: str, peer: str) -> Attributes:
    failed = () if status == "OK" else (("error.type", status),)
    named = ("rpc.system.name", "grpc"), ("rpc.method", method), ("rpc.response.status_code", status)
    return *named, *peer_attributes(peer), *failed


def peer_attributes(peer: str) -> Attributes:
    """A client's address as attributes of a span."""
    kind, _, rest = peer.partition(":")
    address, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return (("network.transport", "unix"),) if kind == "unix" else ()
    return ("network.peer.address", unquote(address).strip("[]")), ("network.peer.port", int(port))


def host_of(peer: str) -> str:
    """A client's address without its port: what all its connections have in common."""
    return peer.rpartition(":")[0]


class AioOrigin:
    """A call on grpc.aio; see `telemetry.finished.Origin`.

    Args:
        access: the policy of the port.
        path: of the method.
        context: the call's, which has just begun.
    """

    def __init__(self, access: Access, path: str, context: Any) -> None:
        self._path = path
        self._metadata: Sequence[tuple[str, str | bytes]] = tuple(context.invocation_metadata() or ())
        self._peer = context.peer()
        self._access = access
        self._names = listed(context.auth_context()) if access.reads_certificates else ()
        self._received_s = time.monotonic()

    @property
    def headers(self) -> object:
        """What its metadata is in."""
        return self._metadata

    def header(self, name: bytes) -> bytes | None:
        """An entry of the metadata, by its name in small letters; None if there is none."""
        text = name.decode()
        for key, value in self._metadata:
            if key == text:
                return value if isinstance(value, bytes) else value.encode()
        return None

    def report(self, error: PredictionError | None) -> Report:
        """What is told of the call."""
        return grpc_report(self._path, self._peer, self._identity(), self._received_s, error)

    def _identity(self) -> str:
        try:
            return self._access.identify(self.header(b"authorization"), self._names).name
        except PredictionError:  # the credentials were withdrawn meanwhile
            return ANONYMOUS
