"""The study of REST: how much of it one core answers, and what gRPC on the same core notices of it.

The server has one core to itself, the load the others. Each number of gRPC stands beside one of the same round and the same
core: without a port of HTTP, and beside as many calls of gRPC as there are of REST.
"""

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.load.workload import ask
from bench.measure import machine, report
from bench.measure.harness import Lab, Sample, Samples
from bench.measure.rounds import measure
from bench.measure.scenarios import TINY
from bench.measure.targets import Goal, middle, quotient, verdicts
from bench.raw import on

CONNECTIONS = 64
OVERLOAD = 256
"""Requests in flight, one on a connection."""
VICTIM = 8
"""Calls of gRPC in flight beside that."""
_REST = f"REST, {CONNECTIONS} connections"
_NONE, _IDLE = "gRPC without HTTP", "gRPC beside idle HTTP"
_BESIDE_REST, _BESIDE_GRPC = (f"gRPC, {VICTIM} in flight, beside {OVERLOAD} of {other}" for other in ("REST", "gRPC"))

GOALS = (
    Goal(f"small binary requests over {_REST}, one core", middle(_REST, "rate"), 5_000),
    Goal("gRPC beside idle HTTP, against none", quotient((_IDLE, "rate"), (_NONE, "rate")), 0.99, unit="{:.3f}"),
    Goal(
        "CPU of a call of gRPC without HTTP, of one beside idle HTTP",
        quotient((_NONE, "cpu_ms"), (_IDLE, "cpu_ms")),
        0.99,
        unit="{:.3f}",
    ),
    Goal(
        "gRPC beside an overload of REST, against one of gRPC",
        quotient((_BESIDE_REST, "rate"), (_BESIDE_GRPC, "rate")),
        1.0,
        unit="{:.2f}",
    ),
    Goal(
        "its p99, of that",
        quotient((_BESIDE_REST, "p99_ms"), (_BESIDE_GRPC, "p99_ms")),
        1.0,
        least=False,
        unit="{:.2f}",
    ),
)


def rest(lab: Lab) -> Samples:
    """One round of REST alone."""
    questions = ask("tiny", TINY, [4])
    core, *others = sorted(os.sched_getaffinity(0))
    with on([core]):
        server = lab.server("with HTTP", {"tiny": TINY})
    with on(others or [core]):
        return {_REST: lab.rest(server, questions, CONNECTIONS)}


def idle(lab: Lab) -> Samples:
    """One round of gRPC with and without a port of HTTP."""
    questions = ask("tiny", TINY, [4])
    core, *others = sorted(os.sched_getaffinity(0))
    with on([core]):
        servers = {
            # Its own, which nobody has asked anything over REST.
            _IDLE: lab.server("with idle HTTP", {"tiny": TINY}),
            _NONE: lab.server("without HTTP", {"tiny": TINY}, "--no-http"),
        }
    samples: Samples = {}
    with on(others or [core]):
        for _ in range(2):
            # Whoever comes first in one round comes last in the next.
            for name in sorted(servers, reverse=lab.number % 2 == 1):
                sample = lab.closed(servers[name], questions, CONNECTIONS)
                samples[name] = max(samples.get(name, sample), sample, key=lambda each: each["rate"])
    return samples


def overload(lab: Lab) -> Samples:
    """One round of a few calls of gRPC beside many requests of either kind."""
    questions = ask("tiny", TINY, [4])
    core, *others = sorted(os.sched_getaffinity(0))
    with on([core]):
        server = lab.server("with HTTP", {"tiny": TINY})
    loads: dict[str, Callable[[], Sample]] = {
        _BESIDE_REST: lambda: lab.rest(server, questions, OVERLOAD),
        _BESIDE_GRPC: lambda: lab.closed(server, questions, OVERLOAD, connections=OVERLOAD),
    }
    samples: Samples = {}
    with on(others or [core]), ThreadPoolExecutor(1) as pool:
        for name in sorted(loads, reverse=lab.number % 2 == 1):
            load = pool.submit(loads[name])
            samples[name] = lab.closed(server, questions, VICTIM)
            samples[f"{name}: these"] = load.result()
    return samples


def main() -> None:
    """Parse the command line, measure, and print the results."""
    rows = {"rest": rest, "idle": idle, "overload": overload}
    parser = argparse.ArgumentParser(
        prog="python -m bench.rest",
        description=__doc__.partition("\n")[0],
        epilog="example: python -m bench.rest --rounds 3 --only idle",
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one load (default 2)")
    parser.add_argument("--only", choices=tuple(rows), help="one of them")
    parser.add_argument("flags", nargs="*", help="further flags of every server, after --")
    options = parser.parse_args()
    console = report.console_of_width()
    load = machine.load()
    chosen = {name: row for name, row in rows.items() if options.only in (None, name)}
    record = measure(chosen, options.rounds, options.seconds, options.flags, console)
    for sheet in (report.goals(verdicts(record.results, GOALS)), report.everything(record.results)):
        console.print(sheet.table())
    console.print(report.conditions(options.rounds, options.seconds, load))


if __name__ == "__main__":
    main()
