"""A finished request as a record: what it was, when each stage began, and how it ended.

It holds no message, no tensor and no call, only numbers and names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from frostline_server.batching.batcher import Observer
from frostline_server.errors import PredictionError

Attributes = tuple[tuple[str, str | int], ...]
"""Attributes of a span, by their names."""


class Report(NamedTuple):
    """What a front end says of a call once it is answered.

    Attributes:
        name: the span's name, by OpenTelemetry's conventions for the protocol.
        protocol: grpc or http.
        method: the RPC's path or the HTTP method and route.
        status: what the client was told: the name of a gRPC status, or an HTTP status. It is how the request to the model
            ended, which is recorded as soon as that is known: an answer that only then turns out to find no room, or to
            hold what JSON cannot, is one that was given.
        faulty: whether that is the server's fault, by OpenTelemetry's conventions.
        identity: who called, by its name in the access file.
        peer: the client's address as grpc writes it, such as ipv4:127.0.0.1:50051.
        received_s: when the call began, on the `time.monotonic` clock; None where that is not known.
        attributes: of the span, by OpenTelemetry's conventions for the protocol.
    """

    name: str
    protocol: str
    method: str
    status: str
    faulty: bool
    identity: str
    peer: str
    received_s: float | None
    attributes: Attributes


class Origin(Protocol):
    """The call that a request came with; asked from other threads, and when it is answered."""

    @property
    def headers(self) -> object:
        """What its headers are in; calls that have the same object here have the same headers."""
        ...

    def header(self, name: bytes) -> bytes | None:
        """A header or an entry of the metadata, by its name in small letters; None if there is none."""
        ...

    def report(self, error: PredictionError | None) -> Report:
        """What is told of the call.

        Args:
            error: how the request failed; None if it was answered.
        """
        ...


class Counts(Observer, Protocol):
    """The counters of a model version; see `model.stats.ModelStats`."""

    def exemplify(self, trace_id: str, seconds: Mapping[str, float], time_s: float) -> None:
        """Take a traced request as the example of its buckets."""
        ...


@dataclass(eq=False, slots=True)
class Batch:
    """A batch that ran; times are on the `time.monotonic` clock.

    Attributes:
        requests: how many requests were in it.
        rows: how many rows.
        started_s: when a device began with it.
        assembled_s: when its rows were joined and the network's run began.
        ran_s: when that run ended.
        finished_s: when its answers were handed over.
        thread: the name of the thread that ran it.
    """

    requests: int
    rows: int
    started_s: float
    assembled_s: float
    ran_s: float
    finished_s: float
    thread: str


@dataclass(eq=False, slots=True)
class Finished:
    """A request that has ended and is to be traced, logged, or both.

    Attributes:
        report: what is told of the call that it came with.
        traceparent: the call's header of that name; None if it has none.
        tracestate: and its companion.
        request_id: the client's own id of it.
        model: that it named.
        version: that answered, "" where none was found.
        rows: how many it had, 0 where that is not known.
        arrived_s: when it was queued, or refused, on the `time.monotonic` clock.
        ended_s: when its answer was handed over.
        error: how it failed; None if it was answered.
        batch: the batch that it joined; None if it joined none.
        counts: of the version; None where none was found.
        traced: whether it becomes a span.
        logged: whether it becomes a line of the access log.
        trace_id: the trace that it belongs to, in hexadecimal; "" as long as it is in none.
    """

    report: Report
    traceparent: bytes | None
    tracestate: bytes | None
    request_id: str
    model: str
    version: str
    rows: int
    arrived_s: float
    ended_s: float
    error: PredictionError | None
    batch: Batch | None
    counts: Counts | None
    traced: bool
    logged: bool
    trace_id: str = ""
