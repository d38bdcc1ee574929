"""A front end without a socket: its limits and methods, and a receiver that keeps what comes and answers with it."""

import math
from dataclasses import replace
from typing import Any

from frostline_server.rpc.h2.budget import Budget
from frostline_server.rpc.h2.call import Call
from frostline_server.rpc.h2.connection import Connection
from frostline_server.rpc.h2.framing import deflated
from frostline_server.rpc.h2.shared import Elsewhere, Limits, Route, Shared

LIMIT = 4096
"""The most bytes of a message."""

_LIMITS = Limits(
    max_message_bytes=LIMIT,
    max_calls=8,
    max_header_bytes=16384,
    message_timeout_s=10,
    answer_timeout_s=20,
    handshake_timeout_s=5,
    resets_per_s=100,
    max_age_s=math.inf,
    age_grace_s=math.inf,
)

UNARY, STREAM = b"/t.T/Unary", b"/t.T/Stream"
"""The methods there are."""


class Kept:
    """A receiver that keeps messages, and answers each with itself."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.finished_calls = 0

    def message(self, call: Call, received: bytes) -> None:
        """Keep it; answer on a real connection."""
        self.messages.append(received)
        if isinstance(call.connection, Connection):
            call.connection.answer(call, received)

    def finished(self, call: Call) -> None:
        """Count it."""
        self.finished_calls += 1
        if isinstance(call.connection, Connection):
            call.connection.end(call)

    def cancelled(self, call: Call) -> None:
        """Nothing is running."""

    def sent(self, call: Call) -> None:
        """Nothing waits for it."""


def shared_state(
    receiver: Any = None, limit: int = LIMIT, elsewhere: Elsewhere = lambda work, then: then(work())
) -> Shared:
    """What the connections of a front end share; `receiver` takes the calls of both methods."""
    return Shared(
        routes={
            UNARY: Route(lambda _: receiver, unary=True, guarded="x"),
            STREAM: Route(lambda _: receiver, unary=False, guarded="x"),
        },
        budget=Budget(1 << 24),
        limits=replace(_LIMITS, max_message_bytes=limit),
        elsewhere=elsewhere,
        counted=lambda *_: None,
    )


def piece_size(asked: int, size: int) -> int:
    """The size of pieces, of which there are not so many that an execution takes long."""
    return max(1 + asked, size // 128)


PACKED = deflated([b"hello " * 9], b"gzip")
"""A message with gzip."""
COMPRESSED = b"\1" + len(PACKED).to_bytes(4, "big") + PACKED
"""The same with its prefix."""
