"""ModelStreamInfer on the wire: messages and frames need not fall together, and a stream may end in many ways."""

import gzip
from collections.abc import Iterable
from pathlib import Path

import pytest

from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_STREAM_INFER
from frostline_server.rpc.h2 import listener
from tests.support import wire as w
from tests.support.wire import Answer, data, headers, literal, message, request
from tests.support.wires import MODEL, WIRES, Wire, assert_answers, assert_response, call, question, served

OPEN = headers(1, literal(request(MODEL_STREAM_INFER)))


def sent(numbers: Iterable[int], model: str = MODEL) -> bytes:
    """Length-prefixed questions."""
    return b"".join(message(question(number, model)) for number in numbers)


def assert_stream_answers(answer: Answer, numbers: Iterable[int]) -> None:
    """That each question was answered once, in any order."""
    assert answer.headers[":status"] == "200"
    left = set(numbers)
    for payload in answer.messages:
        said = pb.ModelStreamInferResponse.FromString(payload)
        assert not said.error_message
        number = int(said.infer_response.id.split()[1])
        left.remove(number)
        assert_response(said.infer_response, number)
    assert not left


def assert_ended(answer: Answer) -> None:
    """That the stream ended well, by trailers after its messages."""
    assert (answer.status, answer.blocks) == (0, 2)
    assert answer.body == b"".join(message(payload) for payload in answer.messages)


def test_many_messages_in_one_frame(wire: Wire) -> None:
    with wire.greeted() as peer:
        peer.send(OPEN, data(1, sent(range(20)), end=True))
        assert_ended(peer.answer(1))
        assert_stream_answers(peer.answers[1], range(20))


@pytest.mark.parametrize("size", [1, 4, 5, 6, 97])
def test_messages_over_many_frames(wire: Wire, size: int) -> None:
    body = sent(range(6))
    with wire.greeted() as peer:
        peer.send(OPEN, *[data(1, body[at : at + size]) for at in range(0, len(body), size)], data(1, b"", end=True))
        assert_ended(peer.answer(1))
        assert_stream_answers(peer.answers[1], range(6))


def test_messages_that_waited_for_room_are_run_as_soon_as_answers_have_left(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever the front end does not go on with by itself waits for ever.
    monkeypatch.setattr(listener, "_TICK_S", 3600.0)
    body = sent(range(8))
    with wire.greeted() as peer:
        peer.send(OPEN, *[data(1, body * 15) for _ in range(4)], data(1, body * 15, end=True))
        assert_ended(peer.answer(1))
        assert len(peer.answers[1].messages) == 8 * 15 * 5


def test_answers_come_while_the_client_goes_on(wire: Wire) -> None:
    with wire.greeted() as peer:
        peer.send(OPEN)
        answer = peer.answers.setdefault(1, Answer())
        for number in range(5):
            # The first half of the next message follows the message at once.
            body = sent([number]) + sent([number + 1])[:9] if number < 4 else sent([number])
            peer.send(data(1, body[9:] if number else body))
            peer.until(lambda number=number: len(answer.messages) == number + 1 or answer.over)  # type: ignore[misc]
            assert not answer.over
        peer.send(data(1, b"", end=True))
        assert_ended(peer.answer(1))
        assert_stream_answers(answer, range(5))


@pytest.mark.parametrize("end", [headers(1, b"", end=True), data(1, b"", end=True)], ids=["trailers", "data"])
def test_a_stream_may_end_without_a_message(wire: Wire, end: bytes) -> None:
    with wire.greeted() as peer:
        peer.send(OPEN, end)
        answer = peer.answer(1)
        assert (answer.status, answer.body) == (0, b"")


def test_a_stream_may_end_with_its_headers(wire: Wire) -> None:
    with wire.greeted() as peer:
        peer.send(headers(1, literal(request(MODEL_STREAM_INFER)), end=True))
        answer = peer.answer(1)
        assert (answer.status, answer.body) == (0, b"")


def test_streams_and_calls_share_a_connection(wire: Wire) -> None:
    streams = range(1, 17, 2)
    bodies = {stream: sent(range(100 * stream, 100 * stream + 5)) for stream in streams}
    with wire.greeted() as peer:
        peer.send(*[headers(stream, literal(request(MODEL_STREAM_INFER))) for stream in streams])
        for turn, at in enumerate(range(0, max(map(len, bodies.values())), 50)):
            peer.send(*[data(stream, bodies[stream][at : at + 50]) for stream in streams])
            peer.send(call(101 + 2 * turn, turn))
        peer.send(*[data(stream, b"", end=True) for stream in streams])
        for stream in streams:
            assert_ended(peer.answer(stream))
            assert_stream_answers(peer.answers[stream], range(100 * stream, 100 * stream + 5))
        for number in range(turn + 1):
            assert_answers(peer.answer(101 + 2 * number), number)


def test_a_message_that_fails_is_answered_in_the_stream_and_harms_no_other(wire: Wire) -> None:
    with wire.greeted() as peer:
        body = sent([1]) + sent([2], "other") + message(b"\xff" * 40) + message(b"") + sent([3])
        peer.send(OPEN, data(1, body, end=True))
        answer = peer.answer(1)
        assert_ended(answer)
        said = [pb.ModelStreamInferResponse.FromString(payload) for payload in answer.messages]
        assert sorted(one.infer_response.id for one in said if not one.error_message) == ["question 1", "question 3"]
        errors = [one.error_message for one in said if one.error_message]
        assert len(errors) == 3
        assert any(error.startswith("[request id: question 2]") for error in errors)


def test_compressed_and_plain_messages_mix(wire: Wire) -> None:
    fields = literal(request(MODEL_STREAM_INFER, grpc_encoding="gzip"))
    packed = b"".join(message(gzip.compress(question(number)), compressed=1) for number in (2, 4))
    with wire.greeted() as peer:
        peer.send(headers(1, fields), data(1, sent([1]) + packed + sent([3]), end=True))
        assert_ended(peer.answer(1))
        assert_stream_answers(peer.answers[1], range(1, 5))


@pytest.mark.parametrize(
    ("broken", "statuses"),
    [
        (sent([1]) + sent([2])[:-1], {13}),
        (sent([1]) + sent([2])[:3], {13}),
        (sent([1]) + message(b"x", compressed=1), {13}),
        (sent([1]) + message(b"", length=1 << 31), {8}),
    ],
    ids=["message cut off", "prefix cut off", "flag without an encoding", "too large"],
)
def test_a_stream_whose_framing_breaks_ends_with_a_status(wire: Wire, broken: bytes, statuses: set[int]) -> None:
    if wire.transport == "grpcio" and statuses == {13} and broken[-1:] != b"x":
        statuses = {0, 13}  # it takes what is cut off for nothing
    with wire.greeted() as peer:
        peer.send(OPEN, data(1, broken, end=True), call(3, 3))
        assert peer.answer(1).status in statuses
        assert_answers(peer.answer(3), 3)


def test_a_stream_that_is_reset_leaves_nothing_and_others_go_on(wire: Wire) -> None:
    with wire.greeted() as peer:
        with wire.server.held(MODEL) as held:
            peer.send(OPEN, data(1, sent(range(4))))
            peer.send(headers(3, literal(request(MODEL_STREAM_INFER))), data(3, sent([7])), call(5, 5))
            held.wait_until_queued(6)
            peer.send(w.rst_stream(1))
            held.wait_until_queued(2)
        assert_answers(peer.answer(5), 5)
        peer.send(data(3, sent([8]), end=True))
        assert_ended(peer.answer(3))
        assert_stream_answers(peer.answers[3], (7, 8))
        assert not peer.answers.get(1, Answer()).body


def test_a_stream_ends_when_its_time_has_passed(wire: Wire) -> None:
    with wire.greeted() as peer:
        with wire.server.held(MODEL) as held:
            peer.send(headers(1, literal(request(MODEL_STREAM_INFER, grpc_timeout="20m"))), data(1, sent([1, 2])))
            answer = peer.answer(1)
            assert answer.status == 4 or answer.reset == w.Code.CANCEL
            held.wait_until_queued(0)
        peer.send(call(3, 3))
        assert_answers(peer.answer(3), 3)


def test_answers_wait_for_the_window_and_none_is_lost(wire: Wire) -> None:
    with wire.greeted((w.INITIAL_WINDOW_SIZE, 0)) as peer:
        peer.send(OPEN, data(1, sent(range(10)), end=True))
        answer = peer.answers.setdefault(1, Answer())
        peer.until(lambda: answer.blocks == 1)
        while not answer.over:
            size = len(answer.body)
            peer.grant(1, 37)
            peer.until(lambda size=size: len(answer.body) > size or answer.over)  # type: ignore[misc]
        assert_ended(answer)
        assert_stream_answers(answer, range(10))


def test_a_stream_that_the_client_does_not_read_holds_up_no_other(wire: Wire) -> None:
    with wire.greeted((w.INITIAL_WINDOW_SIZE, 1000)) as peer:
        peer.send(OPEN)
        peer.send(data(1, sent(range(50), "wide")))
        peer.send(headers(3, literal(request(MODEL_STREAM_INFER))), data(3, sent([1, 2]), end=True), call(5, 5))
        assert_answers(peer.answer(5), 5)
        assert_ended(peer.answer(3))
        peer.send(data(1, b"", end=True))
        peer.grant(0, 1 << 20)
        peer.grant(1, 1 << 20)
        assert_ended(peer.answer(1))
        assert_stream_answers(peer.answers[1], range(50))


@pytest.mark.parametrize("name", WIRES)
def test_a_stream_whose_client_has_asked_all_ends_well_while_the_server_stops(tmp_path: Path, name: str) -> None:
    with served(tmp_path, name) as stopping, stopping.greeted() as peer:
        with stopping.server.held(MODEL) as held:
            peer.send(OPEN, data(1, sent(range(5)), end=True))
            held.wait_until_queued(5)
            drained = stopping.server.begin_drain()
        assert_ended(peer.answer(1))
        assert_stream_answers(peer.answers[1], range(5))
        assert drained.result(30)
