"""What an attack is given and what it reports: the server's address and the link to it, and the counts of what was sent."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.attacks.wire import Wire

MOST_S = 60.0
"""An attack that has not sent all by then stops."""


class Link:
    """A link of limited speed: sending more than it carries waits.

    Args:
        bytes_per_s: its speed.
        clock: the time in seconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        bytes_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._free_s = clock()

    def spend(self, size: int) -> None:
        """Send so many bytes; waits until the link is less than 10 ms behind."""
        now = self._clock()
        self._free_s = max(now, self._free_s) + size / self._bytes_per_s
        if self._free_s - now > 0.01:
            self._sleep(self._free_s - now)


@dataclass
class Sent:
    """What an attack did, and how the server ended it.

    Attributes:
        count: of what was sent.
        unit: what is counted.
        connections: that were opened.
        seconds: that it took.
        ends: how connections, streams and calls ended, with their numbers.
        harmed: calls of an attack that is an honest client, by how they ended if not well.
    """

    unit: str
    count: int = 0
    connections: int = 0
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    harmed: Counter[str] = field(default_factory=Counter)

    def json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Sent":
        """From what the attacker's process printed."""
        return cls(**{**said, "ends": Counter(said["ends"]), "harmed": Counter(said["harmed"])})


@dataclass(frozen=True)
class Target:
    """The server under attack, and for how long.

    Attributes:
        address: its host and port.
        seconds: how long an attack goes on at least.
        link: to the server.
        source: the address that the attacker connects from; empty for any.
        metrics: the host and port of its metrics.
        http: the host and port of its HTTP.
    """

    address: tuple[str, int]
    seconds: float
    link: Link
    source: str = ""
    metrics: tuple[str, int] = ("", 0)
    http: tuple[str, int] = ("", 0)

    def wire(self, sent: Sent, source: str | None = None) -> Wire:
        """A connection, not yet open."""
        sent.connections += 1
        return Wire(self.address, self.source if source is None else source, sent.ends)

    def another(self, number: int) -> str:
        """One of many addresses of an attacker; the same one for a server that is not on this machine."""
        return f"127.1.{number >> 8}.{number & 255}" if self.source else ""
