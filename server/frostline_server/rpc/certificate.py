"""gRPC's server credentials: for every new connection the certificate is read again if its files have changed."""

import threading
from pathlib import Path

import grpc

from frostline_server.errors import StartError
from frostline_server.reloaded import Reloaded
from frostline_server.small_files import read_small
from frostline_server.tls import server_context


class Certificate:
    """A certificate chain and its private key, in two PEM files, and whose certificates clients must show.

    A pair that does not fit together is not used: see `reloaded`.

    Args:
        chain: the file of the certificate chain.
        key: the file of its private key.
        client_authorities: the file of the authorities whose client certificates are required; None asks for none.
            gRPC for Python cannot ask for a certificate without requiring it.
    """

    def __init__(self, chain: Path, key: Path, client_authorities: Path | None = None) -> None:
        self._chain = chain
        self._key = key
        self._authorities = client_authorities
        self._files = Reloaded("certificate", list(filter(None, (chain, key, client_authorities))), self._read)
        self._given: grpc.ServerCertificateConfiguration | None = None
        # gRPC asks from its own threads.
        self._lock = threading.Lock()

    def credentials(self) -> grpc.ServerCredentials:
        """What a port is opened with.

        Raises:
            StartError: the files cannot be read, or are not a certificate and its private key.
        """
        first = self._given = self._files.start()
        required = self._authorities is not None
        return grpc.dynamic_ssl_server_credentials(first, self._fetch, required)  # type: ignore[arg-type]  # None is allowed

    def look(self) -> None:
        """Read the files again if they have changed, for the next connection. What is wrong with them is logged once."""
        self._files.look()

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The certificate of a new connection; None where it is that of the last one."""
        fresh = self._files.look()
        with self._lock:
            if fresh is self._given:
                return None
            self._given = fresh
        return fresh

    def _read(self) -> grpc.ServerCertificateConfiguration:
        try:
            pair = (read_small(self._key), read_small(self._chain))
            trusted = read_small(self._authorities) if self._authorities else None
        except OSError as error:
            raise StartError(f"cannot read the TLS files: {error}") from error
        server_context(self._chain, self._key, self._authorities)
        return grpc.ssl_server_certificate_configuration([pair], trusted)
