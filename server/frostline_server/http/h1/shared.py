"""What all HTTP connections have in common: their limits, their memory, and those of them that wait for a request."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from frostline_server.http.security import Origins
from frostline_server.http.statuses import Failure
from frostline_server.rpc.h2.budget import Budget

EXCHANGE = "frostline.exchange"
"""Where an ASGI scope has its `Exchange`."""

HELD_BYTES = 1 << 16
"""Longer answers are held until they have left; shorter ones lie in the connection's own buffer."""
LONG_BYTES = 1 << 16
"""What is of more bytes is read and written by another thread: the event loop is what all connections wait for."""
_BODY_OVERHEAD = 1 << 20
"""Of a request beyond the largest message: the JSON in front of binary tensors, the borders between parts."""


T = TypeVar("T")


class Ends(Protocol):
    """A connection, as far as others end it."""

    def make_way(self) -> None:
        """End, because another one needs the place."""

    def end_with(self, cycle: RequestResponseCycle) -> None:
        """End with an answer that comes before the request's body was read."""

    def leave_with(self, cycle: RequestResponseCycle) -> None:
        """End with an answer, if it is the last of those that have been asked for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may do.

    Attributes:
        head_bytes: the longest head of a request, and the longest that follows a body in chunks.
        body_bytes: the longest body.
        head_s: seconds that a head may be on its way, and that a new connection may take to begin.
        body_s: seconds that a body may be on its way.
        unread_s: seconds that an answer may stay unread without progress.
        connections: at one time, TLS's handshakes included.
        connections_per_address: at one time, from one address.
    """

    head_bytes: int
    body_bytes: int
    head_s: float
    body_s: float
    unread_s: float
    connections: int
    connections_per_address: int

    @classmethod
    def body_of(cls, message_bytes: int) -> int:
        """The longest body that holds a message of so many bytes."""
        return message_bytes + _BODY_OVERHEAD


class NeverRoom(Failure):
    """What is told of what could find no room if nothing else were held: no later try changes that."""


@dataclass(frozen=True, slots=True)
class Multiplied:
    """A budget for what takes several times its bytes; see `batching.entry.Space`.

    Attributes:
        budget: what it is held in.
        factor: how many bytes each takes.
    """

    budget: Budget
    factor: int

    def fits(self, size: int) -> bool:
        """Whether so many bytes more find room now; from any thread."""
        return self.budget.fits(self.factor * size)

    def has_room_for(self, size: int) -> bool:
        """Whether so many bytes could be held if nothing else were."""
        return self.budget.has_room_for(self.factor * size)


@dataclass(slots=True)
class Shared:
    """What all connections have in common; used on the event loop only.

    Attributes:
        uvicorn: its settings.
        state: of its connections and tasks.
        loop: the event loop.
        limits: of each connection.
        budget: for what is held of requests and answers.
        origins: which pages may read what a request is refused with.
        begin: is called when a request begins.
        long_work: has one thread, so that all that takes long takes no more than one turn of the interpreter, and one core.
        refused: how much was refused here, by reason.
        waiting: connections without a request, the one that has waited longest first.
        leaving: whether clients are told to go elsewhere with their next requests.
    """

    uvicorn: Config
    state: ServerState
    loop: asyncio.AbstractEventLoop
    limits: Limits
    budget: Budget
    origins: Origins
    begin: Callable[[], None]
    long_work: Executor
    refused: Counter[str] = field(default_factory=Counter)
    waiting: dict[Ends, None] = field(default_factory=dict)
    leaving: bool = False


class Exchange:
    """One request and its answer, as the application sees the connection beneath.

    Attributes:
        peer: the client's address as grpc writes it, such as ipv4:127.0.0.1:50051.
        names: the names in its certificate, under grpc's keys.
        cycle: uvicorn's part of it.
        on_lost: called when the client goes away before it is answered.
    """

    __slots__ = ("_connection", "_held", "_shared", "cycle", "names", "on_lost", "peer")

    def __init__(
        self,
        shared: Shared,
        connection: Ends,
        cycle: RequestResponseCycle,
        peer: str,
        names: Mapping[str, tuple[bytes, ...]],
        held: int,
    ) -> None:
        self._shared = shared
        self._connection = connection
        self._held = held
        self.cycle = cycle
        self.peer = peer
        self.names = names
        self.on_lost: Callable[[], None] | None = None

    @property
    def lost(self) -> bool:
        """Whether the client has gone away."""
        return self.cycle.disconnected

    def hold(self, size: int) -> bool:
        """Hold so many more bytes until the exchange is over; False where there is no room."""
        if not self._shared.budget.take(size):
            return False
        self._held += size
        return True

    def no_room(self, size: int) -> Failure:
        """What it is told for whose next bytes there is no room, which counts it."""
        needed, budget = self._held + size, self._shared.budget
        if budget.has_room_for(needed):
            self.count("network_full")
            return no_room(size)
        self.count("message_too_large")
        return NeverRoom(
            413,
            f"the request and its answer would take {needed} bytes of memory, and no more than {budget.largest} can find room "
            "(network_bytes); ask for binary outputs where they are JSON, or send fewer rows at a time",
            "message_too_large",
        )

    def count(self, reason: str) -> None:
        """Count that it is refused."""
        self._shared.refused[reason] += 1

    def space(self, factor: int) -> Multiplied:
        """Where an answer is held that takes so many times its bytes."""
        return Multiplied(self._shared.budget, factor)

    def give(self, size: int) -> None:
        """Hold so many bytes less."""
        self._shared.budget.give(size)
        self._held -= size

    def release(self) -> None:
        """Hold nothing more."""
        self._shared.budget.give(self._held)
        self._held = 0

    async def elsewhere(self, size: int, work: Callable[[], T]) -> T:
        """Do some work, in another thread if it is of many bytes."""
        if size <= LONG_BYTES:
            return work()
        return await self._shared.loop.run_in_executor(self._shared.long_work, work)

    def begin_answer(self) -> None:
        """Say that the answer begins. The connection ends with it where the body is not there yet, or the server ends."""
        if self.cycle.more_body:
            self._connection.end_with(self.cycle)
        elif self._shared.leaving:
            self._connection.leave_with(self.cycle)

    def give_up(self) -> None:
        """Say that the client has gone away, or is told no more."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        if self.on_lost is not None:
            self.on_lost()


def no_room(size: int) -> Failure:
    """What a request is told for which there is no memory."""
    return Failure(
        503,
        f"the messages in flight leave no room for {size} bytes (network_bytes); try again later",
        "network_full",
        1,
    )


def too_long(
    most_bytes: int,
    limit: str = "(max_message_bytes and 1 MiB, or what network_bytes has room for); send fewer rows",
) -> Failure:
    """What a request is told whose body is too long.

    Args:
        most_bytes: how long it may be.
        limit: what says so, and what to do.
    """
    return Failure(413, f"the body is longer than {most_bytes} bytes {limit}", "message_too_large")
