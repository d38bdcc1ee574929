"""Open-loop load: requests leave at the times of a Poisson process, whether or not earlier ones were answered.

Latency counts from the moment a request was due, not from when it left, so a client or a server that falls behind
cannot hide it (the mistake known as coordinated omission).
"""

import ctypes
import gc
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frostline.tune.http2 import Answer, Connection

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of every request.

    Attributes:
        due_s: [N], when it was to leave, seconds from the start.
        late_s: [N], how long after that it left: the client's own share of its latency; NaN if it never did.
        latency_s: [N], from due to answered; NaN for requests without an answer.
        status: [N], gRPC's status code; -1 for requests without an answer.
    """

    due_s: Array
    late_s: Array
    latency_s: Array
    status: Array


def poisson(rate: float, seconds: float, seed: int = 0) -> Array:
    """The times, ascending in [0, seconds), at which a Poisson process of `rate` a second fires."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, round(rate * seconds * 1.2 + 100))
    times: Array = np.cumsum(gaps)
    return times[times < seconds]


def drive(
    connections: Sequence[Connection],
    bodies: Sequence[bytes],
    due_s: Array,
    on_answer: Callable[[int, Answer], None],
    *,
    sample: int = 64,
    drain_s: float = 5.0,
) -> Outcome:
    """Send request number i, with body i modulo their count, at `due_s[i]`, over the connections in turn.

    Args:
        connections: open ones, not used before.
        bodies: length-prefixed messages.
        due_s: ascending, seconds from now.
        on_answer: called with about `sample` of the requests and their answers.
        sample: how many of the answers are looked at.
        drain_s: how long to wait for answers after the last request left.
    """
    count, doors = len(due_s), len(connections)
    due = due_s.tolist()
    sent = [float("nan")] * count
    done = [float("nan")] * count
    status = [-1] * count
    numbers: list[dict[int, int]] = [{} for _ in connections]
    # Odd, so that it meets all bodies where their number is a power of two.
    every = max(1, count // sample) | 1
    end = (due[-1] if due else 0.0) + drain_s
    following, open_ = 0, 0
    clock = time.perf_counter
    _wake_on_time()
    gc.collect()
    gc.disable()
    try:
        start = clock()
        while (now := clock() - start) < end and (following < count or open_):
            while following < count and due[following] <= now:
                door = following % doors
                numbers[door][connections[door].request(bodies[following % len(bodies)])] = following
                sent[following] = now
                following += 1
                open_ += 1
            for connection in connections:
                if connection.blocked:
                    connection.flush()
            blocked = [connection for connection in connections if connection.blocked]
            wait_s = due[following] - (clock() - start) if following < count else end - now
            ready, _, _ = select.select(connections, blocked, (), max(0.0, wait_s))
            for connection in ready:
                known = numbers[connections.index(connection)]
                for answer in connection.receive():
                    number = known.pop(answer.stream)
                    done[number] = clock() - start
                    status[number] = answer.status
                    open_ -= 1
                    if number % every == 0:
                        on_answer(number, answer)
    finally:
        gc.enable()
    times = np.array(done)
    return Outcome(due_s, np.array(sent) - due_s, times - due_s, np.array(status))


def _wake_on_time() -> None:
    """Ask Linux to wake this thread when `select` says, rather than up to 50 µs later."""
    prctl_set_timerslack = 29
    ctypes.CDLL(None).prctl(prctl_set_timerslack, 1, 0, 0, 0)


def saturate(connections: Sequence[Connection], body: bytes, in_flight: int, seconds: float) -> float:
    """Keep so many requests in flight, over connections not used before; answers a second after the first fifth of the time."""
    clock = time.perf_counter
    start = now = clock()
    mark, counted, answered = start + 0.2 * seconds, start, 0
    for number in range(in_flight):
        connections[number % len(connections)].request(body)
    for connection in connections:
        connection.flush()
    while now < start + seconds:
        blocked = [connection for connection in connections if connection.blocked]
        ready, writable, _ = select.select(connections, blocked, (), max(0.0, start + seconds - now))
        for connection in writable:
            connection.flush()
        for connection in ready:
            finished = connection.receive()
            for _ in finished:
                connection.request(body)
            connection.flush()
            answered += sum(answer.status == 0 for answer in finished)
        now = clock()
        if counted == start and now >= mark:
            counted, answered = now, 0
    return answered / (now - counted) if now > counted else 0.0
