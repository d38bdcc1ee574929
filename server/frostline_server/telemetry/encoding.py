"""Spans as OTLP's messages, made at once: the SDK's spans and its encoder would take twice as long.

Traces of one request in a hundred would cost a busy server more than they may. The SDK still queues and sends them.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.environment_variables import OTEL_SERVICE_NAME
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

_MOST = 1024
"""Templates that are kept; a client's port is part of one, and the numbers of rows and of requests are."""


class Ended:
    """A span that has ended, as far as the SDK's processor looks at it.

    Args:
        message: it.
    """

    __slots__ = ("message",)

    context = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    def __init__(self, message: Span) -> None:
        self.message = message


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
        request.resource_spans[0].scope_spans[0].spans.extend([ended.message for ended in data])
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
    """Makes spans. Nearly all have the name and the attributes of others, so these are encoded once, and copied."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[tuple[str, str | int], ...]], Span] = {}

    def span(self, name: str, kind: Span.SpanKind.ValueType, attributes: Mapping[str, str | int]) -> Span:
        """A span without ids and times; it may be changed.

        Args:
            name: its name.
            kind: its kind; spans of a name have one kind.
            attributes: its attributes.
        """
        key = name, tuple(attributes.items())
        template = self._known.get(key)
        if template is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            template = self._known[key] = Span(name=name, kind=kind, attributes=[_encoded(*pair) for pair in key[1]])
        made = Span()
        made.CopyFrom(template)
        return made


def _encoded(key: str, value: str | int) -> KeyValue:
    return KeyValue(
        key=key, value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
    )
