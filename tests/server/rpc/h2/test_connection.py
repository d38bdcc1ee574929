"""One connection, without a socket: what becomes of calls, and what is held for them."""

import contextlib
import gc
import gzip
import weakref

import pytest

from frostline_server.errors import InvalidInput
from frostline_server.rpc.h2 import connection
from frostline_server.rpc.h2.call import Call
from frostline_server.rpc.h2.connection import Connection, ConnectionEnded, ConnectionOver
from frostline_server.rpc.h2.framing import PREFIX_BYTES, prefixed
from tests.server.rpc.h2.pair import STREAM, UNARY, Kept, Pair, packed
from tests.support import wire

ANSWER = b"an answer"


def test_a_call_is_passed_on_whole_and_answered() -> None:
    pair = Pair()
    stream = pair.call(b"hello")
    ((call, message),) = pair.kept.messages
    assert message == b"hello"
    assert pair.held == PREFIX_BYTES + 5
    pair.server.answer(call, ANSWER)
    pair.exchange()
    answer = pair.answers[stream]
    assert (answer.status, answer.body, answer.trailers) == ("200", prefixed(ANSWER), {"grpc-status": "0"})
    assert answer.headers["content-type"] == "application/grpc"
    assert pair.held == 0


def test_a_call_that_comes_byte_by_byte_is_the_same_call() -> None:
    pair = Pair()
    stream = pair.begin()
    for byte in prefixed(b"hello"):
        pair.client.send_data(stream, bytes([byte]))
        pair.exchange(piece=1)
    pair.client.send_data(stream, b"", end_stream=True)
    assert not pair.kept.messages
    pair.exchange(piece=1)
    assert [message for _, message in pair.kept.messages] == [b"hello"]


def test_the_length_is_held_from_the_first_five_bytes_until_the_answer_has_left() -> None:
    pair = Pair(client_window=10)
    stream = pair.begin()
    pair.client.send_data(stream, prefixed(bytes(1000))[:PREFIX_BYTES])
    pair.exchange()
    assert pair.held == 1000
    pair.client.send_data(stream, bytes(1000), end_stream=True)
    pair.exchange()
    ((call, _),) = pair.kept.messages
    pair.server.answer(call, bytes(95))
    pair.exchange()
    # The client reads ten bytes of a hundred, and the request is held until all is read.
    assert pair.held == 1100
    for _ in range(9):
        pair.read(stream, 10)
    assert pair.answers[stream].closed == 0
    assert pair.held == 0


def test_what_is_too_large_is_refused_before_it_comes() -> None:
    pair = Pair()
    stream = pair.begin()
    pair.client.send_data(stream, b"\0" + (600 << 20).to_bytes(4, "big"))
    pair.exchange()
    answer = pair.answers[stream]
    assert answer.code == 8
    assert answer.text == f"SERVER: Received message larger than max ({600 << 20} vs. {1 << 20})"
    assert answer.headers["frostline-error"] == "message_too_large"
    # The rest is not wanted, which the client is told after the status.
    assert answer.closed == 0
    assert pair.held == 0
    assert [error.kind for error in pair.counted] == ["message_too_large"]


def test_what_finds_no_room_is_refused_and_room_comes_back() -> None:
    pair = Pair(budget=100_000)
    first = pair.begin()
    pair.client.send_data(first, prefixed(bytes(80_000))[:PREFIX_BYTES])
    pair.exchange()
    stream = pair.call(bytes(10_000))
    assert pair.answers[stream].code == 8
    assert pair.answers[stream].headers["frostline-error"] == "network_full"
    assert "network_bytes" in pair.answers[stream].text
    assert pair.shared.refused == {"network_full": 1}
    # What is left is kept for small messages.
    pair.call(b"small")
    assert [message for _, message in pair.kept.messages] == [b"small"]
    pair.client.reset_stream(first)
    pair.exchange()
    assert pair.held == PREFIX_BYTES + 5
    pair.call(bytes(10_000))
    assert len(pair.kept.messages) == 2


def test_a_large_message_holds_twice_its_size_until_it_is_decoded() -> None:
    pair = Pair(max_message_bytes=4 << 20)
    stream = pair.begin()
    pair.client.send_data(stream, prefixed(bytes(2 << 20))[:PREFIX_BYTES])
    pair.exchange()
    assert pair.held == 4 << 20
    pair.client.send_data(stream, bytes(2 << 20), end_stream=True)
    pair.exchange()
    # Nobody waits for its parts to be joined.
    assert not pair.kept.messages
    assert pair.held == 4 << 20
    ((function, then),) = pair.later
    then(function())
    assert [len(message) for _, message in pair.kept.messages] == [2 << 20]
    assert pair.held == 2 << 20


@pytest.mark.parametrize("gzip", [False, True])
def test_a_large_message_is_held_until_the_other_thread_has_done_with_it_also_if_the_call_is_given_up(
    gzip: bool,
) -> None:
    pair = Pair(max_message_bytes=4 << 20)
    stream = pair.begin(grpc_encoding="gzip")
    pair.client.send_data(stream, (packed if gzip else prefixed)(bytes(2 << 20)), end_stream=True)
    pair.exchange()
    before = pair.held
    pair.client.reset_stream(stream)
    pair.exchange()
    assert pair.held == before
    ((function, then),) = pair.later
    assert function() is None
    then(None)
    assert pair.held == 0
    assert not pair.kept.messages


def test_a_large_message_for_which_there_is_no_memory_is_refused_and_nothing_stays_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def inflated(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("frostline_server.rpc.h2.inbound.inflated", inflated)
    pair = Pair(max_message_bytes=4 << 20)
    stream = pair.begin(grpc_encoding="gzip")
    pair.client.send_data(stream, packed(bytes(2 << 20)), end_stream=True)
    pair.exchange()
    ((function, then),) = pair.later
    then(function())
    pair.exchange()
    assert pair.answers[stream].code == 8
    assert "no memory" in pair.answers[stream].text
    assert pair.held == 0


def test_a_call_that_is_over_does_not_know_its_receiver() -> None:
    # Some receivers know their call, and both would wait for the garbage collector.
    pair = Pair()
    stream = pair.call(b"hello")
    ((call, _),) = pair.kept.messages
    assert call.receiver is pair.kept
    pair.client.reset_stream(stream)
    pair.exchange()
    assert pair.kept.cancelled_calls == [call]
    assert call.receiver is not pair.kept


def test_an_answer_that_finds_no_room_becomes_an_error() -> None:
    pair = Pair(budget=100_000)
    stream = pair.call()
    ((call, _),) = pair.kept.messages
    pair.server.answer(call, bytes(200_000))
    pair.exchange()
    assert (pair.answers[stream].code, pair.answers[stream].body) == (8, b"")
    assert pair.held == 0


def test_answers_that_are_not_read_are_given_up_after_a_while_without_progress() -> None:
    pair = Pair(client_window=0)
    stream = pair.call()
    ((call, _),) = pair.kept.messages
    pair.server.answer(call, bytes(95))
    pair.exchange()
    pair.look(after_s=1)
    pair.look(after_s=15)
    assert pair.held > 0
    pair.client.set_local_window_size(10, stream_id=stream)
    pair.exchange()
    # It has made progress, so its time begins anew.
    pair.look(after_s=15)
    pair.look(after_s=15)
    assert pair.held > 0
    pair.look(after_s=15)
    assert pair.answers[stream].closed == 8
    assert pair.held == 0
    assert pair.shared.refused == {"answer_timeout": 1}


def test_a_message_that_does_not_arrive_in_time_ends_its_call_only() -> None:
    pair = Pair()
    slow = pair.begin()
    pair.client.send_data(slow, prefixed(bytes(1000))[:100])
    pair.exchange()
    pair.look(after_s=9)
    assert slow not in pair.answers
    pair.look(after_s=2)
    assert pair.answers[slow].code == 4
    assert "message_timeout_s" in pair.answers[slow].text
    assert len(pair.kept.cancelled_calls) == 1
    assert pair.held == 0
    pair.call()
    assert len(pair.kept.messages) == 1


def test_a_stream_may_wait_between_messages_and_not_within_one() -> None:
    pair = Pair()
    stream = pair.begin(STREAM)
    pair.client.send_data(stream, prefixed(b"one"))
    pair.exchange()
    pair.look(after_s=100)
    assert stream not in pair.answers
    pair.client.send_data(stream, prefixed(b"two")[:6])
    pair.exchange()
    pair.look(after_s=9)
    assert stream not in pair.answers
    pair.look(after_s=2)
    assert pair.answers[stream].code == 4


def test_a_deadline_that_passes_while_the_message_comes_ends_the_call() -> None:
    pair = Pair()
    stream = pair.begin(grpc_timeout="3S")
    pair.client.send_data(stream, prefixed(b"hello")[:7])
    pair.exchange()
    pair.look(after_s=4)
    assert (pair.answers[stream].code, pair.answers[stream].text) == (4, "Deadline Exceeded")


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("2H", 7200), ("2M", 120), ("2S", 2), ("2m", 0.002), ("2u", 2e-6), ("2n", 2e-9), ("99999999H", 359999996400)],
)
def test_a_timeout_has_a_unit(timeout: str, seconds: float) -> None:
    pair = Pair()
    pair.call(grpc_timeout=timeout)
    ((call, _),) = pair.kept.messages
    assert call.deadline_s == pytest.approx(pair.now_s + seconds)


@pytest.mark.parametrize("timeout", ["", "S", "5", "5X", "-1S", "999999999S", "1.5S"])
def test_a_timeout_that_is_none_is_an_error(timeout: str) -> None:
    pair = Pair()
    stream = pair.call(grpc_timeout=timeout)
    assert pair.answers[stream].code == 13
    assert pair.answers[stream].text.startswith("grpc-timeout is up to 8 digits")


def test_a_call_that_its_client_gives_up_is_cancelled() -> None:
    pair = Pair()
    stream = pair.call()
    pair.client.reset_stream(stream)
    pair.exchange()
    ((call, _),) = pair.kept.messages
    assert pair.kept.cancelled_calls == [call]
    # Whatever answers it now does no harm.
    pair.server.answer(call, ANSWER)
    pair.server.fail(call, InvalidInput("too late"))
    pair.exchange()
    assert pair.held == 0


def test_a_call_that_is_answered_and_given_up_in_the_same_bytes_does_no_harm() -> None:
    pair = Pair()
    stream = pair.begin()
    pair.client.send_data(stream, prefixed(b"hello"), end_stream=True)
    data = pair.client.data_to_send()
    pair.client.reset_stream(stream)
    data += pair.client.data_to_send()
    answered: list[Call] = []

    def answer(call: Call, message: bytes) -> None:
        assert message == b"hello"
        pair.server.answer(call, ANSWER)
        answered.append(call)

    pair.kept.message = answer  # type: ignore[method-assign]  # this one answers at once
    pair.receive(data)
    pair.exchange()
    assert len(answered) == 1
    assert pair.held == 0


def test_when_a_connection_closes_all_that_it_holds_is_given_back() -> None:
    pair = Pair(client_window=0)
    pair.call()
    half = pair.begin()
    pair.client.send_data(half, prefixed(bytes(1000))[:100])
    answered = pair.call()
    pair.server.answer(pair.kept.messages[-1][0], ANSWER)
    pair.exchange()
    assert pair.held > 1000
    pair.server.close()
    assert pair.held == 0
    assert answered == 5
    assert [call.stream for call in pair.kept.cancelled_calls] == [1, 3]


@pytest.mark.parametrize(
    "headers", [{":method": "GET"}, {"content_type": "text/plain"}, {"content_type": "application/grpc-web"}]
)
def test_what_is_no_grpc_gets_a_status_of_http(headers: dict[str, str]) -> None:
    pair = Pair()
    stream = pair.call(b"hello", **headers)
    assert pair.answers[stream].status == ("405" if ":method" in headers else "415")
    assert not pair.kept.messages


@pytest.mark.parametrize(
    "content_type", ["application/grpc+proto", "application/grpc;charset=utf-8", "application/grpc+json"]
)
def test_every_form_of_the_content_type_is_taken(content_type: str) -> None:
    pair = Pair()
    pair.call(content_type=content_type)
    assert len(pair.kept.messages) == 1


@pytest.mark.parametrize("more", [{"x-token": "a" * 20_000}, {f"x-{number}": "" for number in range(500)}])
def test_more_metadata_than_is_allowed_is_refused_for_its_call_alone(more: dict[str, str]) -> None:
    pair = Pair()
    open_call = pair.begin()
    stream = pair.call(b"hello", **more)
    assert pair.answers[stream].code == 8
    assert "it may have 16384 (max_header_bytes)" in pair.answers[stream].text
    assert pair.answers[stream].headers["frostline-error"] == "metadata_too_large"
    assert [error.kind for error in pair.counted] == ["metadata_too_large"]
    assert pair.answers[stream].closed == 0
    pair.client.send_data(open_call, prefixed(b"first"), end_stream=True)
    pair.exchange()
    pair.call(b"next")
    assert [message for _, message in pair.kept.messages] == [b"first", b"next"]
    assert not pair.goaways
    # Four times as much is no mistake.
    pair.begin(**{f"x-{number}": "a" * 20 for number in range(1500)})
    data = pair.client.data_to_send()
    with pytest.raises(ConnectionOver):
        pair.receive(data)


def test_an_unknown_method_is_unimplemented() -> None:
    pair = Pair()
    stream = pair.call(path="/t.T/Missing")
    assert (pair.answers[stream].code, pair.answers[stream].text) == (12, "Method not found!")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the method takes one message, and the call has none"),
        (prefixed(b"a") + prefixed(b"b"), "the method takes one message, and the call has more"),
        (prefixed(b"hello")[:-1], "the call ended in the middle of a message"),
        (b"\0\0\0", "the call ended in the middle of a message"),
        (
            prefixed(b"hello", compressed=True),
            "a message says that it is compressed, and the call names no grpc-encoding",
        ),
        (b"\x07\0\0\0\0", "a message says that it is compressed, and the call names no grpc-encoding"),
    ],
)
def test_a_unary_call_has_exactly_one_message(body: bytes, reason: str) -> None:
    pair = Pair()
    stream = pair.begin()
    pair.client.send_data(stream, body, end_stream=True)
    pair.exchange()
    assert (pair.answers[stream].code, pair.answers[stream].text) == (13, reason)
    assert not pair.kept.messages
    assert pair.held == 0


def test_many_messages_of_a_stream_may_come_in_one_frame() -> None:
    pair = Pair()
    stream = pair.begin(STREAM)
    pair.client.send_data(stream, b"".join(prefixed(bytes([n])) for n in range(10)), end_stream=True)
    pair.exchange()
    assert [message for _, message in pair.kept.messages] == [bytes([n]) for n in range(10)]
    call = pair.kept.messages[0][0]
    assert pair.kept.finished_calls == [call]
    pair.server.send(call, [b"x", b"y"])
    pair.server.send(call, [b"z"])
    pair.server.end(call)
    pair.exchange()
    assert pair.answers[stream].body == prefixed(b"x") + prefixed(b"y") + prefixed(b"z")
    assert pair.answers[stream].trailers == {"grpc-status": "0"}


def test_calls_share_headers_that_are_the_same_and_no_others() -> None:
    pair = Pair()
    usual: dict[str, str] = {}
    for headers in (usual, usual, {"grpc-timeout": "5S"}, {"grpc-timeout": "7S"}, usual, usual):
        pair.call(**headers)
    calls = [call for call, _ in pair.kept.messages]
    assert [call.deadline_s for call in calls] == [None, None, 1005.0, 1007.0, None, None]
    assert [call.header(b"grpc-timeout") for call in calls] == [None, None, b"5S", b"7S", None, None]
    assert calls[0].headers is calls[1].headers
    assert calls[4].headers is calls[5].headers


def paused_stream(pair: Pair) -> tuple[int, Call]:
    """A stream that is held back after its first message, b"first", by its number and as the server has it."""
    stream = pair.begin(STREAM)
    pair.client.send_data(stream, prefixed(b"first"))
    pair.exchange()
    ((call, _),) = pair.kept.messages
    call.paused = True
    return stream, call


def test_a_stream_that_is_held_back_uses_up_its_window_and_others_go_on() -> None:
    pair = Pair()
    stream, call = paused_stream(pair)
    for _ in range(40):
        pair.client.send_data(stream, prefixed(bytes(100_000)))
    pair.exchange()
    came = len(pair.kept.messages) - 1
    assert 9 <= came <= 11  # a window of 1 MiB
    pair.call(b"other")
    assert pair.kept.messages[-1][1] == b"other"
    pair.server.resume(call)
    pair.exchange()
    assert len(pair.kept.messages) == 42


def test_however_many_streams_are_held_back_each_uses_up_its_own_window_and_others_go_on() -> None:
    pair = Pair()
    calls = {}
    for _ in range(12):
        stream = pair.begin(STREAM)
        pair.client.send_data(stream, prefixed(b"first"))
        pair.exchange()
        calls[stream] = pair.kept.messages[-1][0]
        calls[stream].paused = True
    for stream in calls:
        for _ in range(20):
            pair.client.send_data(stream, prefixed(bytes(100_000)))
    pair.exchange()
    for call in calls.values():
        assert 10 <= sum(each is call for each, _ in pair.kept.messages) <= 12  # a window of 1 MiB
    pair.call(b"other")
    assert pair.kept.messages[-1][1] == b"other"
    for call in calls.values():
        pair.server.resume(call)
    pair.exchange()
    assert len(pair.kept.messages) == 12 * 21 + 1
    assert pair.client.remote_window_size >= 4 << 20


def test_a_stream_that_is_held_back_in_the_middle_of_a_message_has_time() -> None:
    pair = Pair()
    stream, call = paused_stream(pair)
    pair.client.send_data(stream, prefixed(bytes(1_000_000)) + prefixed(bytes(1_000_000)))
    pair.exchange()
    for _ in range(10):
        pair.look(after_s=11)
    assert stream not in pair.answers
    pair.server.resume(call)
    pair.exchange()
    assert [len(message) for _, message in pair.kept.messages] == [5, 1_000_000, 1_000_000]


def test_a_call_began_with_its_headers_however_long_its_message_takes() -> None:
    pair = Pair()
    stream, began_s = pair.begin(), pair.now_s
    for part in (prefixed(bytes(1000))[:100], prefixed(bytes(1000))[100:]):
        pair.exchange()
        pair.look(after_s=5)
        pair.client.send_data(stream, part, end_stream=len(part) > 100)
    pair.exchange()
    ((call, _),) = pair.kept.messages
    assert call.report(None).received_s == began_s


def test_headers_of_one_name_are_one() -> None:
    pair = Pair()
    usual = [(":method", "POST"), (":scheme", "http"), (":path", UNARY), (":authority", "t"), ("te", "trailers")]
    several = [("content-type", "application/grpc"), ("authorization", "Bearer a"), ("authorization", "Bearer b")]
    stream = pair.client.send_request([(n.encode(), v.encode()) for n, v in usual + several])
    pair.client.send_data(stream, prefixed(b"hello"), end_stream=True)
    pair.exchange()
    ((call, _),) = pair.kept.messages
    assert call.header(b"authorization") == b"Bearer a,Bearer b"


def test_who_asks_now_and_then_whether_the_server_is_there_may_do_so_for_ever() -> None:
    pair = Pair()
    pair.call()
    for _ in range(3000):
        pair.receive(wire.frame(wire.PING, 0, 0, bytes(8)))
        pair.exchange()
        pair.look(after_s=1)
    assert pair.shared.refused == {}


def test_calls_that_last_are_few_on_one_connection() -> None:
    pair = Pair(max_calls=200)
    streams = [pair.begin(STREAM) for _ in range(101)]
    pair.exchange()
    assert pair.answers[streams[-1]].code == 8
    assert pair.answers[streams[-1]].headers["frostline-error"] == "too_many_calls"
    assert len(pair.answers) == 1
    pair.client.reset_stream(streams[0])
    again = pair.begin(STREAM)
    pair.exchange()
    assert again not in pair.answers


def test_short_calls_may_be_as_many_as_calls_may_be_at_all() -> None:
    pair = Pair(max_calls=200)
    for _ in range(200):
        pair.call()
    assert len(pair.kept.messages) == 200
    assert not pair.answers


# Calls that end before all of them has come


def send_to_a_server_that_answers(pair: Pair, data: bytes, piece: int) -> None:
    """Carry bytes to the server, which answers after each piece; the client hears of it when all have been sent."""
    answers = b""
    for at in range(0, len(data), piece):
        pair.receive(data[at : at + piece])
        answers += pair.server.to_send(1 << 16)
    pair.hear(answers)
    pair.exchange()


@pytest.mark.parametrize("piece", [9_000, 16_393, 30_000])
@pytest.mark.parametrize("ends", [True, False])
def test_calls_that_end_in_the_middle_of_a_frame_leave_the_connection_its_window(piece: int, ends: bool) -> None:
    pair = Pair(max_message_bytes=1000)
    for _ in range(1100):  # each with a part of a frame of 16 KiB, and the window is 8 MiB
        stream = pair.begin()
        pair.client.send_data(stream, prefixed(bytes(40_000)), end_stream=ends)
        send_to_a_server_that_answers(pair, pair.client.data_to_send(), piece)
        answer = pair.answers.pop(stream)
        assert answer.code == 8
        assert answer.closed == 0
    assert not pair.server.open_calls
    assert pair.client.remote_window_size >= 4 << 20


def test_a_client_is_told_to_stop_as_soon_as_its_frame_is_whole() -> None:
    pair = Pair(max_message_bytes=1000)
    stream = pair.begin()
    pair.client.send_data(stream, prefixed(bytes(40_000)))
    data = pair.client.data_to_send()
    headers = int.from_bytes(data[:3], "big") + 9
    frame = (1 << 14) + 9
    pair.receive(data[: headers + frame + 1000])
    pair.hear(pair.server.to_send(1 << 16))
    assert pair.answers[stream].code == 8
    assert pair.answers[stream].closed is None
    pair.receive(data[headers + frame + 1000 : headers + 2 * frame])
    pair.hear(pair.server.to_send(1 << 16))
    assert pair.answers[stream].closed == 0


def test_a_call_that_began_before_the_settings_were_acknowledged_ends_as_any_other() -> None:
    pair = Pair(max_message_bytes=1000)
    pair.connect()
    stream = pair.begin()
    pair.client.send_data(stream, prefixed(bytes(40_000))[:10_000])
    data = pair.client.data_to_send()
    pair.hear(pair.server.to_send(1 << 16))
    data += pair.client.data_to_send()  # the acknowledgement
    pair.client.send_data(stream, bytes(10_000))
    data += pair.client.data_to_send()
    pair.receive(data[:-1])
    pair.hear(pair.server.to_send(1 << 16))
    assert pair.answers[stream].code == 8
    assert pair.answers[stream].closed is None
    pair.receive(data[-1:])
    pair.exchange()
    assert pair.answers[stream].closed == 0


def test_a_client_that_stops_sending_for_calls_that_have_ended_has_not_given_them_up() -> None:
    pair = Pair(resets_per_s=10, max_message_bytes=1000)
    for _ in range(200):
        stream = pair.begin()
        pair.client.send_data(stream, prefixed(bytes(20_000)))
        data = pair.client.data_to_send()
        pair.receive(data[:-1])
        pair.hear(pair.server.to_send(1 << 16))
        pair.client.reset_stream(stream, 0)
        pair.receive(data[-1:])
        pair.exchange()
        assert pair.answers[stream].code == 8
    assert not pair.goaways


# Compression


def test_a_compressed_message_is_unpacked_and_counts_unpacked() -> None:
    pair = Pair()
    stream = pair.begin(grpc_encoding="gzip")
    pair.client.send_data(stream, packed(bytes(500)), end_stream=True)
    pair.exchange()
    ((call, message),) = pair.kept.messages
    assert message == bytes(500)
    assert pair.held == 500
    pair.server.answer(call, b"")
    pair.exchange()
    assert pair.held == 0


def test_a_message_that_unpacks_to_more_than_is_allowed_is_refused_elsewhere() -> None:
    pair = Pair(max_message_bytes=2 << 20)
    stream = pair.begin(grpc_encoding="gzip")
    pair.client.send_data(stream, packed(bytes(3 << 20)), end_stream=True)
    pair.exchange()
    # It may become large, so another thread does it; the most it can become is held meanwhile.
    assert pair.held > 1 << 20
    ((function, then),) = pair.later
    then(function())
    pair.exchange()
    assert pair.answers[stream].code == 8
    assert pair.held == 0
    assert not pair.kept.messages


def test_messages_of_a_stream_stay_in_order_while_one_is_unpacked_elsewhere() -> None:
    pair = Pair()
    stream = pair.begin(STREAM, grpc_encoding="gzip")
    body = packed(bytes(10_000)) + packed(bytes(1 << 20)) + prefixed(b"last")
    pair.client.send_data(stream, body, end_stream=True)
    pair.exchange()
    while pair.later:
        function, then = pair.later.pop(0)
        then(function())
    assert [len(message) for _, message in pair.kept.messages] == [10_000, 1 << 20, 4]
    assert len(pair.kept.finished_calls) == 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (prefixed(b"no gzip", compressed=True), "a message cannot be unpacked as gzip"),
        (prefixed(packed(b"hello")[5:-4], compressed=True), "it is cut off"),
        (prefixed(packed(b"hello")[5:] + b"more", compressed=True), "there is more after its end"),
    ],
)
def test_what_cannot_be_unpacked_is_an_error(body: bytes, why: str) -> None:
    pair = Pair()
    stream = pair.begin(grpc_encoding="gzip")
    pair.client.send_data(stream, body, end_stream=True)
    pair.exchange()
    assert pair.answers[stream].code == 13
    assert why in pair.answers[stream].text
    assert pair.held == 0


def test_an_encoding_that_is_unknown_names_those_that_are_known() -> None:
    pair = Pair()
    stream = pair.call(grpc_encoding="snappy")
    assert pair.answers[stream].code == 12
    assert pair.answers[stream].headers["grpc-accept-encoding"] == "identity,deflate,gzip"


@pytest.mark.parametrize(("accepts", "compressed"), [("identity,gzip", True), ("identity", False)])
def test_answers_are_packed_for_clients_that_can_unpack_them(accepts: str, compressed: bool) -> None:
    pair = Pair(compression=b"gzip")
    stream = pair.call(grpc_accept_encoding=accepts)
    ((call, _),) = pair.kept.messages
    pair.server.answer(call, bytes(1000))
    pair.exchange()
    answer = pair.answers[stream]
    assert answer.body[0] == compressed
    assert (len(answer.body) < 100) == compressed
    assert answer.headers.get("grpc-encoding") == ("gzip" if compressed else None)
    assert pair.held == 0


def test_a_long_answer_is_packed_by_another_thread_and_nobody_waits_for_it() -> None:
    pair = Pair(compression=b"gzip")
    long, given_up = pair.call(grpc_accept_encoding="gzip"), pair.call(grpc_accept_encoding="gzip")
    for call, _ in pair.kept.messages:
        pair.server.answer(call, bytes(1 << 20))
    other = pair.call()
    pair.server.answer(pair.kept.messages[-1][0], ANSWER)
    pair.client.reset_stream(given_up)
    pair.exchange()
    assert pair.answers[other].body == prefixed(ANSWER)
    assert long not in pair.answers
    assert pair.held >= 1 << 20
    for function, then in pair.later:
        then(function())
    pair.exchange()
    assert pair.answers[long].code == 0
    assert gzip.decompress(pair.answers[long].body[PREFIX_BYTES:]) == bytes(1 << 20)
    assert pair.answers[given_up].body == b""
    assert pair.held == 0


def test_a_long_answer_of_a_stream_leaves_as_it_is_and_short_ones_are_packed() -> None:
    pair = Pair(compression=b"gzip")
    stream = pair.call(b"hello", STREAM, grpc_accept_encoding="gzip")
    call = pair.kept.messages[0][0]
    long, short = bytes(1 << 17), bytes(1000)
    pair.server.send(call, [short, long, short])
    pair.server.end(call)
    pair.exchange()
    read = 0
    while read < (came := len(pair.answers[stream].body)):
        pair.read(stream, came - read)
        read = came
    assert not pair.later
    body, flags, sizes = pair.answers[stream].body, [], []
    while body:
        size = int.from_bytes(body[1:PREFIX_BYTES], "big")
        flags.append(body[0])
        sizes.append(size)
        body = body[PREFIX_BYTES + size :]
    assert flags == [1, 0, 1]
    assert sizes[1] == len(long)
    assert sizes[0] < len(short) / 10


def test_an_answer_that_is_compressed_has_not_left_and_one_that_cannot_be_is_an_error() -> None:
    pair = Pair(compression=b"gzip")
    stream = pair.call(grpc_accept_encoding="gzip")
    ((call, _),) = pair.kept.messages
    pair.server.answer(call, bytes(1 << 20))
    pair.exchange()
    assert pair.server.unsent == {stream: 1 << 20}
    ((_, then),) = pair.later
    then(None)  # there was no memory for it
    pair.exchange()
    assert pair.answers[stream].code == 8
    assert pair.server.unsent == {}
    assert pair.held == 0


# Floods


PING = wire.frame(wire.PING, payload=bytes(8))
SETTINGS = wire.settings()
PRIORITY = wire.frame(wire.PRIORITY, stream=1, payload=b"\0\0\0\0\x10")
WINDOW_UPDATE = wire.window_update(0, 1)
EMPTY_DATA = wire.data(1, b"")


@pytest.mark.parametrize("frame", [PING, SETTINGS, PRIORITY, WINDOW_UPDATE, EMPTY_DATA])
def test_a_flood_of_frames_that_carry_nothing_ends_the_connection(frame: bytes) -> None:
    pair = Pair()
    pair.begin()
    pair.exchange()

    def flood() -> None:
        for _ in range(2_000):
            pair.receive(frame * 50)
            pair.server.to_send(1 << 20)

    with pytest.raises(ConnectionOver):
        flood()
    pair.server.close()
    assert pair.held == 0


@pytest.mark.parametrize("frame", [PING, SETTINGS, WINDOW_UPDATE])
def test_as_many_as_an_honest_client_sends_do_no_harm(frame: bytes) -> None:
    pair = Pair()
    for _ in range(100):
        pair.receive(frame * 50)
        pair.server.to_send(1 << 20)
        pair.call()


def test_reading_a_large_answer_bit_by_bit_is_no_flood() -> None:
    pair = Pair(client_window=8192)
    stream = pair.call()
    pair.server.answer(pair.kept.messages[0][0], bytes(9_000_000))
    pair.exchange()
    answer, read = pair.answers[stream], 0
    while read < len(answer.body):
        came = len(answer.body)
        pair.read(stream, came - read)
        read = came
    assert len(answer.body) == 9_000_000 + PREFIX_BYTES
    assert answer.trailers == {"grpc-status": "0"}


def test_rapid_resets_end_the_connection() -> None:
    pair = Pair(resets_per_s=10)
    data = b""
    for _ in range(200):
        stream = pair.begin()
        data += pair.client.data_to_send()
        pair.client.reset_stream(stream)
        data += pair.client.data_to_send()
    with pytest.raises(ConnectionOver, match="too many calls were given up"):
        pair.receive(data)
    assert pair.shared.refused == {"protocol": 1}
    assert_told_to_calm_down(pair)


def test_calls_that_are_given_up_after_their_time_do_not_end_the_connection() -> None:
    pair = Pair(resets_per_s=10)
    for _ in range(200):
        stream = pair.call(grpc_timeout="20m")
        pair.now_s += 0.015  # the client's clock began earlier
        pair.client.reset_stream(stream)
        pair.exchange()
    assert len(pair.kept.cancelled_calls) == 200
    assert pair.call() in pair.server._calls
    assert not pair.goaways


def test_a_deadline_does_not_excuse_a_call_that_is_given_up_before_it() -> None:
    pair = Pair(resets_per_s=10)

    def give_up(calls: int) -> None:
        for _ in range(calls):
            pair.client.reset_stream(pair.call(grpc_timeout="1S"))
            pair.exchange()

    with pytest.raises(ConnectionOver):
        give_up(200)
    assert_told_to_calm_down(pair)


def test_calls_may_be_given_up_as_often_as_the_limit_says() -> None:
    pair = Pair(resets_per_s=10)
    for _ in range(100):
        pair.client.reset_stream(pair.call())
        pair.now_s += 0.1
        pair.exchange()
    assert not pair.goaways


def assert_told_to_calm_down(pair: Pair) -> None:
    with contextlib.suppress(ConnectionOver):
        pair.exchange()
    assert pair.goaways
    pair.server.close()
    assert pair.held == 0


def sent_at_once(pair: Pair, calls: int) -> bytes:
    """The bytes of so many calls with their messages."""
    for number in range(calls):
        pair.client.send_data(pair.begin(), prefixed(b"%d" % number), end_stream=True)
    return pair.client.data_to_send()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step takes little time."""
    monkeypatch.setattr(connection, "LONG_S", -1.0)


@pytest.mark.usefixtures("hurried")
def test_what_takes_longer_than_a_slice_goes_on_in_order_until_it_is_done() -> None:
    pair, slices = Pair(), 1
    pair.server.receive(sent_at_once(pair, 50), pair.now_s)
    assert len(pair.kept.messages) < 50
    while pair.server.unfinished:
        pair.server.go_on(pair.now_s)
        slices += 1
    assert slices > 3
    assert [message for _, message in pair.kept.messages] == [b"%d" % number for number in range(50)]
    for call, message in pair.kept.messages:
        pair.server.answer(call, prefixed(message))
    pair.exchange()
    assert len(pair.answers) == 50
    assert pair.held == 0


@pytest.mark.usefixtures("hurried")
def test_a_connection_that_closes_with_more_to_do_holds_nothing() -> None:
    pair = Pair()
    pair.server.receive(sent_at_once(pair, 50), pair.now_s)
    begun = len(pair.kept.messages)
    assert pair.server.unfinished
    pair.server.close()
    assert not pair.server.unfinished
    assert len(pair.kept.cancelled_calls) >= begun
    assert pair.held == 0


@pytest.mark.usefixtures("hurried")
def test_a_call_that_ends_before_its_begin_was_looked_at_is_forgotten() -> None:
    pair = Pair()
    data = sent_at_once(pair, 40)
    # More bytes than it says: the session ends the call by itself, with the next bytes that are sent.
    stream = pair.begin(content_length="1")
    pair.client.send_data(stream, prefixed(b"longer"), end_stream=True)
    pair.server.receive(data + pair.client.data_to_send(), pair.now_s)
    assert pair.server.unfinished
    pair.hear(pair.server.to_send(1 << 16))
    pair.exchange()
    pair.receive(sent_at_once(pair, 1))
    assert stream not in pair.server._calls
    for call, message in pair.kept.messages:
        pair.server.answer(call, prefixed(message))
    pair.exchange()
    assert pair.server.open_calls == 0
    assert pair.held == 0


def test_many_calls_that_end_at_once_are_forgotten_a_slice_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(max_calls=500)
    pair.receive(sent_at_once(pair, 300))
    for call, message in pair.kept.messages:
        pair.server.answer(call, prefixed(message))
    monkeypatch.setattr(connection, "LONG_S", -1.0)
    pair.hear(pair.server.to_send(1 << 20))
    assert pair.server.unfinished
    pair.receive(sent_at_once(pair, 1))
    assert pair.server.open_calls == 1


@pytest.mark.parametrize("kind", ["answered", "in pieces", "stream", "without a message", "given up", "refused"])
def test_nothing_of_a_call_waits_for_the_garbage_collector(kind: str) -> None:
    pair = Pair()

    def call() -> None:
        stream = pair.begin(STREAM if kind == "stream" else "/t.T/No" if kind == "refused" else UNARY)
        message = b"" if kind == "without a message" else prefixed(b"hello")
        for piece in (message[:3], message[3:]) if kind == "in pieces" else (message,):
            pair.client.send_data(stream, piece, end_stream=piece is message)
            pair.exchange()
        if kind == "in pieces":
            pair.client.send_data(stream, b"", end_stream=True)
        if kind == "given up":
            pair.client.reset_stream(stream)
        pair.exchange()
        for told, _ in pair.kept.messages:
            pair.server.answer(told, ANSWER)
        pair.exchange()
        pair.kept.messages.clear()
        pair.kept.finished_calls.clear()
        pair.kept.cancelled_calls.clear()
        pair.kept.sent_calls.clear()

    call()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            call()
        assert gc.collect() == 0
    finally:
        gc.enable()
    assert pair.server.open_calls == 0


@pytest.mark.parametrize("kind", ["half sent", "waiting", "unread", "unread stream", "refused while it is sent"])
def test_a_connection_that_is_gone_leaves_nothing_to_the_collector(kind: str) -> None:
    """Neither its calls nor its answers, whatever state they were in."""
    pair = Pair(client_window=0)
    stream = pair.begin(STREAM if kind == "unread stream" else "/t.T/No" if kind.startswith("refused") else UNARY)
    message = prefixed(b"hello")
    half = kind in ("half sent", "refused while it is sent")
    pair.client.send_data(stream, message[:7] if half else message, end_stream=not half and kind != "unread stream")
    pair.exchange()
    while pair.kept.messages:
        if kind == "unread":
            pair.server.answer(pair.kept.messages[0][0], ANSWER)
        elif kind == "unread stream":
            pair.server.send(pair.kept.messages[0][0], [ANSWER])
        del pair.kept.messages[0]
    pair.exchange()
    pair.kept = Kept()
    gone = weakref.ref(pair.server)

    gc.disable()
    try:
        pair.server.close()
        del pair.server
        assert gone() is None
    finally:
        gc.enable()
    assert pair.held == 0


def test_a_connection_that_ends_already_can_be_told_to_leave() -> None:
    pair = Pair()
    pair.call()
    pair.receive(b"\xff" * 100)
    pair.server.leave(pair.now_s)
    with pytest.raises(ConnectionOver):
        pair.exchange()


def test_what_is_no_http2_ends_the_connection() -> None:
    pair = Pair()
    fresh = Connection(pair.shared, pair.server.peer, pair.now_s, lambda: None)
    with pytest.raises(ConnectionOver):
        fresh.receive(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", pair.now_s)
    # A frame of 16 MiB.
    pair.receive(b"\xff" * 100)
    with pytest.raises(ConnectionOver):
        pair.exchange()
    assert pair.goaways


def test_a_frame_that_does_not_arrive_in_time_ends_the_connection() -> None:
    pair = Pair()
    pair.begin()
    data = pair.client.data_to_send()
    pair.receive(data[:20])
    assert pair.held == 20
    with pytest.raises(ConnectionOver):
        pair.look(after_s=11)


def test_part_of_a_frame_for_which_there_is_no_room_waits_for_it() -> None:
    pair = Pair(budget=1 << 20)
    filler = pair.call(bytes(500_000))
    other = pair.call(bytes(410_000))
    stream = pair.begin()
    pair.exchange()
    pair.client.send_data(stream, prefixed(bytes(10_000)), end_stream=True)
    data = pair.client.data_to_send()
    pair.receive(data[:-1])
    assert pair.server.owed == len(data) - 1
    assert not pair.server.settle()
    pair.server.answer(pair.kept.messages[0][0], b"")
    pair.exchange()
    assert pair.server.settle()
    assert (pair.server.owed, pair.shared.owed) == (0, 0)
    pair.receive(data[-1:])
    for call, _ in pair.kept.messages[1:]:
        pair.server.answer(call, b"")
    pair.exchange()
    assert [pair.answers[each].code for each in (filler, other, stream)] == [0, 0, 0]
    assert pair.held == 0


def test_only_a_little_may_wait_for_room() -> None:
    pair = Pair(budget=1 << 20)
    pair.call(bytes(910_000))
    stream = pair.begin()
    pair.exchange()
    with pytest.raises(ConnectionOver):
        # All but the last byte of a frame, and a 64th of the budget.
        pair.receive(wire.data(stream, bytes(20_000))[: (1 << 14) + 1])
    assert pair.shared.refused == {"flood": 1}
    pair.server.close()
    assert (pair.held, pair.shared.owed) == (0, 0)


def test_what_comes_of_calls_that_were_refused_meanwhile_is_no_flood() -> None:
    pair = Pair()
    streams = [pair.begin("/no.Such/Method") for _ in range(7)]
    pair.receive(pair.client.data_to_send())
    # Their client goes on before it reads that they are refused.
    unread = pair.server.to_send(1 << 16)
    for stream in streams:
        for _ in range(60):
            pair.receive(wire.data(stream, bytes(1 << 14)))
    pair.hear(unread)
    # It is asked whether all of it has come, and says so.
    pair.look(after_s=1)
    assert pair.held == 0
    pair.look(after_s=11)
    pair.call(b"next")
    assert [message for _, message in pair.kept.messages] == [b"next"]
    assert not pair.goaways


def test_a_flood_is_one_also_after_calls_that_were_refused() -> None:
    pair = Pair()
    pair.begin("/no.Such/Method")
    pair.exchange()
    unknown = wire.frame(0x77, payload=bytes(1 << 14))

    def flood() -> None:
        for _ in range(140):
            pair.receive(unknown)

    with pytest.raises(ConnectionOver):
        flood()
    pair.server.close()
    assert pair.held == 0


def test_a_connection_that_does_not_begin_in_time_is_over() -> None:
    pair = Pair()
    pair.look(after_s=6)  # it has begun
    fresh = Connection(pair.shared, pair.server.peer, pair.now_s, lambda: None)
    fresh.look(pair.now_s + 4)
    with pytest.raises(ConnectionOver):
        fresh.look(pair.now_s + 6)


# Age


def test_an_old_connection_is_left_in_two_steps_and_its_calls_go_on() -> None:
    pair = Pair(max_age_s=100)
    pair.look(after_s=89)
    assert not pair.goaways
    first = pair.call()
    pair.look(after_s=22)  # to within a tenth
    assert pair.goaways == [2**31 - 1]
    pair.look(after_s=1)
    assert pair.goaways == [2**31 - 1, first]
    pair.look(after_s=1000)
    ((call, _),) = pair.kept.messages
    pair.server.answer(call, ANSWER)
    with pytest.raises(ConnectionOver):
        pair.exchange()
    assert pair.answers[first].body == prefixed(ANSWER)


def test_only_a_connection_that_is_too_old_has_no_longer_than_the_grace() -> None:
    pair = Pair(max_age_s=1000, age_grace_s=5)
    first = pair.call()
    pair.server.leave(pair.now_s)
    for _ in range(10):
        pair.look(after_s=5)
    ((call, _),) = pair.kept.messages
    pair.server.answer(call, ANSWER)
    with pytest.raises(ConnectionEnded):
        pair.exchange()
    assert pair.answers[first].body == prefixed(ANSWER)


def test_calls_that_outlast_the_grace_end_with_their_connection() -> None:
    pair = Pair(max_age_s=100, age_grace_s=5)
    pair.call()
    pair.look(after_s=111)
    pair.look(after_s=1)
    with pytest.raises(ConnectionOver):
        pair.look(after_s=5)
