"""An hour of mixed load on a real `frostline serve`: `python -m bench.soak`.

Every answer is compared with ONNX Runtime's for the version that gave it. The exit code is 1 if one was wrong, a call
was lost, or the server grew. The record is written as it goes, so a soak that is cut off still has its result.
"""

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import grpc
from rich.console import Console

from bench.attacks.child import Child, ChildFailed, child
from bench.hostile_models.guard import Guard
from bench.hostile_models.server import defences
from bench.hostile_models.zoo import ZOO, mixed
from bench.load import versions
from bench.measure import document, machine
from bench.measure.report import console_of_width
from bench.soak import report, verdict
from bench.soak.changes import Hostile, Versions
from bench.soak.footprint import footprint
from frostline import server_process
from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc
from frostline.server_process import Served, ServerFailed

EXAMPLES = """examples:
  python -m bench.soak --minutes 60 --write          an hour, and write its section of docs/security.md
  python -m bench.soak --minutes 3 --hostile ''      a short one without hostile models
  python -m bench.soak --report bench/results/soak.jsonl --write   write the section from the record of an earlier one
  python -m bench.soak -- --threads 1                the server gets the flags after --
"""
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
RECORD = Path("bench/results/soak.jsonl")
TICK_S = 10.0
"""From one record, and one new version, to the next."""


@dataclass(frozen=True)
class Plan:
    """How the soak is made.

    Attributes:
        minutes: how long it takes.
        hostile: names of the hostile models that appear; empty for none.
        hostile_every_s: from one of them to the next, in steps of `TICK_S`.
        load: flags of the caller, see `python -m bench.soak.caller --help`.
        flags: of the server.
        guard_mib: memory at which the server is killed, for the machine's sake.
    """

    minutes: float
    hostile: Sequence[str]
    hostile_every_s: float
    load: Sequence[str]
    flags: Sequence[str]
    guard_mib: float


class Soak:
    """One soak.

    Args:
        plan: how it is made.
        record: takes one JSON object a line.
        say: shows a line to whoever waits.
        stopped: ends it early.
    """

    def __init__(self, plan: Plan, record: IO[str], say: Callable[[str], None], stopped: threading.Event) -> None:
        self._plan = plan
        self._record = record
        self._say = say
        self._stopped = stopped
        self._begin_s = 0.0
        self._open: int | None = None

    def run(self) -> None:
        """Serve, call, change, and record until the time is over; the last line of the record says how it ended.

        Raises:
            ServerFailed: the server did not start.
        """
        end: dict[str, Any] = {"death": ""}
        events: list[server_process.Event] = []
        with tempfile.TemporaryDirectory(prefix="frostline-soak-", ignore_cleanup_errors=True) as folder:
            models, staging = Path(folder) / "models", Path(folder) / "staging"
            changes = Versions(models)
            hostile = Hostile(models, staging, self._plan.hostile) if self._plan.hostile else None
            flags = ["--models", str(models), "--device", "cpu", *defences(), *self._plan.flags]
            guard = None
            try:
                with ExitStack() as stack:
                    served = stack.enter_context(server_process.serve(flags, events.append))
                    # For as long as it serves, SIGTERM would end this process without the soak's result.
                    signal.signal(signal.SIGTERM, lambda *_: self._stopped.set())
                    guard = stack.enter_context(Guard(served.pid, self._plan.guard_mib))
                    self._through(served, changes, hostile)
                    stop_begin = time.monotonic()
                end["stop_s"] = time.monotonic() - stop_begin
            except (ServerFailed, ChildFailed, OSError, ValueError) as failed:
                if not self._begin_s:
                    raise
                killed = guard is not None and guard.killed
                end["death"] = f"killed at {self._plan.guard_mib:g} MiB" if killed else f"{failed}"
        end |= {"open": self._open, "log_lines": len(events)}
        end["log"] = [event for event in events if event.get("level") in ("error", "critical")][-20:]
        self._write({"end": end})

    def _through(self, served: Served, changes: Versions, hostile: Hostile | None) -> None:
        flags = [served.address.replace("0.0.0.0:", "127.0.0.1:"), "--metrics", served.metrics, *self._plan.load]
        with child("bench.soak.caller", flags) as caller:
            self._begin_s = time.monotonic()
            ticks = max(1, round(self._plan.minutes * 60 / TICK_S))
            for tick in range(1, ticks + 1):
                changed = self._change(tick, changes, hostile)
                if self._stopped.wait(max(0.0, self._begin_s + tick * TICK_S - time.monotonic())):
                    break
                self._sample(served, caller, changed)
            last = caller.ask("stop")
            self._open = last["open"]
            self._write(self._line(served, last, {}))

    def _change(self, tick: int, changes: Versions, hostile: Hostile | None) -> dict[str, str]:
        name, version = changes.publish()
        changed = {"version": f"{name}:{version}"}
        if hostile is not None and (tick - 1) % max(1, round(self._plan.hostile_every_s / TICK_S)) == 0:
            changed["hostile"] = hostile.publish()
        return changed

    def _sample(self, served: Served, caller: Child, changed: Mapping[str, str]) -> None:
        seen = caller.ask()
        line = self._line(served, seen, changed)
        self._write(line)
        server, bad = line["server"], sum(seen["lost"].values()) + sum(seen["wrong"].values())
        latency = "-" if seen["p99_ms"] is None else f"{seen['p50_ms']:.1f} / {seen['p99_ms']:.0f} ms"
        self._say(
            f"{line['at_s'] / 60:5.1f} min  {sum(seen['ended'].values()):5,} calls  {bad} lost or wrong  {latency}  "
            f"{server['rss_mib']:.1f} MiB  {server['threads']} threads  {server['descriptors']} files  "
            f"{server['children']} processes  {' '.join(changed.values())}"
        )

    def _line(self, served: Served, seen: Mapping[str, Any], changed: Mapping[str, str]) -> dict[str, Any]:
        at_s = time.monotonic() - self._begin_s
        server = footprint(served.pid).json()
        return {"at_s": round(at_s, 1), "server": server, "serving": self._serving(served), **seen, **changed}

    def _serving(self, served: Served) -> dict[str, list[str]] | None:
        """The versions of the good models that are READY, by the server's index; None if it does not answer."""
        try:
            with grpc.insecure_channel(served.address, _OPTIONS) as channel:
                stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
                index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=5)
        except grpc.RpcError:
            return None
        return {
            name: [each.version for each in index.models if each.name == name and each.state == "READY"]
            for name in versions.NAMES
        }

    def _write(self, line: Mapping[str, Any]) -> None:
        self._record.write(json.dumps(line) + "\n")
        self._record.flush()


def main() -> None:
    """Parse the command line, soak or read a record, and print what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description=__doc__.partition("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument(
        "--hostile", metavar="NAME[,NAME]", help="hostile models that appear, one a minute (default all, '' for none)"
    )
    parser.add_argument("--hostile-every-s", type=float, default=60.0, help="one from the other (default 60)")
    parser.add_argument("--load", default="", help="flags of the caller in one word, such as '--infer 20 --streams 1'")
    parser.add_argument("--guard-mib", type=float, default=3072.0, help="kill the server beyond (default 3072)")
    parser.add_argument("--record", type=Path, default=RECORD, help=f"its file ({RECORD})")
    parser.add_argument("--report", type=Path, metavar="RECORD", help="make no soak, but report this record")
    parser.add_argument("--write", action="store_true", help=f"write chart and table into {report.DOCUMENT}")
    parser.add_argument("flags", nargs="*", help="further flags of the server, after --")
    options = parser.parse_args()
    named = ZOO if options.hostile is None else [name for name in options.hostile.split(",") if name]
    if unknown := [name for name in named if name not in ZOO]:
        parser.error(f"there is no hostile model {unknown[0]!r}; there are {', '.join(ZOO)}")
    path: Path = options.report or options.record
    if not options.report:
        plan = Plan(
            options.minutes,
            mixed(named),
            options.hostile_every_s,
            options.load.split(),
            options.flags,
            options.guard_mib,
        )
        soak_into(path, plan)
    records, end = report.read(path)
    how = (
        f"{machine.described()}; callers and server share the machine; server flags "
        f"`{' '.join([*defences(), *options.flags]) or 'none'}`"
    )
    console = console_of_width()
    if records:
        console.print(report.numbers(records, end).table())
    console.print(report.summary(records, end), markup=False)
    if options.write and records:
        report.chart(records)
        document.write(report.SECTION, report.body(records, end, how), report.DOCUMENT)
    sys.exit(1 if verdict.complaints(records, end) or end.get("cut_off") else 0)


def soak_into(path: Path, plan: Plan) -> None:
    """Make a soak whose record is a file; SIGINT and SIGTERM end it early, with its result."""
    console, stopped = Console(stderr=True), threading.Event()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as record:
        made = Soak(
            plan, record, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True), stopped
        )
        before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            made.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


if __name__ == "__main__":
    main()
