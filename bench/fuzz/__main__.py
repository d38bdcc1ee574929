"""The fuzzer's command, `make fuzz`: it starts a server, sends it what is broken, and says what became of it."""

import argparse
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bench.fuzz import oracle
from bench.fuzz.connections import send_connections
from bench.fuzz.messages import Tally, send_messages
from bench.fuzz.oracle import Found
from bench.measure import process
from bench.measure.report import console_of_width
from frostline import server_process
from frostline.server_process import ServerFailed

_WARM_UP = 5000
"""Messages before memory is measured: caches and pools fill with the first of them."""

_GROWTH = 1.10
_GROWTH_MIB = 16
_SETTLE_S = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzzer; returns the exit code."""
    options = _options(arguments)
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    console = console_of_width()
    console.print(f"seed {seed}: again with --seed {seed} --messages {options.messages} --streams {options.streams}")
    rng, tally = random.Random(seed), Tally()
    memory: dict[str, float] = {}
    log: deque[server_process.Event] = deque(maxlen=1000)
    with tempfile.TemporaryDirectory() as folder:
        oracle.write(Path(folder))
        flags = ["--models", folder, "--log-level", "info", "--device", "cpu", *options.flags]
        try:
            with server_process.serve(flags, log.append) as served:
                send_messages(served.address, min(_WARM_UP, options.messages), rng, Tally(), lambda _: None)
                memory["before"], files = process.memory_mib(served.pid), _open_files(served.pid)
                with _bar("messages", options.messages) as on_progress:
                    send_messages(served.address, options.messages, rng, tally, on_progress)
                memory["after the messages"] = process.memory_mib(served.pid)
                with _bar("connections", options.streams) as on_progress:
                    answered = send_connections(served.address, options.streams, rng, tally, on_progress)
                memory["after the connections"] = process.memory_mib(served.pid)
                _wait_until_idle(served, files)
                memory["at the end"] = process.memory_mib(served.pid)
        except (Found, ServerFailed) as found:
            sent = found.sent if isinstance(found, Found) else b""
            console.print(f"[red]{found}[/red]")
            console.print("the server's last words:", *[str(event)[:300] for event in list(log)[-5:]], sep="\n")
            console.print(_saved(f"fuzz-{seed}.bin", sent))
            return 1
    table = Table("method", "status", "calls")
    for (method, status), calls in sorted(tally.statuses.items()):
        table.add_row(method, str(status), f"{calls:,}")
    console.print(table)
    console.print(f"{answered:,} of {options.streams:,} connections had an answer before they broke")
    console.print(f"{tally.honest:,} honest calls answered rightly, the slowest in {tally.slowest_s * 1000:.0f} ms")
    console.print("memory in MiB: " + ", ".join(f"{mib:.0f} {when}" for when, mib in memory.items()))
    for (method, status), sent in tally.faults.items():
        console.print(f"[red]{method} blames the server, with status {status}[/red]")
        console.print(_saved(f"fuzz-{seed}-{method}-{status}.bin", sent))
    leaks = memory["at the end"] > memory["before"] * _GROWTH + _GROWTH_MIB
    if leaks:
        console.print("[red]that is more memory than it should keep[/red]")
    errors = [event for event in log if event.get("level") == "error"]
    if errors:
        console.print(f"[red]the server logged {len(errors)} errors or more, the first of them:[/red]")
        console.print(errors[0])
    return 1 if tally.faults or leaks or errors else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, help="mutated messages (default 1000000)")
    parser.add_argument("--streams", type=int, default=100_000, help="mutated connections (default 100000)")
    parser.add_argument("--seed", type=int, help="of the mutations (default: another every time)")
    parser.add_argument(
        "flags", nargs="*", metavar="-- FLAG", help="flags of the server, such as -- --transport grpcio"
    )
    return parser.parse_args(arguments)


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _saved(name: str, sent: bytes) -> str:
    if not sent:
        return "no input to save"
    Path(name).write_bytes(sent)
    return f"what was sent is in {name}, {len(sent):,} bytes"


def _open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _wait_until_idle(served: server_process.Served, files: int) -> None:
    """Wait until no request is pending and no connection open.

    Raises:
        Found: something is left.
    """
    give_up_s = time.monotonic() + _SETTLE_S
    while True:
        with urlopen(f"{served.metrics}/metrics") as response:
            lines = response.read().decode().splitlines()
        pending = sum(
            float(line.split()[-1]) for line in lines if line.startswith("nv_inference_pending_request_count{")
        )
        left = _open_files(served.pid) - files
        # A front end may keep a few of its own for later.
        if pending == 0 and left <= 4:
            return
        if time.monotonic() > give_up_s:
            raise Found(f"{pending:g} requests are pending and {left} files more open than before, with no client left")
        time.sleep(0.1)


if __name__ == "__main__":
    raise SystemExit(main())
