"""What all connections of one front end have in common: the methods, the limits, the budget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from frostline_server.access.access import Access
from frostline_server.errors import PredictionError
from frostline_server.rpc.h2.budget import Budget
from frostline_server.telemetry.finished import Origin

Elsewhere = Callable[[Callable[[], Any], Callable[[Any], None]], None]
"""Runs a function in another thread, and then another with its result in the front end's thread."""

OK = (b"grpc-status", b"0")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may do.

    Attributes:
        max_message_bytes: the largest message, also unpacked.
        max_calls: calls at one time.
        max_header_bytes: the largest list of headers.
        message_timeout_s: how long a message, or a block of headers, may be on its way.
        answer_timeout_s: how long an answer may stay unread without progress.
        handshake_timeout_s: how long a connection may take to begin.
        resets_per_s: calls that may be given up in a second, on average; twice as many at once.
        max_age_s: after how long clients are told to connect anew, to within a tenth; infinite for never.
        age_grace_s: how long after that calls may still go on; infinite for as long as they like.
    """

    max_message_bytes: int
    max_calls: int
    max_header_bytes: int
    message_timeout_s: float
    answer_timeout_s: float
    handshake_timeout_s: float
    resets_per_s: int
    max_age_s: float
    age_grace_s: float


@dataclass(frozen=True, slots=True)
class Route:
    """Where the calls of one method go.

    Attributes:
        receiver: gives the `Receiver` of a `Call`.
        unary: whether the method takes exactly one message.
        guarded: the path of a method for which the connection asks whether the caller may use it; "" where the receiver
            does.
        lasting: whether its calls occupy the event loop for as long as the client likes.
    """

    receiver: Callable[[Any], Any]
    unary: bool
    guarded: str = ""
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end.

    Attributes:
        address: as grpc writes it, such as ipv4:127.0.0.1:50051.
        names: the names in its certificate, under grpc's keys.
    """

    address: str
    names: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Shared:
    """What all connections of one front end have in common; used by its thread only.

    Attributes:
        routes: methods by path, such as b"/package.Service/Method".
        budget: for messages.
        limits: of each connection.
        elsewhere: see there.
        counted: is told of each error with which a call ends before a receiver has its message, and of the call.
        compression: how answers are packed for clients that can unpack them; b"" for not at all.
        refused: how much was refused here, by reason.
        ok: the trailers of a call that ends well.
        access: who may call what; None where everyone may predict.
        after: runs a function in the front end's thread, after some seconds.
        owed: bytes of all connections that came beside the budget; see `Connection.owed`.
    """

    routes: Mapping[bytes, Route]
    budget: Budget
    limits: Limits
    elsewhere: Elsewhere
    counted: Callable[[PredictionError, Origin], None]
    compression: bytes = b""
    refused: dict[str, int] = field(default_factory=dict)
    ok: tuple[tuple[bytes, bytes], ...] = (OK,)
    access: Access | None = None
    after: Callable[[float, Callable[[], None]], None] = lambda _, function: function()
    owed: int = 0

    def count(self, reason: str) -> None:
        """Count something that was refused."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
