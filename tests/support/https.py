"""A client over HTTPS, and a certificate for the server."""

import socket
import ssl
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import trustme

from tests.support.servers import TIMEOUT_S

AUTHORITY = trustme.CA()


class Files:
    """The files of a server's certificate, and of the authority that signed it."""

    def __init__(self, folder: Path) -> None:
        self.chain, self.key, self.authority = folder / "tls.crt", folder / "tls.key", folder / "ca.pem"
        AUTHORITY.cert_pem.write_to_path(self.authority)

    def write(self, name: str, expires: datetime | None = None) -> None:
        """Issue a new certificate, for this name besides localhost."""
        issued = AUTHORITY.issue_cert("localhost", "127.0.0.1", name, not_after=expires)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        for file, content in ((self.chain, chain), (self.key, issued.private_key_pem.bytes())):
            # Whole at once, as who renews a certificate while a server runs has to do it.
            new = file.with_suffix(".new")
            new.write_bytes(content)
            new.rename(file)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a server that uses them for both ports."""
        return {"tls_cert": self.chain, "tls_key": self.key, "metrics_tls": True}


def context() -> ssl.SSLContext:
    """What a client trusts."""
    trusting = ssl.create_default_context()
    AUTHORITY.configure_trust(trusting)
    return trusting


def get(url: str, token: str | None = None) -> tuple[int, str, Any]:
    """A page: its status, its text and its headers."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context()) as response:
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def name_seen(url: str) -> str:
    """The name in the certificate that a new connection gets."""
    host, _, port = url.removeprefix("https://").partition(":")
    with (
        socket.create_connection((host, int(port)), TIMEOUT_S) as plain,
        context().wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        names = secure.getpeercert()
    assert names is not None
    return str(names["subjectAltName"][2][1])
