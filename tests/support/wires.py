"""The front ends that every test of the wire runs against, and calls whose answers cannot be confused."""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import trustme

from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER
from tests.support import onnx_models
from tests.support.calls import row_request
from tests.support.servers import Running, running
from tests.support.wire import Answer, Code, Peer, greeted, message, request, unary

WIRES = ("h2", "h2-tls", "grpcio")
"""Transports by name, with -tls after it where the connection is encrypted."""

MODEL = "linear"


_WIDE = np.arange(4 * 4096, dtype=np.float32).reshape(4, 4096) % 7
"""The weights of `wide`: an answer of 16 KiB to one of its rows."""


@dataclass(frozen=True)
class Wire:
    """A running server as a raw client sees it.

    Attributes:
        name: one of `WIRES`.
        server: the server, with a model `linear`.
        tls: what the client trusts; None without TLS.
    """

    name: str
    server: Running
    tls: ssl.SSLContext | None

    @property
    def transport(self) -> str:
        """The front end, with TLS or without."""
        return self.name.removesuffix("-tls")

    def greeted(self, *pairs: tuple[int, int]) -> AbstractContextManager[Peer]:
        """A connection on which both sides have exchanged settings."""
        return greeted(self.server.address, self.tls, *pairs)


@contextmanager
def served(folder: Path, name: str, **settings: Any) -> Iterator[Wire]:
    """A server behind one of `WIRES`, with its models and certificate in `folder`."""
    onnx_models.write_artifact(folder / "models", MODEL, 1)
    onnx_models.write_artifact(folder / "models", "wide", 1, onnx_models.product(_WIDE), labels=None)
    given: dict[str, Any] = {"transport": name.removesuffix("-tls"), "log_level": "error", **settings}
    trusted = None
    if name.endswith("-tls"):
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        given |= {"tls_cert": folder / "tls.crt", "tls_key": folder / "tls.key"}
        given["tls_cert"].write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        given["tls_key"].write_bytes(issued.private_key_pem.bytes())
        trusted = ssl.create_default_context()
        authority.configure_trust(trusted)
        trusted.set_alpn_protocols(["h2"])
    with running(folder / "models", **given) as server:
        yield Wire(name, server, trusted)


def _row(number: int) -> np.ndarray[Any, Any]:
    return np.array([[number, 2, 1, -1]], np.float32)


def question(number: int, model: str = MODEL, **fields: Any) -> bytes:
    """The message of a request that no other number has."""
    return row_request(
        _row(number), **{"model": model, "request_id": f"question {number}", **fields}
    ).SerializeToString()


def call(stream: int, number: int, model: str = MODEL, path: str = MODEL_INFER, **headers: str) -> bytes:
    """A whole call on a stream."""
    return unary(stream, request(path, **headers), question(number, model))


def assert_response(response: pb.ModelInferResponse, number: int) -> None:
    """That it answers the question of that number."""
    assert response.id == f"question {number}"
    expected = onnx_models.logits_of(_row(number)) if response.model_name == MODEL else _row(number) @ _WIDE
    got = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(1, -1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def assert_answers(answer: Answer, number: int) -> None:
    """That a call was answered in full, in the shape gRPC gives it, with what was asked for."""
    assert (answer.reset, answer.status) in {(None, 0), (Code.NO_ERROR, 0)}, answer
    assert answer.headers[":status"] == "200"
    assert answer.headers["content-type"].startswith("application/grpc")
    assert answer.blocks == 2, "headers, and trailers of their own"
    assert "grpc-status" not in answer.headers
    (payload,) = answer.messages
    assert answer.body == message(payload)
    assert_response(pb.ModelInferResponse.FromString(payload), number)


@dataclass(frozen=True)
class Case:
    """What a client does on stream 1 of a fresh connection, and what must come of it.

    Attributes:
        sentence: the rule, with its section.
        sent: the bytes.
        expected: what may happen, as `outcome` says it.
        differs: what happens instead behind a transport that does not follow the rule, with the reason beside it.
    """

    sentence: str
    sent: bytes
    expected: tuple[str, ...]
    differs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def on(self, transport: str) -> tuple[str, ...]:
        """What may happen behind this front end."""
        expected = self.differs.get(transport, self.expected)
        if transport == "grpcio" and any(end.startswith("connection") for end in expected):
            # It closes the connection on most errors of it without a GOAWAY, which RFC 9113, 5.4.1, only recommends.
            return (*expected, "closed")
        return expected


PROBE = 101
"""The stream of a good call that follows, to see whether the connection goes on."""


def outcome(peer: Peer, sent: bytes, expected: tuple[str, ...]) -> str:
    """What comes of the bytes, in a few words.

    Args:
        peer: a fresh connection.
        sent: what is sent on it.
        expected: what may come; says whether to wait for something on stream 1.

    Returns:
        `connection <error>` after a GOAWAY, `closed` without one; else the connection goes on, and `stream <error>`,
        `status <number>`, `http <number>`, `answered` or `nothing` says what came on stream 1.
    """
    peer.send(sent, call(PROBE, PROBE))
    probe = peer.answer(PROBE)
    waits = "nothing" not in expected and not all(end.startswith(("connection", "closed")) for end in expected)
    subject = peer.answer(1) if waits else peer.answers.get(1, Answer())
    if not probe.over or (waits and not subject.over) or (peer.goaway and peer.goaway[0] != Code.NO_ERROR):
        peer.until(lambda: peer.closed)
        return "closed" if peer.goaway is None else f"connection {peer.goaway[0].name}"
    assert_answers(probe, PROBE)
    assert peer.goaway is None, (peer.goaway, peer.debug)
    if subject.headers.get(":status", "200") != "200":
        return f"http {subject.headers[':status']}"
    if subject.status:
        return f"status {subject.status}"
    if subject.reset is not None and not subject.ended:
        return f"stream {subject.reset.name}"
    if subject.blocks == 0:
        return "nothing"
    assert_answers(subject, 1)
    return "answered"
