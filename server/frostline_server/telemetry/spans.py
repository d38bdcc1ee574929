"""Spans of OpenTelemetry, sent with OTLP over gRPC: one for each traced request, one for each batch they joined.

They are made from times that are known anyway, once the answers have left. Only a server that traces imports this.
"""

import logging
import random
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from frostline_server.errors import StartError, sendable
from frostline_server.telemetry.encoding import Ended, MessageExporter, Templates, attribute, event, link, own_part
from frostline_server.telemetry.finished import Attributes, Batch, Finished

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
        exporter: sends them, as `encoding.Ended`.
        most: how many may wait to be sent.
    """

    def __init__(self, exporter: Exporter, most: int) -> None:
        self._exporter = exporter
        self._processor = BatchSpanProcessor(exporter, max_queue_size=most)
        self._propagator = TraceContextTextMapPropagator()
        self._templates = Templates()
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
        if batch is None:
            for request in requests:
                self._end(*self._request(request, offset_s)[1])
            return
        first = requests[0]
        attributes: Attributes = (
            ("frostline.model.name", first.model),
            ("frostline.model.version", first.version),
            ("frostline.batch.requests", batch.requests),
            ("frostline.batch.rows", batch.rows),
            ("thread.name", batch.thread),
        )
        ids = _new_id(16), _new_id(8)
        shared = [
            self._templates.part(f"batch {first.model}", Span.SPAN_KIND_INTERNAL, attributes),
            own_part(*ids, _ns(batch.started_s, offset_s), _ns(batch.finished_s, offset_s)),
        ]
        to_batch = link(*ids)
        ran = event(b"run", _ns(batch.assembled_s, offset_s)) + event(b"encode", _ns(batch.ran_s, offset_s))
        for request in requests:
            own, parts = self._request(request, offset_s)
            self._end(*parts, event(b"queue", _ns(request.arrived_s, offset_s)), ran, to_batch)
            shared.append(link(*own))
            if request.counts is not None and request.error is None:
                seconds = {
                    "request": request.ended_s - request.arrived_s,
                    "queue": batch.started_s - request.arrived_s,
                    "run": batch.ran_s - batch.assembled_s,
                }
                request.counts.exemplify(request.trace_id, seconds, request.ended_s + offset_s)
        self._end(*shared)

    def _request(self, request: Finished, offset_s: float) -> tuple[tuple[bytes, bytes], list[bytes]]:
        """The ids of a request's trace and span, and the parts of its span that it has in any case."""
        report, error = request.report, request.error
        parent = self._parent(request)
        ids = _new_id(16) if parent is None else parent.trace_id.to_bytes(16, "big"), _new_id(8)
        request.trace_id = ids[0].hex()
        attributes: Attributes = (
            *report.attributes,
            ("frostline.model.name", sendable(request.model[:_MOST_CHARACTERS])),
            ("frostline.model.version", request.version),
            ("frostline.rows", request.rows),
        )
        if error is not None:
            attributes += (("frostline.error.kind", error.kind),)
        began_s = request.arrived_s if report.received_s is None else report.received_s
        began_ns, ended_ns = _ns(began_s, offset_s), _ns(request.ended_s, offset_s)
        parts = [
            self._templates.part(report.name, Span.SPAN_KIND_SERVER, attributes),
            own_part(*ids, began_ns, ended_ns, remote=parent is not None),
        ]
        if request.request_id:
            # Not in the template: each has another.
            parts.append(attribute("frostline.request.id", sendable(request.request_id[:_MOST_CHARACTERS])))
        if parent is not None:
            state = parent.trace_state.to_header()
            parts.append(Span(parent_span_id=parent.span_id.to_bytes(8, "big"), trace_state=state).SerializeToString())
        # Only of the server's own faults: what a client did wrong may quote what it sent.
        if report.faulty:
            status = Status(code=Status.STATUS_CODE_ERROR, message=sendable(str(error)[:_MOST_CHARACTERS]))
            parts.append(Span(status=status).SerializeToString())
        return ids, parts

    def _parent(self, request: Finished) -> SpanContext | None:
        """The caller's span, if it says a valid one."""
        if request.traceparent is None:
            return None
        carrier = {"traceparent": request.traceparent.decode("latin-1")}
        if request.tracestate is not None:
            carrier["tracestate"] = request.tracestate.decode("latin-1")
        context = get_current_span(self._propagator.extract(carrier)).get_span_context()
        return context if context.is_valid else None

    def _end(self, *parts: bytes) -> None:
        exporter = self._exporter
        if self._made - exporter.exported - exporter.failed >= self._most:
            self._dropped += 1
            return
        self._made += 1
        # It looks at nothing that this has not.
        ended: Any = Ended.of(*parts)
        self._processor.on_end(ended)

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
        return OtlpSpans(Exporter(MessageExporter(release)), most)
    except (ValueError, OSError) as error:
        raise StartError(f"traces cannot be sent as the OTEL_ variables say: {error}") from error


def _new_id(size: int) -> bytes:
    """An id of so many bytes; nought is none."""
    return (random.getrandbits(8 * size) or 1).to_bytes(size, "big")


def _ns(monotonic_s: float, offset_s: float) -> int:
    return round((monotonic_s + offset_s) * 1e9)
