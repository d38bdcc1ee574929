"""TLS configuration: a server's certificate chain, its private key, and the authorities of client certificates."""

import ssl
from pathlib import Path

from frostline_server.errors import StartError
from frostline_server.small_files import read_small


def server_context(
    chain: Path, key: Path, client_authorities: Path | None = None, *, required: bool = False
) -> ssl.SSLContext:
    """Read the files of a server, and check that they fit together.

    Args:
        chain: a PEM file of the certificate chain.
        key: a PEM file of its private key, without a password.
        client_authorities: a PEM file of the authorities whose client certificates are trusted; None asks for none.
        required: whether a client without a certificate is turned away.

    Raises:
        StartError: a file cannot be read, or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        for file in filter(None, (chain, key, client_authorities)):
            # OpenSSL would wait for a pipe, and its error does not name the file.
            read_small(file)
        # Without a password, so that OpenSSL does not ask the terminal for one.
        context.load_cert_chain(chain, key, password="")
    except ssl.SSLError as error:
        raise StartError(
            f"tls_cert and tls_key are not a certificate and its private key: {error.reason or error}"
        ) from error
    except OSError as error:
        raise StartError(f"cannot read the TLS files: {error}") from error
    if client_authorities is not None:
        try:
            context.load_verify_locations(client_authorities)
        except ssl.SSLError as error:
            raise StartError(f"tls_client_ca has no certificates: {error.reason or error}") from error
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context
