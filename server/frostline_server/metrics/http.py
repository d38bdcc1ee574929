"""The HTTP server for operators: /metrics for Prometheus, /healthz and /readyz for supervisors.

It can have TLS, and it can ask who wants the metrics, as Prometheus says it: with a bearer token. The probes of a
supervisor have none and need none. `http_server` bounds what clients can make it hold.
"""

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Self

from prometheus_client import CollectorRegistry, make_wsgi_app

from frostline_server.access.access import Access
from frostline_server.access.credentials import Credentials
from frostline_server.access.permissions import METRICS
from frostline_server.config import ServerConfig
from frostline_server.errors import PermissionDenied, RateLimited, StartError, Unauthenticated
from frostline_server.metrics.http_pages import Page, Response, text
from frostline_server.metrics.http_request import Request
from frostline_server.metrics.http_server import HttpServer
from frostline_server.reloaded import Reloaded
from frostline_server.tls import server_context

_SCRAPES = 4
"""Pages of metrics at once: each may have megabytes."""
_PROBES = 8
"""Answers at once to whether the server is ready; a lock may hold them up for a moment."""
_BACKLOG = 128


class MetricsServer:
    """Serves the registry and the probes from a thread of its own.

    Args:
        registry: what /metrics shows.
        host: address to listen on.
        port: port to listen on; 0 picks a free one.
        unready: why the server is not ready, or "" when it is.
        access: who may read the metrics; None for everyone.
        certificate: what connections are encrypted with; None for none.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        unready: Callable[[], str],
        access: Access | None = None,
        certificate: Reloaded[ssl.SSLContext] | None = None,
    ) -> None:
        self._metrics = make_wsgi_app(registry)
        self._host = host.strip("[]")  # an IPv6 address, as the gRPC front end takes it too
        self._port = port
        self._unready = unready
        self._access = access
        self._certificate = certificate

    @classmethod
    def of(
        cls,
        config: ServerConfig,
        registry: CollectorRegistry,
        unready: Callable[[], str],
        credentials: Credentials | None,
    ) -> Self:
        """The metrics server that the settings ask for.

        Args:
            config: the server's settings.
            registry: what /metrics shows.
            unready: why the server is not ready, or "" when it is.
            credentials: the access file; None where there is none.
        """
        host = "127.0.0.1" if config.host.startswith("unix:") else config.host
        access = None if config.metrics_access == "open" else Access.at(host, config, credentials)
        certificate = None
        if config.metrics_tls and config.tls_cert and config.tls_key:
            pair = (config.tls_cert, config.tls_key)
            certificate = Reloaded("certificate", pair, lambda: server_context(*pair))
        return cls(registry, host, config.metrics_port, unready, access, certificate)

    def start(self) -> str:
        """Start to listen.

        Returns:
            The base URL.

        Raises:
            StartError: the address cannot be bound, or the certificate cannot be read.
        """
        if self._certificate is not None:
            self._certificate.start()
        six = ":" in self._host
        try:
            listening = socket.create_server(
                (self._host, self._port),
                family=socket.AF_INET6 if six else socket.AF_INET,
                backlog=_BACKLOG,
                # `::` is every address, of version 4 too.
                dualstack_ipv6=self._host == "::" and socket.has_dualstack_ipv6(),
            )
        except OSError as error:
            refused = StartError(f"cannot listen on {self._host}:{self._port} for metrics: {error.strerror}")
            refused.__cause__ = error
            raise refused.naming("--host", "--metrics-port") from error
        pages = {
            METRICS: Page(self._metrics_page, at_once=_SCRAPES, refuse=self._refusal),
            "/healthz": Page(lambda _: text(200, "ok")),
            "/readyz": Page(self._readiness, at_once=_PROBES),
        }
        self._server = HttpServer(listening, pages, None if self._certificate is None else self._certificate.look)
        port = listening.getsockname()[1]
        self._server.start()
        return f"{'http' if self._certificate is None else 'https'}://{f'[{self._host}]' if six else self._host}:{port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def _readiness(self, _: Request) -> Response:
        reason = self._unready()
        return text(503 if reason else 200, reason or "ready")

    def _metrics_page(self, request: Request) -> Response:
        """The page as prometheus_client makes it: in the format that was asked for, packed if that is understood."""
        said: dict[str, Any] = {}

        def start_response(status: str, fields: list[tuple[str, str]]) -> None:
            said["status"], said["fields"] = int(status.partition(" ")[0]), tuple(fields)

        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": METRICS,
            "QUERY_STRING": request.query,
            "HTTP_ACCEPT": request.fields.get("accept"),
            "HTTP_ACCEPT_ENCODING": request.fields.get("accept-encoding"),
        }
        body = b"".join(self._metrics(environ, start_response))
        return Response(said["status"], body, said["fields"])

    def _refusal(self, request: Request) -> Response | None:
        """What whoever may not read the metrics is told."""
        if self._access is None:
            return None
        shown = request.fields.get("authorization")
        try:
            identity = self._access.identify(shown.encode("latin-1") if shown is not None else None)
            self._access.permit(identity, METRICS)
            identity.admit(time.monotonic())
        except Unauthenticated as error:
            return text(401, str(error), ("WWW-Authenticate", "Bearer"))
        except PermissionDenied as error:
            return text(403, str(error))
        except RateLimited as error:
            return text(429, str(error))
        return None
