"""TLS configuration: a server's certificate chain, its private key, the authorities of client certificates, and the names in these."""

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frostline_server.errors import StartError
from frostline_server.regular_files import MAX_TEXT_BYTES, read_regular

Names = Mapping[str, tuple[bytes, ...]]
"""The names in a certificate, under the keys that grpc uses."""

_COMMON, _ALTERNATIVE = "x509_common_name", "x509_subject_alternative_name"
_NAMED = frozenset({"DNS", "URI", "email", "IP Address"})
"""The alternative names that grpc lists; others are no texts, such as the name of a directory."""


def certificate_names(certificate: Any) -> Names:
    """The names in a client's certificate, as Python's `ssl` gives it; none where there is no certificate."""
    if not certificate:
        return {}
    subject = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    others = [value for kind, value in certificate.get("subjectAltName", ()) if kind in _NAMED]
    return {
        _COMMON: tuple(value.encode() for value in subject),
        _ALTERNATIVE: tuple(value.encode() for value in others),
    }


def listed(names: Mapping[str, Sequence[bytes]]) -> list[str]:
    """The names in a certificate as texts, the subject's first."""
    return [name.decode(errors="replace") for key in (_COMMON, _ALTERNATIVE) for name in names.get(key, ())]


def expiry_s(chain: Path, key: Path) -> float:
    """When a server's certificate expires, the first of the chain, in seconds since 1970.

    Raises:
        StartError: a file cannot be read, or they do not fit together, so that the certificate is not used.
    """
    # Only who has TLS pays for it.
    from cryptography import x509  # noqa: PLC0415

    server_context(chain, key)
    return x509.load_pem_x509_certificates(read_regular(chain, MAX_TEXT_BYTES))[0].not_valid_after_utc.timestamp()


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
            # Its error names the file, which OpenSSL's does not; and OpenSSL would wait for ever for a pipe.
            read_regular(file, MAX_TEXT_BYTES)
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
