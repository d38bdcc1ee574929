"""The recorder: what it drops, what it survives, and the spans that its encoder makes."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import structlog
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status as SdkStatus
from opentelemetry.trace.status import StatusCode

from frostline_server.errors import QueueFull, RunFailed, StartError
from frostline_server.rpc.call_report import grpc_report, peer_attributes
from frostline_server.telemetry.encoding import Templates, around_spans
from frostline_server.telemetry.finished import Batch, Finished, Report
from frostline_server.telemetry.recorder import MOST, Recorder
from frostline_server.telemetry.sampling import Count, Rule, Rules
from frostline_server.telemetry.spans import Exporter, OtlpSpans, open_spans
from tests.support.otlp import attributes

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
        self.spans: list[Any] = []
        self.result = result
        self.go_on = threading.Event()
        self.go_on.set()

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
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
    parent, state = origin.header(b"traceparent"), origin.header(b"tracestate")
    report = origin.report(error)
    return Finished(report, parent, state, "7", "m", "1", 2, 2.0, 3.0, error, batch, None, traced=True, logged=False)


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


def as_readable(span: Span) -> ReadableSpan:
    """A span of the SDK's with the same content."""

    def context(trace_id: bytes, span_id: bytes, *, state: str = "", remote: bool = False) -> SpanContext:
        flags, states = TraceFlags(TraceFlags.SAMPLED), TraceState.from_header([state]) if state else None
        return SpanContext(int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"), remote, flags, states)

    code = StatusCode(span.status.code)
    return ReadableSpan(
        span.name,
        context=context(span.trace_id, span.span_id, state=span.trace_state),
        parent=context(span.trace_id, span.parent_span_id, remote=True) if span.parent_span_id else None,
        attributes=attributes(span),
        events=[Event(event.name, timestamp=event.time_unix_nano) for event in span.events],
        links=[Link(context(link.trace_id, link.span_id)) for link in span.links],
        kind={Span.SPAN_KIND_SERVER: SpanKind.SERVER, Span.SPAN_KIND_INTERNAL: SpanKind.INTERNAL}[span.kind],
        status=SdkStatus(code, span.status.message or None),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano,
    )


def test_the_messages_are_what_the_sdk_makes_of_such_spans() -> None:
    kept = Kept()
    spans = OtlpSpans(Exporter(kept), 1000)
    batch = Batch(2, 4, 2.5, 2.6, 2.7, 3.0, "device")
    called = Caller(traceparent=f"00-{'a' * 32}-{'b' * 16}-01", tracestate="one=1,two=2")
    spans.make(batch, [finished(called), finished(Caller())], 1000.0)
    spans.make(None, [finished(called, error=RunFailed("broken"))], 1000.0)
    spans.make(None, [finished(Caller(), error=QueueFull("full"))], 1000.0)
    spans.close(10)
    assert len(kept.spans) == 5
    for ended in kept.spans:
        (message,) = ScopeSpans.FromString(ended.field).spans
        (expected,) = encode_spans([as_readable(message)]).resource_spans[0].scope_spans[0].spans
        message.status.SetInParent()  # the SDK says also that there is none
        assert message == expected


def test_the_exporter_puts_around_spans_what_the_standard_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    message = around_spans("1.0").resource_spans[0]
    assert not message.scope_spans[0].spans
    assert (message.scope_spans[0].scope.name, message.scope_spans[0].scope.version) == ("frostline", "1.0")
    assert {"service.name": "frostline", "service.version": "1.0"}.items() <= attributes(message.resource).items()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    assert attributes(around_spans("1.0").resource_spans[0].resource)["service.name"] == "mine"


def test_what_spans_have_in_common_is_not_kept_for_ever() -> None:
    templates = Templates()

    def part(name: str, said: dict[str, str | int]) -> Span:
        return Span.FromString(templates.part(name, Span.SPAN_KIND_SERVER, tuple(said.items())))

    for port in range(3000):
        span = part("s", {"network.peer.port": port, "frostline.model.name": "m"})
        assert attributes(span) == {"network.peer.port": port, "frostline.model.name": "m"}
    assert len(templates._known) < 1500
    assert (span.name, span.kind) == ("s", Span.SPAN_KIND_SERVER)
    # Of the same words and another type, or none at all.
    assert attributes(part("s", {"n": "1"})) == {"n": "1"}
    assert attributes(part("s", {"n": 1})) == {"n": 1}
    assert not part("s", {}).attributes


def test_spans_that_wait_too_long_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    kept.go_on.clear()
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    spans = OtlpSpans(Exporter(kept), 2)
    for _ in range(3):
        spans.make(None, [finished(Caller())], 0.0)
    assert spans.outcomes == {"exported": 0, "failed": 0, "dropped": 1}
    kept.go_on.set()
    spans.close(10)
    assert spans.outcomes == {"exported": 2, "failed": 0, "dropped": 1}


def test_spans_that_the_collector_does_not_take_are_counted_as_failed() -> None:
    exporter = Exporter(Kept(SpanExportResult.FAILURE))
    spans = OtlpSpans(exporter, 1000)
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
    assert dict(peer_attributes(peer)) == expected
