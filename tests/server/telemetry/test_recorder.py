"""The recorder: what it drops, what it survives, and the spans that its encoder makes."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import structlog
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from frostline_server.errors import QueueFull, RunFailed, StartError
from frostline_server.rpc.call_report import grpc_report, peer_attributes
from frostline_server.telemetry.encoding import encoded
from frostline_server.telemetry.finished import Batch, Finished, Report
from frostline_server.telemetry.recorder import MOST, Recorder
from frostline_server.telemetry.sampling import Count, Rule, Rules
from frostline_server.telemetry.spans import Exporter, OtlpSpans, open_spans

PATH = "/inference.GRPCInferenceService/ModelInfer"


class Caller:
    """A call with headers."""

    def __init__(self, **headers: str) -> None:
        self.headers = headers

    def header(self, name: bytes) -> bytes | None:
        value = self.headers.get(name.decode())
        return None if value is None else value.encode()

    def report(self, error: Any) -> Report:
        return grpc_report(PATH, "ipv4:127.0.0.1:5", None, 1.0, error)


class Kept(SpanExporter):
    """Keeps spans, or fails, once it may go on."""

    def __init__(self, result: SpanExportResult = SpanExportResult.SUCCESS) -> None:
        self.spans: list[ReadableSpan] = []
        self.result = result
        self.go_on = threading.Event()
        self.go_on.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert self.go_on.wait(10)
        self.spans += spans
        return self.result

    def shutdown(self) -> None:
        pass


class Broken:
    """Makes no spans, but errors."""

    outcomes: Mapping[str, int] = {"exported": 0, "failed": 0, "dropped": 0}

    def __init__(self) -> None:
        self.asked = 0

    def make(self, *_: Any) -> None:
        self.asked += 1
        raise ValueError("a defect")

    def close(self, timeout_s: float) -> None:
        pass


def finished(origin: Caller, batch: Batch | None = None, error: Any = None) -> Finished:
    return Finished(origin, "7", "m", "1", 2, 2.0, 3.0, error, batch, None, traced=True, logged=False)


def test_what_finds_no_room_is_dropped_and_counted() -> None:
    rules = Rules(Rule(1.0, parents=True, count=Count()))
    recorder = Recorder(rules, Broken())  # type: ignore[arg-type]  # a mapping of its own
    origin = Caller()
    for _ in range(MOST + 3):
        recorder.refused(origin, QueueFull(""))
    assert recorder.spans == {"exported": 0, "failed": 0, "dropped": 3}
    assert recorder.lines is None


def test_a_defect_is_logged_once_and_the_next_requests_are_recorded() -> None:
    spans = Broken()
    recorder = Recorder(Rules(Rule(1.0, parents=True, count=Count())), spans)  # type: ignore[arg-type]  # as above
    with structlog.testing.capture_logs() as lines:
        recorder.start()
        recorder.refused(Caller(), QueueFull(""))
        recorder.close(10)
        again = Recorder(Rules(Rule(1.0, parents=True, count=Count())), spans)  # type: ignore[arg-type]  # as above
        again.start()
        again.close(10)
    assert spans.asked == 1
    assert [line["event"] for line in lines] == ["requests could not be recorded"]


def test_the_encoder_makes_of_spans_what_the_sdks_own_makes() -> None:
    kept = Kept()
    spans = OtlpSpans("1.0", Exporter(kept), 1000)
    batch = Batch(2, 4, 2.5, 2.6, 2.7, 3.0, "device")
    called = Caller(traceparent=f"00-{'a' * 32}-{'b' * 16}-01", tracestate="one=1,two=2")
    spans.make(batch, [finished(called), finished(Caller())], 1000.0)
    spans.make(None, [finished(called, error=RunFailed("broken"))], 1000.0)
    spans.make(None, [finished(Caller(), error=QueueFull("full"))], 1000.0)
    spans.close(10)
    assert len(kept.spans) == 5
    for known in ({}, dict[Any, Any]()):
        assert encoded(kept.spans, known) == encode_spans(kept.spans)
        # Once more, with attributes that are known.
        assert encoded(kept.spans, known) == encode_spans(kept.spans)


def test_spans_that_wait_too_long_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    kept.go_on.clear()
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    spans = OtlpSpans("1.0", Exporter(kept), 2)
    for _ in range(3):
        spans.make(None, [finished(Caller())], 0.0)
    assert spans.outcomes == {"exported": 0, "failed": 0, "dropped": 1}
    kept.go_on.set()
    spans.close(10)
    assert spans.outcomes == {"exported": 2, "failed": 0, "dropped": 1}


def test_spans_that_the_collector_does_not_take_are_counted_as_failed() -> None:
    exporter = Exporter(Kept(SpanExportResult.FAILURE))
    spans = OtlpSpans("1.0", exporter, 1000)
    spans.make(None, [finished(Caller())], 0.0)
    spans.close(10)
    assert spans.outcomes == {"exported": 0, "failed": 1, "dropped": 0}


def test_another_protocol_than_grpc_is_refused() -> None:
    with pytest.raises(StartError, match="traces are sent over grpc"):
        open_spans("1.0", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"})


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:10.0.0.7:51034", {"network.peer.address": "10.0.0.7", "network.peer.port": 51034}),
        ("ipv6:%5B::1%5D:80", {"network.peer.address": "::1", "network.peer.port": 80}),
        ("unix:", {"network.transport": "unix"}),
        ("", {}),
    ],
)
def test_a_peers_address_becomes_attributes(peer: str, expected: dict[str, str | int]) -> None:
    assert peer_attributes(peer) == expected
