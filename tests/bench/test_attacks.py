"""The attacks: what is sent means what it should, and a verdict can fail."""

import dataclasses
import gzip
import math
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hpack
import pytest

from bench.attacks import bulk, floods, messages, report, slow, trial, wire
from bench.attacks.__main__ import flags_of
from bench.attacks.catalogue import ATTACKS
from bench.attacks.honest import Client, Seen, summed
from bench.attacks.result import Footprint, Result
from bench.attacks.target import Link, Sent, Target
from bench.attacks.wire import Wire
from bench.attacks.workload import NETWORK, large_message, publish, questions, wide_message
from bench.load import networks
from bench.measure import document
from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER
from tests.support.servers import Running, running

BUDGET_MIB = 256.0
CALM = Seen(right=1000, p50_ms=1.0, p99_ms=2.0, most_ms=5.0, new_ms=4.0, bad={})
WITHSTOOD = Result(
    name="ping",
    what="PING flood",
    sent=Sent("frames", 1000, 2, 4.0, Counter({"GOAWAY ENHANCE_YOUR_CALM": 2})),
    idle=CALM,
    during=CALM,
    recovered=CALM,
    control_ms=2.5,
    before=Footprint(100.0, 20),
    after=Footprint(105.0, 20),
    peak_mib=300.0,
    server_cpu=0.5,
    attacker_cpu=0.25,
    held_bytes=0.0,
    log_lines=1,
)


def changed(**what: object) -> list[str]:
    """The complaints of the attack that was withstood, but for this."""
    return dataclasses.replace(WITHSTOOD, **what).complaints(BUDGET_MIB)  # type: ignore[arg-type]  # by name


@pytest.fixture
def peer() -> Iterator[tuple[Wire, socket.socket]]:
    """An open connection and its other end, which has read the greeting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = Wire(listener.getsockname(), "", Counter())
        assert one.open()
        other, _ = listener.accept()
        with other:
            one.turn(1.0)
            greeting = wire.PREFACE + wire.frame(wire.SETTINGS, 0, 0)
            assert other.recv(len(greeting), socket.MSG_WAITALL) == greeting
            yield one, other
            one.close()


def tally_of(one: Wire) -> Counter[str]:
    """What a connection has counted."""
    return one._tally


def test_an_attack_that_was_withstood_has_no_complaint() -> None:
    assert WITHSTOOD.complaints(BUDGET_MIB) == []


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("during", dataclasses.replace(CALM, p99_ms=6.1), "p99 3.0x"),
        ("during", dataclasses.replace(CALM, p99_ms=math.nan), "p99 nanx"),
        ("during", dataclasses.replace(CALM, bad={"CANCELLED": 2}), "2 x CANCELLED"),
        ("during", dataclasses.replace(CALM, bad={"wrong answer": 1}), "1 x wrong answer"),
        ("recovered", dataclasses.replace(CALM, bad={"UNAVAILABLE": 3}), "3 x UNAVAILABLE afterwards"),
        ("recovered", dataclasses.replace(CALM, right=0), "no answer afterwards"),
        ("sent", Sent("calls", harmed=Counter({"CANCELLED": 1200})), "1,200 calls of the burst: CANCELLED"),
        ("peak_mib", 421.0, "memory +321 MiB"),
        ("after", Footprint(111.0, 20), "memory kept: +11%"),
        ("after", Footprint(100.0, 50), "30 files kept open"),
        ("held_bytes", 5.0 * 2**20, "budget still holds 5.0 MiB"),
        ("most_threads", 1000, "1,000 more threads"),
        ("death", "killed by the guard", "server died: killed by the guard"),
    ],
)
def test_a_verdict_says_what_is_not_as_it_should_be(field: str, value: object, complaint: str) -> None:
    assert changed(**{field: value}) == [complaint]


def test_only_a_delay_may_be_another_loads_doing() -> None:
    slow = dataclasses.replace(WITHSTOOD, during=dataclasses.replace(CALM, p99_ms=9.0))
    assert slow.delays()
    assert not slow.faults(BUDGET_MIB)
    assert not dataclasses.replace(WITHSTOOD, peak_mib=900.0).delays()


def test_a_verdict_says_at_which_try_it_was_reached() -> None:
    assert report.said(dataclasses.replace(WITHSTOOD, tries=2), BUDGET_MIB) == "met (try 2)"


def test_three_times_the_latency_and_a_quarter_over_the_budget_are_met() -> None:
    assert changed(during=dataclasses.replace(CALM, p99_ms=6.0), peak_mib=420.0, after=Footprint(110.0, 28)) == []


def test_a_server_without_a_budget_or_without_an_answer_is_judged_by_the_rest() -> None:
    assert changed(held_bytes=None) == []
    assert changed(after=None, death="it ended") == ["server died: it ended"]


def test_a_period_without_an_answer_has_no_latency() -> None:
    seen = summed([], [], {"UNAVAILABLE": 5})
    assert seen.right == 0
    assert math.isnan(seen.p99_ms)
    assert seen.bad == {"UNAVAILABLE": 5}


def test_a_period_is_summed_up_by_its_late_calls() -> None:
    seen = summed([0.001] * 197 + [0.5, 0.5, 0.7], [0.003, 0.2], {})
    assert (seen.right, seen.p50_ms, seen.p99_ms, seen.most_ms, seen.new_ms) == (200, 1.0, 500.0, 700.0, 200.0)


def test_a_call_without_an_outcome_counts_with_the_time_it_has_waited() -> None:
    seen = summed([0.001] * 9, [], {}, [8.0])
    assert (seen.right, seen.p99_ms) == (9, 8000.0)


def test_the_document_has_every_number_and_what_is_missing() -> None:
    failed = dataclasses.replace(WITHSTOOD, name="idle", what="idle connections", peak_mib=900.0, control_ms=None)
    text = report.body([WITHSTOOD, failed], {"handshakes": "no TLS"}, BUDGET_MIB, "today")
    assert "Measured today." in text
    assert "1 of 2 attacks met" in text
    assert "Not measured: handshakes: no TLS." in text
    assert "| ping | 1.00 / 1.00 | 2.00 / 2.50 / 2.00 | 4.00 / 4.00 | 100 / 300 / 105 | met |" in text
    assert "| idle | 1.00 / 1.00 | 2.00 / - / 2.00 | 4.00 / 4.00 | 100 / 900 / 105 | memory +800 MiB |" in text
    assert "| ping | 1,000 frames | 250 | 2 | 0.25 / 0.50 | 1 | 2 GOAWAY ENHANCE_YOUR_CALM |" in text
    assert "| idle | idle connections |" in text


def test_our_document_has_a_place_for_the_tables() -> None:
    text = (Path(__file__).parents[2] / report.DOCUMENT).read_text(encoding="utf-8")
    assert "fresh" in document.with_section(text, report.SECTION, "fresh")


def test_what_an_attacker_reports_survives_its_pipe() -> None:
    assert Sent.from_json(WITHSTOOD.sent.json()) == WITHSTOOD.sent


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 4000, 20_000])
def test_a_field_of_any_length_is_read_by_hpack(size: int) -> None:
    decoded = hpack.Decoder(max_header_list_size=2**20).decode(wire.field(b"x", b"v" * size))
    assert [(str(name), str(value)) for name, value in decoded] == [("x", "v" * size)]


def test_a_block_means_the_same_again() -> None:
    decoder = hpack.Decoder()
    block = wire.block(MODEL_INFER, [("grpc-encoding", "gzip")])
    first, again = ([(str(name), str(value)) for name, value in decoder.decode(block)] for _ in range(2))
    assert first == again
    assert (":path", MODEL_INFER) in first


def test_a_large_block_is_continued_and_ends_once() -> None:
    frames = wire.headers(3, bytes(40_000), end=True)
    found = []
    while frames:
        size, kind, flags, stream = (int.from_bytes(frames[:3], "big"), frames[3], frames[4], frames[8])
        found.append((kind, flags, stream, size))
        frames = frames[9 + size :]
    assert found == [
        (wire.HEADERS, wire.END_STREAM, 3, 16384),
        (wire.CONTINUATION, 0, 3, 16384),
        (wire.CONTINUATION, wire.END_HEADERS, 3, 7232),
    ]


def test_a_bomb_of_headers_means_three_thousand_times_its_bytes() -> None:
    decoded = hpack.Decoder(max_header_list_size=2**30).decode(floods.HPACK_BOMB)
    assert sum(len(name) + len(value) for name, value in decoded) > 3000 * len(floods.HPACK_BOMB)


@pytest.mark.parametrize(("encoding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_a_bomb_unpacks_to_a_request(encoding: str, unpack: object) -> None:
    bomb = bulk.packed(encoding, 3)
    request = pb.ModelInferRequest.FromString(unpack(bomb))  # type: ignore[operator]  # either of the two
    assert request.raw_input_contents == [bytes(3 * 2**20)]
    assert len(bomb) < 10_000


def test_a_message_of_many_small_things_is_a_request_that_has_them() -> None:
    inputs = pb.ModelInferRequest.FromString(messages.empty_inputs(1000)).inputs
    assert [each.ByteSize() for each in inputs] == [0] * 1000
    # The keys of a map are all empty, so that of many entries one is left.
    assert list(pb.ModelInferRequest.FromString(messages.many_parameters(1000)).parameters) == [""]
    (strings,) = pb.ModelInferRequest.FromString(messages.many_strings(1000)).inputs
    assert list(strings.contents.bytes_contents) == [b"abc"] * 1000
    (elements,) = pb.ModelInferRequest.FromString(messages.many_elements(1000)).inputs
    assert list(elements.contents.int_contents) == [1] * 1000


def test_the_default_sizes_are_below_the_servers_limit() -> None:
    assert 60_000_000 < len(messages.many_elements()) < 64 * 2**20
    assert len(messages.many_strings()) < 64 * 2**20


def test_refused_connections_count_unless_they_must_be_refused() -> None:
    seen = dataclasses.replace(CALM, bad={"UNAVAILABLE on a new connection": 2, "CANCELLED": 1})
    assert trial.but_for_new_connections(seen).bad == {"CANCELLED": 1}


@pytest.mark.parametrize("size", [60_000_000, 64 * 2**20])
def test_a_large_message_has_its_size_to_the_byte(size: int) -> None:
    assert len(large_message(size)) == size


def test_a_connection_counts_how_calls_and_streams_and_itself_end(peer: tuple[Wire, socket.socket]) -> None:
    one, other = peer
    one.watch(1)
    encoder = hpack.Encoder()
    trailers = encoder.encode([(":status", "200"), ("grpc-status", "8")])
    other.sendall(
        wire.headers(1, trailers, end=True)
        + wire.reset(3, 7)
        + wire.headers(5, encoder.encode([(":status", "503")]), end=True)
        + wire.frame(wire.GOAWAY, 0, 0, struct.pack(">II", 3, 11))
    )
    other.shutdown(socket.SHUT_WR)
    while one.turn(1.0):
        pass
    assert tally_of(one) == {
        "RESOURCE_EXHAUSTED": 1,
        "RST_STREAM REFUSED_STREAM": 1,
        "HTTP 503": 1,
        "GOAWAY ENHANCE_YOUR_CALM": 1,
        "closed": 1,
    }
    assert one.room(1) == 0


def test_a_connection_keeps_to_the_windows_it_was_given(peer: tuple[Wire, socket.socket]) -> None:
    one, other = peer
    one.watch(1)
    one.spend(1, 60_000)
    assert one.room(1) == 5535
    other.sendall(wire.settings(window=70_000) + wire.window_update(0, 100_000) + wire.window_update(1, 10))
    while one.window == 5535 or one.room(1) != 10_010:
        assert one.turn(1.0)
    assert one.unsent == wire.frame(wire.SETTINGS, wire.ACK, 0) or not one.unsent


def test_a_frame_may_come_in_pieces(peer: tuple[Wire, socket.socket]) -> None:
    one, other = peer
    for byte in wire.frame(wire.GOAWAY, 0, 0, struct.pack(">II", 0, 1)):
        other.sendall(bytes([byte]))
        assert one.turn(1.0)
    assert tally_of(one) == {"GOAWAY PROTOCOL_ERROR": 1}


def test_nobody_listening_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    one = Wire(address, "", Counter())
    assert not one.open()
    assert tally_of(one) == {"not connected: ConnectionRefusedError": 1}


def test_a_link_carries_its_speed() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    link = Link(1000.0, lambda: now, sleep)
    for _ in range(100):
        link.spend(50)
    assert now == pytest.approx(5.0, abs=0.011)


def test_a_handshake_begins_with_a_client_hello_that_asks_for_http2() -> None:
    hello = slow.client_hello()
    assert hello[0] == 22
    assert b"\x02h2" in hello


def test_the_servers_flags_hold_the_budget_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, object] = {}
    monkeypatch.setattr("bench.attacks.__main__.ServerConfig.model_fields", known)
    assert flags_of(["--threads", "1"], "grpcio", 1.5) == ["--device", "cpu", "--threads", "1", "--transport", "grpcio"]
    known["network_bytes"] = object()
    assert flags_of([], None, 1.5) == ["--device", "cpu", "--network-bytes", "1572864"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = networks.publish(tmp_path_factory.mktemp("models"), {"mlp": NETWORK})
    with running(folder, http=True) as started:
        yield started


def target_of(server: Running) -> Target:
    """A moment's attack."""
    host, _, port = server.address.rpartition(":")
    metrics, http = (
        (host, int(port))
        for host, _, port in (
            url.rpartition("//")[2].rpartition(":") for url in (server.metrics_url, server.server.http_url)
        )
    )
    return Target((host, int(port)), 0.05, Link(1e9), "127.0.0.2", metrics, http)


@pytest.mark.parametrize(
    "name",
    [
        "ping",
        "continuation-empty",
        "unknown-frames",
        "slow-messages",
        "metrics-idle",
        "metrics-hang-ups",
        "http-slow-bodies",
        "http-announced",
        "http-tiny-chunks",
        "http-malformed",
    ],
)
def test_a_server_is_attacked_for_as_long_as_asked(server: Running, name: str) -> None:
    sent = ATTACKS[name].run(target_of(server))
    assert sent.connections >= 1
    assert sent.seconds >= 0.05
    assert sent.ends.keys().isdisjoint({"not connected: ConnectionRefusedError"})


def test_an_attack_goes_on_as_long_as_asked_where_the_server_closes_all_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=close_each, args=(listener,))
        thread.start()
        sent = ATTACKS["http-announced"].run(Target(("", 0), 0.5, Link(1e9), http=listener.getsockname()))
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()

    assert sent.connections == 200
    assert sent.seconds >= 0.5


def close_each(listener: socket.socket) -> None:
    """Accept connections and close them, until the listener is shut down."""
    with suppress(OSError):
        while True:
            listener.accept()[0].close()


def test_a_body_is_uploaded_as_the_server_lets_it(server: Running) -> None:
    target, sent = target_of(server), Sent("MB")
    one = target.wire(sent)
    assert one.open()
    message = large_message(3_000_000)
    body = b"\0" + len(message).to_bytes(4, "big") + message
    assert bulk.upload(target, [one], 3, wire.block(MODEL_INFER), body) == 3 * len(body)
    while sent.ends["INVALID_ARGUMENT"] < 3:
        assert one.turn(5.0)
    one.close()


def test_an_honest_client_sees_right_answers_and_wrong_ones(server: Running) -> None:
    asked = questions()
    client = Client(server.address, None, asked)
    with client._channel() as channel:
        call = channel.unary_unary(MODEL_INFER, None, None)
        assert client.ask(call, 3) == ""
        assert Client(server.address, None, dataclasses.replace(asked, logits=asked.logits + 1)).ask(call, 3) == (
            "wrong answer"
        )
        unknown = dataclasses.replace(asked, messages=(wide_message(),))
        assert Client(server.address, None, unknown).ask(call, 0) == "NOT_FOUND"


def test_an_honest_client_asks_over_rest_too(server: Running) -> None:
    asked, url = questions(), server.server.http_url
    unknown = dataclasses.replace(asked, messages=(wide_message(),))

    assert Client(server.address, None, asked, url).ask_rest(3) == ""
    assert Client(server.address, None, unknown, url).ask_rest(0) == "404"
    assert Client(server.address, None, dataclasses.replace(asked, logits=asked.logits + 1), url).ask_rest(3) == (
        "wrong answer"
    )


def test_contradictory_heads_are_refused(server: Running) -> None:
    sent = ATTACKS["http-malformed"].run(target_of(server))

    assert sent.ends.keys() <= {"400", "404", "405", "431", "501", "closed", "closed: ConnectionResetError"}


def test_an_honest_client_calls_at_its_rate(server: Running) -> None:
    client = Client(server.address, None, questions())
    thread = threading.Thread(target=client.steady)
    thread.start()
    right, bad = 0, dict[str, int]()
    while right < 20 and not bad:
        seen = client.period()
        right, bad = right + seen.right, seen.bad
    client.stop()
    thread.join()
    assert bad == {}


def test_the_budgets_metric_is_read_where_there_is_one(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_METRIC", "process_resident_memory_bytes")
    assert (trial.metric(server.metrics_url) or 0) > 2**20
    monkeypatch.setattr(trial, "_METRIC", "no_such_metric")
    assert trial.metric(server.metrics_url) is None


def test_the_served_models_include_one_with_large_answers(tmp_path: Path) -> None:
    assert sorted(path.name for path in publish(tmp_path).iterdir()) == ["looping", "mlp", "wide"]
