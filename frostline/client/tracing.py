"""Client spans of predictions, for applications that use OpenTelemetry: the server's span becomes a child of the caller's.

Nothing of OpenTelemetry is imported before the application has done so; without it a call costs one look at `sys.modules`.
https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
"""

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from frostline.protocol import PREDICT

_TRACE = "opentelemetry.trace"


def traced(call: Callable[..., Any]) -> Callable[..., Any]:
    """The method Predict, each of whose calls is a client span where the application traces.

    Args:
        call: the method on a blocking channel.
    """

    def predict(request: Any, timeout: float, metadata: Any) -> Any:
        if _TRACE not in sys.modules:
            return call(request, timeout=timeout, metadata=metadata)
        with _span() as carried:
            return call(request, timeout=timeout, metadata=(*metadata, *carried))

    return predict


def traced_async(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The same on a channel of asyncio."""

    async def predict(request: Any, timeout: float, metadata: Any) -> Any:
        if _TRACE not in sys.modules:
            return await call(request, timeout=timeout, metadata=metadata)
        with _span() as carried:
            return await call(request, timeout=timeout, metadata=grpc.aio.Metadata(*metadata, *carried))

    return predict


@contextmanager
def _span() -> Iterator[tuple[tuple[str, str], ...]]:
    """A client span around a block, which is given the metadata that say so."""
    # Only an application that traces pays for them, and need have them.
    from opentelemetry import propagate, trace  # noqa: PLC0415

    method = PREDICT.removeprefix("/")
    span = trace.get_tracer("frostline").start_as_current_span(
        method,
        kind=trace.SpanKind.CLIENT,
        attributes={"rpc.system.name": "grpc", "rpc.method": method},
        record_exception=False,
        set_status_on_exception=False,
    )
    with span as current:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        try:
            yield tuple(carrier.items())
        except grpc.RpcError as error:
            failed: Any = error
            status = failed.code().name
            current.set_attributes({"rpc.response.status_code": status, "error.type": status})
            current.set_status(trace.StatusCode.ERROR)
            raise
        current.set_attribute("rpc.response.status_code", grpc.StatusCode.OK.name)
