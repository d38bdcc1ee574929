"""The CPU profile of the server: by thread, by library and by line, for one request.

Linux counts the CPU time of each thread. In separate runs, because a profiled process is slower, perf samples the
libraries and py-spy samples the lines of the server. py-spy reads a thread's stack a moment after it saw the thread
run, so it overstates lines on which threads fall asleep; perf has no such delay.
"""

import argparse
import linecache
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from bench.load.workload import ask
from bench.measure import document, machine, process, samplers
from bench.measure.harness import Lab, Sample
from bench.measure.process import ThreadTime
from bench.measure.report import Sheet, console_of_width
from bench.measure.scenarios import MLP

OUTPUT = Path(__file__).parent / "results"

Micros = Mapping[str, Mapping[str, float]]
"""Microseconds a request, by thread and within it by place."""


def per_request(
    samples: Mapping[int, Counter[str]], names: Mapping[int, str], spent: Mapping[int, ThreadTime], requests: float
) -> Micros:
    """Divide the CPU time of threads by their samples; the time of a thread without samples has no place.

    Args:
        samples: by the kernel's thread id and place.
        names: of threads that Python knows, by the same id.
        spent: CPU time of every thread over `requests` requests.
        requests: answered meanwhile.
    """
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for number, thread in spent.items():
        name, micros = names.get(number, thread.name), thread.seconds / requests * 1e6
        places = samples.get(number, Counter({"": 1}))
        for place, count in places.items():
            found[name][place] += micros * count / places.total()
    return found


def by_thread(micros: Micros) -> Sheet:
    """The threads, most expensive first."""
    totals = {name: sum(places.values()) for name, places in micros.items()}
    total = sum(totals.values())
    lines = sorted(totals.items(), key=lambda pair: -pair[1])
    return Sheet(
        f"CPU of the server for a request: {total:.1f} µs",
        ("thread", "µs", "share"),
        tuple((name, f"{value:.2f}", f"{value / total:.0%}") for name, value in lines if value >= 0.05),
    )


def by_library(micros: Micros) -> Sheet:
    """The libraries, most expensive first, over all threads and in each."""
    threads = [name for name, *_ in by_thread(micros).rows]
    totals: Counter[str] = Counter()
    for places in micros.values():
        totals.update(places)
    rows = [
        (library, f"{value:.2f}", *(f"{micros[name].get(library, 0):.2f}" for name in threads))
        for library, value in sorted(totals.items(), key=lambda pair: -pair[1])
        if value >= 0.05
    ]
    return Sheet("By library, in µs, as perf samples it", ("library", "all threads", *threads), tuple(rows))


def by_line(micros: Micros, most: int = 20) -> Sheet:
    """The most expensive lines of the server's Python code."""
    lines = [(value, name, place) for name, places in micros.items() for place, value in places.items() if place]
    rows = [
        (place, name, f"{value:.2f}", _code(place))
        for value, name, place in sorted(lines, reverse=True)[:most]
        if value >= 0.05
    ]
    return Sheet("By line of the server, as py-spy samples it", ("line", "thread", "µs", "code"), tuple(rows))


def _code(place: str) -> str:
    file, _, line = place.rpartition(":")
    text = linecache.getline(file, int(line)).strip()[:70] if line.isdigit() else ""
    # A bar would end the cell.
    return f"`{text.replace('|', '/')}`" if text else ""


def profiled(lab: Lab, in_flight: int) -> tuple[Sample, list[Sheet], Path]:
    """Put load on a server four times: unprofiled, under perf, and under py-spy for lines and for a flame graph."""
    questions = ask("mlp", MLP, [784])
    server = lab.server("mlp", {"mlp": MLP})
    load = partial(lab.closed, server, questions, in_flight)
    before = process.threads(server.pid)
    sample = load()
    spent = {
        number: ThreadTime(thread.name, thread.seconds - (before[number].seconds if number in before else 0.0))
        for number, thread in process.threads(server.pid).items()
    }
    requests = sum(thread.seconds for thread in spent.values()) / sample["cpu_ms"] * 1000
    watched_s = lab.seconds - 0.5
    script = samplers.perf(server.pid, load, watched_s)
    raw = samplers.spy(server.pid, load, watched_s, "raw", OUTPUT / "profile.txt")
    picture = samplers.spy(server.pid, load, watched_s, "flamegraph", OUTPUT / "profile.svg")
    stacks = samplers.python_lines(raw.read_text(encoding="utf-8"))
    names = {number: seen.name for number, seen in stacks.items()}
    lines = per_request({number: seen.lines for number, seen in stacks.items()}, names, spent, requests)
    sheets = [by_thread(lines), by_line(lines)]
    if script is not None:
        sheets.insert(1, by_library(per_request(samplers.libraries(script), names, spent, requests)))
    return sample, sheets, picture


def main() -> None:
    """Parse the command line, profile, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__.partition("\n")[0])
    parser.add_argument("--in-flight", type=int, default=64, help="requests in flight (default 64)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each of four loads (default 6)")
    parser.add_argument("--write", choices=("before", "after"), help=f"write into this section of {document.DOCUMENT}")
    parser.add_argument("flags", nargs="*", help="further flags of the server, after --")
    options = parser.parse_args()
    console = console_of_width()
    OUTPUT.mkdir(exist_ok=True)
    with Lab(options.seconds, options.flags) as lab:
        sample, sheets, picture = profiled(lab, options.in_flight)
    how = f"{machine.described()}; 784-256-128-10 MLP, {options.in_flight} in flight, {sample['rate']:,.0f} answers a second"
    for sheet in sheets:
        console.print(sheet.table())
    console.print(f"{how}; flame graph: {picture}")
    if options.write:
        body = "\n\n".join([f"Measured {how}.", *(sheet.markdown().strip() for sheet in sheets)])
        document.write(f"profile {options.write}", body)


if __name__ == "__main__":
    main()
