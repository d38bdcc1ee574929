"""Where a request's microseconds go in the server: `python -m bench.profile`.

Linux says how much CPU each thread takes for a request; py-spy, in a second run because it slows what it looks at, on
which lines a Python thread spends it. A sample counts for the innermost line of the server's own code, so that a line that
calls a library carries what it does there.
"""

import argparse
import linecache
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import document, machine, process
from bench.floors import Target
from bench.lab import Lab
from bench.process import ThreadTime
from bench.questions import Questions, ask
from bench.rows import MLP
from bench.sheets import Sheet, console_of_width

OUTPUT = Path(__file__).parent / "results"
_RATE = 250
_OWN = "server/"


@dataclass(frozen=True)
class Stacks:
    """What py-spy saw of one thread.

    Attributes:
        name: the thread's, as Python knows it.
        lines: samples by place, such as server/native.py:85.
    """

    name: str
    lines: Counter[str]


def parsed(raw: str) -> dict[int, Stacks]:
    """py-spy's raw output by the kernel's thread id.

    Args:
        raw: a line for each stack: `thread (ID): NAME;FRAME;...;FRAME COUNT`, a frame being `FUNCTION (FILE:LINE)`.
    """
    found: dict[int, Stacks] = {}
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        number, _, name = thread.removeprefix("thread (").partition("): ")
        places = [frame.rpartition(" (")[2].rstrip(")") for frame in frames]
        own = [place for place in places if place.startswith(_OWN)]
        stacks = found.setdefault(int(number, 0), Stacks(name, Counter()))
        stacks.lines[own[-1] if own else "outside the server"] += int(count)
    return found


def per_request(
    stacks: Mapping[int, Stacks], spent: Mapping[int, ThreadTime], requests: int
) -> dict[str, dict[str, float]]:
    """Microseconds a request, by thread and within it by place; a thread without Python has one place.

    Args:
        stacks: of the threads that run Python.
        spent: CPU time of every thread over `requests` requests.
        requests: answered meanwhile.
    """
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for number, thread in spent.items():
        micros = thread.seconds / requests * 1e6
        seen = stacks.get(number)
        if seen is None:
            found[thread.name]["not Python"] += micros
            continue
        samples = seen.lines.total()
        for place, count in seen.lines.items():
            found[seen.name][place] += micros * count / samples
    return found


def sheets(micros: Mapping[str, Mapping[str, float]], most: int = 25) -> tuple[Sheet, Sheet]:
    """The threads, and the `most` expensive lines of those that run Python."""
    total = sum(sum(places.values()) for places in micros.values())
    threads = sorted(((sum(places.values()), name) for name, places in micros.items()), reverse=True)
    lines = sorted(
        ((value, name, place) for name, places in micros.items() for place, value in places.items()), reverse=True
    )
    return (
        Sheet(
            f"CPU of the server for a request: {total:.1f} µs",
            ("thread", "µs", "share"),
            tuple((name, f"{value:.2f}", f"{value / total:.0%}") for value, name in threads if value >= 0.05),
        ),
        Sheet(
            "The same by line of the server's code",
            ("line", "thread", "µs", "code"),
            tuple((place, name, f"{value:.2f}", _code(place)) for value, name, place in lines[:most] if value >= 0.05),
        ),
    )


def _code(place: str) -> str:
    file, _, line = place.rpartition(":")
    text = linecache.getline(file, int(line)).strip() if line.isdigit() else ""
    # A bar would end the cell.
    return f"`{text[:70]}`" if text and "|" not in text else text[:70].replace("|", "/")


def main() -> None:
    """Parse the command line, profile, tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__.partition("\n")[0])
    parser.add_argument("--in-flight", type=int, default=64, help="requests in flight (default 64)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each of three loads (default 6)")
    parser.add_argument(
        "--write", metavar="SECTION", help=f"write into that section of {document.DOCUMENT}: before or after"
    )
    parser.add_argument("flags", nargs="*", help="further flags of the server, after --")
    options = parser.parse_args()
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if spy is None:
        parser.error("py-spy is not installed; it comes with the dev extra")
    console = console_of_width()
    OUTPUT.mkdir(exist_ok=True)
    questions = ask("mlp", MLP, [784])
    with Lab(options.seconds, options.flags) as lab:
        server = lab.server("mlp", {"mlp": MLP})
        before = process.threads(server.pid)
        # Of the whole load, warm-up and probe included, which is a few in a hundred thousand.
        sample = lab.closed(server, questions, options.in_flight)
        spent = {
            number: ThreadTime(thread.name, thread.seconds - (before[number].seconds if number in before else 0.0))
            for number, thread in process.threads(server.pid).items()
        }
        raw = spied(spy, lab, server, questions, options.in_flight, "raw", OUTPUT / "profile.txt")
        picture = spied(spy, lab, server, questions, options.in_flight, "flamegraph", OUTPUT / "profile.svg")
    requests = sum(thread.seconds for thread in spent.values()) / sample["cpu_ms"] * 1000
    found = sheets(per_request(parsed(raw.read_text(encoding="utf-8")), spent, round(requests)))
    how = f"{machine.described()}; 784-256-128-10 MLP, {options.in_flight} in flight, {sample['rate']:,.0f} answers a second"
    for sheet in found:
        console.print(sheet.table())
    console.print(f"{how}; flame graph: {picture}")
    if options.write:
        body = "\n\n".join([f"Measured {how}.", *(sheet.markdown().strip() for sheet in found)])
        document.write(f"profile {options.write}", body)


def spied(spy: str, lab: Lab, server: Target, questions: Questions, in_flight: int, form: str, path: Path) -> Path:
    """Load the server while py-spy watches, and return its output."""
    command: Sequence[str] = [spy, "record", "--pid", str(server.pid), "--threads", "--rate", str(_RATE)]
    command = [*command, "--duration", str(max(1, round(lab.seconds - 1))), "--format", form, "--output", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process_:
        time.sleep(0.2)
        lab.closed(server, questions, in_flight)
        _, errors = process_.communicate()
    if process_.returncode != 0:
        raise SystemExit(f"py-spy failed, which may need root or CAP_SYS_PTRACE: {errors.strip()}")
    return path


if __name__ == "__main__":
    main()
