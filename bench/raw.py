"""The study of raw rows: what a server answers that is sent a table's columns or pictures as they are.

The server has one core to itself, the load the others, so that its rate is that of a core. Each number stands beside one of
the same round and the same core: the same rows as numbers, or Pillow's own decoding.
"""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from bench.load import raw_models
from bench.load.raw_models import SIDE, Asking
from bench.load.workload import Questions
from bench.measure import document, machine, report
from bench.measure.harness import Lab, Sample, Samples
from bench.measure.rounds import measure
from bench.measure.targets import Goal, middle, quotient, verdicts

_LOADS = ((1, 64), (64, 8))
"""Rows in a request, and requests in flight."""
_PICTURES_IN_FLIGHT = 32
_POOLS = 5
"""Of threads that decode one after the other."""


def _rows(size: int, in_flight: int, *, raw: bool) -> str:
    return f"{'raw rows' if raw else 'numbers'}, {size} a request, {in_flight} in flight"


def _pictures(cores: int) -> str:
    return f"JPEG {SIDE} x {SIDE}, {cores} core{'s' if cores > 1 else ''}"


_PILLOW = " Pillow alone"

GOALS = (
    *(
        Goal(
            _rows(size, in_flight, raw=True),
            middle(_rows(size, in_flight, raw=True), "rows"),
            rows,
            unit="{:,.0f} rows/s",
        )
        for (size, in_flight), rows in zip(_LOADS, (15_000, 150_000), strict=True)
    ),
    *(
        Goal(
            f"CPU of numbers, of that of raw rows, {size} a request",
            quotient((_rows(size, in_flight, raw=False), "cpu_ms"), (_rows(size, in_flight, raw=True), "cpu_ms")),
            share,
            unit="{:.2f}",
        )
        for (size, in_flight), share in zip(_LOADS, (0.4, 0.25), strict=True)
    ),
    Goal(
        f"{_pictures(1)}, against Pillow alone",
        quotient((_pictures(1), "rate"), (_pictures(1) + _PILLOW, "rate")),
        0.85,
        unit="{:.2f}",
    ),
    # The load has a part of both cores, so that the rate says less.
    Goal(
        f"CPU of Pillow alone, of that of {_pictures(2)}",
        quotient((_pictures(2) + _PILLOW, "cpu_ms"), (_pictures(2), "cpu_ms")),
        0.85,
        unit="{:.2f}",
    ),
)


@contextmanager
def on(cores: Sequence[int]) -> Iterator[None]:
    """The calling thread, and all processes and threads that it starts in the block, on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def table(lab: Lab, folder: Path, asked: dict[int, Asking]) -> Samples:
    """One round of a table's rows on one core: raw, and as numbers."""
    core, *others = sorted(os.sched_getaffinity(0))
    with on([core]):
        server = lab.serving("table", folder)
    samples: Samples = {}
    with on(others or [core]):
        for size, in_flight in _LOADS:
            for raw in sorted((True, False), reverse=lab.number % 2 == 1):
                questions = asked[size].raw if raw else asked[size].encoded
                sample = lab.closed(server, questions, in_flight)
                samples[_rows(size, in_flight, raw=raw)] = sample | {"rows": sample["rate"] * size}
    return samples


def pictures(lab: Lab, folder: Path, questions: Questions, files: Sequence[bytes]) -> Samples:
    """One round of pictures: through the server, and decoded by Pillow alone before and after that, on the same cores."""
    every = sorted(os.sched_getaffinity(0))
    samples: Samples = {}
    for count in range(1, min(2, len(every)) + 1):
        cores, others = every[:count], every[count:] or every
        name = _pictures(count)
        with on(cores):
            before = decoding(files, count, lab.seconds / 2)
            server = lab.serving(name, folder)
        with on(others):
            samples[name] = lab.closed(server, questions, _PICTURES_IN_FLIGHT)
        with on(cores):
            after = decoding(files, count, lab.seconds / 2)
        samples[name + _PILLOW] = {number: (before[number] + after[number]) / 2 for number in before}
    return samples


def decoding(files: Sequence[bytes], threads: int, seconds: float) -> Sample:
    """Files that Pillow decodes to arrays of bytes in a second, in so many threads at once, and the CPU time of each.

    The threads are new ones again and again: where Pillow's memory lies makes one faster than another.
    """

    def decode(until_s: float) -> int:
        count = 0
        while count == 0 or time.perf_counter() < until_s:
            np.asarray(Pillow.open(io.BytesIO(files[count % len(files)])))
            count += 1
        return count

    count = 0
    start_s, cpu_s = time.perf_counter(), time.process_time()
    for _ in range(_POOLS):
        with ThreadPoolExecutor(threads) as pool:
            count += sum(pool.map(decode, [time.perf_counter() + seconds / _POOLS] * threads))
    return {
        "rate": count / (time.perf_counter() - start_s),
        "cpu_ms": (time.process_time() - cpu_s) / count * 1000,
    }


def main() -> None:
    """Parse the command line, measure, and print the results."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.raw",
        description=__doc__.partition("\n")[0],
        epilog="example: python -m bench.raw --rounds 3 --only table",
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one load (default 2)")
    parser.add_argument("--only", choices=("table", "pictures"), help="one of the two")
    parser.add_argument("--write", action="store_true", help=f"write the tables to {document.DOCUMENT}")
    parser.add_argument("flags", nargs="*", help="further flags of every server, after --")
    options = parser.parse_args()
    if options.write and options.only:
        parser.error(f"--write needs both, or {document.DOCUMENT} would lose the other")
    console = report.console_of_width()
    load = machine.load()
    with tempfile.TemporaryDirectory() as root:
        tables, media = Path(root, "table"), Path(root, "pictures")
        asked = raw_models.table(tables)
        questions, files = raw_models.pictures(media)
        rows = {
            "table": partial(table, folder=tables, asked=asked),
            "pictures": partial(pictures, folder=media, questions=questions, files=files),
        }
        chosen = {name: row for name, row in rows.items() if options.only in (None, name)}
        record = measure(chosen, options.rounds, options.seconds, options.flags, console)
    how = report.conditions(options.rounds, options.seconds, load)
    sheets = report.goals(verdicts(record.results, GOALS)), report.everything(record.results)
    for sheet in sheets:
        console.print(sheet.table())
    console.print(how)
    if options.write:
        document.write("raw", "\n\n".join((f"Measured {how}.", *(sheet.markdown().strip() for sheet in sheets))))


if __name__ == "__main__":
    main()
