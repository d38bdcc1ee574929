"""Spans by OpenTelemetry's SDK, sent with OTLP over gRPC: one for each traced request, one for each batch they joined.

They are made from times that are known anyway, once the answers have left. Only a server that traces imports this.
"""

import logging
import os
import threading
from collections.abc import Mapping, Sequence

import structlog
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_SERVICE_NAME,
)
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.status import Status, StatusCode

from frostline_server.errors import StartError, sendable
from frostline_server.telemetry.encoding import FastExporter
from frostline_server.telemetry.finished import Batch, Finished

_MOST_CHARACTERS = 256
_QUEUE = 2048
"""Spans that wait for the collector, where `OTEL_BSP_MAX_QUEUE_SIZE` does not say."""
_AWAY_S = 1.0
"""How long the end waits for a collector that did not answer the last time."""

_log = structlog.get_logger(__name__)


class Exporter(SpanExporter):
    """Counts what another exporter sends, and says once when that begins to fail.

    Args:
        inner: sends.
    """

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self.exported = 0
        self.failed = 0
        self.failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        try:
            result = self._inner.export(spans)
        except Exception as error:  # noqa: BLE001  a span that cannot be sent is counted, whatever the reason
            result = SpanExportResult.FAILURE
            _log.debug("traces", reason=f"{type(error).__name__}: {error}")
        failing = result is not SpanExportResult.SUCCESS
        if failing:
            self.failed += len(spans)
        else:
            self.exported += len(spans)
        if failing != self.failing:
            self.failing = failing
            if failing:
                _log.warning(
                    "traces", warning="the collector does not take traces (OTEL_EXPORTER_OTLP_ENDPOINT); they are lost"
                )
            else:
                _log.info("traces", state="the collector takes traces again")
        return result

    def shutdown(self) -> None:
        """End what is being sent."""
        self._inner.shutdown()


class OtlpSpans:
    """Makes spans of requests, and has them sent in the background.

    Args:
        release: the server's version.
        exporter: sends them.
        most: how many may wait to be sent.
    """

    def __init__(self, release: str, exporter: Exporter, most: int) -> None:
        named = OTELResourceDetector().detect().attributes
        # What the standard variables say wins.
        service = {} if SERVICE_NAME in named or os.environ.get(OTEL_SERVICE_NAME) else {SERVICE_NAME: "frostline"}
        self._resource = Resource.create({**service, SERVICE_VERSION: release})
        self._scope = InstrumentationScope("frostline", release)
        self._exporter = exporter
        self._processor = BatchSpanProcessor(exporter, max_queue_size=most)
        self._ids = RandomIdGenerator()
        self._sampled, self._unset = TraceFlags(TraceFlags.SAMPLED), Status()
        self._propagator = TraceContextTextMapPropagator()
        self._most = most
        self._made = 0
        self._dropped = 0

    @property
    def outcomes(self) -> dict[str, int]:
        """Spans by what became of them: `exported`, `failed` (the collector did not take them), `dropped` (no room)."""
        return {"exported": self._exporter.exported, "failed": self._exporter.failed, "dropped": self._dropped}

    def make(self, batch: Batch | None, requests: Sequence[Finished], offset_s: float) -> None:
        """Make spans of requests that shared a batch, or of one that joined none, and set their `trace_id`.

        Args:
            batch: the batch.
            requests: all of it that are traced.
            offset_s: what turns the `time.monotonic` clock into seconds since 1970.
        """
        joined = None if batch is None else self._context()
        contexts = [self._request(request, batch, joined, offset_s) for request in requests]
        if batch is None or joined is None:
            return
        first = requests[0]
        self._end(
            ReadableSpan(
                f"batch {first.model}",
                context=joined,
                resource=self._resource,
                attributes={
                    "frostline.model.name": first.model,
                    "frostline.model.version": first.version,
                    "frostline.batch.requests": batch.requests,
                    "frostline.batch.rows": batch.rows,
                    "thread.name": batch.thread,
                },
                links=[Link(context) for context in contexts],
                start_time=_ns(batch.started_s, offset_s),
                end_time=_ns(batch.finished_s, offset_s),
                instrumentation_scope=self._scope,
            )
        )

    def _request(
        self, request: Finished, batch: Batch | None, joined: SpanContext | None, offset_s: float
    ) -> SpanContext:
        report, error = request.origin.report(request.error), request.error
        parent = self._parent(request)
        context = self._context(parent)
        request.trace_id = f"{context.trace_id:032x}"
        attributes: dict[str, str | int] = {
            **report.attributes,
            "frostline.model.name": sendable(request.model[:_MOST_CHARACTERS]),
            "frostline.model.version": request.version,
            "frostline.rows": request.rows,
        }
        if request.request_id:
            attributes["frostline.request.id"] = sendable(request.request_id[:_MOST_CHARACTERS])
        if error is not None:
            attributes["frostline.error.kind"] = error.kind
        events: list[Event] = []
        if batch is not None:
            stages = (("queue", request.arrived_s), ("run", batch.assembled_s), ("encode", batch.ran_s))
            events = [Event(name, timestamp=_ns(at_s, offset_s)) for name, at_s in stages]
        began_s = request.arrived_s if report.received_s is None else report.received_s
        # Only of the server's own faults: what a client did wrong may quote what it sent.
        status = Status(StatusCode.ERROR, sendable(str(error)[:_MOST_CHARACTERS])) if report.faulty else self._unset
        self._end(
            ReadableSpan(
                report.name,
                context=context,
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                events=events,
                links=() if joined is None else (Link(joined),),
                kind=SpanKind.SERVER,
                status=status,
                start_time=_ns(began_s, offset_s),
                end_time=_ns(request.ended_s, offset_s),
                instrumentation_scope=self._scope,
            )
        )
        if request.counts is not None and batch is not None and error is None:
            seconds = {
                "request": request.ended_s - request.arrived_s,
                "queue": batch.started_s - request.arrived_s,
                "run": batch.ran_s - batch.assembled_s,
            }
            request.counts.exemplify(request.trace_id, seconds, request.ended_s + offset_s)
        return context

    def _parent(self, request: Finished) -> SpanContext | None:
        """The caller's span, if it says a valid one."""
        carrier = {
            name: value.decode("latin-1")
            for name in ("traceparent", "tracestate")
            if (value := request.origin.header(name.encode())) is not None
        }
        if not carrier:
            return None
        context = get_current_span(self._propagator.extract(carrier)).get_span_context()
        return context if context.is_valid else None

    def _context(self, parent: SpanContext | None = None) -> SpanContext:
        return SpanContext(
            self._ids.generate_trace_id() if parent is None else parent.trace_id,
            self._ids.generate_span_id(),
            is_remote=False,
            trace_flags=self._sampled,
            trace_state=None if parent is None else parent.trace_state,
        )

    def _end(self, span: ReadableSpan) -> None:
        exporter = self._exporter
        if self._made - exporter.exported - exporter.failed >= self._most:
            self._dropped += 1
            return
        self._made += 1
        self._processor.on_end(span)

    def close(self, timeout_s: float) -> None:
        """Send what is left, for so many seconds at most."""
        patience_s = min(timeout_s, _AWAY_S) if self._exporter.failing else timeout_s
        # Its own patience is half a minute.
        ending = threading.Thread(target=self._processor.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(patience_s)
        if ending.is_alive():
            # What is being sent ends then.
            self._exporter.shutdown()


def open_spans(release: str, environ: Mapping[str, str]) -> OtlpSpans:
    """What sends spans to the collector that the standard variables name.

    Args:
        release: the server's version.
        environ: the environment.

    Raises:
        StartError: the variables ask for what there is not.
    """
    for name in (OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL):
        if (protocol := environ.get(name, "grpc")) != "grpc":
            raise StartError(f"{name} is {protocol!r}; traces are sent over grpc, usually to port 4317 of a collector")
    # It says every failure again and again; `Exporter` says it once.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    try:
        most = int(environ.get(OTEL_BSP_MAX_QUEUE_SIZE, _QUEUE))
        return OtlpSpans(release, Exporter(FastExporter()), most)
    except (ValueError, OSError) as error:
        raise StartError(f"traces cannot be sent as the OTEL_ variables say: {error}") from error


def _ns(monotonic_s: float, offset_s: float) -> int:
    return round((monotonic_s + offset_s) * 1e9)
