"""Answers are compressed where that is set, for the clients that say they understand it (gRPC's compression.md)."""

import gzip
import zlib
from collections.abc import Callable, Iterator

import pytest

from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER
from tests.support.wire import Answer, data, headers, literal, message, request, unary
from tests.support.wires import WIRES, Wire, assert_response, question, served

UNPACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
BOTH = "identity, deflate, gzip"


@pytest.fixture(scope="module", params=[(name, encoding) for name in WIRES for encoding in UNPACK], ids="-".join)
def answering(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Wire, str]]:
    """A server, and the encoding that it is set to."""
    name, encoding = request.param
    with served(tmp_path_factory.mktemp("wire"), name, compression=encoding) as wire:
        yield wire, encoding


def plain(answer: Answer, encoding: str) -> tuple[bool, bytes]:
    """Whether an answer's only message is compressed, and the message itself."""
    flag = answer.body[0]
    (payload,) = answer.messages
    assert flag in {0, 1}
    if flag:
        assert answer.headers["grpc-encoding"] == encoding
        return True, UNPACK[encoding](payload)
    return False, payload


@pytest.mark.parametrize("accepted", [BOTH, "gzip,deflate", "gzip ,\tdeflate"])
def test_for_a_client_that_accepts_it(answering: tuple[Wire, str], accepted: str) -> None:
    wire, encoding = answering
    with wire.greeted() as peer:
        peer.send(unary(1, request(MODEL_INFER, grpc_accept_encoding=accepted), question(1, "wide")))
        compressed, payload = plain(peer.answer(1), encoding)
        assert compressed
        assert len(peer.answer(1).body) < 8000
        assert_response(pb.ModelInferResponse.FromString(payload), 1)


@pytest.mark.parametrize("accepted", [None, "identity", "snappy", "gzipped,deflated"])
def test_not_for_a_client_that_does_not(answering: tuple[Wire, str], accepted: str | None) -> None:
    wire, encoding = answering
    fields = request(MODEL_INFER) if accepted is None else request(MODEL_INFER, grpc_accept_encoding=accepted)
    with wire.greeted() as peer:
        peer.send(unary(1, fields, question(1, "wide")))
        compressed, payload = plain(peer.answer(1), encoding)
        assert not compressed or wire.transport == "grpcio"  # which compresses all the same
        assert_response(pb.ModelInferResponse.FromString(payload), 1)


def test_every_message_of_a_stream_by_itself(answering: tuple[Wire, str]) -> None:
    wire, encoding = answering
    fields = request(MODEL_STREAM_INFER, grpc_accept_encoding=BOTH, grpc_encoding="gzip")
    questions = {number: question(number, "wide") for number in range(1, 4)}
    sent = [message(gzip.compress(payload), compressed=1) for payload in questions.values()]
    with wire.greeted() as peer:
        peer.send(headers(1, literal(fields)), data(1, b"".join(sent), end=True))
        answer = peer.answer(1)
    assert answer.headers["grpc-encoding"] == encoding
    assert answer.status == 0
    left = set(questions)
    for payload in answer.messages:
        response = pb.ModelStreamInferResponse.FromString(UNPACK[encoding](payload)).infer_response
        number = int(response.id.split()[1])
        assert_response(response, number)
        left.remove(number)
    assert not left


def test_an_error_has_nothing_to_compress(answering: tuple[Wire, str]) -> None:
    wire, _ = answering
    with wire.greeted() as peer:
        peer.send(unary(1, request(MODEL_INFER, grpc_accept_encoding=BOTH), question(1, "other")))
        assert (peer.answer(1).status, peer.answer(1).body) == (5, b"")
