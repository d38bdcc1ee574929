"""TCP cuts what is sent anywhere: a call means the same however its bytes arrive."""

from collections.abc import Iterator

import pytest

from frostline.protocol import MODEL_INFER
from tests.support import wire as w
from tests.support.wire import Peer, connected, data, headers, literal, message, request
from tests.support.wires import Wire, assert_answers, question

BLOCK = literal(request(MODEL_INFER, grpc_timeout="90S"))
BODY = message(question(1))


def frames(stream: int) -> bytes:
    """A call that has a CONTINUATION frame, two frames of DATA, a setting and a ping between them."""
    return b"".join(
        (
            headers(stream, BLOCK[:50], rest=[BLOCK[50:]]),
            data(stream, BODY[:3]),
            w.settings((w.MAX_FRAME_SIZE, 20000)),
            data(stream, BODY[3:]),
            w.window_update(stream, 70),
            data(stream, b"", end=True),
        )
    )


@pytest.fixture
def witness(wire: Wire) -> Iterator[Peer]:
    """Another connection: once the server has answered on it, it has most likely read what came before on the first."""
    with wire.greeted() as peer:
        yield peer


def test_everything_may_come_byte_by_byte(wire: Wire, witness: Peer) -> None:
    sent = w.PREFACE + w.settings() + frames(1)
    with connected(wire.server.address, wire.tls) as peer:
        for at in range(len(sent)):
            peer.send(sent[at : at + 1])
            witness.turn()
        assert_answers(peer.answer(1), 1)


def test_a_call_may_be_cut_in_two_anywhere(wire: Wire, witness: Peer) -> None:
    with wire.greeted() as peer:
        for cut in range(1, len(frames(1))):
            stream = 2 * cut - 1
            sent = frames(stream)
            peer.send(sent[:cut])
            witness.turn()
            peer.send(sent[cut:])
            assert_answers(peer.answer(stream), 1)


def test_the_preface_may_be_cut_in_two_anywhere(wire: Wire, witness: Peer) -> None:
    greeting = w.PREFACE + w.settings()
    for cut in range(1, len(greeting)):
        with connected(wire.server.address, wire.tls) as peer:
            peer.send(greeting[:cut])
            witness.turn()
            peer.send(greeting[cut:], frames(1))
            assert_answers(peer.answer(1), 1)


def test_a_message_may_be_cut_in_two_frames_anywhere(wire: Wire) -> None:
    with wire.greeted() as peer:
        for cut in range(len(BODY) + 1):
            stream = 2 * cut + 1
            peer.send(headers(stream, BLOCK), data(stream, BODY[:cut]), data(stream, BODY[cut:], end=True))
            assert_answers(peer.answer(stream), 1)


def test_calls_may_come_all_at_once(wire: Wire) -> None:
    with connected(wire.server.address, wire.tls) as peer:
        streams = range(1, 201, 2)
        sent = [headers(stream, BLOCK) + data(stream, message(question(stream)), end=True) for stream in streams]
        peer.send(w.PREFACE, w.settings(), *sent)
        for stream in streams:
            assert_answers(peer.answer(stream), stream)
