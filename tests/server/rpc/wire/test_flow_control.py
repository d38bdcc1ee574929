"""Flow control (RFC 9113, 5.2 and 6.9): the server sends no byte more than it may, and lets its clients send again.

That it sends no byte more is checked in every test of the wire, with every DATA frame that comes.
"""

import pytest

from frostline.protocol import MODEL_INFER
from tests.support import wire as w
from tests.support.wire import data, headers, literal, message, padded, request
from tests.support.wires import Wire, assert_answers, call, question

BLOCK = literal(request(MODEL_INFER))


def test_an_answer_leaves_byte_by_byte_as_the_window_allows(wire: Wire) -> None:
    with wire.greeted((w.INITIAL_WINDOW_SIZE, 0)) as peer:
        peer.send(call(1, 1))
        answer = peer.answers.setdefault(1, w.Answer())
        peer.until(lambda: answer.blocks == 1)
        peer.turn()
        assert answer.body == b""
        while not answer.over:
            size = len(answer.body)
            peer.grant(1, 1)
            peer.until(lambda size=size: len(answer.body) > size or answer.over)  # type: ignore[misc]
        assert_answers(answer, 1)


def test_a_setting_changes_the_windows_of_open_streams_and_may_make_them_negative(wire: Wire) -> None:
    with wire.greeted((w.INITIAL_WINDOW_SIZE, 10)) as peer:
        peer.send(call(1, 1))
        answer = peer.answers.setdefault(1, w.Answer())
        peer.until(lambda: len(answer.body) == 10)
        peer.set((w.INITIAL_WINDOW_SIZE, 25))
        peer.until(lambda: len(answer.body) == 25)
        peer.set((w.INITIAL_WINDOW_SIZE, 0))  # leaves -25
        peer.grant(1, 20)
        peer.turn()
        assert len(answer.body) == 25
        peer.grant(1, 7)
        peer.until(lambda: len(answer.body) == 27)
        peer.set((w.INITIAL_WINDOW_SIZE, 65535))
        assert_answers(peer.answer(1), 1)


def test_a_blocked_stream_holds_up_no_other(wire: Wire) -> None:
    with wire.greeted((w.INITIAL_WINDOW_SIZE, 0)) as peer:
        peer.send(call(1, 1), call(3, 3), call(5, 5))
        for stream in (5, 3, 1):
            peer.grant(stream, 1000)
            assert_answers(peer.answer(stream), stream)


def test_all_streams_share_the_connections_window(wire: Wire) -> None:
    with wire.greeted((w.INITIAL_WINDOW_SIZE, 1 << 20)) as peer:
        streams = range(1, 21, 2)
        peer.send(*[call(stream, stream, "wide") for stream in streams])
        for stream in streams:
            peer.answers[stream] = w.Answer()

        def received() -> int:
            return sum(len(answer.body) for answer in peer.answers.values())

        peer.until(lambda: received() == w.FIRST_WINDOW)
        # What has no body is not held up.
        peer.send(call(101, 1, path="/no.Service/Method"))
        assert peer.answer(101).status == 12
        peer.grant(0, 1)
        peer.until(lambda: received() == w.FIRST_WINDOW + 1)
        peer.grant(0, 1 << 20)
        for stream in streams:
            assert_answers(peer.answer(stream), stream)


def test_a_client_may_reset_a_stream_that_its_window_blocks(wire: Wire) -> None:
    with wire.greeted((w.INITIAL_WINDOW_SIZE, 1)) as peer:
        for stream in range(1, 100, 2):
            peer.send(call(stream, stream, "wide"))
            peer.until(lambda stream=stream: stream in peer.answers and bool(peer.answers[stream].body))  # type: ignore[misc]
            peer.send(w.rst_stream(stream))
        # Their bytes no longer count against the connection's window.
        peer.set((w.INITIAL_WINDOW_SIZE, 65535))
        peer.send(call(101, 101, "wide"))
        assert_answers(peer.answer(101), 101)


def test_large_messages_are_let_in(wire: Wire) -> None:
    payload = question(1, parameters={"note": {"string_param": "x" * 300_000}})
    with wire.greeted() as peer:
        for stream in (1, 3, 5):
            peer.send(headers(stream, BLOCK))
        for stream in (5, 1, 3):
            peer.pour(stream, message(payload))
            assert_answers(peer.answer(stream), 1)


SIZE = 60_000
REFUSED = {
    "of a method that is none": (literal(request("/no.Service/Method")), message(bytes(SIZE))),
    "of another content type": (literal(request(MODEL_INFER, content_type="text/plain")), message(bytes(SIZE))),
    "longer than any message may be": (BLOCK, message(bytes(SIZE), length=1 << 31)),
    "in an unknown encoding": (literal(request(MODEL_INFER, grpc_encoding="snappy")), message(bytes(SIZE), compressed=1)),
    "that is no gzip": (literal(request(MODEL_INFER, grpc_encoding="gzip")), message(bytes(SIZE), compressed=1)),
    "that is no message": (BLOCK, message(b"\xff" * SIZE)),
    "of two messages": (BLOCK, message(question(1)) + message(bytes(SIZE))),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_the_window_comes_back_of_bodies_that_are_refused(wire: Wire, case: str) -> None:
    block, body = REFUSED[case]
    with wire.greeted() as peer:
        for stream in range(1, 401, 2):  # 12 MB, more than any window here
            peer.send(headers(stream, block))
            peer.pour(stream, body)
        peer.send(call(1001, 1))
        assert_answers(peer.answer(1001), 1)


def test_the_window_comes_back_of_bodies_whose_stream_is_reset(wire: Wire) -> None:
    with wire.greeted() as peer:
        for stream in range(1, 161, 2):  # fewer than a flood of resets
            peer.send(headers(stream, BLOCK))
            peer.pour(stream, message(bytes(150_000), length=200_000), end=False)
            peer.send(w.rst_stream(stream))
        peer.send(call(1001, 1))
        assert_answers(peer.answer(1001), 1)


def test_the_window_comes_back_of_padding(wire: Wire) -> None:
    if wire.transport == "grpcio":
        pytest.skip("grpcio knows no padding")
    body = message(question(1))
    with wire.greeted() as peer:
        for stream in range(1, 401, 2):
            peer.send(headers(stream, BLOCK))
            for at in range(len(body)):
                peer.until(lambda stream=stream: peer.allowance(stream) >= 257)  # type: ignore[misc]
                peer.spend(stream, 257)
                last = w.END_STREAM if at == len(body) - 1 else 0
                peer.send(w.frame(w.DATA, w.PADDED | last, stream, padded(body[at : at + 1], 255)))
            assert_answers(peer.answer(stream), 1)


def test_an_unread_stream_holds_up_no_other(wire: Wire) -> None:
    with wire.greeted() as peer:
        peer.send(headers(1, BLOCK), data(1, message(bytes(9), length=1 << 20)))
        for stream in range(3, 43, 2):
            peer.send(headers(stream, BLOCK))
            peer.pour(stream, message(question(stream, parameters={"note": {"string_param": "x" * 100_000}})))
            assert_answers(peer.answer(stream), stream)
