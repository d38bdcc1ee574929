"""The queue entry: a request's rows, the outputs it wants, its deadline and the callback for its answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from frostline_server.errors import PredictionError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class RowKind:
    """The shape and types of a request's rows; requests with equal `shapes` may share a batch.

    Attributes:
        shapes: for each input of the network, the shape of one row (of the whole tensor if the
            network has no batch axis).
        wire: for each input, the dtype the rows arrive in.
        cast: for each input, the dtype the network takes.
        weight: how many rows of a batch one of these takes the place of, because it takes as long.
    """

    shapes: tuple[tuple[int, ...], ...]
    wire: tuple[np.dtype[Any], ...]
    cast: tuple[np.dtype[Any], ...]
    weight: int = 1


class Space(Protocol):
    """Where answers are held until they have left."""

    def fits(self, size: int) -> bool:
        """Whether so many bytes more find room now; from any thread."""
        ...

    def has_room_for(self, size: int) -> bool:
        """Whether so many bytes could be held if nothing else were."""
        ...


class Room(NamedTuple):
    """What is asked right before an entry is run.

    Attributes:
        space: where its answer will be held.
        size: of its answer, in bytes.
    """

    space: Space
    size: int


class Entry:
    """One queued or running request: its rows, the outputs it wants, and the callback for its answer.

    Attributes:
        kind: shape and types of each row.
        rows: how many rows the request has.
        data: for each input, the rows' elements: bytes as they came, or a view of them, or an array of objects for strings.
        wanted: names of the outputs to compute.
        deadline_s: when the client stops waiting, on the `time.monotonic` clock; None for never.
        reply: takes the finished entries of one batch that share this reply; called once per entry. If it cannot make
            an answer of an entry, it may set the entry's error.
        call: data that the caller needs for the answer; the batcher does not use it.
        priority: the requested priority level, 1 is the highest; 0 for the model's default.
        timeout_s: how long it may be queued, if the model allows a request to set it; None or 0 if not set.
        outputs: one array for each name in `wanted`, once the entry has run.
        error: why it has no outputs.
        arrived_s: when it was submitted, on the `time.monotonic` clock.
        due_s: when its answer is due; set by the queue, only with a latency limit.
        expires_s: when its timeout ends; set by the queue, only if its level has timeouts.
        room: what is asked before it is run; None where its answer is not known to be large.
        level: the priority level that it is queued in, None when it is not queued. Owned by the queue.
    """

    __slots__ = (
        "arrived_s",
        "call",
        "data",
        "deadline_s",
        "due_s",
        "error",
        "expires_s",
        "kind",
        "level",
        "outputs",
        "priority",
        "reply",
        "room",
        "rows",
        "timeout_s",
        "wanted",
    )

    due_s: float
    expires_s: float
    level: Any

    def __init__(
        self,
        kind: RowKind,
        rows: int,
        data: Sequence[bytes | memoryview | Array],
        wanted: tuple[str, ...],
        deadline_s: float | None,
        reply: "Reply",
        call: Any,
        *,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> None:
        self.kind = kind
        self.rows = rows
        self.data = data
        self.wanted = wanted
        self.deadline_s = deadline_s
        self.reply = reply
        self.call = call
        self.priority = priority
        self.timeout_s = timeout_s
        self.arrived_s = 0.0
        self.level = None
        self.outputs: list[Array] = []
        self.error: PredictionError | None = None
        self.room: Room | None = None

    def rebind(self, other: "Entry") -> None:
        """Take over all fields of `other`, for another version's queue; references to this entry stay valid."""
        self.kind, self.rows, self.data, self.wanted, self.call, self.priority, self.timeout_s, self.room = (
            other.kind,
            other.rows,
            other.data,
            other.wanted,
            other.call,
            other.priority,
            other.timeout_s,
            other.room,
        )


Reply = Callable[[list[Entry]], None]
