"""The study of processes: what several processes answer in a second, against one with one thread.

Each process runs the network with one thread. The load comes over many connections, because the kernel gives each of
them to one process.
"""

import argparse
import statistics
from functools import partial

from bench.load import networks
from bench.load.workload import ask
from bench.measure import machine
from bench.measure.harness import Lab, Samples
from bench.measure.report import console_of_width, goals
from bench.measure.rounds import measure
from bench.measure.targets import Goal, Results, verdicts

_CONNECTIONS = 16
_IN_FLIGHT = 64
_ONE = "one process"
_MANY = "several processes"
_PART = 0.95
"""Of the number of processes: the least gain that is good."""


def processes(lab: Lab, count: int) -> Samples:
    """One round: the same load on one process and on `count`."""
    net = networks.cnn()
    questions = ask("cnn", net, networks.CNN_SHAPE)
    flags = ("--device", "cpu", "--threads", "1")
    samples: Samples = {}
    for key, number in ((_ONE, 1), (_MANY, count)):
        target = lab.server(key, {"cnn": net}, *flags, "--processes", str(number))
        samples[key] = lab.closed(target, questions, _IN_FLIGHT, connections=_CONNECTIONS)
    return samples


def gain(results: Results) -> float:
    """The median rate of several processes, over that of one."""
    return statistics.median(results[_MANY]["rate"]) / statistics.median(results[_ONE]["rate"])


def main() -> None:
    """Parse the command line, measure, and print the results."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.processes",
        description=__doc__.partition("\n")[0],
        epilog="example: python -m bench.processes --processes 2 -- --transport grpcio",
    )
    parser.add_argument("--processes", type=int, default=2, help="how many (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default 3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one load (default 5)")
    parser.add_argument("flags", nargs="*", help="further flags of both servers, after --")
    options = parser.parse_args()
    console = console_of_width()
    rows = {"processes": partial(processes, count=options.processes)}
    record = measure(rows, options.rounds, options.seconds, options.flags, console)
    goal = Goal(f"{options.processes} processes, of one", gain, _PART * options.processes, unit="{:.2f}")
    console.print(goals(verdicts(record.results, (goal,))).table())
    for name, numbers in record.results.items():
        rate, p99_ms = (statistics.median(numbers[number]) for number in ("rate", "p99_ms"))
        console.print(f"{name}: {rate:,.0f} answers a second, p99 {p99_ms:.1f} ms")
    console.print(f"{machine.described()}; medians of {options.rounds} rounds of {options.seconds:g} s")


if __name__ == "__main__":
    main()
