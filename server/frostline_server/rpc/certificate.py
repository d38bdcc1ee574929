"""The server's TLS certificate: for every new connection it is read again if its files have changed."""

import ssl
import threading
from pathlib import Path

import grpc
import structlog

from frostline_server.errors import StartError

_Stamp = tuple[tuple[int, ...], ...]

_log = structlog.get_logger(__name__)


class Certificate:
    """A certificate chain and its private key, in two PEM files.

    Whoever renews them may replace one file after the other. So a pair that does not fit together is logged, the
    connections go on with the last one that did, and the next change is looked at again.

    Args:
        chain: the file of the certificate chain.
        key: the file of its private key.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain = chain
        self._key = key
        self._seen: _Stamp | None = None
        self._fresh: grpc.ServerCertificateConfiguration | None = None
        self._context: ssl.SSLContext | None = None
        # gRPC asks from its own threads.
        self._lock = threading.Lock()

    def open(self) -> None:
        """Read the files for the first time.

        Raises:
            StartError: they cannot be read, or are not a certificate and its private key.
        """
        try:
            self._seen = _stamp(self._chain, self._key)
            self._fresh, self._context = self._read()
        except OSError as error:
            raise StartError(_sentence(error)) from error

    def credentials(self) -> grpc.ServerCredentials:
        """What a port of grpc.aio is opened with."""
        first, self._fresh = self._fresh, None
        return grpc.dynamic_ssl_server_credentials(first, self._fetch)  # type: ignore[arg-type]  # None is allowed

    def context(self) -> ssl.SSLContext:
        """What a new connection is encrypted with."""
        self.look()
        with self._lock:
            assert self._context is not None, "the files have been opened"  # noqa: S101  an invariant, not a check
            return self._context

    def look(self) -> None:
        """Read the files again if they have changed, for the next connection. What is wrong with them is logged once."""
        with self._lock:
            stamp = _stamp(self._chain, self._key)
            if stamp == self._seen:
                return
            self._seen = stamp
            try:
                fresh, context = self._read()
            except OSError as error:
                _log.error("certificate", reason=f"{_sentence(error)}; the last one that was valid stays in use")
            else:
                if _stamp(self._chain, self._key) != stamp:
                    # Replaced while it was read, so what was read may not be what was checked. The next connection looks again.
                    self._seen = ()
                    return
                self._fresh, self._context = fresh, context
                _log.info("certificate", chain=str(self._chain), key=str(self._key))

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The certificate of a new connection; None where it is that of the last one."""
        self.look()
        with self._lock:
            fresh, self._fresh = self._fresh, None
        return fresh

    def _read(self) -> tuple[grpc.ServerCertificateConfiguration, ssl.SSLContext]:
        pair = (self._key.read_bytes(), self._chain.read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Without a password, so that OpenSSL does not ask the terminal for one.
        context.load_cert_chain(self._chain, self._key, password="")
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["h2"])
        return grpc.ssl_server_certificate_configuration([pair]), context


def _stamp(*files: Path) -> _Stamp:
    """What changes when a file is written, replaced (also behind a link), or becomes readable."""
    return tuple(map(_stamp_of, files))


def _stamp_of(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:  # reading it will say why
        return ()
    return found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size


def _sentence(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):  # an OSError too
        return f"tls_cert and tls_key are not a certificate and its private key: {error.reason or error}"
    return f"cannot read the TLS files: {error}"
