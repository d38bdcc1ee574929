"""How connections begin, are kept alive and end (RFC 9113, 3.4, 5.1.2, 6.7 and 6.8), and what a client leaves behind."""

import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER
from tests.support import wire as w
from tests.support.wire import Peer, connected, data, headers, literal, message, request
from tests.support.wires import MODEL, WIRES, Wire, assert_answers, call, question, served

BLOCK = literal(request(MODEL_INFER))
BODY = message(question(1))


@pytest.mark.parametrize(
    "greeting",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r" + w.settings(),
        b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n" + w.settings(),
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
        bytes(64),
        w.settings() + w.PREFACE,
        w.PREFACE + w.frame(w.PING, payload=bytes(8)) + w.settings(),
        w.PREFACE + headers(1, BLOCK) + w.settings(),
    ],
    ids=["preface", "version", "http1", "upgrade", "ssh", "zeros", "settings first", "ping first", "headers first"],
)
def test_a_connection_that_begins_otherwise_is_closed(wire: Wire, greeting: bytes) -> None:
    with connected(wire.server.address, wire.tls) as peer:
        peer.send(greeting)
        peer.until(lambda: peer.closed)
        assert peer.goaway is None or peer.goaway[0] != w.Code.NO_ERROR
        assert not any(answer.blocks for answer in peer.answers.values())


def test_the_server_greets_first_with_its_settings(wire: Wire) -> None:
    with connected(wire.server.address, wire.tls) as peer:
        peer.send(w.PREFACE, w.settings())
        peer.until(lambda: peer.greeted)
        assert peer.offered.get(w.MAX_FRAME_SIZE, 16384) in range(16384, 1 << 24)
        assert peer.offered.get(w.INITIAL_WINDOW_SIZE, 65535) < 1 << 31
        assert peer.offered.get(w.ENABLE_PUSH, 0) == 0


def test_pings_come_back_as_they_were_sent_and_in_order(wire: Wire) -> None:
    with wire.greeted() as peer, wire.server.held(MODEL):
        payloads = [b"\0" * 8, b"\xff" * 8]
        peer.send(call(1, 1), *[w.frame(w.PING, payload=payload) for payload in payloads])
        peer.until(lambda: len(peer.pongs) == 2)
        assert peer.pongs == payloads


def test_every_setting_is_acknowledged(wire: Wire) -> None:
    with wire.greeted() as peer:
        for size in range(20):
            peer.set((w.MAX_FRAME_SIZE, 16384 + size))
        peer.turn()


def test_a_client_that_says_goodbye_still_gets_its_answers(wire: Wire) -> None:
    with wire.greeted() as peer:
        with wire.server.held(MODEL):
            peer.send(call(1, 1), call(3, 3), w.goaway(0, w.Code.NO_ERROR, b"so long"))
            peer.send(w.settings())
        for stream in (1, 3):
            assert_answers(peer.answer(stream), stream)


@pytest.mark.parametrize("name", WIRES)
def test_a_server_that_ends_says_so_and_answers_what_it_has_accepted(tmp_path: Path, name: str) -> None:
    with served(tmp_path, name) as wire, wire.greeted() as peer, wire.greeted() as idle:
        with wire.server.held(MODEL) as held:
            peer.send(call(1, 1), call(3, 3))
            held.wait_until_queued(2)
            drained = wire.server.begin_drain()
        for stream in (1, 3):
            assert_answers(peer.answer(stream), stream)
        assert drained.result(30)
        for left in (peer, idle):
            left.until(lambda left=left: left.closed)  # type: ignore[misc]
            assert left.goaway is not None
            # grpcio ends every connection in the same words, with an error or without.
            assert left.goaway[0] == w.Code.NO_ERROR or name == "grpcio"
        assert peer.goaway is not None
        assert peer.goaway[1] >= 3


@contextmanager
def unread_answer(tmp_path: Path, name: str, grace_s: float) -> Iterator[tuple[Wire, Peer]]:
    """A server and a client that has read of an answer, of stream 1, its headers alone: it has no window for more."""
    with served(tmp_path, name, grace_s=grace_s) as wire, wire.greeted((w.INITIAL_WINDOW_SIZE, 0)) as peer:
        peer.send(call(1, 1))
        answer = peer.answers.setdefault(1, w.Answer())
        peer.until(lambda: answer.blocks == 1)
        yield wire, peer


@pytest.mark.parametrize("name", ["h2", "h2-tls"])
def test_a_server_that_ends_waits_until_its_answers_have_left(tmp_path: Path, name: str) -> None:
    with unread_answer(tmp_path, name, grace_s=20) as (wire, peer):
        drained = wire.server.begin_drain()
        with pytest.raises(TimeoutError):
            drained.result(1.0)
        peer.grant(1, 1000)
        assert_answers(peer.answer(1), 1)
        assert drained.result(30)


@pytest.mark.parametrize("name", ["h2", "h2-tls"])
def test_an_answer_that_nobody_reads_holds_up_the_end_for_a_moment_alone(tmp_path: Path, name: str) -> None:
    with unread_answer(tmp_path, name, grace_s=60) as (wire, _):
        assert wire.server.begin_drain().result(30)


def test_who_still_sends_when_a_connection_ends_is_not_cut_off(tmp_path: Path) -> None:
    with served(tmp_path, "h2", max_connection_age_s=1) as wire, wire.greeted() as peer:
        peer.send(call(1, 1))
        assert_answers(peer.answer(1), 1)
        peer.until(lambda: peer.closed)
        # Were the socket closed on the other side, this would be answered with RST, and what is not read yet be lost.
        ended = select.poll()
        ended.register(peer._socket, select.POLLERR)
        for _ in range(3):
            peer.send(w.frame(w.PING, 0, 0, bytes(8)))
            assert ended.poll(100) == []


STREAM_BLOCK = literal(request(MODEL_STREAM_INFER))
REFUSED = message(question(1, "other"))
AT_ONCE = {
    "a stream": headers(1, STREAM_BLOCK) + data(1, BODY) + w.rst_stream(1),
    "a stream whose message is refused": headers(1, STREAM_BLOCK) + data(1, REFUSED) + w.rst_stream(1),
    "an ended stream": headers(1, STREAM_BLOCK) + data(1, BODY + REFUSED, end=True) + w.rst_stream(1),
    "a call": call(1, 1) + w.rst_stream(1),
    "a call that is refused": call(1, 1, "other") + w.rst_stream(1),
    "half a message": headers(1, BLOCK) + data(1, BODY[:9]) + w.rst_stream(1),
    "a call of another method": w.unary(1, request("/grpc.health.v1.Health/Watch"), b"") + w.rst_stream(1),
}
"""What a client begins and resets in one packet, so that the server learns of both together."""


@pytest.mark.parametrize("name", WIRES)
def test_nothing_that_clients_leave_behind_keeps_a_server_from_ending(tmp_path: Path, name: str) -> None:
    with served(tmp_path, name, grace_s=3) as wire:
        for sent in AT_ONCE.values():
            for last in (b"", w.frame(w.SETTINGS, 0, 1)):
                with wire.greeted() as peer:
                    peer.send(sent, last or call(3, 3))
                    peer.answer(3)
        assert wire.server.begin_drain().result(30), "something was still open after grace_s"


def test_as_many_calls_as_the_server_allows_are_open_at_once(wire: Wire) -> None:
    with wire.greeted() as peer:
        most = peer.offered.get(w.MAX_CONCURRENT_STREAMS, 300)
        assert most <= 10_000
        streams = range(1, 2 * most, 2)
        peer.grant(0, 1 << 20)
        with wire.server.held(MODEL) as held:
            peer.send(*[call(stream, stream) for stream in streams])
            held.wait_until_queued(most)
        for stream in streams:
            assert_answers(peer.answer(stream), stream)
        # Others may take their place.
        peer.send(call(2 * most + 1, 5))
        assert_answers(peer.answer(2 * most + 1), 5)


def test_one_call_more_than_the_server_allows_is_refused(wire: Wire) -> None:
    with wire.greeted() as peer, wire.server.held(MODEL):
        if w.MAX_CONCURRENT_STREAMS not in peer.offered:
            pytest.skip(f"{wire.transport} sets no limit")
        streams = range(1, 2 * peer.offered[w.MAX_CONCURRENT_STREAMS], 2)
        peer.send(*[headers(stream, BLOCK) for stream in streams])
        refused = streams[-1] + 2
        peer.send(headers(refused, BLOCK))
        # 5.1.2: an error of the stream, which may be treated as one of the connection (5.4.1), as nghttp2 does.
        answer = peer.answer(refused)
        if answer.reset is None:
            peer.until(lambda: peer.closed)
            assert peer.goaway is not None
            assert peer.goaway[0] == w.Code.PROTOCOL_ERROR
        else:
            assert answer.reset in {w.Code.REFUSED_STREAM, w.Code.PROTOCOL_ERROR}


def test_answers_go_to_the_stream_that_asked(wire: Wire) -> None:
    streams = range(1, 101, 2)
    bodies = {stream: message(question(stream)) for stream in streams}
    with wire.greeted() as peer:
        peer.send(*[headers(stream, BLOCK) for stream in streams])
        longest = max(map(len, bodies.values()))
        for at in range(0, longest, 9):
            order = streams if at % 2 else reversed(streams)
            peer.send(*[data(stream, bodies[stream][at : at + 9]) for stream in order])
        peer.send(*[data(stream, b"", end=True) for stream in reversed(streams)])
        for stream in streams:
            assert_answers(peer.answer(stream), stream)


def test_one_connection_serves_every_service(wire: Wire) -> None:
    health = "/grpc.health.v1.Health/"
    with wire.greeted() as peer:
        with wire.server.held(MODEL):
            peer.send(call(1, 1))
            peer.send(w.unary(3, request(f"{health}Check"), b""))
            peer.send(w.unary(5, request(f"{health}Watch"), b"\x0a\x06linear"))
            peer.send(w.unary(7, request("/inference.GRPCInferenceService/ServerLive"), b""))
            reflection = request("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
            peer.send(w.unary(9, reflection, b"\x3a\x01*"))
            assert peer.answer(3).messages == [b"\x08\x01"]
            assert pb.ServerLiveResponse.FromString(peer.answer(7).messages[0]).live
            assert b"inference.GRPCInferenceService" in peer.answer(9).body
            watched = peer.answers.setdefault(5, w.Answer())
            peer.until(lambda: len(watched.messages) == 1)
            assert watched.messages == [b"\x08\x01"]
            assert not watched.over
            peer.send(w.rst_stream(5))
            assert 1 not in peer.answers
        assert_answers(peer.answer(1), 1)
        assert all(peer.answers[stream].status == 0 for stream in (3, 7, 9))


def fin(peer: Peer) -> None:
    peer.end_sending()


def tcp_reset(peer: Peer) -> None:
    peer.abort()


def goodbye_and_fin(peer: Peer) -> None:
    peer.send(w.goaway(0))
    peer.end_sending()


def reset_streams(peer: Peer) -> None:
    peer.send(w.rst_stream(1), w.rst_stream(3))


UNFINISHED = {
    "in the headers' frame": (headers(1, BLOCK)[:-5], 0),
    "between headers and continuation": (w.frame(w.HEADERS, 0, 1, BLOCK[:9]), 0),
    "in a frame of the message": (headers(1, BLOCK) + headers(3, BLOCK) + data(1, BODY)[:-9], 0),
}
STAGES = {
    "after the headers": (headers(1, BLOCK) + headers(3, BLOCK), 0),
    "in the prefix": (headers(1, BLOCK) + headers(3, BLOCK) + data(1, BODY[:2]), 0),
    "in the message": (headers(1, BLOCK) + data(1, BODY[:9]) + headers(3, BLOCK), 0),
    "with one call whole": (call(1, 1) + headers(3, BLOCK) + data(3, BODY[:9]), 1),
    "with two calls whole": (call(1, 1) + call(3, 3), 2),
    "with an open stream": (headers(1, STREAM_BLOCK) + data(1, 3 * BODY) + headers(3, STREAM_BLOCK), 3),
    "with an ended stream": (headers(1, STREAM_BLOCK) + data(1, 3 * BODY, end=True) + headers(3, BLOCK), 3),
}
"""What a client has sent when it disappears, and how many of its requests are queued then; first, in the middle of a frame."""


@pytest.mark.parametrize(
    ("stage", "disappear"),
    [
        *[(stage, how) for how in (fin, tcp_reset) for stage in UNFINISHED | STAGES],
        *[(stage, how) for how in (goodbye_and_fin, reset_streams) for stage in STAGES],
    ],
)
def test_nothing_is_left_of_a_client_that_disappears(wire: Wire, stage: str, disappear: Callable[[Peer], None]) -> None:
    sent, queued = (UNFINISHED | STAGES)[stage]
    with wire.greeted() as other:
        with wire.server.held(MODEL) as held, wire.greeted() as peer:
            other.send(call(1, 7))
            held.wait_until_queued(1)
            peer.send(sent)
            held.wait_until_queued(1 + queued)
            disappear(peer)
            # Its requests leave the queue while the device is still busy; the other's does not.
            held.wait_until_queued(1)
        assert_answers(other.answer(1), 7)
