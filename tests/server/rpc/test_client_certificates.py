"""Client certificates: whose certificate a caller shows decides what it may do."""

import asyncio
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from frostline.pb import inference_pb2 as pb
from frostline_server.errors import ConfigError, StartError
from tests.support import onnx_models
from tests.support.calls import row_request, stub
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.tokens import TOKENS, bearer, write_access_file

SERVERS, CLIENTS = trustme.CA(), trustme.CA()
GATEWAY = CLIENTS.issue_cert("gateway.example", common_name="gateway")
NAMED = CLIENTS.issue_cert("else.example", common_name="nightly-job")
STRANGER = CLIENTS.issue_cert("stranger.example")
FORGED = trustme.CA().issue_cert("gateway.example", common_name="gateway")


def naming(names: x509.ExtensionType) -> trustme.LeafCert:
    """A certificate of `CLIENTS` with alternative names that trustme does not make."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.load_pem_x509_certificate(CLIENTS.cert_pem.bytes())
    signer: Any = serialization.load_pem_private_key(CLIENTS.private_key_pem.bytes(), None)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=True)
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return trustme.LeafCert(private, certificate.public_bytes(serialization.Encoding.PEM), [])


URI = x509.UniformResourceIdentifier("spiffe://cluster/ns/shop/sa/web")
# As in a service mesh.
MESH = naming(x509.SubjectAlternativeName([URI]))
DIRECTORY = x509.DirectoryName(x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "gateway.example")]))
LISTED = naming(x509.SubjectAlternativeName([DIRECTORY, URI]))
# A DNS name of the bytes 61 ff 62.
UNREADABLE = naming(
    x509.UnrecognizedExtension(x509.oid.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x05\x82\x03a\xffb")
)
ENTRIES = """
[[certificates]]
name = "gateway"
subjects = ["gateway.example"]
roles = ["predict"]

[[certificates]]
name = "shop"
subjects = ["spiffe://cluster/ns/shop/sa/web"]
roles = ["predict", "observe"]

[[certificates]]
name = "nightly"
subjects = ["nightly-job"]
roles = ["observe"]
"""


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tls")
    issued = SERVERS.issue_cert("localhost")
    (folder / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(folder / "key.pem")
    CLIENTS.cert_pem.write_to_path(folder / "clients.pem")
    return {
        "tls_cert": folder / "chain.pem",
        "tls_key": folder / "key.pem",
        "tls_client_ca": folder / "clients.pem",
        "client_certificates": "required",
        "access_file": write_access_file(folder / "access.toml", ENTRIES),
        "allow_anonymous": "none",
        "transport": request.param,
        "log_level": "error",
    }


@pytest.fixture(scope="module")
def server(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear", 1)
    with running(models, **settings) as instance:
        yield instance


def credentials(shown: trustme.LeafCert | None) -> grpc.ChannelCredentials:
    trusted = SERVERS.cert_pem.bytes()
    if shown is None:
        return grpc.ssl_channel_credentials(trusted)
    chain = b"".join(blob.bytes() for blob in shown.cert_chain_pems)
    return grpc.ssl_channel_credentials(trusted, shown.private_key_pem.bytes(), chain)


def secure(server: Running, shown: trustme.LeafCert | None) -> grpc.Channel:
    address = server.address.replace("127.0.0.1", "localhost")
    return grpc.secure_channel(address, credentials(shown))


def statuses(server: Running, shown: trustme.LeafCert | None, **more: Any) -> list[str]:
    """What a prediction and a look at the repository end with."""
    found = []
    with secure(server, shown) as channel:
        for method, request in (("ModelInfer", row_request(onnx_models.rows(1))), ("RepositoryIndex", pb.RepositoryIndexRequest())):  # fmt: skip
            try:
                getattr(stub(channel), method)(request, timeout=TIMEOUT_S, **more)
                found.append("OK")
            except grpc.RpcError as error:
                failed: Any = error
                found.append(failed.code().name)
    return found


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (GATEWAY, ["OK", "PERMISSION_DENIED"]),
        (MESH, ["OK", "OK"]),
        (LISTED, ["OK", "OK"]),
        (NAMED, ["PERMISSION_DENIED", "OK"]),
        (STRANGER, ["UNAUTHENTICATED", "UNAUTHENTICATED"]),
        (FORGED, ["UNAVAILABLE", "UNAVAILABLE"]),
        (None, ["UNAVAILABLE", "UNAVAILABLE"]),
    ],
    ids=[
        "a DNS name",
        "a URI",
        "a directory beside it",
        "the common name",
        "a name of no entry",
        "another authority",
        "none",
    ],
)
def test_a_certificate_has_the_roles_of_the_entry_with_one_of_its_names(
    server: Running, shown: trustme.LeafCert | None, expected: list[str]
) -> None:
    assert statuses(server, shown) == expected


def test_a_token_decides_before_the_certificate(server: Running) -> None:
    assert statuses(server, GATEWAY, **bearer(TOKENS["observe"])) == ["PERMISSION_DENIED", "OK"]


def test_a_coroutine_client_shows_its_certificate_too(server: Running) -> None:
    async def ask() -> Any:
        address = server.address.replace("127.0.0.1", "localhost")
        async with grpc.aio.secure_channel(address, credentials(MESH)) as channel:
            return await stub(channel).ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)

    assert asyncio.run(ask()).model_name == "linear"


def test_authorities_that_are_replaced_count_for_new_connections(
    settings: dict[str, Any], server: Running, tmp_path: Path
) -> None:
    authorities: Path = settings["tls_client_ca"]
    before = authorities.read_bytes()
    another = trustme.CA()
    shown = another.issue_cert("gateway.example")
    assert statuses(server, shown)[0] == "UNAVAILABLE"
    try:
        another.cert_pem.write_to_path(authorities)
        assert statuses(server, shown)[0] == "OK"
        authorities.write_text("no certificate")
        assert statuses(server, shown)[0] == "OK"
    finally:
        authorities.write_bytes(before)
    assert statuses(server, GATEWAY)[0] == "OK"


def test_grpcio_cannot_ask_for_certificates_without_requiring_them(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StartError, match="write client_certificates required or off"):
        Running(tmp_path, **{**settings, "transport": "grpcio", "client_certificates": "optional"}).start()


def test_a_client_may_come_without_a_certificate_where_it_is_optional(settings: dict[str, Any], tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    optional = {**settings, "transport": "h2", "client_certificates": "optional", "allow_anonymous": "predict"}
    with running(tmp_path, **optional) as server:
        assert statuses(server, None) == ["OK", "UNAUTHENTICATED"]
        assert statuses(server, MESH) == ["OK", "OK"]
        assert statuses(server, FORGED) == ["UNAVAILABLE", "UNAVAILABLE"]


def test_who_shows_a_name_that_is_no_text_is_turned_away_and_takes_up_no_connection(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    few = {**settings, "transport": "h2", "max_connections_per_address": 2, "log_level": "error"}
    with running(tmp_path, **few) as server:
        for _ in range(3):
            assert statuses(server, UNREADABLE) == ["UNAVAILABLE", "UNAVAILABLE"]
        assert statuses(server, GATEWAY) == ["OK", "PERMISSION_DENIED"]


def test_authorities_that_cannot_be_read_stop_the_start(settings: dict[str, Any], tmp_path: Path) -> None:
    for text, says in (("no certificate", "tls_client_ca has no certificates"), (None, "cannot read the TLS files")):
        file = tmp_path / "authorities.pem"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        instance = Running(tmp_path, **{**settings, "tls_client_ca": file})
        with pytest.raises(StartError, match=says):
            instance.start()
        instance.close_loop()


def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    for change, says in (
        ({"tls_client_ca": None}, "client_certificates required needs tls_cert, tls_key and tls_client_ca"),
        ({"client_certificates": "off"}, "tls_client_ca has no effect without client_certificates"),
    ):
        with pytest.raises(ConfigError, match=says):
            Running(tmp_path, **{**settings, **change})
