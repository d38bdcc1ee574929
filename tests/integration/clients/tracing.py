"""An application that traces: it asks the server in its argument, blocking and with asyncio, within spans of its own."""

import asyncio
import sys

import numpy as np
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

import frostline

ROWS = np.ones((2, 4), np.float32)


async def ask(address: str) -> None:
    """Ask with asyncio."""
    async with frostline.connect_async(address) as client:
        await client.predict("linear", ROWS)


def main() -> None:
    """Ask twice."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("application")
    with frostline.connect(sys.argv[1]) as client, tracer.start_as_current_span("a question"):
        client.predict("linear", ROWS)
    with tracer.start_as_current_span("an asynchronous question"):
        asyncio.run(ask(sys.argv[1]))
    provider.shutdown()


if __name__ == "__main__":
    main()
