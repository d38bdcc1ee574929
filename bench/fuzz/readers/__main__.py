"""The command `make fuzz-readers`: it fuzzes one target after the other, each in a process of its own, and says what came of it."""

import argparse
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.fuzz.readers import corpus
from bench.fuzz.readers.catalogue import TARGETS
from bench.fuzz.readers.watch import last_seen
from bench.fuzz.readers.worker import BOARD, FOUND, REPORT, Job, Report
from bench.measure import process
from bench.measure.report import console_of_width

_GROWTH = 1.10
_GROWTH_MIB = 32
"""libFuzzer's own tables and the inputs it keeps are in this too."""
_HANGS_S = 10.0
"""CPU time without an execution that ends, after which a worker is killed: it cannot say so itself any more."""
_LOOK_S = 1.0
_SAY_S = 30.0
_IN_MEMORY = "/dev/shm"
"""Where a file is written for each execution, twice as fast as on a disk."""

_EXAMPLES = """examples:
  make fuzz-readers                                                  100 000 executions, a few minutes
  make fuzz-readers ARGS="--executions 10000000"                     what a release gets
  make fuzz-readers ARGS="--target pbtxt --target card --seconds 60" two readers, a minute in all
  make fuzz-readers ARGS="--keep"                                    and add what reached something new to tests/fuzz/corpus
  make fuzz-readers ARGS="--target card --again fault-card.bin"      run one input again
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz the readers; returns the exit code."""
    options = _options(arguments)
    console = console_of_width()
    if options.list:
        for target in TARGETS.values():
            console.print(f"{target.name:20} {target.reads}")
        return 0
    names = options.target or list(TARGETS)
    if options.again:
        return _again(names[0], options.again)
    seed = random.SystemRandom().getrandbits(31) if options.seed is None else options.seed
    console.print(f"seed {seed}, engine {options.engine}, {options.executions:,} executions of {len(names)} targets")
    reports = {}
    began_s = time.monotonic()
    for at, name in enumerate(names):
        left_s = options.seconds - (time.monotonic() - began_s)
        share = max(1, round(options.executions / len(names)))
        with tempfile.TemporaryDirectory(dir=_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None) as folder:
            job = Job(name, options.engine, share, min(left_s / (len(names) - at), 1e9), seed, folder)
            reports[name] = _supervised(job, console)
            if options.keep and not reports[name].fault:
                _keep(name, Path(folder))
    _print(console, reports)
    return 1 if any(report.fault or grew(report) for report in reports.values()) else 0


def grew(report: Report) -> bool:
    """Whether a target kept memory."""
    before, after = report.memory_mib
    return after > before * _GROWTH + _GROWTH_MIB


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.fuzz.readers",
        description="Fuzz the readers of messages and files.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    have = importlib.util.find_spec("atheris") is not None
    parser.add_argument("--executions", type=int, default=100_000, help="of all targets together (default 100000)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="for all targets together (default no limit)")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="may be given again (default all)")
    parser.add_argument("--seed", type=int, help="of the mutations (default another every time)")
    parser.add_argument(
        "--engine",
        choices=("atheris", "python"),
        default="atheris" if have else "python",
        help="atheris follows the coverage and needs the extra fuzz; python only mutates (default atheris if it is there)",
    )
    parser.add_argument("--keep", action="store_true", help="add to the corpus what reached something new (atheris)")
    parser.add_argument("--again", type=Path, metavar="FILE", help="run this one input through the target")
    parser.add_argument("--list", action="store_true", help="list the targets")
    options = parser.parse_args(arguments)
    if options.engine == "atheris" and not have:
        parser.error("atheris is not installed: pip install -e '.[fuzz]', or --engine python")
    if options.again and len(options.target or ()) != 1:
        parser.error("--again needs the one --target that the input is for")
    return options


def _supervised(job: Job, console: Console) -> Report:
    """Let a worker do a job, and look after it."""
    folder = Path(job.folder)
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "bench.fuzz.readers.worker", json.dumps(asdict(job))]
        with subprocess.Popen(command, stdout=log, stderr=log) as worker:
            hangs = _wait(worker, job, console)
    if (folder / REPORT).exists():
        report = Report(**json.loads((folder / REPORT).read_text(encoding="utf-8")))
    else:
        last_words = (folder / "log").read_text(errors="replace")[-2000:]
        reason = "an execution does not end" if hangs else f"the process died with exit code {worker.returncode}"
        report = Report(executions=last_seen(folder / BOARD)[0], fault=f"{reason}\n{last_words}")
    speed = report.executions / report.seconds if report.seconds else math.nan
    console.print(f"{job.target}: {report.executions:,} executions, {speed:,.0f} a second")
    if report.fault:
        saved = Path(f"fault-{job.target}.bin")
        saved.write_bytes(last_seen(folder / BOARD)[1])
        console.print(f"[red]a fault in {job.target}[/red]")
        console.print(report.fault, markup=False)
        console.print(f'its input is in {saved}; again with ARGS="--target {job.target} --again {saved}"')
    return report


def _wait(worker: "subprocess.Popen[bytes]", job: Job, console: Console) -> bool:
    """Wait for the end of a worker, and say how far it is; kills one that hangs, and returns whether it did."""
    board = Path(job.folder) / BOARD
    ended, at_cpu_s, said_s, began_s = -1, 0.0, time.monotonic(), time.monotonic()
    while True:
        try:
            worker.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            pass
        else:
            return False
        now, cpu_s = last_seen(board)[0], process.cpu_s(worker.pid)
        # The board is there when all is imported.
        if now != ended or not board.exists():
            ended, at_cpu_s = now, cpu_s
        elif cpu_s - at_cpu_s > _HANGS_S:
            worker.kill()
            worker.wait()
            return True
        if time.monotonic() - said_s > _SAY_S:
            said_s = time.monotonic()
            console.print(
                f"{job.target}: {now:,} of {job.executions:,}, {now / (said_s - began_s):,.0f} a second", style="dim"
            )


def _keep(name: str, folder: Path) -> None:
    target = TARGETS[name]
    files = folder / "minimised"
    files.mkdir()
    found = [path.read_bytes() for path in (folder / FOUND).glob("*")] if (folder / FOUND).is_dir() else []
    corpus.keep(target, target.open(files), found)


def _again(name: str, file: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            TARGETS[name].open(Path(folder))(file.read_bytes())
        except Exception:  # noqa: BLE001  the fault, which is what was asked for
            traceback.print_exc()
            return 1
    print("no fault")
    return 0


def _print(console: Console, reports: dict[str, Report]) -> None:
    table = Table("target", "executions", "a second", "slowest, ms", "memory, MiB", "objects", "fault")
    for name, report in reports.items():
        speed = report.executions / report.seconds if report.seconds else math.nan
        memory = " -> ".join(f"{mib:.0f}" for mib in report.memory_mib)
        fault = report.fault.strip().rpartition("\n")[2][:60] or ("memory grew" if grew(report) else "-")
        objects = " -> ".join(f"{count:,}" for count in report.objects)
        table.add_row(
            name, f"{report.executions:,}", f"{speed:,.0f}", f"{report.slowest_s * 1000:.1f}", memory, objects, fault
        )
    total = sum(report.executions for report in reports.values())
    table.add_row("all", f"{total:,}", "", "", "", "", "")
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
