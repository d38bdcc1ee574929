"""The HTTP server for operators: /metrics for Prometheus, /healthz and /readyz for supervisors.

It can have TLS, and it can ask who wants the metrics, as Prometheus says it: with a bearer token. The probes of a
supervisor have none and need none.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from frostline_server.access.access import Access
from frostline_server.access.credentials import Credentials
from frostline_server.access.permissions import METRICS
from frostline_server.config import ServerConfig
from frostline_server.errors import PermissionDenied, RateLimited, StartError, Unauthenticated
from frostline_server.reloaded import Reloaded
from frostline_server.tls import server_context

_log = structlog.get_logger(__name__)

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class _Server(ThreadingMixIn, WSGIServer):
    """An HTTP server with a thread for each connection, so that a slow scraper does not delay a probe."""

    daemon_threads = True
    request_queue_size = 128
    certificate: Reloaded[ssl.SSLContext] | None = None
    """What a new connection is encrypted with; None for none."""

    def server_bind(self) -> None:
        """Bind without a DNS query for this machine's name, which the standard library's HTTP server would make."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer one connection, in its own thread: so a slow handshake delays nobody either."""
        if self.certificate is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_Quiet.timeout)
        try:
            secure = self.certificate.look().wrap_socket(request, server_side=True)
        except OSError as error:  # TLS errors are too
            _log.info("a TLS handshake failed", client=str(client_address), reason=str(error))
            return
        with secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  the signature is socketserver's
        """A connection that breaks is a line of our log, where the standard library prints a traceback."""
        _log.warning("an HTTP connection failed", client=str(client_address), exc_info=True)


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    # A connection without a request must not occupy its thread without limit.
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the signature is wsgiref's
        """Log nothing: a line for each scrape, every few seconds, would be noise."""


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
        try:
            kind = _ServerV6 if ":" in self._host else _Server
            self._server = make_server(self._host, self._port, self._app, kind, _Quiet)
        except OSError as error:
            raise StartError(f"cannot listen on {self._host}:{self._port} for metrics: {error.strerror}") from error
        self._server.certificate = self._certificate
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="scrape", daemon=True
        )
        self._thread.start()
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'http' if self._certificate is None else 'https'}://{host}:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _app(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            return self._page(environ, start_response)
        except Exception:  # noqa: BLE001  the standard library's server would print it
            _log.exception("a page failed", path=environ["PATH_INFO"])
            return _text(start_response, "500 Internal Server Error", "the server's log says why")

    def _page(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == METRICS:
            return self._metrics_page(environ, start_response)
        if path == "/healthz":
            return _text(start_response, "200 OK", "ok")
        if path == "/readyz":
            reason = self._unready()
            return _text(start_response, "503 Service Unavailable" if reason else "200 OK", reason or "ready")
        return _text(start_response, "404 Not Found", "the paths are /metrics, /healthz and /readyz")

    def _metrics_page(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            self._admit(environ.get("HTTP_AUTHORIZATION"))
        except Unauthenticated as error:
            return _text(start_response, "401 Unauthorized", str(error), ("WWW-Authenticate", "Bearer"))
        except PermissionDenied as error:
            return _text(start_response, "403 Forbidden", str(error))
        except RateLimited as error:
            return _text(start_response, "429 Too Many Requests", str(error))
        page: Iterable[bytes] = self._metrics(environ, start_response)
        return page

    def _admit(self, authorization: str | None) -> None:
        if self._access is None:
            return
        identity = self._access.identify(authorization.encode("latin-1") if authorization is not None else None)
        self._access.permit(identity, METRICS)
        identity.admit(time.monotonic())


def _text(start_response: StartResponse, status: str, body: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
    return [f"{body}\n".encode()]
