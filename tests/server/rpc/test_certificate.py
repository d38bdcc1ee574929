"""The TLS certificate: new connections get what is in the files now, if it fits together."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trustme
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from frostline_server.errors import StartError
from frostline_server.rpc.certificate import Certificate
from tests.support.onnx_models import write_artifact
from tests.support.servers import TIMEOUT_S, Running, running

AUTHORITY = trustme.CA()


class Files:
    """The two files of a server."""

    def __init__(self, folder: Path) -> None:
        self.chain, self.key = folder / "tls.crt", folder / "tls.key"

    def write(self, issued: trustme.LeafCert, key: trustme.LeafCert | None = None) -> None:
        """Replace the certificate, and the key by its own or by that of another."""
        self.chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes((key or issued).private_key_pem.bytes())


@pytest.fixture
def files(tmp_path: Path) -> Files:
    written = Files(tmp_path)
    written.write(AUTHORITY.issue_cert("localhost", "first.example"))
    return written


@pytest.fixture(params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, files: Files, tmp_path: Path) -> Iterator[Running]:
    write_artifact(tmp_path / "models", "m")
    tls = {"tls_cert": files.chain, "tls_key": files.key}
    with running(tmp_path / "models", transport=request.param, log_level="error", **tls) as instance:
        yield instance


def name_seen(server: Running) -> str:
    """The other name in the certificate that a new connection gets, which must be trusted."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    host, _, port = server.address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        names = secure.getpeercert()
    assert names is not None
    return str(names["subjectAltName"][1][1])


def test_a_new_connection_gets_the_certificate_that_is_in_the_files(server: Running, files: Files) -> None:
    assert name_seen(server) == "first.example"
    files.write(AUTHORITY.issue_cert("localhost", "second.example"))
    assert name_seen(server) == "second.example"


def test_a_link_that_is_swapped_is_a_change_too(tmp_path: Path) -> None:
    # As Kubernetes mounts a secret: the files are links through a link that is replaced.
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        Files(tmp_path / name).write(AUTHORITY.issue_cert("localhost", f"{name}.example"))
    (tmp_path / "data").symlink_to("first")
    mounted = Files(tmp_path)
    for file in (mounted.chain, mounted.key):
        file.symlink_to(f"data/{file.name}")
    write_artifact(tmp_path / "models", "m")
    with running(tmp_path / "models", tls_cert=mounted.chain, tls_key=mounted.key, log_level="error") as server:
        assert name_seen(server) == "first.example"
        (tmp_path / "new").symlink_to("second")
        (tmp_path / "new").rename(tmp_path / "data")
        assert name_seen(server) == "second.example"


def test_a_pair_that_does_not_fit_together_is_not_used_until_it_does(server: Running, files: Files) -> None:
    second = AUTHORITY.issue_cert("localhost", "second.example")
    files.write(second, key=AUTHORITY.issue_cert("localhost"))
    assert name_seen(server) == "first.example"
    files.key.unlink()
    assert name_seen(server) == "first.example"
    files.write(second)
    assert name_seen(server) == "second.example"


def test_what_is_wrong_with_new_files_is_logged_once(files: Files) -> None:
    certificate = Certificate(files.chain, files.key)
    certificate.credentials()
    structlog.reset_defaults()
    with capture_logs() as logged:
        certificate.look()
        files.chain.write_text("not PEM")
        certificate.look()
        certificate.look()
        files.chain.unlink()
        certificate.look()
        certificate.look()
        files.write(AUTHORITY.issue_cert("localhost"))
        certificate.look()
    assert [(line["log_level"], line["event"]) for line in logged] == [
        ("error", "certificate"),
        ("error", "certificate"),
        ("info", "certificate"),
    ]
    first, second = (line["reason"] for line in logged[:2])
    assert first.startswith("tls_cert and tls_key are not a certificate and its private key: ")
    assert first.endswith("; the last one that was valid stays in use")
    assert second.startswith("cannot read the TLS files: ")


def test_a_key_with_a_password_stops_the_start_and_asks_nobody_for_it(files: Files) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(StartError, match="are not a certificate and its private key"):
        Certificate(files.chain, files.key).credentials()
