"""One gRPC call: its deadline, what is known of it, and the bytes that are held for it."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grpc

from frostline_server.access.identity import Identity
from frostline_server.codec.chunks import Serialised
from frostline_server.errors import MessageTooLarge, NetworkFull, PredictionError
from frostline_server.rpc.call_report import grpc_report
from frostline_server.rpc.h2.shared import Peer, Shared
from frostline_server.telemetry.finished import Report

EMPTY: deque[Any] = deque(maxlen=0)
"""What no message waits in, and no answer leaves from: calls by the thousand that are only open take less memory."""


class Receiver(Protocol):
    """What takes the messages of calls; the front end's thread calls it."""

    def message(self, call: "Call", message: bytes, /) -> None:
        """The next message came; in a unary call, the only one, and the call is whole."""
        ...

    def finished(self, call: "Call", /) -> None:
        """The client will send no more messages; only of calls that are not unary."""
        ...

    def cancelled(self, call: "Call", /) -> None:
        """The call ended before it was answered: the client gave it up, went away, or came to a limit."""
        ...

    def sent(self, call: "Call", /) -> None:
        """Part of the queued answers has left."""
        ...


class Owner(Protocol):
    """A connection as its calls see it. What it does for a call that is over has no effect."""

    @property
    def peer(self) -> Peer:
        """Who is at its other end."""
        ...

    def answer(self, call: "Call", message: Serialised) -> None:
        """Send the only answer, and end with OK."""
        ...

    def send(self, call: "Call", messages: Sequence[Serialised]) -> None:
        """Send further answers."""
        ...

    def end(self, call: "Call") -> None:
        """End with OK, after what was sent."""
        ...

    def fail(self, call: "Call", error: PredictionError, request_id: str = "") -> None:
        """End with an error's status."""
        ...

    def finish(self, call: "Call", code: grpc.StatusCode, text: str, more: tuple[tuple[str, str], ...] = ()) -> None:
        """End with a status."""
        ...

    def resume(self, call: "Call") -> None:
        """Let a client that was held back go on."""
        ...

    def guarded(self, call: "Call", step: Callable[[], None]) -> None:
        """Do a step of a call; a `PredictionError` or `Malformed` that it raises ends the call."""
        ...


class Inbound(Protocol):
    """What has come of a call in pieces; see the module `inbound`."""

    @property
    def awaited(self) -> bool:
        """Whether a message is on its way that must arrive."""
        ...

    def append(self, data: bytes) -> bool:
        """Take what has come, if it is all part of a message and does not end it; otherwise nothing."""
        ...

    def feed(self, data: bytes, *, end: bool, now_s: float) -> None:
        """Take what has come."""
        ...


class Malformed(Exception):
    """The call breaks gRPC's rules; the message says how."""


class Call:
    """A call on one stream of a connection.

    Attributes:
        connection: where it came.
        shared: what all connections have in common.
        stream: the number of its stream.
        receiver: takes its messages.
        deadline_s: when the client stops waiting, on the `time.monotonic` clock; None for never.
        headers: the request's, by name.
        began_s: when it began.
        since_s: since when its message, or progress with its answer, has been waited for.
        held: bytes of the budget that are held for it.
        queued: bytes of answers that have not left yet, as last seen.
        inbound: what has come in pieces; None as long as nothing has.
        paused: whether its client is held back.
        withheld: bytes that came since then, for which the client has no credit yet.
        window: what the client may still send by what events have reported; less than that is left while part of a
            frame has come. Not kept up once all of the call has come.
        handled: whether a task on the event loop waits for as long as it lasts.
        half_closed: whether the client has sent all.
        answering: whether the response has begun.
        over: whether the response has ended, or never will.
        identity: who calls; None where that makes no difference.
        token: the receiver's own.
    """

    __slots__ = (
        "answering",
        "began_s",
        "connection",
        "deadline_s",
        "half_closed",
        "handled",
        "headers",
        "held",
        "identity",
        "inbound",
        "over",
        "paused",
        "queued",
        "receiver",
        "shared",
        "since_s",
        "stream",
        "token",
        "window",
        "withheld",
    )

    def __init__(
        self,
        connection: Owner,
        shared: Shared,
        stream: int,
        receiver: Receiver,
        headers: Mapping[bytes, bytes],
        began_s: float,
        window: int = 0,
    ) -> None:
        self.connection = connection
        self.shared = shared
        self.stream = stream
        self.receiver = receiver
        self.deadline_s: float | None = None
        self.headers = headers
        self.began_s = self.since_s = began_s
        self.window = window
        self.held = self.queued = self.withheld = 0
        self.inbound: Inbound | None = None
        self.handled = self.half_closed = self.answering = self.over = self.paused = False
        self.identity: Identity | None = None
        self.token: Any = None

    def hold(self, size: int) -> None:
        """Hold `size` bytes more for it.

        Raises:
            NetworkFull: there is no room.
        """
        budget = self.shared.budget
        if not budget.take(size):
            raise NetworkFull(
                f"the messages in flight leave no room for one of {size} bytes: all together may have {budget.limit} "
                "bytes (network_bytes); send it again later, or send smaller ones"
            )
        self.held += size

    def release(self, size: int) -> None:
        """Hold `size` bytes less for it."""
        self.shared.budget.give(size)
        self.held -= size

    def header(self, name: bytes) -> bytes | None:
        """A header, by its name in small letters; None if there is none."""
        return self.headers.get(name)

    def report(self, error: PredictionError | None) -> Report:
        """What is told of the call; see `telemetry.finished.Origin`."""
        return grpc_report(
            self.headers[b":path"].decode("latin-1"),
            self.connection.peer.address,
            None if self.identity is None else self.identity.name,
            self.began_s,
            error,
        )


def count_full(call: Call, error: PredictionError) -> None:
    """Count a request that was not run because its answer would have found no room."""
    if isinstance(error, NetworkFull | MessageTooLarge):
        call.shared.count(error.kind)


_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_DIGITS = 8


def timeout_s(value: bytes) -> float:
    """The seconds of a header grpc-timeout.

    Raises:
        Malformed: it is none.
    """
    digits, unit = value[:-1], value[-1:]
    if not digits.isdigit() or len(digits) > _MAX_DIGITS or unit not in _UNITS:
        raise Malformed(f"grpc-timeout is up to {_MAX_DIGITS} digits and one of HMSmun, got {value[:40]!r}")
    return int(digits) * _UNITS[unit]
