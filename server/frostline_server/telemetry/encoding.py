"""Spans as OTLP's messages, in bytes, made at once: the SDK's spans and its encoder would take several times as long.

Traces of one request in a hundred would cost a busy server more than they may. The SDK still queues and sends them.
The bytes of parts, one after the other, are those of the message that has them all:
https://protobuf.dev/programming-guides/encoding/
"""

import os
from collections.abc import Sequence
from struct import Struct
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags
from opentelemetry.sdk.environment_variables import OTEL_SERVICE_NAME
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from frostline.protocol import varint
from frostline_server.telemetry.finished import Attributes

_MOST = 1024
"""Templates that are kept; a client's port is part of one, and the numbers of rows and of requests are."""

_LOCAL = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
"""The flags of a span by where its parent is."""

# What fields of fixed sizes look like: each a tag, the length if it is of bytes, and the value. The tests compare all of
# them with what the SDK writes.
_IDS_AND_TIMES = Struct("<2s16s2s8ssQsQ2sI")
_EVENT = Struct("<sBsQ")
_LINK = Struct("<4s16s2s8ssI")


class Ended:
    """A span that has ended, as far as the SDK's processor looks at it.

    Args:
        field: it, as it stands among the spans of a scope.
    """

    __slots__ = ("field",)

    context = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    def __init__(self, field: bytes) -> None:
        self.field = field

    @classmethod
    def of(cls, *parts: bytes) -> "Ended":
        """The span that has all parts."""
        size = sum(map(len, parts))
        return cls(b"".join((b"\x12", varint(size), *parts)))


class MessageExporter(OTLPSpanExporter):
    """The SDK's exporter, of spans that are messages already.

    Args:
        release: the server's version.
    """

    def __init__(self, release: str) -> None:
        super().__init__()
        self._around = around_spans(release)

    # The exporter's hook for its subclasses.
    def _translate_data(self, data: Sequence[Any]) -> ExportTraceServiceRequest:
        request = ExportTraceServiceRequest()
        request.CopyFrom(self._around)
        request.resource_spans[0].scope_spans[0].MergeFromString(b"".join([ended.field for ended in data]))
        return request


def around_spans(release: str) -> ExportTraceServiceRequest:
    """The message of no spans: what they are of, as the standard variables say it, and what made them.

    Args:
        release: the server's version.
    """
    named = OTELResourceDetector().detect().attributes
    # What the standard variables say wins.
    service = {} if SERVICE_NAME in named or os.environ.get(OTEL_SERVICE_NAME) else {SERVICE_NAME: "frostline"}
    message = encode_spans(
        [
            ReadableSpan(
                "",
                context=Ended.context,
                resource=Resource.create({**service, SERVICE_VERSION: release}),
                instrumentation_scope=InstrumentationScope("frostline", release),
                start_time=0,
                end_time=0,
            )
        ]
    )
    del message.resource_spans[0].scope_spans[0].spans[:]
    return message


class Templates:
    """What many spans have in common, name, kind and attributes; encoded once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Attributes], bytes] = {}

    def part(self, name: str, kind: Span.SpanKind.ValueType, attributes: Attributes) -> bytes:
        """The part of a span that is not its own.

        Args:
            name: its name.
            kind: its kind; spans of a name have one kind.
            attributes: its attributes.
        """
        part = self._known.get((name, attributes))
        if part is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            encoded = [_encoded(*pair) for pair in attributes]
            part = Span(name=name, kind=kind, attributes=encoded).SerializeToString()
            self._known[name, attributes] = part
        return part


def own_part(trace_id: bytes, span_id: bytes, began_ns: int, ended_ns: int, *, remote: bool = False) -> bytes:
    """The part of a span that every span has for itself.

    Args:
        trace_id: 16 bytes.
        span_id: 8 bytes.
        began_ns: when it began, in nanoseconds since 1970.
        ended_ns: when it ended.
        remote: whether its parent is elsewhere.
    """
    return _IDS_AND_TIMES.pack(
        b"\x0a\x10", trace_id, b"\x12\x08", span_id, b"\x39", began_ns, b"\x41", ended_ns,
        b"\x85\x01", _REMOTE if remote else _LOCAL,
    )  # fmt: skip


def event(name: bytes, at_ns: int) -> bytes:
    """A part of a span: something that happened in it, with a name of under 100 bytes, in nanoseconds since 1970."""
    return _EVENT.pack(b"\x5a", 11 + len(name), b"\x09", at_ns) + b"\x12" + bytes((len(name),)) + name


def link(trace_id: bytes, span_id: bytes) -> bytes:
    """A part of a span: a link to another span of this server."""
    return _LINK.pack(b"\x6a\x21\x0a\x10", trace_id, b"\x12\x08", span_id, b"\x35", _LOCAL)


def attribute(key: str, value: str | int) -> bytes:
    """A part of a span: an attribute that has another value in each."""
    return Span(attributes=[_encoded(key, value)]).SerializeToString()


def _encoded(key: str, value: str | int) -> KeyValue:
    return KeyValue(
        key=key, value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
    )
