"""Tokens and certificates: the client shows them to who may see them, and to nobody else."""

from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

import frostline
from tests.support.fake_server import LABELS, MODEL, fake_server

ROWS = np.array([[0.0, 2.0, 1.0], [5.0, -1.0, 5.0]], np.float32)
LOCAL = [
    "localhost",
    "LOCALHOST:9",
    "dns:LocalHost:9",
    "127.0.0.1:9",
    "127.8.9.1",
    "[::1]:9",
    "unix:/run/f.sock",
    "dns:///localhost:9",
]
REMOTE = [
    "box",
    "10.0.0.1:9",
    "127.evil.example:9",
    "localhost.example",
    "dns:///box:9",
    "dns://localhost/box:9",
    "[2001:db8::1]:9",
]


@pytest.mark.parametrize("address", [*LOCAL, ["127.0.0.1:9", "127.0.0.2:9"]])
def test_a_token_may_be_sent_in_plain_text_on_this_machine(address: str | list[str]) -> None:
    frostline.connect(address, token="secret").close()


@pytest.mark.parametrize("address", [*REMOTE, ["127.0.0.1:9", "10.0.0.1:9"]])
def test_a_token_is_not_sent_in_plain_text_over_a_network_unless_that_is_said(address: str | list[str]) -> None:
    with pytest.raises(ValueError, match=r"the token would go to .* in plain text.*turn TLS on") as caught:
        frostline.connect(address, token="secret")
    assert "secret" not in str(caught.value)
    frostline.connect(address, token="secret", insecure_token=True).close()
    frostline.connect(address, token="secret", tls=True, server_name="pool").close()


@pytest.mark.parametrize("token", ["", "two words", "seven\n", "s\u00e9cret", "=secret"])
def test_what_is_no_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match=r"^the token is empty or holds characters that no bearer token has") as caught:
        frostline.connect(token=token)
    assert token.strip() == "" or token.strip() not in str(caught.value)


def test_two_authorizations_are_refused() -> None:
    with pytest.raises(ValueError, match="metadata has an authorization already; give either that or a token"):
        frostline.connect(token="secret", metadata={"Authorization": "Basic x"})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"certificate": "c.pem", "tls": True}, "certificate and key go together"),
        ({"key": "k.pem", "tls": True}, "certificate and key go together"),
        ({"certificate": "c.pem", "key": "k.pem"}, "a client certificate needs TLS; turn it on with tls"),
        ({"server_name": "x"}, "server_name is the name in a certificate, so it needs TLS; turn it on with tls"),
        ({"address": ["10.0.0.1", "10.0.0.2"], "tls": True}, "a list of addresses with TLS needs server_name"),
    ],
)
async def test_credentials_that_contradict_each_other_are_refused(arguments: dict[str, str], sentence: str) -> None:
    for connect in (frostline.connect, frostline.connect_async):
        with pytest.raises(ValueError, match=sentence):
            connect(**arguments)  # type: ignore[arg-type]  # mypy cannot tell which argument each is


async def test_the_token_goes_with_every_call_beside_other_headers() -> None:
    with fake_server() as server:
        with frostline.connect(server.address, token="a-b._~+/c==", metadata={"x-team": "9"}) as client:
            client.predict(MODEL, ROWS)
        async with frostline.connect_async(server.address, token="d", metadata={"x-team": "9"}) as other:
            await other.predict(MODEL, ROWS)
    seen = [(headers["authorization"], headers["x-team"]) for headers in server.headers]
    assert seen == [("Bearer a-b._~+/c==", "9"), ("Bearer d", "9")]


@pytest.mark.parametrize(
    ("status", "word", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", frostline.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, "permission_denied", frostline.PermissionDenied),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limited", frostline.RateLimited),
    ],
)
async def test_a_refused_caller_is_told_the_servers_sentence(
    status: grpc.StatusCode, word: str, error: type[frostline.FrostlineError]
) -> None:
    with fake_server() as server:
        server.trailers = {"frostline-error": word}
        server.failures = [(status, "Predict needs the role predict")] * 2
        with (
            frostline.connect(server.address) as client,
            pytest.raises(error, match=r"^Predict needs the role") as caught,
        ):
            client.predict(MODEL, ROWS)
        async with frostline.connect_async(server.address) as other:
            with pytest.raises(error, match=r"^Predict needs the role predict"):
                await other.predict(MODEL, ROWS)
    assert (caught.value.code, caught.value.kind) == (status.name, word)
    assert len(server.requests) == 2


async def test_a_server_that_asks_for_a_certificate_is_shown_one(tmp_path: Path) -> None:
    authority = trustme.CA()
    server_side = authority.issue_cert("pool.example")
    credentials = grpc.ssl_server_credentials(
        [(server_side.private_key_pem.bytes(), server_side.cert_chain_pems[0].bytes())],
        authority.cert_pem.bytes(),
        require_client_auth=True,
    )
    roots, certificate, key = (str(tmp_path / name) for name in ("roots.pem", "cert.pem", "key.pem"))
    client_side = authority.issue_cert("reader@example.org")
    authority.cert_pem.write_to_path(roots)
    client_side.private_key_pem.write_to_path(key)
    client_side.cert_chain_pems[0].write_to_path(certificate)
    other_key = str(tmp_path / "other.pem")
    server_side.private_key_pem.write_to_path(other_key)
    with fake_server(credentials=credentials) as server:
        tls = {"tls": roots, "server_name": "pool.example", "timeout_s": 20}
        with frostline.connect(server.address, **tls, certificate=certificate, key=key) as client:  # type: ignore[arg-type]
            assert client.predict(MODEL, ROWS).labels == (LABELS[1], LABELS[0])
        async with frostline.connect_async(server.address, **tls, certificate=certificate, key=key) as other:  # type: ignore[arg-type]
            assert (await other.predict(MODEL, ROWS)).labels == (LABELS[1], LABELS[0])
        refused = [
            (tls, "or a certificate of the client missing"),
            (tls | {"certificate": certificate, "key": other_key}, "is no PEM, or the key is not the certificate's"),
            ({"tls": roots, "certificate": certificate, "key": key}, "is for another name; give the name that it has"),
        ]
        for arguments, sentence in refused:
            with (
                frostline.connect(server.address, **arguments) as client,  # type: ignore[arg-type]
                pytest.raises(frostline.ServerUnavailable, match=sentence),
            ):
                client.predict(MODEL, ROWS)
