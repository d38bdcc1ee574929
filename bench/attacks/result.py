"""The result of an attack, and its verdict: what an honest client noticed, and what the server's memory did."""

from dataclasses import dataclass

from bench.attacks.honest import Seen
from bench.attacks.target import Sent

MOST_SLOWER = 3.0
"""The honest client's p99 under attack, over its p99 at rest."""
MOST_OVER_BUDGET = 1.25
"""The growth of resident memory, over the budget for bytes in flight."""
MOST_KEPT = 1.10
"""Resident memory 10 s after the attack, over that before."""
_SPARE_DESCRIPTORS = 8
_SPARE_THREADS = 32
_SPARE_BYTES = 2**20


@dataclass(frozen=True)
class Footprint:
    """What the server takes at a time.

    Attributes:
        memory_mib: its resident memory.
        descriptors: its open files.
        threads: its threads.
    """

    memory_mib: float
    descriptors: int
    threads: int = 0


@dataclass(frozen=True)
class Result:
    """What was measured of one attack.

    Attributes:
        name: of the attack.
        what: it does.
        sent: what the attacker sent.
        idle: what the honest client saw before.
        during: and during the attack.
        recovered: and in the 10 s after it.
        control_ms: the honest client's p99 while a process that does not talk to the server takes as much processor
            time as the attacker did; None if the attacker took too little to measure.
        before: what the server took before the attack.
        after: and 10 s after it; None if it was gone.
        peak_mib: the most resident memory, from the attack's begin.
        server_cpu: cores that the server took during the attack.
        attacker_cpu: cores that the attacker took.
        held_bytes: what the server's budget still held 10 s after; None where it has no such metric.
        log_lines: that the server wrote.
        death: how the server ended, if it did not survive.
        most_threads: the most threads, from the attack's begin.
        tries: how often the attack was made until this result.
    """

    name: str
    what: str
    sent: Sent
    idle: Seen
    during: Seen
    recovered: Seen
    control_ms: float | None
    before: Footprint
    after: Footprint | None
    peak_mib: float
    server_cpu: float
    attacker_cpu: float
    held_bytes: float | None
    log_lines: int
    death: str = ""
    most_threads: int = 0
    tries: int = 1

    def complaints(self, budget_mib: float) -> list[str]:
        """What is not as it should be; empty if the server withstood the attack.

        Args:
            budget_mib: the server's budget for bytes in flight.
        """
        return self.delays() + self.faults(budget_mib)

    def delays(self) -> list[str]:
        """What other load of the machine may have done too."""
        slower = self.during.p99_ms / self.idle.p99_ms
        # NaN, for a client without an answer, is not met either.
        return [] if slower <= MOST_SLOWER else [f"p99 {slower:.1f}x"]

    def faults(self, budget_mib: float) -> list[str]:
        """What only the server can have done.

        Args:
            budget_mib: the server's budget for bytes in flight.
        """
        found = [f"server died: {self.death}"] if self.death else []
        found += [f"{count} x {how}" for how, count in sorted(self.during.bad.items())]
        found += [f"{count} x {how} afterwards" for how, count in sorted(self.recovered.bad.items())]
        if not self.recovered.right:
            found.append("no answer afterwards")
        found += [f"{count:,} calls of the burst: {how}" for how, count in sorted(self.sent.harmed.items())]
        grown = self.peak_mib - self.before.memory_mib
        if grown > MOST_OVER_BUDGET * budget_mib:
            found.append(f"memory +{grown:,.0f} MiB")
        if (threads := self.most_threads - self.before.threads) > _SPARE_THREADS:
            found.append(f"{threads:,} more threads")
        if self.after is not None:
            kept = self.after.memory_mib / self.before.memory_mib
            if kept > MOST_KEPT:
                found.append(f"memory kept: {kept - 1:+.0%}")
            if (more := self.after.descriptors - self.before.descriptors) > _SPARE_DESCRIPTORS:
                found.append(f"{more} files kept open")
        if self.held_bytes is not None and self.held_bytes > _SPARE_BYTES:
            found.append(f"budget still holds {self.held_bytes / 2**20:,.1f} MiB")
        return found
