"""An open load on a queue with a pace, and on devices that exist only as numbers, on a clock of its own."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from frostline_server.batching.admission import AdmissionController, Costs
from frostline_server.batching.entry import Entry
from frostline_server.batching.request_queue import RequestQueue
from frostline_server.errors import Overloaded
from tests.support.puppet import batching, make_entry

AROUND_S = 1e-4
"""Assembling and answering a batch."""


@dataclass
class Outcome:
    """What became of the requests.

    Attributes:
        offered: all of them.
        latency_s: of each that was answered, by when it arrived.
        refused: how many were refused on arrival.
        shed: how many waited in vain.
        trials: how many were let in without a promise.
        sizes: rows of each batch.
    """

    offered: int = 0
    latency_s: dict[float, float] = field(default_factory=dict)
    refused: int = 0
    shed: int = 0
    trials: int = 0
    sizes: list[int] = field(default_factory=list)

    def inside(self, slo_s: float, since_s: float = 0.0) -> int:
        """How many were answered in time."""
        return sum(took <= slo_s for at, took in self.latency_s.items() if at >= since_s)


def simulate(
    run_s: Callable[[int], float],
    *,
    slo_s: float,
    rate: float,
    seconds: float,
    believed_s: dict[int, float] | None = None,
    slower: Callable[[float, random.Random], float] = lambda at, rnd: 1.0,
    max_rows: int = 64,
    devices: int = 1,
    deadline_s: float | None = None,
) -> Outcome:
    """Offer requests of one row as a Poisson process, and run what the queue gives.

    Args:
        run_s: how long a batch of so many rows runs.
        slo_s: the limit.
        rate: requests a second.
        seconds: for how long.
        believed_s: the run times the pace is told at first; those of `run_s` when None.
        slower: by how much a run that begins at a time takes longer.
        max_rows: the most rows of a batch.
        devices: how many run side by side.
        deadline_s: how long each client waits; None for ever.
    """
    rnd = random.Random(0)
    device = 0
    sizes = [2**power for power in range(max_rows.bit_length())]
    costs = Costs({size: run_s(size) for size in sizes} if believed_s is None else believed_s, max_rows)
    admission = AdmissionController(slo_s, costs, devices, spread=rnd.random)
    waiting = RequestQueue(batching(max_batch_size=max_rows, max_queue_size=10**6), batched=True, admission=admission)
    row = np.zeros((1, 1), np.float32)
    outcome = Outcome()
    busy: dict[int, tuple[float, list[Entry], float, float]] = {}
    arrival = rnd.expovariate(rate)
    while arrival < seconds or busy:
        device = min(busy, key=lambda each: busy[each][0], default=-1)
        if busy and busy[device][0] <= arrival:
            now, batch, took_s, ran_s = busy.pop(device)
            admission.freed(device)
            admission.learn(len(batch), took_s, took_s + AROUND_S, ran_s, ran_s)
            for entry in batch:
                outcome.latency_s[entry.arrived_s] = now - entry.arrived_s
        else:
            now = arrival
            arrival = now + rnd.expovariate(rate) if now < seconds else math.inf
            entry = make_entry(row, reply=lambda _: None, deadline_s=None if deadline_s is None else now + deadline_s)
            entry.arrived_s = now
            outcome.offered += 1
            try:
                waiting.push(entry)
                outcome.trials += entry.due_s == math.inf
            except Overloaded:
                outcome.refused += 1
        for device in range(devices):
            while device not in busy:
                batch, ended, _ = waiting.take(now)
                outcome.shed += len(ended)
                if batch:
                    outcome.sizes.append(len(batch))
                    admission.took(device, now, len(batch))
                    ran_s = now + AROUND_S + run_s(len(batch)) * slower(now, rnd)
                    busy[device] = (ran_s, batch, now, ran_s)
                elif not ended:
                    break
    return outcome
