"""A collector of OpenTelemetry in this process: it takes spans over real gRPC, as any collector does."""

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.servers import TIMEOUT_S


class Collector(service.TraceServiceServicer):
    """Keeps what it is sent.

    Attributes:
        spans: all of them, in the order in which they came.
        resources: the attributes of who sent each.
        port: on which it listens.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.port = 0
        self._came = threading.Condition()

    def Export(self, request: Any, context: Any) -> Any:  # the protocol's own name
        with self._came:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self.spans += scope.spans
                    self.resources += [attributes(resource.resource)] * len(scope.spans)
            self._came.notify_all()
        return messages.ExportTraceServiceResponse()

    def until(self, enough: Callable[[list[Span]], bool]) -> list[Span]:
        """Wait until the spans are enough, and return all, in the order in which they began.

        A call ends once its answer is written, so the next one of the same client, if it is refused at once, may end first.
        """
        with self._came:
            assert self._came.wait_for(lambda: enough(self.spans), TIMEOUT_S), [span.name for span in self.spans]
            return sorted(self.spans, key=lambda span: span.start_time_unix_nano)

    def take(self, count: int) -> list[Span]:
        """Wait for so many spans, return them in the order in which they began, and forget them."""
        spans = self.until(lambda spans: len(spans) >= count)
        with self._came:
            del self.spans[:], self.resources[:]
        return spans


def attributes(holder: Any) -> dict[str, Any]:
    """The attributes of a span, a resource or a link."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in holder.attributes}


def joined(spans: list[Span]) -> list[tuple[Span, Span]]:
    """Each request's span with the span of the batch that it links to."""
    by_id = {span.span_id: span for span in spans}
    return [(span, by_id[span.links[0].span_id]) for span in spans if span.kind == Span.SPAN_KIND_SERVER and span.links]


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """A collector that listens on loopback."""
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]  # generated
    collector.port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
