"""The crowd: good models that answer while broken ones beside them are loaded, changed and removed.

One thread scrapes `/metrics` all the time, another asks the good models; neither may notice anything.
"""

import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from bench.conformance import broken
from bench.conformance.checks import Finding
from bench.conformance.parts import Tick
from bench.conformance.reference import Array
from bench.conformance.served import Log, Served, serving
from bench.measure import process
from frostline.server_process import ServerFailed

SETTLE_S = 90.0

TOLERANCE_MIB = 24.0
"""Memory that the second half of the cycles may have beyond the first half, by their medians.

The first cycle fills what is filled once, and glibc's arenas make single cycles differ by 20 MiB either way, so medians
are compared. What stays of each cycle shows: 150 models with weights of 256 KiB each are above 40 MiB, three times.
"""

SETTLED_S = 5.0
"""Seconds for which memory may still fall after the last model is gone."""


@dataclass
class Crowd:
    """What was found.

    Attributes:
        findings: whatever was wrong: an answer, a state.
        answers: requests to good models that were answered right.
        scrapes: statuses of `/metrics`.
        memory_mib: resident memory with the same models: before, and after each cycle.
        full_mib: resident memory with all models, in the last cycle.
        not_json: lines of the log that are no JSON object.
        crashes: how the server ended, if not as it was told to.
    """

    findings: list[Finding] = field(default_factory=list)
    answers: int = 0
    scrapes: Counter[int] = field(default_factory=Counter)
    memory_mib: list[float] = field(default_factory=list)
    full_mib: float = 0.0
    not_json: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)

    @property
    def growth_mib(self) -> float:
        """The median of the second half of the cycles less that of the first half."""
        cycles = self.memory_mib[1:]
        half = len(cycles) // 2
        return statistics.median(cycles[-half:]) - statistics.median(cycles[:half]) if half else 0.0


def run(good: int, bad: int, cycles: int, flags: Sequence[str], tick: Tick) -> Crowd:
    """Serve half of the good models; in each cycle add the rest and the broken, change them, and remove them.

    Args:
        good: how many good models.
        bad: how many broken ones, in turn in each of the ways.
        cycles: how often.
        flags: further flags of the server.
        tick: called after each cycle.
    """
    crowd, log = Crowd(), Log()
    stay = {f"stays_{number}": number for number in range(good // 2)}
    go = {f"goes_{number}": good + number for number in range(good - good // 2)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model, seed in stay.items():
            broken.write_good(folder / model, seed)
        settings = ["--require", "none", "--probe-s", "1", *flags]
        try:
            with serving(folder, settings, log) as served, _watched(served, stay, crowd):
                crowd.memory_mib.append(_settled_mib(served.pid))
                for _ in range(cycles):
                    _cycle(served, folder, go, bad, crowd)
                    crowd.memory_mib.append(_settled_mib(served.pid))
                    tick()
        except (ServerFailed, grpc.RpcError) as error:
            crowd.crashes.append(f"{error}; its last lines: {log.last()}")
        finally:
            crowd.not_json += log.not_json
    return crowd


def _cycle(served: Served, folder: Path, go: dict[str, int], bad: int, crowd: Crowd) -> None:
    ways = list(broken.WAYS.items())
    names = {f"bad_{number}_{ways[number % len(ways)][0]}": number for number in range(bad)}
    for model, number in names.items():
        ways[number % len(ways)][1](folder / model)
    for model, seed in go.items():
        broken.write_good(folder / model, seed)
    _expect(served, dict.fromkeys(go, "READY"), names, crowd)
    for model, seed in go.items():
        _check(served, model, [seed], crowd)
    # Changed: what was broken in one way is broken in another; one in ten is repaired; the good ones get a version 2.
    repaired = [model for model, number in names.items() if number % 10 == 0]
    for model, number in names.items():
        _remove(folder / model)
        if model in repaired:
            broken.write_good(folder / model, number)
        else:
            ways[(number + 1) % len(ways)][1](folder / model)
    for model, seed in go.items():
        broken.write_good(folder / model, seed + 1, version=2)
    still = [model for model in names if model not in repaired]
    _expect(served, dict.fromkeys([*go, *repaired], "READY"), still, crowd)
    for model in repaired:
        _check(served, model, [names[model]], crowd)
    for model, seed in go.items():
        _check(served, model, [seed, seed + 1], crowd)
    crowd.full_mib = process.memory_mib(served.pid)
    for model in (*names, *go):
        _remove(folder / model)
    _expect(served, dict.fromkeys((*names, *go), ""), [], crowd)


def _expect(served: Served, wanted: dict[str, str], never: Sequence[str] | dict[str, int], crowd: Crowd) -> None:
    """Wait until models are in these states; others may not be READY."""
    states = served.wait_until_settled(wanted, SETTLE_S)
    for model, want in wanted.items():
        state, reason = states.get(model, ("", ""))
        if state != want:
            crowd.findings.append(Finding(model, "error", f"is '{state}' instead of '{want}': {reason}"))
    crowd.findings += [
        Finding(model, "wrong", "is broken, and READY") for model in never if states.get(model, ("", ""))[0] == "READY"
    ]


def _check(served: Served, model: str, seeds: Sequence[int], crowd: Crowd) -> None:
    """Ask a model for one row; the answer is that of one of its versions."""
    row = np.arange(broken.WIDTH, dtype=np.float32)[None] % 7
    got = served.ask(model, {"input": row})
    if isinstance(got, grpc.RpcError):
        crowd.findings.append(Finding(model, "error", f"{got.code().name}: {got.details()}"))
    elif not any(np.array_equal(got.get("logits", np.empty(0)), _answer(row, seed)) for seed in seeds):
        crowd.findings.append(Finding(model, "wrong", "has answered with other logits"))
    else:
        crowd.answers += 1


def _answer(row: Array, seed: int) -> Array:
    product: Array = row @ broken.weights(seed)
    return product


@contextmanager
def _watched(served: Served, stay: dict[str, int], crowd: Crowd) -> Iterator[None]:
    """Scrape, and ask the models that stay, until the block ends."""
    over = threading.Event()

    def scrape() -> None:
        crowd.scrapes[served.get("/metrics")[0]] += 1

    def ask() -> None:
        for model, seed in stay.items():
            _check(served, model, [seed], crowd)

    threads = [threading.Thread(target=_until, args=(over, action)) for action in (scrape, ask)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _settled_mib(pid: int) -> float:
    """The least resident memory of the next seconds; requests and scrapes go on meanwhile."""
    least = process.memory_mib(pid)
    end = time.monotonic() + SETTLED_S
    while time.monotonic() < end:
        time.sleep(0.1)
        least = min(least, process.memory_mib(pid))
    return least


def _until(over: threading.Event, action: Callable[[], None]) -> None:
    while not over.wait(0.02):
        action()


def _remove(folder: Path) -> None:
    # Hidden first, as a whole, so that what is half removed is no third kind of broken.
    hidden = folder.with_name(f".{folder.name}")
    folder.rename(hidden)
    shutil.rmtree(hidden)
